"""How much have the kernels done, and how long did it take them?"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from ziggurat_engine.kernels.protocol import KernelTotals


class Meter:
    """Adds up; all methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals = KernelTotals()

    @property
    def totals(self) -> KernelTotals:
        """A copy, as of now."""
        with self._lock:
            return replace(self._totals)

    def add(self, **amounts: float) -> None:
        """Adds to the totals of these names."""
        with self._lock:
            for name, amount in amounts.items():
                setattr(self._totals, name, getattr(self._totals, name) + amount)

    @contextmanager
    def timed(self, seconds: str) -> Iterator[None]:
        """Adds the time until it ends to the total of that name."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(**{seconds: time.perf_counter() - start})
