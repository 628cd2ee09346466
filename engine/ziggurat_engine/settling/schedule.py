"""Which dirty shard is settled next?

One that somebody waits for, or that was written wholly; else, the oldest write first, one
that is due: memory or the log is short, nobody wrote to it for a while, or it has been dirty
for long. Where none is, workers do what can wait, or sleep.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from ziggurat_engine.cache import Budget, DirtyDirectory, DirtyShard

# Shards that are due, looked for at a time.
BACKLOG_SHARDS = 64


class Schedule:
    """What the workers ask. Methods may be called from any thread.

    hurry: True where the oldest shards should settle whatever memory says. spare: called
    where nothing is due; begins something that can wait, and says whether it did.
    """

    def __init__(
        self,
        dirty: DirtyDirectory,
        budget: Budget,
        *,
        spare: Callable[[], bool],
        idle_seconds: float,
        busy_seconds: float,
    ) -> None:
        self._dirty = dirty
        self._budget = budget
        self._spare = spare
        self._idle_seconds = idle_seconds
        self._busy_seconds = busy_seconds
        self.hurry: Callable[[], bool] = lambda: False
        # Guards what follows; never taken while a shard's or the directory's lock is held.
        self._wake = threading.Condition()
        self._urgent: deque[DirtyShard] = deque()
        self._backlog: deque[DirtyShard] = deque()
        self._roused = False
        self._stopping = False

    def offer(self, shards: Iterable[DirtyShard]) -> None:
        """These shards should settle before all others."""
        with self._wake:
            self._urgent.extend(shards)
            self._wake.notify_all()

    def rouse(self) -> None:
        """Something may be due."""
        with self._wake:
            # Kept for a worker that has just looked and is about to wait.
            self._roused = True
            self._wake.notify()

    def stop(self) -> None:
        """From now on `next` gives None."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()

    def next(self) -> DirtyShard | None:
        """The next shard to settle, owned; waits for one. None where the workers are to stop."""
        while True:
            with self._wake:
                if self._stopping:
                    return None
                urgent = bool(self._urgent)
                queue = self._urgent or self._backlog
                shard = queue.popleft() if queue else None
            if shard is not None:
                # What was due when it was looked for may not be any more.
                if (urgent or self._is_due(shard, self._pressed())) and self._dirty.try_own(shard):
                    return shard
                continue
            pressed = self._pressed()
            due = [(s.tick, s) for s in self._dirty.shards() if self._is_due(s, pressed)]
            due.sort(key=lambda item: item[0] or 0)
            if not due and not pressed and self._spare():
                continue
            with self._wake:
                # Looking at all of them may take longer than storing one, so not for each.
                self._backlog.extend(shard for _, shard in due[:BACKLOG_SHARDS])
                if not (due or self._urgent or self._roused or self._stopping):
                    self._wake.wait(min(1.0, self._idle_seconds / 2))
                self._roused = False

    def _pressed(self) -> bool:
        return self._budget.pressed or self.hurry()

    def _is_due(self, shard: DirtyShard, pressed: bool) -> bool:
        """Nobody asks for it; but memory or the log is short, or its time has come."""
        now = time.monotonic()
        return (
            shard.tick is not None
            and not shard.owned
            and shard.retry_at <= now
            and (
                pressed
                or shard.failures > 0
                or shard.last_write + self._idle_seconds <= now
                or shard.first_write + self._busy_seconds <= now
            )
        )
