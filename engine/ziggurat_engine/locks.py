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
    def shared(self, *, wait: bool = True) -> Iterator[bool]:
        """Waits while one is alone, or about to be; then the block runs beside others.

        wait: False: gives False at once instead of waiting, and the block holds nothing.
        """
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: not self._alone)
            held = not self._alone
            self._sharers += held
        try:
            yield held
        finally:
            with self._changed:
                self._sharers -= held
                self._changed.notify_all()

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
