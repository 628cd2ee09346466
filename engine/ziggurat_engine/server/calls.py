"""How many calls run, how did those that ended end, and how long did they take?"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from ziggurat_engine.measures import Counted, Histogram

CALL_SECONDS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 600.0)


class Called(NamedTuple):
    """As of now, by RPC; ended: also by the name of the status."""

    running: Mapping[str, int]
    ended: Mapping[tuple[str, str], int]
    seconds: Mapping[str, Counted]


class Calls:
    """Counts calls by RPC. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()
        self._ended: Counter[tuple[str, str]] = Counter()
        self._seconds: dict[str, Histogram] = {}

    def begin(self, rpc: str) -> None:
        """A call runs."""
        with self._lock:
            self._running[rpc] += 1

    def end(self, rpc: str, code: str, seconds: float) -> None:
        """It has ended with the status of that name."""
        with self._lock:
            self._running[rpc] -= 1
            self._ended[rpc, code] += 1
            taken = self._seconds.setdefault(rpc, Histogram(CALL_SECONDS))
        taken.add(seconds)

    @property
    def idle(self) -> bool:
        """Whether none runs."""
        with self._lock:
            return not any(self._running.values())

    def read(self) -> Called:
        """All of it."""
        with self._lock:
            seconds = {rpc: taken.read() for rpc, taken in self._seconds.items()}
            return Called(dict(self._running), dict(self._ended), seconds)
