"""Which shards are dirty, and which one should settle next?

The directory holds a DirtyShard for every shard that is dirty, settling, or in use.
A shard is pinned by who writes to it and owned by who stores it: many may pin, one
may own, and an owner shuts nobody out but other owners.

Locks: the directory's lock and a shard's lock are never held together.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from ziggurat_engine.cache.dirty import DirtyShard, ShardKey
from ziggurat_engine.cache.ticks import Ticks
from ziggurat_engine.pyramid import Level
from ziggurat_engine.region import Region, Shape


class DirtyDirectory:
    """All dirty shards of all images. All methods may be called from any thread.

    first_tick: where ticks begin.
    """

    def __init__(self, first_tick: int = 1) -> None:
        self._shards: dict[tuple[int, int], dict[Shape, DirtyShard]] = defaultdict(dict)
        # Of the shards that are there: what is not stored of them.
        self._unstored: dict[tuple[int, int], Ticks] = defaultdict(Ticks)
        self.changed = threading.Condition()
        # Grows whenever an owner gives a shard back.
        self.changes = 0
        self._ticks = itertools.count(first_tick)

    def next_tick(self) -> int:
        """A number for a write, higher than all before."""
        return next(self._ticks)

    def find(self, key: ShardKey) -> DirtyShard | None:
        """The shard where it is dirty, settling or in use."""
        # One read of a dict, whole under the interpreter's lock.
        return self._shards.get(key[:2], {}).get(key.shard)

    def holds(self, image: int, level: int) -> bool:
        """Whether any shard of a level is dirty, settling or in use."""
        return bool(self._shards.get((image, level)))

    def shards(self, image: int | None = None, level: int | None = None) -> list[DirtyShard]:
        """A snapshot of the shards held, of one image and one level where given."""
        with self.changed:
            if image is not None and level is not None:
                return list(self._shards.get((image, level), {}).values())
            return [
                shard
                for (i, k), shards in self._shards.items()
                if image in (None, i) and level in (None, k)
                for shard in shards.values()
            ]

    def among(self, image: int, level: int, shards: Sequence[Collection[int]]) -> list[DirtyShard]:
        """Those shards of a level that are held, of indices along each axis, each with each."""
        with self.changed:
            held = self._shards.get((image, level), {})
            if math.prod(map(len, shards)) < len(held):
                return [held[key] for key in itertools.product(*shards) if key in held]
            return [
                shard
                for key, shard in held.items()
                if all(i in axis for i, axis in zip(key, shards, strict=True))
            ]

    def oldest_tick(self, image: int | None, level: int) -> int | None:
        """A lower bound of the ticks of a level that are not stored; None where all are.

        image: None for all images. A write that is under way may not be among them.
        """
        with self.changed:
            if image is None:
                found = [ticks for (_, k), ticks in self._unstored.items() if k == level]
            else:
                found = [self._unstored[image, level]] if (image, level) in self._unstored else []
        lowest = (ticks.lowest() for ticks in found)
        return min((tick for tick in lowest if tick is not None), default=None)

    def touches(self, image: int, level: int, chunks: Region) -> bool:
        """True where a chunk in the box of indices `chunks` is dirty or settling."""
        return any(shard.touches(chunks) for shard in self._near(image, level, chunks))

    def indices(self, image: int, level: int) -> list[Shape]:
        """All chunks of a level that are dirty, settling or touched."""
        return [index for shard in self.shards(image, level) for index in shard.indices()]

    @contextmanager
    def pin(self, key: ShardKey, level: Level, fill_value: np.generic) -> Iterator[DirtyShard]:
        """The shard, made where there is none; it stays in the directory meanwhile."""
        with self.changed:
            shard = self._get(key, level, fill_value)
            shard.users += 1
        try:
            yield shard
        finally:
            with self.changed:
                self._leave(shard)

    @contextmanager
    def own(self, key: ShardKey, level: Level, fill_value: np.generic) -> Iterator[DirtyShard]:
        """The shard, as its only owner; waits while another owns it."""
        with self.changed:
            shard = self._get(key, level, fill_value)
            shard.users += 1
            self.changed.wait_for(lambda: not shard.owned)
            shard.owned = True
        try:
            yield shard
        finally:
            self.disown(shard)

    def try_own(self, shard: DirtyShard) -> bool:
        """Owns `shard` if nobody does and it is dirty; `disown` gives it back."""
        with self.changed:
            if shard.owned or shard.idle:
                return False
            shard.users += 1
            shard.owned = True
            return True

    def disown(self, shard: DirtyShard) -> None:
        """Gives a shard back; wakes who waits for `changed`."""
        with self.changed:
            shard.owned = False
            self._leave(shard)
            self.changes += 1
            self.changed.notify_all()

    def wait_for_change(self, seen: int, timeout_seconds: float) -> None:
        """Returns once `changes` is not `seen` any more, or after the time-out."""
        with self.changed:
            self.changed.wait_for(lambda: self.changes != seen, timeout_seconds)

    def _near(self, image: int, level: int, chunks: Region) -> list[DirtyShard]:
        """The shards that may hold chunks in the box of indices `chunks`."""
        with self.changed:
            first = next(iter(self._shards.get((image, level), {}).values()), None)
        if first is None or not chunks.size:
            return []
        shard_of = first.level.shard_of
        low, last = shard_of(chunks.offset), shard_of(tuple(n - 1 for n in chunks.stop))
        return self.among(image, level, [range(a, b + 1) for a, b in zip(low, last, strict=True)])

    def _get(self, key: ShardKey, level: Level, fill_value: np.generic) -> DirtyShard:
        shards = self._shards[key.image, key.level]
        shard = shards.get(key.shard)
        if shard is None:
            ticks = self._unstored[key.image, key.level]
            shard = shards[key.shard] = DirtyShard(key, level, fill_value, ticks)
        return shard

    def _leave(self, shard: DirtyShard) -> None:
        shard.users -= 1
        # With no user nobody can make it dirty: users come through this lock.
        if not shard.users and shard.idle:
            level = self._shards[shard.key[:2]]
            del level[shard.key.shard]
            # A write that failed before it made a chunk has left one.
            shard.forget_tick()
            if not level:
                del self._shards[shard.key[:2]], self._unstored[shard.key[:2]]
