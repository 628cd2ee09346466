"""Do pixels that a writer hands over in shared memory get in as those in messages do?

What a client says of its memory may be anything; what it writes there may change at any time;
either side may die at any moment. Nothing of that may reach another's pixels, or stay behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import ziggurat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ziggurat._shared_memory import HEADER_BYTES, MAGIC, NAME, Ring
from ziggurat_proto.v1 import memory_pb2, write_pb2

from tests.support.audit import audited
from tests.support.images import assert_exact, assert_stored
from tests.support.pixels import DTYPES, marked, same_bytes
from tests.support.proxy import ProxyLink
from tests.support.raw import RawServer, RawStream, failure, region_message
from tests.support.server import ServerProcess, clean_environment, shared_by
from tests.support.strategies import regions
from tests.support.waiting import SECONDS, until

KIB = 1024
_names = itertools.count()
SHAPE = (12, 160, 200)
SPEC = {"axes": "zyx", "shape": SHAPE, "dtype": "uint16", "chunk_shape": (4, 64, 64)}


@pytest.fixture
def ring() -> Iterator[Ring]:
    made = Ring(256 * KIB)
    yield made
    made.close()


def opened(
    raw: RawServer, image: str, offer: memory_pb2.SharedMemory | None, *, received: bool = False
) -> tuple[RawStream, int]:
    """A stream to an image, and what of the memory a Region of it may name."""
    stream = RawStream(raw.channel)
    level = write_pb2.DURABILITY_RECEIVED if received else write_pb2.DURABILITY_DURABLE
    asked = write_pb2.Open(image=image, stream_id="raw", shared_memory=offer, durability=level)
    stream.send(write_pb2.WriteRequest(open=asked))
    return stream, stream.next().opened.max_shared_bytes


def pointing(
    ring: Ring, sequence: int, offset: tuple[int, ...], pixels: np.ndarray
) -> write_pb2.WriteRequest:
    """A Region whose pixels are put into the ring."""
    message = region_message(sequence, offset, pixels)
    payload = message.region.payload
    slot = ring.take(len(payload))
    assert slot is not None
    ring.view(slot, len(payload))[:] = np.frombuffer(payload, np.uint8)
    message.region.payload = b""
    message.region.shared_offset, message.region.shared_bytes = slot, len(payload)
    return message


@pytest.mark.parametrize("durability", ["durable", "received"])
def test_it_makes_no_difference_to_the_image(
    server: ServerProcess, name: str, durability: str
) -> None:
    pixels = marked(SHAPE, "uint16")
    views = [pixels, pixels.astype(">u2"), pixels[:, ::-1][:, ::-1], np.asfortranarray(pixels)]
    with (
        ziggurat.connect(server.address) as client,
        ziggurat.connect(server.address, shared_memory=False) as plain,
    ):
        images = [client.create(f"{name}-{n}", **SPEC) for n in range(2)]
        for image, through in zip(images, ("shared_memory", "grpc"), strict=True):
            opened_by = client if through == "shared_memory" else plain
            with opened_by.open(image.name).writer("camera", durability=durability) as writer:
                assert writer.transport == through
                for z in range(SHAPE[0]):
                    writer.write(views[z % 4][z], z=z, timestamp=z, metadata={"z": z})
                writer.write_region(pixels[2:9, 10:], (2, 10, 0))
                writer.skip(3)
            assert writer.summary == ziggurat.WriteSummary(
                durable=SHAPE[0] + 2,
                regions=SHAPE[0] + 1,
                bytes=pixels.nbytes + pixels[2:9, 10:].nbytes,
                skipped_frames=3,
                duplicates=0,
            )
            assert_exact(image, pixels)
            assert_stored(server, image, pixels)
            said = image.frames()
            assert said.timestamp_ns[:-1].tolist() == list(range(SHAPE[0]))
            assert said.metadata[:-1] == tuple({"z": z} for z in range(SHAPE[0]))
    said = audited(server.data / "audit.jsonl")
    ended = [line for line in said if line.get("image", "").startswith(f"{name}-")][-1]
    assert ended["event"] == "stream.close"
    assert ended["bytes"] == writer.summary.bytes, "counted as pixels of messages are"


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_any_regions(
    server: ServerProcess, raw: RawServer, client: ziggurat.Client, data: st.DataObject, dtype: str
) -> None:
    """Of any shape, over each other, and beside such that come in messages."""
    shape = (3, 21, 34)
    image = client.create(
        f"tests/shared-regions/{next(_names)}",
        axes="zyx",
        shape=shape,
        dtype=dtype,
        chunk_shape=(2, 8, 8),
    )
    received = data.draw(st.booleans(), label="received")
    boxes = data.draw(st.lists(regions(shape), min_size=1, max_size=8), label="boxes")
    shared = [data.draw(st.integers(0, 2), label="shared") > 0 for _ in boxes]
    wanted = np.zeros(shape, dtype)
    ring = Ring(64 * KIB)
    stream, most = opened(raw, image.name, ring.offer, received=received)
    try:
        assert most
        for sequence, (box, through) in enumerate(zip(boxes, shared, strict=True), 1):
            pixels = marked(box.shape, dtype, box.offset, seed=sequence)
            make = pointing(ring, sequence, box.offset, pixels) if through else None
            stream.send(make or region_message(sequence, box.offset, pixels))
            wanted[box.slices()] = pixels
            stream.received(sequence)
            if make is not None:
                ring.free(make.region.shared_offset)
        assert same_bytes(image[...], wanted)
        assert stream.close().durable == len(boxes)
    finally:
        stream.cancel()
        ring.close()


def other_file(tmp_path: Path, ring: Ring) -> int:
    path = tmp_path / "file"
    path.write_bytes(MAGIC + ring.offer.nonce + bytes(ring.size))
    return os.open(path, os.O_RDONLY)


def other_memory(name: str, seals: int, head: bytes, size: int) -> int:
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    os.pwrite(fd, head, 0)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


KEPT = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
OFFERS = {
    "nothing said": lambda offer, _: memory_pb2.SharedMemory(),
    "another nonce": lambda offer, _: _with(offer, nonce=bytes(16)),
    "no nonce": lambda offer, _: _with(offer, nonce=b""),
    "a short nonce": lambda offer, _: _with(offer, nonce=offer.nonce[:15]),
    "larger": lambda offer, _: _with(offer, size_bytes=offer.size_bytes + 1),
    "smaller": lambda offer, _: _with(offer, size_bytes=offer.size_bytes - 1),
    "only a head": lambda offer, _: _with(offer, size_bytes=24),
    "huge": lambda offer, _: _with(offer, size_bytes=2**64 - 1),
    "no such process": lambda offer, _: _with(offer, pid=2**32 - 1),
    "another process": lambda offer, _: _with(offer, pid=1),
    "no such file": lambda offer, _: _with(offer, fd=2**32 - 1),
    "another file": lambda offer, fds: _with(offer, fd=fds["file"]),
    "a pipe": lambda offer, fds: _with(offer, fd=fds["pipe"]),
    "another memory": lambda offer, fds: _with(offer, fd=fds["name"]),
    "memory that may shrink": lambda offer, fds: _with(offer, fd=fds["unsealed"]),
    "seals that may be followed by others": lambda offer, fds: _with(offer, fd=fds["half"]),
}


def _with(offer: memory_pb2.SharedMemory, **other: object) -> memory_pb2.SharedMemory:
    changed = memory_pb2.SharedMemory()
    changed.CopyFrom(offer)
    for field, value in other.items():
        setattr(changed, field, value)
    return changed


@pytest.fixture
def fds(tmp_path: Path, ring: Ring) -> Iterator[dict[str, int]]:
    head = MAGIC + ring.offer.nonce
    ends = os.pipe()
    found = {
        "file": other_file(tmp_path, ring),
        "pipe": ends[0],
        "name": other_memory("other", KEPT, head, ring.size),
        "unsealed": other_memory(NAME, 0, head, ring.size),
        "half": other_memory(NAME, fcntl.F_SEAL_SHRINK, head, ring.size),
    }
    yield found
    for fd in (*found.values(), ends[1]):
        os.close(fd)


@pytest.mark.parametrize("kind", OFFERS)
def test_what_is_no_memory_of_the_client_is_not_taken(
    server: ServerProcess, raw: RawServer, client, name: str, ring: Ring, fds, kind: str
) -> None:
    image = client.create(name, **SPEC)
    pixels = marked((1, 40, 50), "uint16")
    stream, most = opened(raw, name, OFFERS[kind](ring.offer, fds))
    assert most == 0
    stream.region(1, (0, 0, 0), pixels)
    stream.received(1)
    assert (image[:1, :40, :50] == pixels).all()
    stream.send(pointing(ring, 2, (1, 0, 0), pixels))
    with pytest.raises(grpc.RpcError) as error:
        stream.received(2)
    found = failure(error.value)
    assert found.code == grpc.StatusCode.FAILED_PRECONDITION
    assert found.metadata["field"] == "region.shared_bytes"


WRONG = {
    "its head": ("OUT_OF_RANGE", "region.shared_offset", {"shared_offset": 23}),
    "its first byte": ("OUT_OF_RANGE", "region.shared_offset", {"shared_offset": 0}),
    "past its end": ("OUT_OF_RANGE", "region.shared_offset", {"shared_offset": 300 * KIB}),
    "across its end": ("OUT_OF_RANGE", "region.shared_offset", {"shared_offset": 255 * KIB}),
    "as far as numbers go": (
        "OUT_OF_RANGE",
        "region.shared_offset",
        {"shared_offset": 2**64 - 4000},
    ),
    "more than a message": (
        "RESOURCE_EXHAUSTED",
        "region.shared_bytes",
        {"shared_bytes": 16 * 2**20 + 1},
    ),
    "all there is": ("RESOURCE_EXHAUSTED", "region.shared_bytes", {"shared_bytes": 2**64 - 1}),
    "a payload too": ("INVALID_ARGUMENT", "region.payload", {"payload": b"too"}),
    "fewer than its pixels": ("INVALID_ARGUMENT", "region.payload", {"shared_bytes": 3998}),
    "no bytes": ("INVALID_ARGUMENT", "region.payload", {"shared_bytes": 0}),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_part_that_is_not_there_is_refused(
    raw: RawServer, client: ziggurat.Client, name: str, ring: Ring, kind: str
) -> None:
    code, field, said = WRONG[kind]
    image = client.create(name, **SPEC)
    stream, most = opened(raw, name, ring.offer)
    assert most == 16 * 2**20
    message = pointing(ring, 1, (0, 0, 0), marked((1, 40, 50), "uint16"))
    for key, value in said.items():
        setattr(message.region, key, value)
    stream.send(message)
    with pytest.raises(grpc.RpcError) as error:
        stream.received(1)
    found = failure(error.value)
    assert (found.code.name, found.metadata["field"]) == (code, field)
    assert not image[...].any()
    stream, _ = opened(raw, name, ring.offer)
    stream.send(pointing(ring, 1, (0, 0, 0), marked((1, 40, 50), "uint16")))
    stream.received(1)
    assert stream.close().durable == 1


def test_memory_goes_back_when_a_call_ends(server, raw, client, name: str, ring: Ring) -> None:
    client.create(name, **SPEC)
    before = shared_by(server)
    stream, _ = opened(raw, name, ring.offer)
    assert shared_by(server) == before + 1
    stream.cancel()
    until(lambda: shared_by(server) == before, "the server to let go of the memory")


@pytest.mark.parametrize(
    "settings_", [{"shared_memory": "false"}, {"max_shared_memory_bytes": "1MiB"}]
)
def test_a_server_that_does_not_want_it(serve, name: str, settings_: dict[str, str]) -> None:
    server = serve(**settings_)
    pixels = marked(SHAPE, "uint16")
    with ziggurat.connect(server.address) as client:
        image = client.create(name, **SPEC)
        with image.writer(window_bytes=4 * 2**20) as writer:
            assert writer.transport == "grpc"
            for z in range(SHAPE[0]):
                writer.write(pixels[z], z=z)
        assert_exact(image, pixels)


# A camera in a process of its own; it says what was acknowledged.
CAMERA = """
import os, resource, sys
import numpy as np
import ziggurat
from tests.support.pixels import marked

address, name, frames, within = sys.argv[1:5]
if within == "another user":
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
elif within == "too little memory":
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
image = ziggurat.connect(address).open(name)
writer = image.writer("camera", window_bytes=2**21)
print(writer.transport, writer.sequence, flush=True)
pixels = marked(image.shape, image.dtype.name)
for z in range(writer.sequence, int(frames)):
    writer.write(pixels[z % image.shape[0]], z=z % image.shape[0])
    print(writer.durable, flush=True)
print(writer.close(60).duplicates, flush=True)
"""


def camera(address: str, name: str, frames: int, within: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CAMERA, address, name, str(frames), within]
    if within == "another namespace":
        command = ["unshare", "--pid", "--fork", *command]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**clean_environment(), "PYTHONPATH": "."}
    )


def may_unshare() -> bool:
    with contextlib.suppress(OSError):
        return subprocess.run(["unshare", "--pid", "--fork", "true"], check=False).returncode == 0
    return False


@pytest.mark.parametrize("within", ["another user", "another namespace", "too little memory"])
def test_who_can_not_share_sends_messages(
    server: ServerProcess, client: ziggurat.Client, name: str, within: str
) -> None:
    if within == "another user" and os.getuid():
        pytest.skip("only root can become another user")
    if within == "another namespace" and not may_unshare():
        pytest.skip("unshare --pid is not allowed here")
    image = client.create(name, **SPEC)
    with camera(server.address, name, SHAPE[0], within) as process:
        said, _ = process.communicate(timeout=2 * SECONDS)
    assert process.returncode == 0
    assert said.split()[:2] == ["grpc", "0"]
    assert_exact(image, marked(SHAPE, "uint16"))


def test_a_camera_that_is_killed(server: ServerProcess, client: ziggurat.Client, name: str) -> None:
    """What it was told is there, another one goes on, and no memory stays."""
    before = shared_by(server)
    image = client.create(name, **SPEC)
    with camera(server.address, name, 10**6) as process:
        assert process.stdout is not None
        assert process.stdout.readline().split() == ["shared_memory", "0"]
        durable = 0
        while durable < 30:
            durable = int(process.stdout.readline())
        process.kill()
    until(lambda: shared_by(server) == before, "the server to let go of the memory")
    (stream,) = image.refresh().streams
    reached = stream.next_sequence - 1
    assert reached >= durable
    with camera(server.address, name, reached + 5) as process:
        said, _ = process.communicate(timeout=2 * SECONDS)
    assert said.split()[:2] == ["shared_memory", str(reached)]
    assert said.split()[-1] == "0", "each once"
    assert_exact(image, marked(SHAPE, "uint16"))
    assert shared_by(server) == before


@pytest.mark.parametrize("shares", ["true", "false"])
def test_a_server_that_is_killed(serve, name: str, tmp_path: Path, shares: str) -> None:
    """The next gets what is not durable again: out of the memory, or else in messages."""
    first = serve()
    link = ProxyLink(rude=True)
    pixels = marked(SHAPE, "uint16")
    try:
        with ziggurat.connect(link.address(first.address)) as client:
            image = client.create(name, **SPEC)
            writer = image.writer(
                "camera",
                window_bytes=2**20,
                spool=tmp_path / "spool",
                retry_seconds=2 * SECONDS,
            )
            assert writer.transport == "shared_memory"
            for z in range(4):
                writer.write(pixels[z], z=z)
            writer.flush(SECONDS)
            for z in range(4, 8):
                writer.write(pixels[z], z=z)
            until(lambda: writer.received > 4, "an acknowledgement")
            link.cut()
            first.kill()
            # What the window has no room for goes to the spool.
            for z in range(8, SHAPE[0]):
                for _ in range(6):
                    writer.write(pixels[z], z=z)
            assert writer.spooled_bytes
            second = serve(first.data, shared_memory=shares)
            link.address(second.address)
            link.mend()
            summary = writer.close(2 * SECONDS)
            assert writer.transport == ("shared_memory" if shares == "true" else "grpc")
            assert summary.durable == writer.sequence == summary.regions
            assert summary.duplicates == 0
            assert_exact(image, pixels)
            writer.cancel()
    finally:
        link.close()


def test_a_client_that_scribbles(serve, raw, name: str, ring: Ring) -> None:
    """What the log holds is whole, whatever the memory holds by then: the next start reads it."""
    server = serve(settle_idle_seconds=1000)
    shape = (8, 100, 100)
    old, new = np.full(shape, 1, "uint16"), np.full(shape, 2, "uint16")
    over = threading.Event()

    def scribble() -> None:
        pixels = ring.view(HEADER_BYTES, 20 * KIB).view("uint16")
        while not over.is_set():
            pixels[:] = 1
            pixels[:] = 2

    scribbler = threading.Thread(target=scribble)
    with ziggurat.connect(server.address) as client:
        client.create(name, axes="zyx", shape=shape, dtype="uint16", chunk_shape=(4, 64, 64))
    calls = RawServer(server.address)
    stream, most = opened(calls, name, ring.offer)
    assert most
    message = pointing(ring, 1, (0, 0, 0), old[:1])
    scribbler.start()
    try:
        for z in range(8):
            message.region.sequence = z + 1
            message.region.offset[0] = z
            stream.send(message)
        stream.durable(8)
    finally:
        over.set()
        scribbler.join()
        calls.close()
    server.kill()
    again = serve(server.data)
    with ziggurat.connect(again.address) as client:
        found = client.open(name)[...]
    assert ((found == old) | (found == new)).all()
