"""Is each region taken exactly once, whatever becomes of the client or the server?"""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import ziggurat
from ziggurat_engine.region import Region
from ziggurat_proto.v1 import write_pb2

from tests.service.subject import NOT_NOW, Subject
from tests.support.images import assert_exact, assert_level, assert_stored
from tests.support.pixels import marked
from tests.support.raw import failure
from tests.support.server import ServerProcess, clean_environment
from tests.support.waiting import SECONDS, until

SPEC: dict[str, Any] = {
    "axes": "zyx",
    "dtype": "uint16",
    "shape": (24, 96, 80),
    "chunk_shape": (4, 16, 16),
    "shard_chunks": (2, 3, 2),
    "codec": "blosc-lz4",
}

# Writes plane after plane for ever, and says what it was acknowledged.
ENDLESS_CLIENT = """
import itertools, sys
import numpy as np, ziggurat
from tests.support.pixels import marked

with ziggurat.connect(sys.argv[1]) as client:
    image = client.open(sys.argv[2])
    with image.writer("camera", retry_seconds=0) as writer:
        for number in itertools.count():
            z = number % image.shape[0]
            writer.write(marked((1, *image.shape[1:]), "uint16", (z, 0, 0), number)[0], z=z)
            print(writer.received, flush=True)
"""


def planes(image: ziggurat.Image, count: int) -> np.ndarray:
    """What an image holds after the first `count` writes of the endless client."""
    model = np.zeros(image.shape, "uint16")
    for number in range(max(0, count - image.shape[0]), count):
        z = number % image.shape[0]
        model[z] = marked((1, *image.shape[1:]), "uint16", (z, 0, 0), number)[0]
    return model


def endless(server: ServerProcess, image: ziggurat.Image) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", ENDLESS_CLIENT, server.address, image.name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        env=clean_environment(PYTHONPATH="."),
    )


def said(process: subprocess.Popen[str], at_least: int) -> int:
    """The first acknowledged number of at least that much."""
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= at_least:
            return int(line)
    raise AssertionError(f"the client ended: {process.communicate()[1]}")


def resumed(image: ziggurat.Image, stream_id: str) -> ziggurat.Writer:
    def opened() -> ziggurat.Writer | None:
        try:
            return image.writer(stream_id)
        except ziggurat.StreamHeld:
            return None

    return until(opened, f"stream {stream_id!r} to be free")


def test_the_same_sequence_sent_twice_is_ignored(subject: Subject) -> None:
    stream = subject.resume(2)
    new = marked((2, 9, 9), "uint16", (1, 1, 1), 2)
    stream.region(2, (1, 1, 1), new)
    stream.region(1, (0, 0, 0), np.zeros((4, 30, 20), "uint16"))
    stream.region(2, (1, 1, 1), np.zeros((2, 9, 9), "uint16"))
    newest = marked((1, 3, 3), "uint16", (2, 2, 2), 3)
    stream.region(3, (2, 2, 2), newest)
    closed = stream.close()
    assert (closed.durable, closed.regions, closed.duplicates) == (3, 3, 2)
    wanted = subject.pixels.copy()
    wanted[1:3, 1:10, 1:10] = new
    wanted[2:3, 2:5, 2:5] = newest
    assert (subject.raw.read(subject.name) == wanted).all()


def test_skips_take_numbers_and_are_counted(subject: Subject) -> None:
    stream = subject.resume(2)
    for sequence, frames in ((2, 5), (3, 1), (3, 1)):
        stream.send(write_pb2.WriteRequest(skip=write_pb2.Skip(sequence=sequence, frames=frames)))
    stream.flush()
    stream.durable(3)
    closed = stream.close()
    assert (closed.durable, closed.regions, closed.skipped_frames, closed.duplicates) == (
        3,
        1,
        6,
        1,
    )
    assert (subject.raw.read(subject.name) == subject.pixels).all()


def test_half_close_is_no_close_but_keeps_all(subject: Subject) -> None:
    """A client that stops without Close gets no Closed, and loses nothing."""
    stream = subject.resume(2)
    new = marked((1, 4, 4), "uint16", (0, 3, 3), 2)
    stream.region(2, (0, 3, 3), new)
    stream.half_close()
    answers = list(stream.call)
    assert not any(answer.HasField("closed") for answer in answers)
    subject.resume(3).cancel()
    assert (subject.raw.read(subject.name)[0, 3:7, 3:7] == new).all()


def test_acknowledgements_only_grow_and_durable_follows(subject: Subject) -> None:
    stream = subject.resume(2)
    for sequence in range(2, 60):
        at = (sequence % 4, sequence % 20, sequence % 10)
        stream.region(sequence, at, marked((1, 3, 3), "uint16", at, sequence))
    stream.flush()
    seen = [(0, 0)]
    while seen[-1][1] < 59:
        acknowledgement = stream.next().acknowledgement
        seen.append((acknowledgement.received, acknowledgement.durable))
    assert all(durable <= received for received, durable in seen)
    assert seen == sorted(seen)
    assert [durable for _, durable in seen] == sorted(durable for _, durable in seen)
    stream.cancel()


def test_every_flush_is_answered(subject: Subject) -> None:
    """Also where nothing was written since the last one, or ever."""
    stream = subject.resume(2)
    for _ in range(3):
        stream.flush()
        acknowledgement = stream.next().acknowledgement
        assert (acknowledgement.received, acknowledgement.durable) == (1, 1)
    stream.cancel()
    fresh = subject.raw.write(subject.name, "fresh")
    assert fresh.opened() == 1
    fresh.flush()
    assert fresh.next().HasField("acknowledgement")
    assert fresh.close().durable == 0


def test_a_killed_client_resumes_where_the_server_stands(
    server: ServerProcess, client: ziggurat.Client, name: str
) -> None:
    image = client.create(name, **SPEC)
    process = endless(server, image)
    try:
        acknowledged = said(process, 40)
    finally:
        process.kill()
        process.communicate()
    writer = resumed(image, "camera")
    assert writer.sequence >= acknowledged
    assert_level(image, 0, planes(image, writer.sequence))
    # The client comes back and goes on.
    for number in range(writer.sequence, writer.sequence + 30):
        z = number % image.shape[0]
        writer.write(marked((1, *image.shape[1:]), "uint16", (z, 0, 0), number)[0], z=z)
    last = writer.close(SECONDS).durable
    assert_exact(image, planes(image, last))


def test_a_stopped_server_has_stored_all_it_received(
    serve: Callable[..., ServerProcess], name: str
) -> None:
    """SIGTERM in mid-stream; the client is told; after a restart every pixel is there."""
    server = serve()
    with ziggurat.connect(server.address) as client:
        image = client.create(name, **SPEC)
        process = endless(server, image)
        try:
            acknowledged = said(process, 40)
            server.stop()
            assert "Unavailable" in process.communicate(timeout=SECONDS)[1]
            assert process.returncode != 0
        finally:
            process.kill()
            process.communicate()
    again = serve(server.data)
    with ziggurat.connect(again.address) as client:
        image = client.open(name)
        found = image[...]
        # More than was acknowledged may be there, but whole writes, in order.
        later = (n for n in range(acknowledged, acknowledged + 2000))
        assert any(np.array_equal(planes(image, n), found) for n in later)
        assert_exact(image, found)
        assert_stored(again, image, found)
        # The stream goes on where it was.
        assert resumed(image, "camera").sequence >= acknowledged


def test_a_stopping_server_says_so(serve: Callable[..., ServerProcess], name: str) -> None:
    """A stream that is idle ends at once; what it was acknowledged is stored, and exact."""
    server = serve(drain_seconds=SECONDS, settle_idle_seconds=1000)
    with ziggurat.connect(server.address) as client:
        image = client.create(name, **SPEC)
        writer = image.writer(retry_seconds=0)
        pixels = marked((7, 50, 31), "uint16")
        writer.write_region(pixels, (3, 2, 1))
        until(lambda: writer.received == writer.sequence, "the region to be received")
        server.stop()
        with pytest.raises(ziggurat.Unavailable) as error:
            writer.flush(SECONDS)
        assert error.value.sequence == writer.sequence + 1
    wanted = np.zeros(image.shape, "uint16")
    wanted[3:10, 2:52, 1:32] = pixels
    assert_stored(server, image, wanted)


def test_two_clients_fill_the_same_chunks(serve: Callable[..., ServerProcess], name: str) -> None:
    """Their pixels interleave within every chunk, and amid every shard all is stored."""
    server = serve(cache_bytes="1MiB", settle_idle_seconds=0.02)
    spec = SPEC | {"shape": (64, 96, 80)}
    pixels = marked(spec["shape"], "uint16")
    errors: list[BaseException] = []
    passes = 2

    def fill(first: int) -> None:
        try:
            with ziggurat.connect(server.address) as client:
                image = client.open(name)
                with image.writer(f"rows-{first}", window_bytes=2**20) as writer:
                    for last, z in itertools.product(range(passes), range(spec["shape"][0])):
                        # Shards have 8 planes.
                        if z % 8 == 4:
                            writer.flush(SECONDS)
                            meeting.wait(SECONDS)
                        for y in range(first, spec["shape"][1], 2):
                            row = pixels[z, y] if last == passes - 1 else pixels[z, y] + 7
                            writer.write(row, z=z, y=y)
        except BaseException as error:
            errors.append(error)
            meeting.abort()

    with ziggurat.connect(server.address) as client:

        def all_stored() -> None:
            until(lambda: client.status().cache.dirty_bytes == 0, "all to be stored")

        meeting = threading.Barrier(2, all_stored)
        image = client.create(name, **spec)
        threads = [threading.Thread(target=fill, args=(first,)) for first in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * SECONDS)
            assert not thread.is_alive()
        assert not errors, errors
        # Each of 8 x 2 x 3 shards twice in each pass.
        assert client.status().settle.shards_stored >= 8 * 2 * 3 * 2 * passes
        assert client.status().cache.dirty_bytes == 0
        assert_exact(image, pixels)
        assert_stored(server, image, pixels)


def test_a_closed_writer_leaves_nothing_of_its_call(client: ziggurat.Client, name: str) -> None:
    """An interpreter that had to drop the call as it ends could wait for gRPC for ever."""
    image = client.create(name, **SPEC)
    with image.writer() as writer:
        writer.write(np.ones(SPEC["shape"][1:], "uint16"), z=0)
        call = weakref.ref(writer._stream._call.handle)
        assert call() is not None
    assert call() is None


def test_a_gap_is_refused_and_the_stream_goes_on(subject: Subject) -> None:
    stream = subject.resume(2)
    stream.region(3, (0, 0, 0), np.zeros((1, 1, 1), "uint16"))
    with pytest.raises(grpc.RpcError) as error:
        stream.received(3)
    assert failure(error.value).code is NOT_NOW
    stream = subject.resume(2)
    stream.region(2, (0, 0, 0), np.full((1, 1, 1), 5, "uint16"))
    assert stream.close().durable == 2
    assert subject.raw.read(subject.name)[0, 0, 0] == 5


def test_an_image_made_again_is_a_new_one(client: ziggurat.Client, name: str) -> None:
    """Nothing of a deleted image, nor of its streams, is in one of the same name."""
    first = client.create(name, **SPEC)
    writer = first.writer("camera")
    writer.write_region(marked(first.shape, "uint16"), (0, 0, 0))
    writer.close(SECONDS)
    client.delete(name)
    with pytest.raises(ziggurat.NotFound):
        client.open(name)
    second = client.create(name, **SPEC | {"dtype": "uint8"})
    assert not second[...].any()
    assert resumed(second, "camera").sequence == 0
    assert_level(second, len(second.levels) - 1, np.zeros(second.levels[-1].shape, "uint8"))


def test_two_images_in_parallel(client: ziggurat.Client, name: str) -> None:
    images = [client.create(f"{name}/{k}", **SPEC) for k in range(2)]
    pixels = [marked(SPEC["shape"], "uint16", seed=k) for k in range(2)]
    writers = [image.writer() for image in images]
    for z in range(SPEC["shape"][0]):
        for writer, source in zip(writers, pixels, strict=True):
            writer.write(source[z], z=z)
    for writer in writers:
        writer.close(SECONDS)
    for image, source in zip(images, pixels, strict=True):
        assert_exact(image, source)


def test_boxes_are_read_while_they_are_written(client: ziggurat.Client, name: str) -> None:
    image = client.create(name, **SPEC)
    pixels = marked(image.shape, "uint16")
    with image.writer() as writer:
        for z in range(image.shape[0]):
            writer.write(pixels[z], z=z)
            until(lambda: writer.received >= writer.sequence, "the plane to be received")
            box = Region((0, 3, 5), (z + 1, 60, 50))
            found = image.read(offset=box.offset, shape=box.shape)
            assert (found == pixels[box.slices()]).all()
    assert_exact(image, pixels)


@pytest.mark.parametrize("shared_memory", [False, True])
def test_messages_are_as_small_as_the_server_wants_them(
    serve: Callable[..., ServerProcess], name: str, shared_memory: bool
) -> None:
    server = serve(max_message_bytes="192KiB")
    with ziggurat.connect(server.address, shared_memory=shared_memory) as client:
        image = client.create(name, axes="zyx", dtype="uint16", shape=(2, 700, 1100))
        frame = marked((2, 700, 1100), "uint16")
        with image.writer() as writer:
            writer.write(frame[0], z=0, timestamp=0, metadata={"stage": [1, 2, 3]})
            writer.write(frame[1], z=1)
        assert (image[...] == frame).all()
