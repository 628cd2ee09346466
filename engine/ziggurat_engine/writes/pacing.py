"""How many bytes a second may streams send together, and whose turn is it?

A stream that has to wait is not read meanwhile, so that gRPC's flow control holds its client
up: nobody gets an error for being fast. A message is taken whole as soon as what came before is
paid for; what follows waits until it is.

Of those that wait, turns go by bytes: each flow's messages have a number, where its last one
ended plus its own size (start-time fair queueing), and the lowest is next. So a flow of large
messages gets as many bytes as one of small ones, and one that paused saves up nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from ziggurat_engine.errors import Cancelled

# How soon one that waits notices that nobody wants it any more.
LOOK_SECONDS = 0.2


@dataclass(order=True, slots=True)
class _Turn:
    tag: float
    number: int
    flow: Hashable = field(compare=False)


class FairOrder:
    """Whose message is next, without a clock; not to be used from two threads at once."""

    def __init__(self) -> None:
        self._waiting: list[_Turn] = []
        # Where the last message of each flow ended; of those behind `_now` nothing is kept.
        self._ends: dict[Hashable, float] = {}
        self._now = 0.0
        self._count = 0

    def join(self, flow: Hashable, nbytes: int) -> _Turn:
        """A message of `flow` waits; one at a time of each."""
        self._count += 1
        end = max(self._now, self._ends.get(flow, 0.0)) + nbytes
        turn = _Turn(end, self._count, flow)
        self._waiting.append(turn)
        return turn

    def next(self, turn: _Turn) -> bool:
        """Whether it is the turn of this one."""
        return min(self._waiting) is turn

    def leave(self, turn: _Turn, *, served: bool) -> None:
        """It waits no more; served: it had its turn."""
        self._waiting.remove(turn)
        if served:
            self._now = turn.tag
            self._ends[turn.flow] = turn.tag
            self._ends = {flow: end for flow, end in self._ends.items() if end > self._now}


class Rate:
    """At most `bytes_per_second`, of all flows together. May be used from any thread."""

    def __init__(self, bytes_per_second: float) -> None:
        self._bytes_per_second = bytes_per_second
        self._changed = threading.Condition()
        self._order = FairOrder()
        # When all that was taken so far is paid for.
        self._paid = time.monotonic()

    def take(self, flow: Hashable, nbytes: int, ended: Callable[[], bool]) -> None:
        """Returns when a message of `flow` may be taken; Cancelled where `ended()` meanwhile."""
        with self._changed:
            turn = self._order.join(flow, nbytes)
            served = False
            try:
                while True:
                    now = time.monotonic()
                    wait = self._paid - now if self._order.next(turn) else LOOK_SECONDS
                    if wait <= 0:
                        break
                    if ended():
                        raise Cancelled("the caller gave up")
                    self._changed.wait(min(wait, LOOK_SECONDS))
                # Nothing is saved up while nobody sends.
                self._paid = max(self._paid, now) + nbytes / self._bytes_per_second
                served = True
            finally:
                self._order.leave(turn, served=served)
                self._changed.notify_all()


class InFlight:
    """Bytes of messages that were received and are not in the cache or log yet; for any thread.

    One that finds no room waits, and its stream is not read meanwhile.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._used = 0
        self._room = threading.Condition()

    @property
    def nbytes(self) -> int:
        """What is held now."""
        return self._used

    def take(self, nbytes: int) -> None:
        """Returns when there is room; a message larger than all of it waits to be alone."""
        with self._room:
            self._room.wait_for(lambda: not self._used or self._used + nbytes <= self._limit_bytes)
            self._used += nbytes

    def give(self, nbytes: int) -> None:
        """What `take` got is needed no more."""
        with self._room:
            self._used -= nbytes
            self._room.notify_all()
