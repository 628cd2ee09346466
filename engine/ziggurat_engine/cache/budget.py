"""How many bytes of chunks may be in memory?

One budget for all images. Dirty chunks can't be dropped, so writers wait once dirty
bytes reach `dirty_limit`; clean chunks get whatever the dirty ones leave. Parents
may pass the limit: settling a shard frees more than the parents it adds, and if it
had to wait for room, room would never come.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """Bytes of dirty chunks, held against a limit. All methods may be called from any thread.

    total_bytes: for clean and dirty chunks together. dirty_limit_bytes: where
    writers wait. pressure_bytes: from where on the oldest dirty chunks should settle.
    """

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.dirty_limit_bytes = total_bytes * 3 // 4
        # Late: what is stored before it is whole has to be stored again.
        self.pressure_bytes = self.dirty_limit_bytes * 7 // 8
        self._dirty = 0
        self._beside = 0
        self._waiting = 0
        self._room = threading.Condition()

    @property
    def dirty_bytes(self) -> int:
        """Bytes of dirty chunks now."""
        return self._dirty

    @property
    def clean_allowance_bytes(self) -> int:
        """What is left for clean chunks now; may be 0."""
        return max(0, self.total_bytes - self._dirty - self._beside)

    @property
    def pressed(self) -> bool:
        """True where settling the oldest dirty chunks would help."""
        return self._dirty > self.pressure_bytes or (self._waiting > 0 and self._dirty > 0)

    def reserve(self, nbytes: int, *, force: bool = False, aside: int = 0) -> bool:
        """Adds `nbytes` of dirty chunks if the limit allows, or if there are none yet.

        Returns whether it did. force: adds them whatever the limit. aside: bytes of dirty
        chunks that nobody is to wait for; what clean chunks may have takes their place.
        """
        with self._room:
            if nbytes and not force and self._full(nbytes, aside):
                return False
            self._dirty += nbytes
            return True

    def release(self, nbytes: int) -> None:
        """Takes `nbytes` of dirty chunks off, and wakes who waits for room."""
        with self._room:
            self._dirty -= nbytes
            self._room.notify_all()

    @contextmanager
    def held(self, nbytes: int) -> Iterator[None]:
        """Adds `nbytes` of what settling needs beside chunks while the block runs, by force."""
        self.reserve(nbytes, force=True)
        try:
            yield
        finally:
            self.release(nbytes)

    @contextmanager
    def beside(self, nbytes: int) -> Iterator[None]:
        """Takes `nbytes` from what clean chunks may have while the block runs.

        For what waits to become dirty: counted with that, it could wait for itself.
        """
        with self._room:
            self._beside += nbytes
        try:
            yield
        finally:
            with self._room:
                self._beside -= nbytes

    def wait(self, nbytes: int, timeout_seconds: float, *, aside: int = 0) -> bool:
        """Waits until `nbytes` can be reserved; False where the time ran out first."""
        with self._room:
            self._waiting += 1
            try:
                return self._room.wait_for(lambda: not self._full(nbytes, aside), timeout_seconds)
            finally:
                self._waiting -= 1

    def _full(self, nbytes: int, aside: int) -> bool:
        limit = min(self.dirty_limit_bytes + aside, self.total_bytes)
        return self._dirty > 0 and self._dirty + nbytes > limit
