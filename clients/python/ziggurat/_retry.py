"""After which failures does a writer reconnect, how soon, and when does it give up?

Worth another try is what can go by itself: no server there, one that is starting or
stopping, a connection that was cut, a full disk, a limit of which the server says when it may
be tried again, a former call that the server has not let go of yet. All else is the caller's
fault or the server's last word. What the server asks to wait is waited at least.

Time counts against the budget only while no call is open, and the count begins anew
with progress, so that neither a slow server nor a short outage every day ends a stream.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from ziggurat._errors import (
    Cancelled,
    DeadlineExceeded,
    LimitExceeded,
    ServerError,
    StreamHeld,
    Unauthenticated,
    Unavailable,
    ZigguratError,
)

FIRST_DELAY_SECONDS = 0.05
MAX_DELAY_SECONDS = 5.0
# At the first open a held stream is usually a second writer: the caller's mistake.
HELD_SECONDS = 5.0
# ServerErrors that stand for a connection that went rather than for an answer.
CUT_REASONS = frozenset(("TRANSPORT", "STREAM_ENDED"))


class Retry:
    """When to try again; one a writer, used by one thread.

    retry_seconds: the budget once the stream was open.
    open_seconds: the budget of the first open.
    renews: there is a new token for the next call, where the last one expired while it was
        open.
    """

    def __init__(
        self,
        retry_seconds: float,
        open_seconds: float,
        *,
        renews: bool = False,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._retry_seconds, self._open_seconds = retry_seconds, open_seconds
        self._clock, self._jitter = clock, jitter
        self._renews = renews
        self.reopening = False
        # Since when there is no open call; None while there is one.
        self._down_since: float | None = clock()
        # Seconds without an open call since the last progress, the present ones aside.
        self._spent = 0.0
        self._attempts = 0

    def opened(self) -> None:
        """A call is open."""
        if self._down_since is not None:
            self._spent += self._clock() - self._down_since
            self._down_since = None
        if not self.reopening:
            self.reopening = True
            self.progressed()

    def progressed(self) -> None:
        """Something was acknowledged, or nothing is left to be."""
        self._spent = 0.0
        self._attempts = 0

    def decide(self, error: ZigguratError) -> float | ZigguratError:
        """A call failed: how long to wait before the next try, or what to raise instead."""
        refused = self._down_since is not None
        now = self._clock()
        if self._down_since is None:
            self._down_since = now
        if not self._passes(error, refused):
            return error
        left = self._budget(error) - self._spent - (now - self._down_since)
        if left <= 0:
            return self._gave_up(error) if self.reopening else error
        delay = min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(self._attempts, 10))
        self._attempts += 1
        delay *= 0.5 + 0.5 * self._jitter()
        return min(left, max(delay, error.retry_seconds or 0.0))

    def _gave_up(self, error: ZigguratError) -> ZigguratError:
        gone = Unavailable(
            f"no progress in {self._retry_seconds:g} s without a connection: {error}",
            reason=error.reason,
            details=error.details,
            request_id=error.request_id,
        )
        gone.__cause__ = error
        return gone

    def _budget(self, error: ZigguratError) -> float:
        if self.reopening:
            return self._retry_seconds
        if isinstance(error, StreamHeld):
            return min(HELD_SECONDS, self._open_seconds)
        return self._open_seconds

    def _passes(self, error: ZigguratError, refused: bool) -> bool:
        """Whether it may go by itself; refused: the stream was not opened at all."""
        if isinstance(error, Unauthenticated):
            return self._renews and not refused and error.details.get("expired") == "true"
        if error.reason == "TLS_FAILED":
            # Certificates are renewed; but one that never was trusted will not be by waiting.
            return self.reopening
        if isinstance(error, (Unavailable, DeadlineExceeded, StreamHeld, Cancelled)):
            return True
        if isinstance(error, LimitExceeded):
            # Refused at the door: the places are taken by calls that the cut ended too.
            waits = error.reason == "DISK_FULL" or error.retry_seconds is not None
            return waits or (self.reopening and refused)
        return self.reopening and isinstance(error, ServerError) and error.reason in CUT_REASONS
