"""Is only that decoded of a chunk which is read, and is it right whatever happens to the chunk?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import ziggurat
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from tests.support.server import ServerProcess

CELL = (32, 48, 64)
SHAPE = (70, 100, 150)
CHUNK_BYTES = 2 * 32 * 48 * 64
CODECS = ("blosc-zstd", "blosc-lz4", "none", "zstd")


def volume(seed: int) -> np.ndarray:
    dice = np.random.default_rng(seed)
    return dice.integers(100, 400, SHAPE, "uint16")


def make(client: ziggurat.Client, name: str, codec: str, **layout: object) -> ziggurat.Image:
    return client.create(
        name, axes="zyx", shape=SHAPE, dtype="uint16", codec=codec, chunk_shape=CELL, **layout
    )


@pytest.fixture
def stored(tmp_path: Path, serve: Callable[..., ServerProcess]) -> Callable[..., ServerProcess]:
    """A directory with an image of each codec; starts servers of it, in whose caches is nothing."""
    data = tmp_path / "stored"
    first = serve(data)
    with ziggurat.connect(first.address) as client:
        for codec in CODECS:
            with make(client, codec, codec).writer() as writer:
                writer.write(volume(1))
    first.stop()
    return lambda **given: serve(data, **given)


def test_a_plane_costs_a_plane(stored: Callable[..., ServerProcess]) -> None:
    pixels = volume(1)
    with ziggurat.connect(stored(scan_ahead_bytes=0).address) as client:

        def decoded() -> int:
            return client.status().kernel_totals.decoded_bytes

        for codec in CODECS:
            image = client.open(codec)
            chunks = 9 * CHUNK_BYTES
            before = decoded()
            assert np.array_equal(image[40], pixels[40])
            first = decoded() - before
            # Of a layer of 9 chunks some blocks each; what cannot be cut is decoded whole.
            assert first == chunks if codec == "zstd" else first <= chunks // 2
            assert np.array_equal(image[40, 10:20], pixels[40, 10:20])
            assert decoded() - before == first
            # However many planes of it are read, a layer is decoded once and a half at most, and
            # the blocks of one plane, which begins in one and may end in another.
            most = chunks * 3 // 2 + 2 * first
            for z in range(32, 64):
                assert np.array_equal(image[z], pixels[z])
            assert decoded() - before <= most
            assert np.array_equal(image[33:60:5, ::3, 7:90], pixels[33:60:5, ::3, 7:90])
            assert decoded() - before <= most


def test_few_bytes_are_read(stored: Callable[..., ServerProcess]) -> None:
    with ziggurat.connect(stored().address) as client:
        for codec in ("blosc-zstd", "none"):
            before = client.status().cache
            client.open(codec)[40]
            cache = client.status().cache
            assert cache.misses - before.misses == 9
            assert cache.read_bytes - before.read_bytes < 9 * CHUNK_BYTES / 3


class Thin(RuleBasedStateMachine):
    """An image that is written, stored and read in thin boxes, with room for few chunks."""

    client: ziggurat.Client
    runs = 0

    @initialize(codec=st.sampled_from(CODECS), sharded=st.booleans())
    def begin(self, codec: str, sharded: bool) -> None:
        type(self).runs += 1
        layout = {} if sharded else {"shard_chunks": (1, 1, 1)}
        self.image = make(self.client, f"run-{self.runs}", codec, **layout)
        self.pixels = np.zeros(SHAPE, "uint16")
        self.seed = 0

    def box(self, data: st.DataObject, thin: bool) -> tuple[slice, ...]:
        box = []
        for axis, size in enumerate(SHAPE):
            start = data.draw(st.integers(0, size - 1))
            most = 3 if thin and axis == 0 else size
            box.append(slice(start, min(size, start + data.draw(st.integers(1, most)))))
        return tuple(box)

    @rule(data=st.data(), thin=st.booleans(), durable=st.booleans())
    def write(self, data: st.DataObject, thin: bool, durable: bool) -> None:
        box = self.box(data, thin)
        self.seed += 1
        part = volume(self.seed)[box]
        with self.image.writer(durability="durable" if durable else "received") as writer:
            writer.write(part, **{a: s.start for a, s in zip("zyx", box, strict=True)})
        self.pixels[box] = part

    @rule(data=st.data(), thin=st.booleans())
    def read(self, data: st.DataObject, thin: bool) -> None:
        box = self.box(data, thin)
        assert np.array_equal(self.image[box], self.pixels[box])

    @rule(data=st.data())
    def read_many(self, data: st.DataObject) -> None:
        size = (1, 20, 30)
        spots = [
            tuple(data.draw(st.integers(0, n - s)) for n, s in zip(SHAPE, size, strict=True))
            for _ in range(5)
        ]
        found = self.image.read_stack(spots, size)
        for pixels, spot in zip(found, spots, strict=True):
            box = tuple(slice(o, o + s) for o, s in zip(spot, size, strict=True))
            assert np.array_equal(pixels, self.pixels[box])

    @rule(data=st.data())
    def steps(self, data: st.DataObject) -> None:
        box = tuple(
            slice(part.start, part.stop, data.draw(st.integers(1, 7)))
            for part in self.box(data, thin=True)
        )
        assert np.array_equal(self.image[box], self.pixels[box])

    def teardown(self) -> None:
        if hasattr(self, "image"):
            self.client.delete(f"run-{self.runs}")


def test_thin_reads_beside_writes(serve: Callable[..., ServerProcess]) -> None:
    server = serve(cache_bytes=12 * CHUNK_BYTES, settle_idle_seconds=0.05)
    with ziggurat.connect(server.address) as client:
        Thin.client = client
        run_state_machine_as_test(
            Thin,
            settings=settings(
                max_examples=25,
                stateful_step_count=25,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
