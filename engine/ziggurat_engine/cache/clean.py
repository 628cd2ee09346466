"""Which decoded chunks are at hand, and who loads one that is not?

One cache for all images and levels, weighted by bytes; residents.py says what goes first.
One load a chunk however many wait for it (single flight); loads of different chunks
do not wait for each other.

Of a chunk that is not at hand a stretch may be loaded (`get_or_load_part`), and is kept as a
chunk is, until so much of the chunk was loaded that way that loading all of it in their place
costs little more: so a plane costs a plane, and a chunk of many planes one whole load.

Invariant: an array is only kept if it is what the store holds, or newer. A load
that began before the chunk was replaced is superseded by `put` and `drop`: who waits
for it gets its result, which was right when they asked, but it is not kept.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import TypeAlias

from ziggurat_engine.cache.budget import Budget
from ziggurat_engine.cache.residents import ChunkKey, Residents
from ziggurat_engine.cache.stretch import Extent, Extents, Stretch, Stretches
from ziggurat_engine.errors import DataError
from ziggurat_engine.spec import Array

Pixels: TypeAlias = Array | Stretch
"""Those of a chunk, or a stretch of them."""


# So many stretches of a chunk are kept: who wants more of it gets all of it.
MOST_STRETCHES = 64


class _Flight(Future[Pixels | None]):
    """A load under way; extent: what it brings of the chunk, None: all."""

    def __init__(self, extent: Extent | None = None) -> None:
        super().__init__()
        self._extent = extent

    def brings(self, extent: Extent) -> bool:
        """Whether these pixels are among what it loads."""
        return self._extent is None or self._extent.holds(extent)


@dataclass(slots=True)
class CleanCounters:
    """Since the start. hits: also those that joined a load under way.

    read_ahead: chunks that were loaded before anybody asked.
    """

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    read_ahead: int = 0


class CleanChunks:
    """Arrays by chunk; they are shared, so nobody may write to them. Thread-safe."""

    def __init__(self, budget: Budget, residents: Residents | None = None) -> None:
        self._budget = budget
        self._lock = threading.Lock()
        self._residents = residents or Residents()
        self._loads: dict[ChunkKey, _Flight] = {}
        # By image and level: how often a chunk was replaced.
        self._changes: Counter[tuple[int, int]] = Counter()
        self.counters = CleanCounters()

    @property
    def nbytes(self) -> int:
        """Bytes of chunks kept now."""
        return self._residents.nbytes

    def __contains__(self, key: ChunkKey) -> bool:
        """Whether the chunk is kept; counts as no use of it."""
        return key in self._residents

    @property
    def read_ahead_used(self) -> int:
        """Chunks that were read ahead, and then asked for while they were there."""
        return self._residents.ahead_used

    def use(self, key: ChunkKey, extent: Extent | None = None) -> Pixels | None:
        """The chunk if it is kept; else, where `extent` is given, a stretch that holds it."""
        with self._lock:
            return self._use(key, extent)

    def use_all(self, keys: Sequence[ChunkKey], extents: Extents) -> list[Pixels | None]:
        """As `use`, of many."""
        with self._lock:
            return [self._use(key, extents) for key in keys]

    def get_or_load(self, key: ChunkKey, load: Callable[[], Array | None]) -> Array | None:
        """The chunk, or None where the store has none.

        `load` runs in the calling thread, unless another one loads this chunk already;
        then this call waits for its result. What `load` raises reaches all who wait.
        """
        with self._lock:
            found = self._use(key)
            if found is not None:
                return _whole(found)
            flight = self._loads.get(key)
            if flight is not None:
                self.counters.hits += 1
            else:
                self.counters.misses += 1
                mine = self._loads[key] = _Flight()
        if flight is not None:
            return _whole(flight.result())
        return _whole(self._fly(key, mine, load, ahead=False))

    def get_or_load_part(
        self,
        key: ChunkKey,
        extent: Extent,
        most: int,
        load_part: Callable[[], Pixels | None],
        load: Callable[[], Array | None],
    ) -> Pixels | None:
        """As `get_or_load`, where only `extent` of the chunk is wanted.

        most: stretches of no more pixels are kept of a chunk, and few of them. `load_part` brings
        one that holds `extent`, or the chunk, and is asked where nothing holds it and it leads
        to no more; else `load`. Raises what concerns `extent`: other pixels of the chunk may be
        damaged.
        """
        while True:
            with self._lock:
                found = self._use(key, extent)
                if found is not None:
                    return found
                if key in self._loads or not self._room(key, extent, most):
                    break
                flight = self._loads.get(key.part)
                if flight is None:
                    self.counters.misses += 1
                    mine = self._loads[key.part] = _Flight(extent)
            if flight is None:
                return self._fly(key.part, mine, load_part, ahead=False)
            wait((flight,))
            # What is wrong with other pixels of the chunk is not this caller's.
            if flight.brings(extent) or flight.exception() is None:
                coming = flight.result()
                if not isinstance(coming, Stretch) or coming.extent.holds(extent):
                    with self._lock:
                        self.counters.hits += 1
                    return coming
        try:
            return self.get_or_load(key, load)
        except (OSError, DataError):
            # Nor is it here.
            return load_part()

    def load_ahead(self, key: ChunkKey, load: Callable[[], Array | None]) -> None:
        """Loads a chunk that nobody asked for yet, unless it is kept or on its way.

        Whoever asks for it meanwhile waits for it. Raises what `load` raises.
        """
        with self._lock:
            if key in self._residents or key in self._loads:
                return
            self.counters.read_ahead += 1
            mine = self._loads[key] = _Flight()
        self._fly(key, mine, load, ahead=True)

    def _fly(
        self,
        key: ChunkKey,
        flight: _Flight,
        load: Callable[[], Pixels | None],
        *,
        ahead: bool,
    ) -> Pixels | None:
        try:
            array = load()
        except BaseException as error:
            self._land(key, flight, None)
            flight.set_exception(error)
            raise
        self._land(key, flight, array, ahead=ahead)
        flight.set_result(array)
        return array

    def changes(self, image: int, level: int) -> int:
        """Grows with each `put` and `drop` of a chunk of a level.

        What was read of the store before that may be outdated.
        """
        return self._changes[image, level]

    def put(self, key: ChunkKey, array: Array) -> None:
        """Keeps what the store now holds; loads under way are superseded."""
        with self._lock:
            self._forget(key)
            self._keep(key, array)

    def drop(self, key: ChunkKey) -> None:
        """Forgets a chunk; loads under way are superseded."""
        with self._lock:
            self._forget(key)
            self._residents.remove(key)

    def drop_image(self, image: int) -> None:
        """Forgets all chunks of an image."""
        with self._lock:
            for key in [key for key in self._loads if key.image == image]:
                del self._loads[key]
            for level in [name for name in self._changes if name[0] == image]:
                del self._changes[level]
            for key in [key for key in self._residents if key.image == image]:
                self._residents.remove(key)

    def shrink(self) -> None:
        """Evicts until the budget's allowance for clean chunks is kept."""
        if self._residents.nbytes > self._budget.clean_allowance_bytes:
            with self._lock:
                self._evict()

    def _land(
        self,
        key: ChunkKey,
        flight: _Flight,
        array: Pixels | None,
        *,
        ahead: bool = False,
    ) -> None:
        with self._lock:
            if self._loads.get(key) is flight:
                del self._loads[key]
                if array is not None:
                    self._keep(key, array, ahead=ahead)

    def _use(self, key: ChunkKey, extent: Extent | Extents | None = None) -> Pixels | None:
        """See `use`. With the lock held, as all below."""
        pixels: Pixels | None = None
        found = self._residents.use(key)
        if found is None and extent is not None and key.part in self._residents:
            kept = self._residents.use(key.part)
            wanted = extent.of(key.chunk) if isinstance(extent, Extents) else extent
            pixels = kept.holding(wanted) if isinstance(kept, Stretches) else None
        elif not isinstance(found, Stretches):
            pixels = found
        self.counters.hits += pixels is not None
        return pixels

    def _room(self, key: ChunkKey, extent: Extent, most: int) -> bool:
        """Whether one more stretch of a chunk is kept beside those that there are."""
        kept = self._residents.use(key.part)
        if not isinstance(kept, Stretches):
            return extent.size <= most
        return len(kept.parts) < MOST_STRETCHES and kept.size + extent.size <= most

    def _forget(self, key: ChunkKey) -> None:
        """A chunk is replaced: what is being loaded of it, and its stretches, are outdated."""
        self._changes[key.image, key.level] += 1
        name = key.part
        for one in (key, name):
            self._loads.pop(one, None)
        self._residents.remove(name)

    def _keep(self, key: ChunkKey, pixels: Pixels, *, ahead: bool = False) -> None:
        whole = ChunkKey(key.image, key.level, key.chunk)
        if not isinstance(pixels, Stretch):
            self._residents.remove(key.part)
            self._residents.put(whole, pixels, ahead=ahead)
        elif whole not in self._residents:
            kept = self._residents.use(key)
            before = kept if isinstance(kept, Stretches) else Stretches(())
            self._residents.put(key, before.joined(pixels))
        self._evict()

    def _evict(self) -> None:
        self.counters.evictions += self._residents.evict(self._budget.clean_allowance_bytes)


def _whole(found: Pixels | None) -> Array | None:
    assert not isinstance(found, Stretch)
    return found
