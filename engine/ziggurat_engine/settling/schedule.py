"""Which dirty shard is settled next, and by how many workers at a time?

One that somebody waits for; then one that was written wholly; else, the oldest write first,
one that is due: memory or the log is short, nobody wrote to it for a while, or it has been
dirty for long. Where none is, workers do what can wait, or sleep.

While clients write and there is room, what nobody waits for is settled one shard at a time:
shards that lie beside each other are whole at the same moment, and to store all of them at once
would take the cores from those who receive the next frames.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from ziggurat_engine.cache import Budget, DirtyDirectory, DirtyShard

# Shards that are due, looked for at a time.
BACKLOG_SHARDS = 64
# Clients write as long as the last one was not longer ago.
WRITING_SECONDS = 0.25


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
        # Monotonic seconds, of a client; set without a lock.
        self.last_write = -math.inf
        # Guards what follows; never taken while a shard's or the directory's lock is held.
        self._wake = threading.Condition()
        self._urgent: deque[DirtyShard] = deque()
        self._ready: deque[DirtyShard] = deque()
        self._backlog: deque[DirtyShard] = deque()
        # Workers that settle a shard now.
        self._busy = 0
        self._roused = False
        self._stopping = False

    def demand(self, shards: Iterable[DirtyShard]) -> None:
        """Somebody waits for these shards: they settle before all others."""
        with self._wake:
            self._urgent.extend(shards)
            self._wake.notify_all()

    def offer(self, shard: DirtyShard) -> None:
        """There is nothing to wait for with this shard: it settles before those that are due."""
        with self._wake:
            self._ready.append(shard)
            self._wake.notify()

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
        """The next shard to settle, owned, until `done`; waits for one. None where workers stop."""
        while True:
            pressed = self._pressed()
            alone = self._writing() and not (pressed or self._budget.crowded)
            with self._wake:
                if self._stopping:
                    return None
                held_back = alone and self._busy > 0
                shard, wanted = self._pop(asked_only=held_back)
                if shard is not None:
                    self._busy += 1
                elif held_back:
                    self._wait()
            if shard is None:
                if not held_back:
                    self._look(pressed)
            # What was due when it was looked for may not be any more.
            elif (wanted or self._is_due(shard, pressed)) and self._dirty.try_own(shard):
                return shard
            else:
                self.done()

    def _pop(self, *, asked_only: bool) -> tuple[DirtyShard | None, bool]:
        """A shard, and whether it should settle however due it is; called with the lock."""
        for queue in (self._urgent,) if asked_only else (self._urgent, self._ready):
            if queue:
                return queue.popleft(), True
        return self._backlog.popleft() if self._backlog and not asked_only else None, False

    def done(self) -> None:
        """A shard that `next` gave is settled, or could not be."""
        with self._wake:
            self._busy -= 1

    def _look(self, pressed: bool) -> None:
        """Looks for what is due; where nothing is, does what can wait, or sleeps."""
        due = [(s.tick, s) for s in self._dirty.shards() if self._is_due(s, pressed)]
        due.sort(key=lambda item: item[0] or 0)
        if not due and not pressed and self._spare():
            return
        with self._wake:
            # Looking at all of them may take longer than storing one, so not for each.
            self._backlog.extend(shard for _, shard in due[:BACKLOG_SHARDS])
            if not (due or self._urgent or self._ready):
                self._wait()

    def _wait(self) -> None:
        """Until something may have changed; called with the lock."""
        if not (self._roused or self._stopping):
            self._wake.wait(min(1.0, self._idle_seconds / 2))
        self._roused = False

    def _writing(self) -> bool:
        return time.monotonic() < self.last_write + WRITING_SECONDS

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
