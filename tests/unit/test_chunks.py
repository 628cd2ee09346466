"""Does a read see the newest pixels while a chunk is on its way to the store?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ziggurat_engine import engine as engine_module
from ziggurat_engine.cache import DirtyDirectory, DirtyShard, ShardKey
from ziggurat_engine.chunks import Fetched
from ziggurat_engine.config import Settings
from ziggurat_engine.engine import Engine
from ziggurat_engine.reads.answers import Read
from ziggurat_engine.region import Region
from ziggurat_engine.spec import Axis, ImageSpec, LayoutRequest

from tests.support.engines import one_chunk

SIDE = 8


class Held:
    """An image of one chunk in an engine, its shard owned by the test: nothing settles it."""

    def __init__(self, directory: Path) -> None:
        self.engine, self.image = one_chunk(directory, SIDE)
        self.stream = self.engine.streams.open(self.image, "s")
        self.sequence = 0
        self.owned: DirtyShard | None = None

    def write(self, value: int, *rows: int) -> None:
        pixels = memoryview(bytes([value]) * SIDE)
        for row in rows:
            self.sequence += 1
            region = Region((row, 0), (1, SIDE))
            self.engine.ingest.write(self.stream, self.sequence, region, pixels)

    def read(self) -> list[int]:
        """The value of each row."""
        query = self.engine.query
        answer = query.plan(self.image, Read())
        ((_, pixels),) = query.parts(answer)
        assert (pixels == np.asarray(pixels)[:, :1]).all()
        return [int(row) for row in np.asarray(pixels)[:, 0]]

    def store(self) -> None:
        self.engine.ingest.finish(self.stream)

    def settling(self) -> None:
        """Freezes the chunk, as the shard's owner does, and stops there."""
        directory = self.engine._dirty
        (shard,) = directory.shards()
        assert directory.try_own(shard)
        self.owned = shard
        self.engine._storing._chunks.freeze(self.image, shard)

    def failed(self) -> None:
        """What the owner does where the store failed."""
        if self.owned is not None:
            self.engine._budget.release(self.owned.thaw())
            self.engine._dirty.disown(self.owned)
            self.owned = None


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    found = Held(tmp_path)
    yield found
    found.failed()
    found.engine.streams.release(found.stream)
    found.engine.close()


ROWS = range(SIDE)
STEPS: dict[str, Callable[[Held], None]] = {
    "unread": lambda _: None,
    "read-in-between": lambda held: held.read() and None,
}


@pytest.mark.parametrize("between", STEPS.values(), ids=STEPS)
def test_a_write_onto_a_settling_chunk(held: Held, between: Callable[[Held], None]) -> None:
    """Below the newest pixels lie the settling ones, not those that are still stored."""
    held.write(1, *ROWS)
    held.store()
    held.write(2, 0, 1, 2, 3)
    held.settling()
    assert held.read() == [2, 2, 2, 2, 1, 1, 1, 1]
    held.write(3, 3)
    between(held)
    held.write(4, 6)
    assert held.read() == [2, 2, 2, 3, 1, 1, 4, 1]
    held.failed()
    assert held.read() == [2, 2, 2, 3, 1, 1, 4, 1]
    held.store()
    assert held.read() == [2, 2, 2, 3, 1, 1, 4, 1]


def test_a_settle_that_fails_gives_its_pixels_to_newer_ones(held: Held) -> None:
    held.write(1, 0, 1)
    held.settling()
    held.write(2, 1)
    held.failed()
    assert held.read() == [1, 2, 0, 0, 0, 0, 0, 0]
    assert held.engine.status().dirty_bytes == SIDE * SIDE
    held.store()
    assert held.read() == [1, 2, 0, 0, 0, 0, 0, 0]
    assert held.engine.status().dirty_bytes == 0


def test_pixels_never_written_are_the_stored_ones(held: Held) -> None:
    held.write(1, *ROWS)
    held.store()
    held.write(2, 5)
    assert held.read() == [1, 1, 1, 1, 1, 2, 1, 1]
    held.store()
    # Also where the cache has forgotten them.
    held.engine._clean.drop_image(held.image.number)
    held.write(3, 0)
    held.store()
    held.engine._clean.drop_image(held.image.number)
    assert held.read() == [3, 1, 1, 1, 1, 2, 1, 1]


def test_frames_that_were_read_together_are_used_until_one_is_replaced(tmp_path: Path) -> None:
    engine = Engine(Settings(data=tmp_path, settle_idle_seconds=1000))
    engine.recover()
    axes = (Axis(name="y", size=SIDE), Axis(name="x", size=2 * SIDE))
    layout = LayoutRequest(chunk_shape=(SIDE, SIDE), shard_chunks=(1, 2), level_count=1)
    image = engine.create(ImageSpec(name="a", axes=axes, data_type="uint8", layout=layout))
    chunks, traffic = engine._storing._chunks, engine._catalog.handles.traffic
    stream = engine.streams.open(image, "s")

    def write(sequence: int, width: int) -> None:
        pixels = memoryview(bytes([sequence]) * SIDE * width)
        engine.ingest.write(stream, sequence, Region((0, 0), (SIDE, width)), pixels)
        engine.ingest.finish(stream)

    def read(at: tuple[int, int], fetched: Fetched | None) -> int:
        out = np.zeros((SIDE, SIDE), "uint8")
        chunks.paste(image, 0, at, (slice(None),) * 2, out, fetched)
        return int(out[0, 0])

    write(1, 2 * SIDE)
    fetched = chunks.fetch(image, 0, [(0, 0), (0, 1)])
    assert fetched is not None
    assert traffic.requests == 1
    assert read((0, 0), fetched) == 1
    assert traffic.requests == 1
    write(2, SIDE)
    # The frame of the other one is as good as it was, but who knows.
    assert (read((0, 0), fetched), read((0, 1), fetched)) == (2, 1)
    assert traffic.requests == 3
    engine.streams.release(stream)
    engine.close()


class Watched(DirtyDirectory):
    """Notes, whenever a parent is written to, whether something below it is dirty still."""

    seen: list[bool]

    def pin(self, key: ShardKey, *rest: Any) -> AbstractContextManager[DirtyShard]:
        if key.level:
            everything = Region((0,) * len(key.shard), (2**40,) * len(key.shard))
            below = self.shards(level=key.level - 1)
            self.seen.append(any(shard.touches(everything) for shard in below))
        return super().pin(key, *rest)


def test_a_chunk_is_dirty_until_its_parent_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else there would be an instant in which a level is wrong and not called stale."""
    monkeypatch.setattr(engine_module, "DirtyDirectory", Watched)
    Watched.seen = []
    engine = Engine(Settings(data=tmp_path, settle_idle_seconds=1000))
    engine.recover()
    axes = tuple(Axis(name=name, size=64) for name in ("y", "x"))
    layout = LayoutRequest(chunk_shape=(8, 8), shard_chunks=(2, 2))
    image = engine.create(ImageSpec(name="a", axes=axes, data_type="uint8", layout=layout))
    stream = engine.streams.open(image, "s")
    engine.ingest.write(stream, 1, Region((5, 5), (40, 40)), memoryview(bytes(range(40)) * 40))
    engine.ingest.finish(stream)
    assert len(Watched.seen) > 40
    assert all(Watched.seen)
    engine.streams.release(stream)
    engine.close()
