"""What is counted while the engine works? Plain numbers, for whoever exports them.

Few counts and sums, kept where things happen and read when somebody asks. Adding takes a
lock that is held for some 100 ns and never while anything is waited for: all of it takes
about a microsecond a region, of the millisecond that taking it in lasts.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

# Upper bounds in seconds.
SYNC_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
LATENCY_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 60.0)
SETTLE_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)

# Stands for all that is not told apart. No segment of a name begins so.
OTHER = "_other"


class Counted(NamedTuple):
    """A histogram as of now.

    counts: for each bound, the values up to it and above the one before; then those above all.
    total: the sum of the values.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


class Histogram:
    """How often something took how long. All methods may be called from any thread.

    bounds: in seconds, ascending; a value that equals one counts as below it.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._lock = threading.Lock()
        self._counts = [0] * (len(self._bounds) + 1)
        self._total = 0.0

    def add(self, seconds: float) -> None:
        """One more took so long."""
        slot = bisect_left(self._bounds, seconds)
        with self._lock:
            self._counts[slot] += 1
            self._total += seconds

    def read(self) -> Counted:
        """All of it, as of one moment."""
        with self._lock:
            return Counted(self._bounds, tuple(self._counts), self._total)


class Tally:
    """Sums by key, such as seconds by stage. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: defaultdict[str, float] = defaultdict(int)

    def add(self, key: str, amount: float = 1) -> None:
        """Adds to the sum of `key`."""
        with self._lock:
            self._sums[key] += amount

    def read(self) -> dict[str, float]:
        """All sums, as of one moment."""
        with self._lock:
            return dict(self._sums)


@dataclass(slots=True)
class Used:
    """What clients did with the images below a prefix."""

    regions: int = 0
    written_bytes: int = 0
    read_bytes: int = 0


class Usage:
    """Used, by the first segment of images' names. All methods may be called from any thread.

    most: segments that are told apart, the first that come; what comes after is OTHER.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._used: dict[str, Used] = {}

    def prefix(self, image: str) -> str:
        """Where the image called `image` counts."""
        first = image.partition("/")[0]
        with self._lock:
            if first not in self._used:
                if len(self._used) >= self._most:
                    first = OTHER
                self._used.setdefault(first, Used())
        return first

    def wrote(self, prefix: str, nbytes: int) -> None:
        """A region was written; prefix: as `prefix` gave it."""
        with self._lock:
            used = self._used[prefix]
            used.regions += 1
            used.written_bytes += nbytes

    def read_from(self, prefix: str, nbytes: int) -> None:
        """So much was read."""
        with self._lock:
            self._used[prefix].read_bytes += nbytes

    def total(self) -> Used:
        """Of all prefixes."""
        total = Used()
        for used in self.read().values():
            total.regions += used.regions
            total.written_bytes += used.written_bytes
            total.read_bytes += used.read_bytes
        return total

    def read(self) -> dict[str, Used]:
        """By prefix, as of one moment."""
        with self._lock:
            return {prefix: replace(used) for prefix, used in self._used.items()}


class Measures:
    """All of an engine; each part adds to what it knows of.

    received, durable: from when a region was handed to ingest until reads saw it, and until
    it was known to be durable. settled: of a shard, until its blocks were merged.
    stages: seconds by stage of settling that no kernel does: freeze, write, sync.
    errors: by what failed: read, log_append.
    shared: bytes of pixels that came through shared memory.
    """

    def __init__(self, prefixes: int = 32) -> None:
        self.received = Histogram(LATENCY_SECONDS)
        self.durable = Histogram(LATENCY_SECONDS)
        self.settled = Histogram(SETTLE_SECONDS)
        self.stages = Tally()
        self.errors = Tally()
        self.shared = Tally()
        self.usage = Usage(prefixes)
