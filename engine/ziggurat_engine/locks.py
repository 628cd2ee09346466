"""Who may be at something beside each other, and who must be alone at it?"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class SharedLock:
    """Held by many at a time, or by one alone.

    Who wants to be alone comes before all who come after, so that many who share can't
    keep it waiting for ever. Not reentrant; may be released by another thread.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sharers = 0
        self._alone = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Waits while one is alone, or about to be; then the block runs beside others."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._sharers += 1
        try:
            yield
        finally:
            with self._changed:
                self._sharers -= 1
                self._changed.notify_all()

    def wait_unshared(self, timeout_seconds: float) -> bool:
        """Returns once nobody shares it, keeping nobody out; False after the time-out."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._sharers, timeout_seconds)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Waits until all others are out; then the block runs beside nobody."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._alone = True
            self._changed.wait_for(lambda: not self._sharers)
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()
