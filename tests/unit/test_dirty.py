"""Do dirty chunks keep the newest pixels through writing, settling and failing to settle?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from ziggurat_engine.cache import DirtyShard, ShardKey
from ziggurat_engine.pyramid import Pyramid
from ziggurat_engine.region import Region

SHAPE, CHUNK = (7, 10), (4, 4)
LEVEL = Pyramid.build(SHAPE, (1, 1), CHUNK, (8, 12), []).levels[0]
FILL = np.uint16(9)


def new_shard() -> DirtyShard:
    return DirtyShard(ShardKey(1, 0, (0, 0)), LEVEL, FILL)


def write(shard: DirtyShard, box: Region, pixels: np.ndarray, tick: int) -> int:
    with shard.lock:
        return shard.write(box, pixels, tick, 0.0)


class Shard(RuleBasedStateMachine):
    """One shard over a store that is a NumPy array; settles may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.shard = new_shard()
        self.stored = np.full(SHAPE, FILL)
        self.model = self.stored.copy()
        self.frozen: dict = {}
        self.tick = 0
        self.bytes = 0
        self.ticks: list[int] = []
        self.settling: list[int] = []

    @rule(data=st.data())
    def write(self, data: st.DataObject) -> None:
        offset = tuple(data.draw(st.integers(0, n - 1)) for n in SHAPE)
        extent = (data.draw(st.integers(1, n - o)) for n, o in zip(SHAPE, offset, strict=True))
        box = Region(offset, tuple(extent))
        self.tick += 1
        pixels = np.full(box.shape, 100 + self.tick, "uint16")
        self.model[box.slices()] = pixels
        chunk_bytes = int(np.prod(CHUNK)) * 2
        self.bytes += self.shard.absent(box) * chunk_bytes
        self.bytes += write(self.shard, box, pixels, self.tick)
        self.ticks.append(self.tick)

    @precondition(lambda self: not self.frozen and self.shard.chunks)
    @rule()
    def freeze(self) -> None:
        with self.shard.lock:
            for index, chunk in self.shard.chunks.items():
                chunk.finish(self._padded(self.stored, index))
            self.frozen, _ = self.shard.freeze()
        self.settling, self.ticks = self.ticks, []

    @precondition(lambda self: self.frozen)
    @rule()
    def stored_it(self) -> None:
        for index, chunk in self.frozen.items():
            box = LEVEL.chunks.region(index)
            self.stored[box.slices()] = chunk.data[Region.whole(box.shape).slices()]
        freed, _ = self.shard.stored()
        self.bytes -= freed
        self.frozen, self.settling = {}, []

    @precondition(lambda self: self.frozen)
    @rule()
    def failed(self) -> None:
        self.bytes -= self.shard.thaw()
        self.frozen = {}
        self.ticks, self.settling = self.settling + self.ticks, []

    @precondition(lambda self: not self.frozen)
    @rule()
    def discard(self) -> None:
        self.bytes -= self.shard.clear()
        self.model, self.ticks = self.stored.copy(), []

    @invariant()
    def pixels_are_the_newest(self) -> None:
        for index in LEVEL.chunks.indices():
            box = LEVEL.chunks.region(index)
            chunk, older = self.shard.chunks.get(index), self.shard.settling.get(index)
            found = self._padded(self.stored, index) if older is None else older.data.copy()
            if chunk is not None and chunk.complete:
                found = chunk.data
            elif chunk is not None:
                seen = chunk.data.copy()
                chunk.coverage.fill(seen, found)
                found = seen
            inside = Region.whole(box.shape).slices()
            assert (found[inside] == self.model[box.slices()]).all()

    @invariant()
    def counts_are_right(self) -> None:
        shard = self.shard
        assert shard.total == LEVEL.chunks.size
        assert shard.covered == sum(c.coverage.full for c in shard.chunks.values())
        held = [*shard.chunks.values(), *shard.settling.values()]
        assert self.bytes == sum(chunk.nbytes for chunk in held)
        assert shard.idle == (not held)
        assert shard.oldest_tick() == min(self.settling + self.ticks, default=None)
        assert shard._ticks.lowest() == shard.oldest_tick()

    def _padded(self, array: np.ndarray, index: tuple[int, ...]) -> np.ndarray:
        box = LEVEL.chunks.region(index)
        out = np.full(CHUNK, FILL)
        out[Region.whole(box.shape).slices()] = array[box.slices()]
        return out


TestShard = Shard.TestCase
TestShard.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_shard_is_whole_once_every_pixel_was_written() -> None:
    shard = new_shard()
    for row in range(SHAPE[0]):
        assert not shard.whole
        write(shard, Region((row, 0), (1, SHAPE[1])), np.zeros((1, SHAPE[1]), "uint16"), row + 1)
    assert shard.whole


def test_behind_the_edge_lies_the_fill_value() -> None:
    shard = new_shard()
    write(shard, Region.whole(SHAPE), np.zeros(SHAPE, "uint16"), 1)
    corner = shard.chunks[1, 2].data
    assert (corner[3:] == FILL).all()
    assert (corner[:, 2:] == FILL).all()


@pytest.mark.parametrize(
    ("box", "touched"),
    [
        (Region((0, 0), (1, 3)), True),
        (Region((0, 1), (2, 2)), False),
        (Region((0, 0), (0, 0)), False),
    ],
)
def test_touches(box: Region, touched: bool) -> None:
    shard = new_shard()
    write(shard, Region((0, 0), (1, 1)), np.zeros((1, 1), "uint16"), 1)
    assert shard.touches(box) == touched


def test_touched_chunks_count_until_their_blocks_are_right() -> None:
    """They keep the shard from being idle and the levels above from being called exact."""
    shard = new_shard()
    shard.touch([(0, 0), (1, 2)], tick=7)
    write(shard, Region((0, 0), (1, 1)), np.zeros((1, 1), "uint16"), 9)
    assert shard.oldest_tick() == 7
    with shard.lock:
        shard.chunks[0, 0].finish(FILL)
        frozen, touched = shard.freeze()
    assert set(frozen) == {(0, 0)}
    assert touched == {(0, 0), (1, 2)}
    assert shard.touched == set()
    assert shard.touches(Region((1, 2), (1, 1)))
    shard.thaw()
    assert shard.oldest_tick() == 7
    with shard.lock:
        _, touched = shard.freeze()
    # Meanwhile something that its block depends on has changed.
    shard.touch([(1, 2)], tick=11)
    shard.stored()
    assert shard.touched == {(1, 2)}
    assert shard.oldest_tick() == 11
    with shard.lock:
        shard.freeze()
    assert not shard.idle
    shard.stored()
    assert shard.idle
    assert shard.oldest_tick() is None


def test_a_write_that_fails_halfway_keeps_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """One chunk becomes full by it; another has a mask, and for that there is no memory."""
    monkeypatch.setattr("ziggurat_engine.cache.coverage.MAX_BOXES", 2)
    shard = new_shard()
    for row, column in np.ndindex(CHUNK):
        if (row + column) % 2:
            write(shard, Region((row, column), (1, 1)), np.ones((1, 1), "uint16"), 1)
    with shard.lock:
        assert shard.chunks[0, 0].coverage.nbytes

    def no_memory(*_: object) -> bool:
        raise MemoryError

    monkeypatch.setattr("ziggurat_engine.cache.coverage.Coverage.add", no_memory)
    with pytest.raises(MemoryError):
        write(shard, Region((0, 0), (4, 8)), np.ones((4, 8), "uint16"), 2)
    monkeypatch.undo()
    assert shard.chunks[0, 1].complete
    assert not shard.chunks[0, 0].complete
    assert shard.covered == 1
    write(shard, Region.whole(SHAPE), np.ones(SHAPE, "uint16"), 3)
    assert shard.whole
