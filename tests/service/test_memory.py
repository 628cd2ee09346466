"""Is memory bounded, is the store filled in time, and does it hold nothing superfluous?"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import ziggurat

from tests.support.images import assert_exact, assert_level, assert_stored
from tests.support.pixels import marked, reference_cascade
from tests.support.server import ServerProcess
from tests.support.waiting import SECONDS, until

MIB = 2**20
SPEC: dict[str, Any] = {
    "axes": "zyx",
    "dtype": "uint16",
    "shape": (16, 64, 64),
    "chunk_shape": (4, 16, 16),
    "shard_chunks": (2, 2, 2),
    "codec": "blosc-lz4",
}


def objects(server: ServerProcess, image: ziggurat.Image, level: int = 0) -> set[str]:
    """The store's objects of a level: paths below its array."""
    array = server.image_path(image.name) / str(level)
    return {
        path.relative_to(array).as_posix()
        for path in array.rglob("*")
        if path.is_file() and path.name != "zarr.json"
    }


def test_an_image_larger_than_memory_streams_through(
    serve: Callable[..., ServerProcess], name: str
) -> None:
    """32 MiB through a cache of 4: dirty bytes stay below what the budget allows."""
    server = serve(cache_bytes="4MiB", settle_idle_seconds=60)
    with ziggurat.connect(server.address) as client:
        spec = SPEC | {"shape": (64, 512, 512), "chunk_shape": (16, 32, 32)}
        image = client.create(name, **spec | {"shard_chunks": (4, 4, 4)})
        pixels = marked(image.shape, "uint16")
        most = 0
        with image.writer(window_bytes=2 * MIB, strip_bytes=2**17) as writer:
            # Rows, so that every plane of chunks is open at a time and none is covered early.
            for y in range(0, 512, 8):
                writer.write_region(pixels[:, y : y + 8], (0, y, 0))
                most = max(most, client.status().cache.dirty_bytes)
        status = client.status()
        assert 0 < most <= 4 * MIB
        assert status.cache.budget_bytes == 4 * MIB
        assert status.cache.dirty_bytes == 0
        assert status.cache.clean_bytes <= 4 * MIB
        assert_exact(image, pixels)
        assert_stored(server, image, pixels)


def test_what_nobody_writes_to_settles(serve: Callable[..., ServerProcess], name: str) -> None:
    """Without flush and with the stream still open, all levels."""
    server = serve(settle_idle_seconds=0.1)
    with ziggurat.connect(server.address) as client:
        image = client.create(name, **SPEC)
        writer = image.writer()
        pixels = marked((5, 30, 40), "uint16")
        writer.write_region(pixels, (1, 2, 3))

        def settled() -> bool:
            status = client.status()
            return writer.received == 1 and not status.settle.shards_waiting

        until(settled, "everything to settle")
        until(lambda: writer.durable == 1, "the stream to be told")
        wanted = np.zeros(image.shape, "uint16")
        wanted[1:6, 2:32, 3:43] = pixels
        assert_stored(server, image, wanted)
        assert_exact(image, wanted)
        writer.cancel()


def test_a_level_is_stale_until_it_is_exact(serve: Callable[..., ServerProcess], name: str) -> None:
    server = serve(settle_idle_seconds=1000)
    with ziggurat.connect(server.address) as client:
        image = client.create(name, **SPEC)
        writer = image.writer()
        pixels = marked((4, 16, 16), "uint16")
        writer.write_region(pixels, (0, 0, 0))
        until(lambda: writer.received == 1, "the region to be received")
        image.refresh()
        last = len(image.levels) - 1
        assert [level.stale for level in image.levels] == [False] + [True] * last
        assert (image.read(offset=(0, 0, 0), shape=(4, 16, 16)) == pixels).all()
        # A box above what was written is stale, one beside it is not.
        assert image.fetch(level=1, offset=(0, 0, 0), shape=(2, 8, 8)).stale
        assert not image.fetch(level=1, offset=(4, 16, 16), shape=(2, 8, 8)).stale
        writer.close(SECONDS)
        wanted = np.zeros(image.shape, "uint16")
        wanted[:4, :16, :16] = pixels
        assert_exact(image, wanted)


@pytest.mark.parametrize("shard_chunks", [(1, 1, 1), (2, 2, 2)], ids=["unsharded", "sharded"])
@pytest.mark.parametrize("fill", [0, 7])
def test_chunks_of_fill_value_are_absent(
    server: ServerProcess, client: ziggurat.Client, name: str, fill: int, shard_chunks: Any
) -> None:
    image = client.create(name, **SPEC | {"fill_value": fill, "shard_chunks": shard_chunks})
    pixels = np.full(image.shape, fill, "uint16")
    pixels[0, 0, 0] = 1000
    with image.writer() as writer:
        writer.write_region(pixels, (0, 0, 0))
    for level in range(len(image.levels)):
        assert objects(server, image, level) == {"c/0/0/0"}
    image.refresh(measure=True)
    assert [level.stored.chunks for level in image.levels] == [1] * len(image.levels)
    assert_exact(image, pixels)
    # Overwritten with the fill value, they disappear again.
    with image.writer() as writer:
        writer.write_region(np.full((1, 1, 1), fill, "uint16"), (0, 0, 0))
    for level in range(len(image.levels)):
        assert objects(server, image, level) == set()
    assert_exact(image, np.full(image.shape, fill, "uint16"))


def test_many_readers_of_a_chunk_load_it_once(
    serve: Callable[..., ServerProcess], name: str
) -> None:
    first = serve()
    with ziggurat.connect(first.address) as client:
        image = client.create(name, **SPEC)
        pixels = marked(image.shape, "uint16")
        with image.writer() as writer:
            writer.write_region(pixels, (0, 0, 0))
    first.stop()
    # Nothing is in the cache of a server that has just started.
    server = serve(first.data)
    with ziggurat.connect(server.address) as client:
        image = client.open(name)
        wrong: list[int] = []
        together = threading.Barrier(16)

        def read(k: int) -> None:
            together.wait(SECONDS)
            wrong.extend(k for _ in range(5) if not (image.read() == pixels).all())

        threads = [threading.Thread(target=read, args=(k,)) for k in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        assert not wrong
        cache = client.status().cache
        chunks = 4 * 4 * 4
        assert cache.misses == chunks
        assert cache.hits == 16 * 5 * chunks - chunks


def test_a_cache_smaller_than_an_image_evicts(
    serve: Callable[..., ServerProcess], name: str
) -> None:
    server = serve(cache_bytes=2**16)
    with ziggurat.connect(server.address) as client:
        image = client.create(name, **SPEC)
        pixels = marked(image.shape, "uint16")
        with image.writer() as writer:
            writer.write_region(pixels, (0, 0, 0))
        for _ in range(2):
            assert_exact(image, pixels)
        cache = client.status().cache
        assert cache.clean_bytes <= 2**16
        assert cache.evictions > 0


def test_a_read_up_to_the_limit_and_one_above(
    serve: Callable[..., ServerProcess], name: str
) -> None:
    server = serve(max_read_bytes=2**16)
    with ziggurat.connect(server.address) as client:
        image = client.create(name, **SPEC)
        assert image.read(offset=(0, 0, 0), shape=(8, 64, 64)).nbytes == 2**16
        with pytest.raises(ziggurat.LimitExceeded, match=str(2**16)) as error:
            image.read(offset=(0, 0, 0), shape=(9, 64, 64))
        assert error.value.field == "shape"


def test_parts_of_any_size_cover_the_box(serve: Callable[..., ServerProcess], name: str) -> None:
    server = serve(read_part_bytes=700)
    with ziggurat.connect(server.address) as client:
        image = client.create(name, **SPEC)
        pixels = marked(image.shape, "uint16")
        with image.writer() as writer:
            writer.write_region(pixels, (0, 0, 0))
        assert_exact(image, pixels)


def test_build_with_force(client: ziggurat.Client, name: str) -> None:
    """Where everything is exact it changes nothing; and it can be cancelled."""
    image = client.create(name, **SPEC)
    pixels = marked(image.shape, "uint16")
    with image.writer() as writer:
        writer.write_region(pixels[:, 5:50], (0, 5, 0))
    pixels[:, :5], pixels[:, 50:] = 0, 0
    assert image.build_pyramid().wait() is None or not image.build_pyramid().wait().chunks_done
    steps = list(image.build_pyramid(force=True))
    assert steps[-1].chunks_done == steps[-1].chunks_total > 0
    assert [s.chunks_done for s in steps] == sorted(s.chunks_done for s in steps)
    assert_exact(image, pixels)
    build = image.build_pyramid(force=True)
    next(build)
    build.cancel()
    with pytest.raises(ziggurat.Cancelled):
        build.wait()
    image.build_pyramid().wait()
    assert_exact(image, pixels)


def test_build_stores_what_an_open_stream_wrote(
    serve: Callable[..., ServerProcess], name: str
) -> None:
    server = serve(settle_idle_seconds=1000)
    with ziggurat.connect(server.address) as client:
        image = client.create(name, **SPEC)
        writer = image.writer()
        pixels = marked(image.shape, "uint16")
        writer.write_region(pixels, (0, 0, 0))
        until(lambda: writer.received == writer.sequence, "the pixels to be received")
        image.build_pyramid().wait()
        for level, wanted in enumerate(
            reference_cascade(pixels, [level.factors for level in image.levels[1:]])
        ):
            assert_level(image, level, wanted)
        assert_stored(server, image, pixels)
        writer.close(SECONDS)


def test_leftovers_are_swept_at_the_start(serve: Callable[..., ServerProcess], name: str) -> None:
    """A kill leaves files in DIR/tmp; what lies in the store is whole all the same."""
    server = serve()
    with ziggurat.connect(server.address) as client:
        image = client.create(name, **SPEC)
        pixels = marked(image.shape, "uint16")
        with image.writer() as writer:
            writer.write_region(pixels, (0, 0, 0))
        server.kill()
    leftovers = server.data / "tmp"
    (leftovers / "0123").write_bytes(b"half a shard")
    (leftovers / "tree" / "0").mkdir(parents=True)
    (leftovers / "tree" / "0" / "zarr.json").write_bytes(b"{}")
    again = serve(server.data)
    assert list(leftovers.iterdir()) == []
    with ziggurat.connect(again.address) as client:
        assert_exact(client.open(name), pixels)
