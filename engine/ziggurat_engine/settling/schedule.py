"""Which dirty shard is settled next, and by how many workers at a time?

Those that somebody waits for and those that were written wholly, in the order in which they were
found. Those that are due, because nobody wrote to them for a while, or they have been dirty for
long, have their turn among the whole ones, behind all that somebody waits for. Where there is
none, and memory or the log is short, those with the oldest writes. Where nothing is to be done,
workers do what can wait, or sleep.

While clients write, what was written wholly is settled one shard at a time, but not later than
HOLD_SECONDS after it was found: shards that lie beside each other are whole at the same moment,
and to store all of them at once would take the cores from those who receive the next frames.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from ziggurat_engine.cache import Budget, DirtyDirectory, DirtyShard

# Shards that are due, looked for at a time; and how often, where others are to be settled.
BACKLOG_SHARDS = 64
LOOK_SECONDS = 1.0
# Clients write as long as the last one was not longer ago.
WRITING_SECONDS = 0.25
HOLD_SECONDS = 2.0


class _Found(NamedTuple):
    """A shard to settle, if it is still what it was when its turn comes. since: monotonic."""

    shard: DirtyShard
    kind: Literal["awaited", "whole", "due"]
    since: float


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
        # Monotonic seconds, of a client; without a lock.
        self.last_write = -math.inf
        # Guards what follows; never taken while a shard's or the directory's lock is held.
        self._wake = threading.Condition()
        self._awaited: deque[_Found] = deque()
        self._found: deque[_Found] = deque()
        # When those that are due were looked for.
        self._looked = -math.inf
        # Workers that settle a shard now.
        self._busy = 0
        self._roused = False
        self._stopping = False

    def demand(self, shards: Iterable[DirtyShard]) -> None:
        """Somebody waits for these shards."""
        now = time.monotonic()
        with self._wake:
            self._awaited.extend(_Found(shard, "awaited", now) for shard in shards)
            self._wake.notify_all()

    def offer(self, shard: DirtyShard) -> None:
        """This shard was written wholly."""
        with self._wake:
            self._found.append(_Found(shard, "whole", time.monotonic()))
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
            self._look_meanwhile()
            with self._wake:
                if self._stopping:
                    return None
                found = self._pop(pressed)
                nothing = found is None and not self._found
                if found is not None:
                    self._busy += 1
                elif not nothing:
                    # They are held back.
                    self._wait(WRITING_SECONDS)
            if nothing:
                self._look(pressed)
            elif found is not None:
                if self._is_wanted(found, pressed) and self._dirty.try_own(found.shard):
                    return found.shard
                self.done()

    def done(self) -> None:
        """A shard that `next` gave is settled, or could not be."""
        with self._wake:
            self._busy -= 1

    def _pop(self, pressed: bool) -> _Found | None:
        """The next one that is not held back; called with the lock."""
        if self._found and not self._held_back(found := self._found[0], pressed):
            earlier = self._awaited and found.since < self._awaited[0].since
            if not self._awaited or (earlier and found.kind == "whole"):
                return self._found.popleft()
        return self._awaited.popleft() if self._awaited else None

    def _held_back(self, found: _Found, pressed: bool) -> bool:
        now = time.monotonic()
        writing = now < self.last_write + WRITING_SECONDS
        young = now < found.since + HOLD_SECONDS
        return found.kind == "whole" and self._busy > 0 and writing and young and not pressed

    def _is_wanted(self, found: _Found, pressed: bool) -> bool:
        """What was whole or due may have been stored since, and be written to again."""
        if found.kind == "whole":
            return found.shard.whole
        return found.kind == "awaited" or self._is_due(found.shard, pressed)

    def _look_meanwhile(self) -> None:
        """Those that are due take their turn also where there are always others."""
        with self._wake:
            if not self._found or time.monotonic() < self._looked + LOOK_SECONDS:
                return
            if any(found.kind == "due" for found in self._found):
                return
        self._extend(self._due_shards(pressed=False))

    def _look(self, pressed: bool) -> None:
        """Looks for what is due; where nothing is, does what can wait, or sleeps."""
        due = self._due_shards(pressed)
        if not due and not pressed and self._spare():
            return
        self._extend(due)
        with self._wake:
            if not (self._found or self._awaited):
                self._wait(min(1.0, self._idle_seconds / 2))

    def _extend(self, due: list[DirtyShard]) -> None:
        now = time.monotonic()
        with self._wake:
            self._looked = now
            self._found.extend(_Found(shard, "due", now) for shard in due)

    def _due_shards(self, pressed: bool) -> list[DirtyShard]:
        due = [(s.tick, s) for s in self._dirty.shards() if self._is_due(s, pressed)]
        due.sort(key=lambda item: item[0] or 0)
        # Looking at all of them may take longer than storing one, so not for each.
        return [shard for _, shard in due[:BACKLOG_SHARDS]]

    def _wait(self, seconds: float) -> None:
        """Until something may have changed; called with the lock."""
        if not (self._roused or self._stopping):
            self._wake.wait(seconds)
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
