"""Which decoded chunks are at hand, and who loads one that is not?

One cache for all images and levels, weighted by bytes; residents.py says what goes first.
One load a chunk however many wait for it (single flight); loads of different chunks
do not wait for each other.

Invariant: an array is only kept if it is what the store holds, or newer. A load
that began before the chunk was replaced is superseded by `put` and `drop`: who waits
for it gets its result, which was right when they asked, but it is not kept.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from ziggurat_engine.cache.budget import Budget
from ziggurat_engine.cache.residents import ChunkKey, Residents
from ziggurat_engine.spec import Array


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
        self._loads: dict[ChunkKey, Future[Array | None]] = {}
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

    def use(self, key: ChunkKey) -> Array | None:
        """The chunk if it is kept."""
        with self._lock:
            found = self._residents.use(key)
            self.counters.hits += found is not None
        return found

    def use_all(self, keys: Sequence[ChunkKey]) -> list[Array | None]:
        """As `use`, of many."""
        with self._lock:
            found = [self._residents.use(key) for key in keys]
            self.counters.hits += sum(array is not None for array in found)
        return found

    def get_or_load(self, key: ChunkKey, load: Callable[[], Array | None]) -> Array | None:
        """The chunk, or None where the store has none.

        `load` runs in the calling thread, unless another one loads this chunk already;
        then this call waits for its result. What `load` raises reaches all who wait.
        """
        with self._lock:
            found = self._residents.use(key)
            if found is not None:
                self.counters.hits += 1
                return found
            flight = self._loads.get(key)
            if flight is not None:
                self.counters.hits += 1
            else:
                self.counters.misses += 1
                mine = self._loads[key] = Future()
        if flight is not None:
            return flight.result()
        return self._fly(key, mine, load, ahead=False)

    def load_ahead(self, key: ChunkKey, load: Callable[[], Array | None]) -> None:
        """Loads a chunk that nobody asked for yet, unless it is kept or on its way.

        Whoever asks for it meanwhile waits for it. Raises what `load` raises.
        """
        with self._lock:
            if key in self._residents or key in self._loads:
                return
            self.counters.read_ahead += 1
            mine = self._loads[key] = Future()
        self._fly(key, mine, load, ahead=True)

    def _fly(
        self,
        key: ChunkKey,
        flight: Future[Array | None],
        load: Callable[[], Array | None],
        *,
        ahead: bool,
    ) -> Array | None:
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
            self._changes[key.image, key.level] += 1
            self._loads.pop(key, None)
            self._keep(key, array)

    def drop(self, key: ChunkKey) -> None:
        """Forgets a chunk; loads under way are superseded."""
        with self._lock:
            self._changes[key.image, key.level] += 1
            self._loads.pop(key, None)
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
        flight: Future[Array | None],
        array: Array | None,
        *,
        ahead: bool = False,
    ) -> None:
        with self._lock:
            if self._loads.get(key) is flight:
                del self._loads[key]
                if array is not None:
                    self._keep(key, array, ahead=ahead)

    def _keep(self, key: ChunkKey, array: Array, *, ahead: bool = False) -> None:
        self._residents.put(key, array, ahead=ahead)
        self._evict()

    def _evict(self) -> None:
        self.counters.evictions += self._residents.evict(self._budget.clean_allowance_bytes)
