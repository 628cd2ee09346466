"""What has been written to a shard and is not stored yet?

A DirtyShard holds the dirty chunks of one shard of one level; the shard is the unit
of locking and of settling, since it is the unit of a store object. A chunk is in one
of three states, and moves from one to the next:

    dirty       in `chunks`: written to; pixels never written are undefined until the
                chunk is `complete`
    settling    in `settling`: frozen and complete, on its way to the store; a write
                begins a new dirty chunk whose base is the settling one
    touched     in `touched`: stored, but its block in the level above may not be right; in
                `making` while that is made
    clean       in neither: what the store holds

Every accepted write has a tick, from one counter for the whole engine. `oldest_tick`
is a lower bound of the ticks that are not stored yet.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ziggurat_engine.cache.coverage import Coverage, cover
from ziggurat_engine.cache.ticks import Ticks
from ziggurat_engine.pyramid import Level
from ziggurat_engine.region import Region, Shape
from ziggurat_engine.scatter import address_of, scatter
from ziggurat_engine.spec import Array
from ziggurat_engine.state import StaleShard


class ShardKey(NamedTuple):
    """One shard of one level; image: as images.OpenImage.number_of."""

    image: int
    level: int
    shard: Shape


class DirtyChunk:
    """The pixels of one dirty chunk; guarded by its shard's lock while it is dirty.

    data: of the whole chunk shape; behind the level's edge it holds the fill value.
    complete: every pixel of `data` is what a read should see. address: of the first pixel.
    """

    __slots__ = ("address", "complete", "coverage", "data")

    def __init__(self, valid: Shape, chunk_shape: Shape, fill_value: np.generic) -> None:
        self.data: Array = np.empty(chunk_shape, dtype=fill_value.dtype)
        if valid != chunk_shape:
            self.data[...] = fill_value
        self.address = address_of(self.data)
        self.coverage = Coverage(Region.whole(valid))
        self.complete = False

    @property
    def nbytes(self) -> int:
        """Bytes of memory, for the budget."""
        return self.data.nbytes + self.coverage.nbytes

    def finish(self, base: Array | np.generic) -> None:
        """Takes the pixels never written from `base`, the chunk as it was before, or a scalar."""
        if not self.complete:
            self.coverage.fill(self.data, base)
            self.complete = True


class DirtyShard:
    """The dirty chunks of one shard. What is not said to be guarded is constant."""

    __slots__ = (
        "_settling_sources",
        "_settling_tick",
        "_ticks",
        "chunks",
        "covered",
        "error",
        "failures",
        "fill_value",
        "first_write",
        "key",
        "last_write",
        "level",
        "lock",
        "making",
        "owned",
        "retry_at",
        "settling",
        "sources",
        "tick",
        "total",
        "touched",
        "users",
    )

    def __init__(
        self, key: ShardKey, level: Level, fill_value: np.generic, ticks: Ticks | None = None
    ) -> None:
        """ticks: of its level, where `tick` and that of what is settling are kept as well."""
        self.key = key
        self.level = level
        self.fill_value = fill_value
        self.total = level.chunks_of(key.shard).size
        # Guarded by `lock`, as are the chunks in them; read without it, they are hints.
        self.lock = threading.Lock()
        self.chunks: dict[Shape, DirtyChunk] = {}
        self.settling: dict[Shape, DirtyChunk] = {}
        self.touched: set[Shape] = set()
        # Were touched when the shard began to settle. Touched again meanwhile, they are to be
        # made again: what is being made of them may be older.
        self.making: set[Shape] = set()
        # Notes of the shards below whose blocks were merged into `chunks`: to be cleared
        # once these are stored.
        self.sources: list[StaleShard] = []
        self._settling_sources: list[StaleShard] = []
        self.covered = 0
        # Monotonic seconds; the first one since the chunks were frozen.
        self.first_write = 0.0
        self.last_write = 0.0
        self.tick: int | None = None
        self._settling_tick: int | None = None
        self._ticks = ticks or Ticks()
        # Guarded by the directory.
        self.users = 0
        self.owned = False
        # Written by the owner: settles that failed since the last that did not.
        self.failures = 0
        self.retry_at = 0.0
        self.error: Exception | None = None

    @property
    def idle(self) -> bool:
        """True where nothing is dirty, settling or touched."""
        return not (self.chunks or self.settling or self.touched or self.making)

    @property
    def whole(self) -> bool:
        """True where every pixel of the shard was written since it was last stored."""
        return self.covered == self.total

    def oldest_tick(self) -> int | None:
        """The lowest tick that may not be stored; None where all is. Takes the lock."""
        with self.lock:
            ticks = [t for t in (self.tick, self._settling_tick) if t is not None]
            return min(ticks, default=None)

    def touches(self, chunks: Region) -> bool:
        """True where a chunk index in the box `chunks` is dirty or settling. Takes the lock."""
        with self.lock:
            held = itertools.chain(self.chunks, self.settling, self.touched, self.making)
            return any(chunks.holds(index) for index in held)

    def indices(self) -> set[Shape]:
        """The chunks that are dirty, settling or touched. Takes the lock."""
        with self.lock:
            return self.chunks.keys() | self.settling.keys() | self.touched | self.making

    def stored(self) -> tuple[int, list[StaleShard]]:
        """The settling chunks are clean now, and the blocks that were being made are right.

        Returns the bytes freed, and the notes that can be cleared. For the owner; takes
        the lock.
        """
        with self.lock:
            freed = sum(chunk.nbytes for chunk in self.settling.values())
            self.settling = {}
            self.making = set()
            sources, self._settling_sources = self._settling_sources, []
            if self._settling_tick is not None:
                self._ticks.remove(self._settling_tick)
                self._settling_tick = None
            if self.idle:
                # Touched again meanwhile, which nobody would own it for any more.
                self.forget_tick()
        return freed, sources

    def touch(self, chunks: Iterable[Shape], tick: int) -> None:
        """The blocks of `chunks` in the level above are to be made anew. Takes the lock."""
        with self.lock:
            self.touched.update(chunks)
            self._since(tick)

    def touch_dirty(self, tick: int) -> None:
        """As `touch`, of what is dirty or settling. Takes the lock."""
        with self.lock:
            held = self.chunks.keys() | self.settling.keys()
            if held:
                self.touched |= held
                self._since(tick)

    def make_more(self, chunks: Iterable[Shape]) -> None:
        """The blocks of these are being made, too. For the owner; takes the lock."""
        with self.lock:
            self.making.update(chunks)

    def thaw(self) -> int:
        """The settling chunks could not be stored: they are dirty again.

        Returns the bytes of those that newer writes stand in for. For the owner; takes
        the lock.
        """
        freed = 0
        with self.lock:
            for index, old in self.settling.items():
                newer = self.chunks.get(index)
                if newer is None:
                    self.chunks[index] = old
                    self.covered += old.coverage.full
                else:
                    newer.finish(old.data)
                    freed += old.nbytes
            settling, self._settling_tick = self._settling_tick, None
            if self.tick is None:
                self.tick = settling
            elif settling is not None:
                self._ticks.remove(max(self.tick, settling))
                self.tick = min(self.tick, settling)
            self.sources = self._settling_sources + self.sources
            self._settling_sources = []
            self.settling = {}
            self.touched |= self.making
            self.making = set()
        return freed

    def clear(self) -> int:
        """Forgets all dirty chunks; returns their bytes. For the owner; takes the lock."""
        with self.lock:
            freed = sum(chunk.nbytes for chunk in self.chunks.values())
            self.chunks = {}
            self.touched, self.making = set(), set()
            self.sources = []
            self.covered = 0
            self.forget_tick()
        return freed

    # The methods below are called with the lock held.

    def absent(self, box: Region) -> int:
        """How many chunks a write of `box`, pixels of the level, would have to make."""
        return sum(at not in self.chunks for at in self.level.chunks.indices(box))

    def write(
        self,
        box: Region,
        pixels: Array,
        tick: int,
        now: float,
        source: StaleShard | None = None,
    ) -> int:
        """Scatters `pixels` of `box`, which lies in this shard, into the chunks that it touches.

        Returns the bytes that coverage masks have grown by. now: monotonic seconds.
        source: the note to clear once these chunks are stored.
        """
        if not self.chunks:
            self.first_write = now
        # Before all else: whatever fails below, some of it may be written.
        self._since(tick)
        self.last_write = now
        written = []
        for at in self.level.chunks.indices(box):
            chunk = self.chunks.get(at)
            if chunk is None:
                chunk = self.chunks[at] = self._new(at)
            written.append(chunk)
        pixels = np.asarray(pixels, self.fill_value.dtype)
        cell = self.level.chunks.cell
        first = tuple(map(int.__mod__, box.offset, cell))
        scatter(pixels, first, cell, [chunk.address for chunk in written])
        try:
            covered, grown = cover([chunk.coverage for chunk in written], first, box.shape, cell)
        except BaseException:
            # Some of them may be full by now.
            self._count()
            raise
        for number in covered:
            written[number].complete = True
        self.covered += len(covered)
        if source is not None and source not in self.sources:
            self.sources.append(source)
        return grown

    def freeze(self) -> tuple[dict[Shape, DirtyChunk], set[Shape]]:
        """Moves the dirty chunks, all of them complete, to settling.

        Returns them, and what was touched, of which those are not any more.
        """
        assert not self.settling
        assert all(chunk.complete for chunk in self.chunks.values())
        self.settling, self.chunks = self.chunks, {}
        self._settling_sources, self.sources = self.sources, []
        self._settling_tick, self.tick = self.tick, None
        self.covered = 0
        self.making, self.touched = self.touched, set()
        return self.settling, set(self.making)

    def forget_tick(self) -> None:
        """Nothing is dirty or touched; also where nobody uses the shard any more."""
        if self.tick is not None:
            self._ticks.remove(self.tick)
            self.tick = None

    def _since(self, tick: int) -> None:
        before = self.tick
        if before is None or tick < before:
            self._ticks.add(tick)
            self.tick = tick
            if before is not None:
                self._ticks.remove(before)

    def _count(self) -> None:
        """Finds out anew which chunks are full."""
        full = [chunk for chunk in self.chunks.values() if chunk.coverage.full]
        for chunk in full:
            chunk.complete = True
        self.covered = len(full)

    def _new(self, index: Shape) -> DirtyChunk:
        valid = self.level.chunks.region(index).shape
        return DirtyChunk(valid, self.level.chunks.cell, self.fill_value)
