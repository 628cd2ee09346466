"""Which is the lowest tick that is not stored yet, however many there are?

Asked each time a shard was stored, and at each look for what is durable: a look at every dirty
shard would make storing them all a square of their number.
"""

from __future__ import annotations

import heapq
import threading


class Ticks:
    """Ticks of one level of an image, each added once. Methods may be called from any thread.

    Its lock is the innermost of all: with it nothing is waited for.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heap: list[int] = []
        # Removed, but not yet from the heap.
        self._gone: set[int] = set()

    def add(self, tick: int) -> None:
        """Something is not stored from `tick` on."""
        with self._lock:
            heapq.heappush(self._heap, tick)

    def remove(self, tick: int) -> None:
        """What `tick` was added for is stored, or has another one."""
        with self._lock:
            self._gone.add(tick)
            while self._heap and self._heap[0] in self._gone:
                self._gone.remove(heapq.heappop(self._heap))

    def lowest(self) -> int | None:
        """The lowest that was added and not removed; None where there is none."""
        with self._lock:
            return self._heap[0] if self._heap else None
