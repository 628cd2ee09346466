"""What comes from the files, and when: scans, neighbours in a shard, reads that are given up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import ziggurat

from tests.support.pixels import marked
from tests.support.server import ServerProcess
from tests.support.waiting import until

SHAPE, CHUNK = (1024, 64, 64), (8, 32, 32)
LAYER = 4  # chunks
CHUNK_BYTES = 8 * 32 * 32 * 2
PIXELS = marked(SHAPE, "uint16")


@pytest.fixture(scope="module")
def data(serve_module: Callable[..., ServerProcess]) -> Path:
    """The directory of a server that has stopped, with the image "a"."""
    server = serve_module()
    with ziggurat.connect(server.address) as client:
        image = client.create("a", axes="zyx", shape=SHAPE, dtype="uint16", chunk_shape=CHUNK)
        with image.writer() as writer:
            writer.write_region(PIXELS[:512], (0, 0, 0))
            writer.write_region(PIXELS[512:], (512, 0, 0))
    server.stop()
    return server.data


def test_scans_and_neighbours(data: Path, serve: Callable[..., ServerProcess]) -> None:
    server = serve(data)
    with ziggurat.connect(server.address) as client:
        image = client.open("a")

        def ahead() -> int:
            return client.status().cache.read_ahead

        for planes in (range(4, 34), range(160, 130, -1)):
            before = client.status().cache
            for number, z in enumerate(planes):
                assert np.array_equal(image[z], PIXELS[z])
                if number == 2:
                    # A scan by now: the layer behind it comes though nobody asks.
                    until(lambda: ahead() > before.read_ahead, "the next layer to be loaded")  # noqa: B023

            def loaded() -> int:
                cache = client.status().cache
                return cache.misses + cache.read_ahead - before.misses - before.read_ahead  # noqa: B023

            # The five that it met, and the one behind.
            until(lambda: loaded() >= 6 * LAYER, "the layers to come")
            assert loaded() <= 7 * LAYER
            cache = client.status().cache
            assert cache.read_ahead_used > before.read_ahead_used

        # Every second chunk, which lie in pairs; 60 layers that nobody read.
        for row, read in (
            (3, lambda: image[400:880, 3]),
            (40, lambda: image.read_stack([(400, 40, 0)], (480, 1, 64))[0, :, 0]),
        ):
            before = client.status().cache
            assert np.array_equal(read(), PIXELS[400:880, row])
            cache = client.status().cache
            assert cache.misses - before.misses == 60 * LAYER // 2
            assert cache.read_requests - before.read_requests <= 60
            assert cache.read_bytes - before.read_bytes < 2 * 60 * LAYER // 2 * CHUNK_BYTES


def test_with_little_memory(data: Path, serve: Callable[..., ServerProcess]) -> None:
    """No room to read ahead; and a read that is given up decodes no more.

    The read is a projection of all of it, which brings nothing before it is done.
    """
    server = serve(data, read_threads=1, cache_bytes=7 * CHUNK_BYTES)
    with ziggurat.connect(server.address) as client:
        image = client.open("a")
        assert all(np.array_equal(image[z], PIXELS[z]) for z in range(20))
        assert client.status().cache.read_ahead == 0

        def decoded() -> int:
            return client.status().kernel_totals.decoded_bytes

        for rounds in range(1, 100):
            before = decoded()
            with pytest.raises(ziggurat.DeadlineExceeded):
                # Longer and longer, until it begins in time: machines differ.
                image.read(projection="max", along="z", timeout_seconds=0.002 * rounds)
            if decoded() > before:
                break
        last = -1

        def still() -> bool:
            nonlocal last
            last, known = decoded(), last
            return last == known

        until(still, "decoding to stop")
        assert before < last < before + PIXELS.nbytes
        assert image.read(projection="max", along="z").max() == PIXELS.max()
