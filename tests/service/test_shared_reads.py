"""Does a read that comes through shared memory bring what one in messages brings?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
import ziggurat
from ziggurat._shared_memory import NAME, Memory
from ziggurat_proto.v1 import read_pb2

from tests.support.pixels import marked, same_bytes
from tests.support.raw import RawServer, failure
from tests.support.server import shared_by
from tests.support.waiting import until

# More than comes in one message.
SHAPE = (10, 600, 500)


@pytest.fixture(scope="module")
def images(serve_module) -> Iterator[tuple[ziggurat.Image, ziggurat.Image]]:
    """The same image twice: of a client that shares memory, and of one that does not."""
    server = serve_module(max_shared_memory_bytes="32MiB")
    with (
        ziggurat.connect(server.address) as client,
        ziggurat.connect(server.address, shared_memory=False) as plain,
    ):
        image = client.create(
            "shared", axes="zyx", shape=SHAPE, dtype="uint16", chunk_shape=(4, 128, 128)
        )
        with image.writer() as writer:
            writer.write_region(marked(SHAPE, "uint16"), (0, 0, 0))
        yield image, plain.open(image.name)


READS: dict[str, dict[str, Any]] = {
    "all": {},
    "a box": {"offset": (1, 3, 5), "shape": (8, 590, 490)},
    "steps": {"steps": (1, 1, 2)},
    "converted": {"dtype": "float32", "window": (0, 60000)},
    "a projection": {"projection": "max", "along": "z", "dtype": "float64"},
    "at most so many": {"max_voxels": 10**7},
    "by resolution": {"resolution": 1.0},
}


@pytest.mark.parametrize("kind", READS)
def test_it_brings_the_same(images: tuple[ziggurat.Image, ziggurat.Image], kind: str) -> None:
    shared, plain = (image.fetch(**READS[kind]) for image in images)
    assert same_bytes(shared.array, plain.array)
    known = kind not in ("by resolution",)
    assert shared.transport == ("shared_memory" if known else "grpc")
    assert plain.transport == "grpc"
    assert shared.array.flags.writeable
    assert shared.array.flags.owndata


def test_much_that_nobody_wrote(serve_module) -> None:
    server = serve_module(max_shared_memory_bytes="32MiB")
    with ziggurat.connect(server.address) as client:
        image = client.create(
            "sparse",
            axes="zyx",
            shape=(64, 512, 512),
            dtype="uint16",
            chunk_shape=(4, 32, 32),
            fill_value=7,
        )
        wanted = np.full((17, 500, 500), 7, np.uint16)
        with image.writer() as writer:
            writer.write_region(np.ones((2, 40, 50), np.uint16), (9, 100, 200))
        wanted[4:6, 90:130, 190:240] = 1
        # Memory that was used: what a read before left in it is not to be seen.
        image.fetch(offset=(0, 90, 190), shape=(17, 400, 300))
        found = image.fetch(offset=(5, 10, 10), shape=wanted.shape)
        assert found.transport == "shared_memory"
        assert same_bytes(found.array, wanted)


def test_a_read_that_fails(serve_module) -> None:
    """It says why, and its memory goes back."""
    server = serve_module(max_shared_memory_bytes="32MiB")
    with ziggurat.connect(server.address) as client:
        image = client.create(
            "broken", axes="zyx", shape=SHAPE, dtype="uint16", chunk_shape=(4, 128, 128)
        )
        with image.writer() as writer:
            writer.write_region(marked(SHAPE, "uint16"), (0, 0, 0))
        before = shared_by(server)
        for shard in (server.image_path("broken") / "0" / "c").rglob("*"):
            if shard.is_file():
                shard.write_bytes(bytes(len(shard.read_bytes())))
        for _ in range(3):
            with pytest.raises(ziggurat.DataLoss, match="broken"):
                image.read()
        until(lambda: shared_by(server) == before, "the server to let go of the memory")


def test_into_an_array(images: tuple[ziggurat.Image, ziggurat.Image]) -> None:
    out = np.zeros((500, 600, 10), ">u2").T
    images[0].read(out=out)
    assert (out == images[1].read()).all()


def test_what_is_newer(images: tuple[ziggurat.Image, ziggurat.Image]) -> None:
    found = images[0].fetch()
    assert images[0].fetch(if_newer_than=found.revision) is None
    assert images[0].fetch().transport == "shared_memory"


def test_no_file_stays_open(images: tuple[ziggurat.Image, ziggurat.Image]) -> None:
    def held() -> int:
        links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
        return sum(NAME in os.readlink(link) for link in links if os.path.islink(link))

    before = held()
    kept = [images[0].read() for _ in range(3)]
    assert held() <= before + 2, "one memory: a descriptor, and the mapping's"
    assert all((array == kept[0]).all() for array in kept)
    assert not np.shares_memory(kept[0], kept[1])


def test_beside_each_other(images: tuple[ziggurat.Image, ziggurat.Image]) -> None:
    wanted = images[1].read()
    with ThreadPoolExecutor(4) as pool:
        boxes = [(z % 3, 0, 0) for z in range(24)]
        reads = pool.map(lambda at: images[0].read(offset=at, shape=(7, 600, 500)), boxes)
        for (z, _, _), found in zip(boxes, reads, strict=True):
            assert same_bytes(found, wanted[z : z + 7])


def test_memory_that_is_too_small_is_left_alone(
    images: tuple[ziggurat.Image, ziggurat.Image],
) -> None:
    raw = RawServer(images[0].server)
    memory = Memory(SHAPE[0] * SHAPE[1] * SHAPE[2] * 2 - 1)
    try:
        request = read_pb2.ReadRequest(image="shared", shared_memory=memory.offer)
        with pytest.raises(grpc.RpcError) as refused:
            raw.call("ReadSmall", request)
        assert failure(refused.value).metadata["limit"] == "max_small_read_bytes"
        small = read_pb2.ReadRequest(image="shared", offset=(0, 0, 0), shape=(1, 1, 500))
        small.shared_memory.CopyFrom(memory.offer)
        small.shared_memory.nonce = bytes(16)
        answer = raw.call("ReadSmall", small)
        assert not answer.header.shared
        assert len(answer.part.payload) == 1000
        assert not memory.view(64, memory.size - 64).any()
    finally:
        memory.close()
        raw.close()


@pytest.mark.parametrize("most_bytes", ["1KiB", "2MiB"])
def test_a_server_that_takes_none(serve, most_bytes: str) -> None:
    """It is asked once; then results come in messages at once."""
    server = serve(shared_memory=False, max_small_read_bytes=most_bytes)
    with ziggurat.connect(server.address) as client:
        image = client.create("plain", axes="yx", shape=(1100, 1000), dtype="uint16")
        pixels = marked(image.shape, "uint16")
        with image.writer() as writer:
            writer.write(pixels)
        for rows in (1100, 600, 1100):
            found = image.fetch(offset=(0, 0), shape=(rows, 1000))
            assert found.transport == "grpc"
            assert same_bytes(found.array, pixels[:rows])
    assert server.stderr.count("max_small_read_bytes") == 1


def test_an_empty_result_says_nothing_of_the_server(
    images: tuple[ziggurat.Image, ziggurat.Image],
) -> None:
    found = images[0].fetch(max_voxels=10**7, offset=(0, 0, 0), shape=(0, 10, 10))
    assert found.array.size == 0
    assert images[0].fetch().transport == "shared_memory"


@pytest.mark.parametrize(
    ("shape", "chunk"), [((32, 512, 500), (16, 512, 512)), ((1, 1100, 1000), (1, 8, 8))]
)
def test_chunks_of_any_size(serve_module, shape: tuple[int, ...], chunk: tuple[int, ...]) -> None:
    """Larger than what is copied in one go, and more than are listed."""
    server = serve_module(max_shared_memory_bytes="32MiB")
    with ziggurat.connect(server.address) as client:
        image = client.create(
            f"chunks-{chunk[0]}", axes="zyx", shape=shape, dtype="uint16", chunk_shape=chunk
        )
        pixels = marked(shape, "uint16")
        with image.writer() as writer:
            writer.write_region(pixels, (0, 0, 0))
        for _ in range(2):
            found = image.fetch()
            assert found.transport == "shared_memory"
            assert same_bytes(found.array, pixels)
            inside = tuple(slice(n // 3, None) for n in shape)
            assert same_bytes(image[inside], pixels[inside])
