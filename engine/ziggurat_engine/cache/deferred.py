"""Of which stored chunks are the parents to be made later?

Of those that a start found in the state database, of those that a forced build has not
come to, and, in an image whose pyramid is deferred, of those that were written. Only
their indices are held, by shard, so that an image of a million chunks takes megabytes;
what is being made is touched in its DirtyShard (dirty.py). An entry goes from here once
it is touched there, so that the level above is known to be stale at every instant.
"""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator

import numpy as np
from numpy.typing import NDArray

from ziggurat_engine.cache.dirty import ShardKey
from ziggurat_engine.indices import distinct, rows_of
from ziggurat_engine.region import Region, Shape

# Of a shard with fewer chunks nothing is kept for `parents`: an array would be larger than they.
_FEW = 64


class Deferred:
    """Chunks by shard. All methods may be called from any thread.

    Shards that are not `lazy` are made by whoever has nothing better to do (`next_key`).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Grows whenever something was added.
        self.changes = 0
        # By image and level, and there by shard. A set is replaced, not changed, so that it can
        # be looked at without the lock.
        self._chunks: dict[tuple[int, int], dict[Shape, frozenset[Shape]]] = defaultdict(dict)
        # What `parents` found last, and of which sets.
        self._parents: dict[
            tuple[int, int], dict[Shape, tuple[frozenset[Shape], NDArray[np.int64]]]
        ] = {}
        # By level, in the order in which they came.
        self._eager: dict[int, dict[ShardKey, None]] = defaultdict(dict)

    def add(self, key: ShardKey, chunks: Collection[Shape], *, lazy: bool = False) -> None:
        """The parents of these chunks are to be made."""
        if not chunks:
            return
        with self._lock:
            self.changes += 1
            shards = self._chunks[key[:2]]
            shards[key.shard] = shards.get(key.shard, frozenset()).union(chunks)
            if not lazy:
                self._eager[key.level][key] = None

    def get(self, key: ShardKey) -> frozenset[Shape]:
        """What is held of a shard."""
        with self._lock:
            return self._chunks.get(key[:2], {}).get(key.shard, frozenset())

    def count(self, key: ShardKey) -> int:
        """How many chunks are held of a shard."""
        with self._lock:
            return len(self._chunks.get(key[:2], {}).get(key.shard, ()))

    def remove(self, key: ShardKey, taken: frozenset[Shape]) -> None:
        """These, which `get` returned, are touched now.

        Where something was added or moved since, all stays: of the same chunks it may tell
        of newer pixels than those that are being made.
        """
        with self._lock:
            shards = self._chunks.get(key[:2], {})
            if shards.get(key.shard) is taken:
                del shards[key.shard]
                self._eager[key.level].pop(key, None)

    def share(self, source: int, target: int, level: int) -> None:
        """What is held of a level under number `source` is so under `target` as well."""
        with self._lock:
            self.changes += 1
            shards = self._chunks[target, level]
            for shard, held in self._chunks.get((source, level), {}).items():
                shards[shard] = shards.get(shard, frozenset()) | held

    def move(self, source: int, target: int, level: int, *, lazy: bool) -> None:
        """What is held of a level under number `source` takes the place of what `target` has."""
        with self._lock:
            self.changes += 1
            moved = self._chunks.pop((source, level), {})
            self._chunks.pop((target, level), None)
            self._parents.pop((source, level), None)
            self._parents.pop((target, level), None)
            eager = self._eager[level]
            for key in [key for key in eager if key.image in (source, target)]:
                del eager[key]
            if moved:
                self._chunks[target, level] = moved
            if not lazy:
                eager.update((ShardKey(target, level, shard), None) for shard in moved)

    def next_key(self) -> ShardKey | None:
        """The first shard that is not lazy, of the lowest level there is."""
        with self._lock:
            for level in sorted(self._eager):
                for key in self._eager[level]:
                    return key
            return None

    @property
    def chunks(self) -> int:
        """All chunks that are held."""
        with self._lock:
            return sum(len(held) for shards in self._chunks.values() for held in shards.values())

    @property
    def eager(self) -> int:
        """Shards that are not lazy."""
        with self._lock:
            return sum(map(len, self._eager.values()))

    def keys(
        self, image: int, level: int, chunks: Region | None, shard_of: Callable[[Shape], Shape]
    ) -> list[ShardKey]:
        """The shards of a level of which something is held, in the box of chunk indices.

        shard_of: as of the level.
        """
        with self._lock:
            if chunks is None:
                return [ShardKey(image, level, s) for s in self._chunks.get((image, level), {})]
            return [
                ShardKey(image, level, shard)
                for shard, held in self._near(image, level, chunks, shard_of)
                if any(chunks.holds(index) for index in held)
            ]

    def touches(
        self, image: int, level: int, chunks: Region, shard_of: Callable[[Shape], Shape]
    ) -> bool:
        """True where a chunk in the box of indices `chunks` is held; shard_of: as of the level."""
        with self._lock:
            return any(
                chunks.holds(index)
                for _, held in self._near(image, level, chunks, shard_of)
                for index in held
            )

    def holds(self, image: int, level: int) -> bool:
        """True where anything is held of a level."""
        with self._lock:
            return bool(self._chunks.get((image, level)))

    def parents(self, image: int, level: int, factors: Shape) -> list[NDArray[np.int64]]:
        """The chunks of the level above that those held of a level are part of.

        Arrays with a row a chunk, which may be in several; they are not to be written to.
        factors: as of the level above. A shard is looked at once until it changes.
        """
        with self._lock:
            held = dict(self._chunks.get((image, level), {}))
            known = self._parents.get((image, level), {})
        few: list[frozenset[Shape]] = []
        kept: dict[Shape, tuple[frozenset[Shape], NDArray[np.int64]]] = {}
        for shard, chunks in held.items():
            if len(chunks) < _FEW:
                few.append(chunks)
                continue
            before = known.get(shard)
            if before is None or before[0] is not chunks:
                before = chunks, distinct(rows_of(chunks, len(factors)) // factors)
            kept[shard] = before
        with self._lock:
            self._parents.pop((image, level), None)
            if kept and (image, level) in self._chunks:
                self._parents[image, level] = kept
        rows = rows_of(itertools.chain.from_iterable(few), len(factors))
        return [*(array for _, array in kept.values()), distinct(rows // factors)]

    def _near(
        self, image: int, level: int, chunks: Region, shard_of: Callable[[Shape], Shape]
    ) -> Iterator[tuple[Shape, frozenset[Shape]]]:
        """The shards that the box `chunks` touches. With the lock: others are not looked into."""
        shards = self._chunks.get((image, level), {})
        if not shards or not chunks.size:
            return
        low, last = shard_of(chunks.offset), shard_of(tuple(n - 1 for n in chunks.stop))
        box = Region(low, tuple(b - a + 1 for a, b in zip(low, last, strict=True)))
        if box.size < len(shards):
            for shard in box.indices():
                if shard in shards:
                    yield shard, shards[shard]
        else:
            for shard, held in shards.items():
                if box.holds(shard):
                    yield shard, held

    def drop_image(self, image: int) -> None:
        """Forgets an image that was deleted."""
        with self._lock:
            for place in [place for place in self._chunks if place[0] == image]:
                del self._chunks[place]
                self._parents.pop(place, None)
            for eager in self._eager.values():
                for key in [key for key in eager if key.image == image]:
                    del eager[key]
