"""How does a stream of messages survive the calls that carry it?

    put() ──> window ──> gRPC's thread ──> server          a call, and when it fails
                ^                            │             the next one
          keeper thread <── answers ─────────┘

The keeper thread opens a call, reads its answers until it ends, waits a moment, and
opens the next, until the stream is closed or can't go on. The server says in each
Opened which message it wants next; the call sends from there.

Invariants, all under the condition `changed`:
- What is not acknowledged is in the window, so that any call can send it again.
- `_ended` is set once, by the keeper; after it nothing is sent. Then `error` or
  `summary` is set, when the spool's directory is free again, and every waiting thread
  wakes.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import grpc
from ziggurat_proto.v1 import write_pb2

from ziggurat._call import CLOSE, Call, Progress, control
from ziggurat._errors import (
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    ServerError,
    ZigguratError,
    from_rpc,
)
from ziggurat._retry import Retry
from ziggurat._rpc import Connection
from ziggurat._shared_memory import LEAST_BYTES, Lent, Ring
from ziggurat._spool import Spool
from ziggurat._values import WriteSummary
from ziggurat._window import Message, Place, Window

log = logging.getLogger("ziggurat")

Durability: TypeAlias = Literal["durable", "received"]
Outcome: TypeAlias = Literal["complete", "aborted"]

# A wait on Windows can't be interrupted by Ctrl-C, so no wait is longer than this.
_TICK_SECONDS = 0.5
# How long the server may take to end a call of which it has said all.
_END_SECONDS = 2.0

_LEVELS = {
    "durable": write_pb2.DURABILITY_DURABLE,
    "received": write_pb2.DURABILITY_RECEIVED,
}


class Stream:
    """One (image, stream id) and the calls that carry it.

    Any thread may call any method; messages are put by one at a time, because each
    carries the number `last + 1`.
    """

    def __init__(
        self,
        connection: Connection,
        image: str,
        stream_id: str,
        durability: Durability,
        *,
        expected_frames: int | None,
        window_bytes: int,
        spool: Spool | None,
        ring: Ring | None,
        retry_seconds: float,
    ) -> None:
        self._connection = connection
        self._stream_id = stream_id
        self._level = _LEVELS[durability]
        self._opening = control(
            open=write_pb2.Open(
                image=image,
                stream_id=stream_id,
                durability=self._level,
                expected_frames=expected_frames,
                shared_memory=None if ring is None else ring.offer,
            )
        )
        limit = connection.timeout_seconds
        self._retry = Retry(
            retry_seconds,
            retry_seconds if limit is None else limit,
            renews=connection.renews_token,
        )
        self._spool = spool
        self._ring = ring
        # What the last server that opened the stream lets messages point at; 0: nothing.
        self.max_shared_bytes = 0
        # What it takes of a message; 0: it did not say.
        self.max_message_bytes = 0
        self.changed = threading.Condition()
        self.window = Window(window_bytes, spool)
        self.progress = Progress()
        self._call = Call(self.changed, self.window, spool, self.progress, self._opening)
        self.reconnects = 0
        self.connected = False
        self._opened = self._cancelled = self._ended = False
        self.error: ZigguratError | None = None
        self.summary: WriteSummary | None = None
        self._keeper = threading.Thread(target=self._keep, name="ziggurat-writer", daemon=True)
        self._keeper.start()

    @property
    def acknowledged(self) -> int:
        """The last number acknowledged at the stream's level."""
        progress, durable = self.progress, self._level == write_pb2.DURABILITY_DURABLE
        return progress.durable if durable else progress.received

    def wait_opened(self) -> None:
        """Returns once the server has opened the stream the first time. Raises why not."""
        self.wait(lambda: self._opened, None, "the stream to open")

    def room(self, nbytes: int) -> tuple[Ring, int] | None:
        """A slot for the pixels of message `window.last + 1`; waits until the window has room.

        None where they are to go into the message.
        """
        ring = self._ring
        if ring is None or nbytes < LEAST_BYTES:
            return None
        with self.changed:
            while True:
                self.check()
                place = Place.NOWHERE if self._ended else self.window.place(nbytes)
                if place is Place.SPOOL or not self.max_shared_bytes:
                    return None
                if place is Place.MEMORY:
                    slot = ring.take(nbytes)
                    return None if slot is None else (ring, slot)
                self.changed.wait(_TICK_SECONDS)

    def put(self, message: Message) -> None:
        """Takes message `window.last + 1`; waits while there is no room for it."""
        window, size = self.window, len(message)
        while True:
            with self.changed:
                self.check()
                place = Place.NOWHERE if self._ended else window.place(size)
                if place is Place.NOWHERE:
                    self.changed.wait(_TICK_SECONDS)
                    continue
                if place is Place.MEMORY:
                    window.hold(message)
                    self._noted()
                    return
            # Without the condition: a slow disk must hold up neither answers nor calls.
            assert self._spool is not None
            plain = bytes(message)
            if self._spool.append(window.last + 1, plain, self.progress.durable):
                with self.changed:
                    window.spooled(len(plain))
                    if isinstance(message, Lent):
                        message.free()
                    self._noted()
                return

    def flush(self, target: int) -> None:
        """Asks that all up to `target` becomes durable; does not wait."""
        with self.changed:
            self.check()
            self.progress.flush_target = max(self.progress.flush_target, target)
            self.changed.notify_all()

    def close(self, outcome: Outcome) -> None:
        """Asks for Close after the last message; does not wait. Later outcomes are ignored."""
        with self.changed:
            if self.summary is None:
                self.check(closing=True)
                self.progress.closing = self.progress.closing or CLOSE[outcome]
                self.changed.notify_all()

    def cancel(self) -> None:
        """Ends the stream without Close; returns once it has ended, or is slow to."""
        with self.changed:
            if not self._cancelled:
                self._cancelled = True
                self._call.fail(Cancelled("the writer was cancelled"))
                self.changed.notify_all()
        if threading.current_thread() is not self._keeper:
            self._keeper.join(5.0)

    def check(self, *, closing: bool = False) -> None:
        """Raises what keeps the stream from being used. Called with `changed` held."""
        if self.error is not None:
            raise self.error.at(self.acknowledged + 1)
        if self.progress.closing and not closing:
            raise FailedPrecondition("the writer is closed", reason="WRITER_CLOSED")

    def wait(self, done: Callable[[], bool], timeout_seconds: float | None, what: str) -> None:
        """Waits until done() holds; raises when the stream ends first, or time is up."""
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        with self.changed:
            while not done():
                if self.error is not None:
                    raise self.error.at(self.acknowledged + 1)
                left = _TICK_SECONDS if end is None else end - time.monotonic()
                if left <= 0:
                    raise DeadlineExceeded(
                        f"waited {timeout_seconds:g} s for {what}", sequence=self.acknowledged + 1
                    )
                self.changed.wait(min(left, _TICK_SECONDS))

    def seconds_to_full(self) -> float | None:
        """See Writer."""
        with self.changed:
            return self.window.seconds_to_full(time.monotonic())

    def _noted(self) -> None:
        """The window has changed."""
        self.window.note(time.monotonic())
        self.changed.notify_all()

    # The keeper thread

    def _keep(self) -> None:
        """Runs calls until the stream is over; never raises."""
        summary: WriteSummary | None = None
        error: ZigguratError = ServerError("the stream ended")
        try:
            while True:
                try:
                    summary = self._run_call()
                    break
                except ZigguratError as failed:
                    error = failed
                if self._cancelled or self._connection.closed:
                    break
                decision = self._retry.decide(error)
                if isinstance(decision, ZigguratError):
                    error = decision
                    break
                with self.changed:
                    self.changed.wait_for(lambda: self._cancelled, decision)
        except Exception as bug:  # a thread that died silently would leave the others waiting
            error = ServerError(f"the writer's thread failed: {bug!r}")
        self._finish(summary, error)

    def _run_call(self) -> WriteSummary:
        """Carries the stream with one call to its Close; raises why the call ended before."""
        call = Call(self.changed, self.window, self._spool, self.progress, self._opening)
        with self.changed:
            if self._cancelled or self._connection.closed:
                raise Cancelled("the writer was cancelled, or its client closed")
            self._call = call
            call.handle = self._connection.write(call.requests())
        limit = self._connection.timeout_seconds
        timer: threading.Timer | None = None
        if limit is not None:
            timer = threading.Timer(limit, self._give_up_opening, (call, limit))
            timer.daemon = True
            timer.start()
        try:
            for answer in call.handle:
                summary = self._take(call, answer)
                if summary is not None:
                    _wait_for_end(call.handle)
                    return summary
            raise ServerError(
                "the server ended the stream before it was closed", reason="STREAM_ENDED"
            )
        except grpc.RpcError as status:
            error = from_rpc(status, server=self._connection.server)
        except ZigguratError as wrong:
            error = wrong
        finally:
            if timer is not None:
                timer.cancel()
            call.handle.cancel()
            with self.changed:
                self.connected = False
                call.ended = True
                # Now: an interpreter that ends stops gRPC's threads wherever they are, and would
                # wait for ever for a lock of theirs if it had to drop the call.
                call.handle = None
                self.changed.notify_all()
        error = call.failure or error
        if call.number and not self._cancelled:
            log.warning("stream %s lost its call: %s", self._stream_id, error)
        raise error

    def _give_up_opening(self, call: Call, limit: float) -> None:
        with self.changed:
            if not call.number and not call.ended:
                call.fail(DeadlineExceeded(f"waited {limit:g} s for the stream to open"))

    def _finish(self, summary: WriteSummary | None, error: ZigguratError) -> None:
        with self.changed:
            self._ended = True
            # What only memory holds would die with the process.
            save = self._spool is not None and summary is None and self._opened
            unsaved = list(self.window.in_memory()) if save else []
            self.changed.notify_all()
        if self._spool is not None:
            try:
                self._spool.save(unsaved, self.progress.durable)
                self._spool.close()
            except Exception:  # whatever it is, those who wait must hear of the stream's end
                log.exception("the spool of stream %s could not be closed", self._stream_id)
        if self._ring is not None:
            self._ring.close()
        with self.changed:
            if summary is None:
                self.error = error
            self.summary = summary
            self.changed.notify_all()

    def _take(self, call: Call, answer: write_pb2.WriteResponse) -> WriteSummary | None:
        member = answer.WhichOneof("message")
        with self.changed:
            if member == "opened":
                self._take_opened(call, answer.opened)
            elif not call.number:
                raise ServerError(f"the server answered Open with {member}")
            elif member == "acknowledgement":
                self._acknowledge(answer.acknowledgement.received, answer.acknowledgement.durable)
            elif member == "closed":
                closed = answer.closed
                self._acknowledge(closed.durable, closed.durable)
                return WriteSummary(
                    durable=closed.durable,
                    regions=closed.regions,
                    bytes=closed.bytes,
                    skipped_frames=closed.skipped_frames,
                    duplicates=closed.duplicates,
                )
        return None

    def _take_opened(self, call: Call, opened: write_pb2.Opened) -> None:
        wanted = opened.next_sequence
        if call.number or not wanted or opened.durable >= wanted:
            raise ServerError(f"the server opened the stream with {opened!r}")
        if opened.durability not in (self._level, write_pb2.DURABILITY_UNSPECIFIED):
            raise ServerError(f"the server opened the stream at another level: {opened!r}")
        if self._opened:
            self._resume(wanted)
        progress = self.progress
        progress.received = wanted - 1
        progress.durable = max(progress.durable, opened.durable)
        if not self._opened:
            self.window.begin(wanted, self.acknowledged)
            progress.sent = progress.received
            self._opened = True
        call.number = wanted
        self.max_message_bytes = opened.max_message_bytes
        if self._ring is not None:
            call.max_shared_bytes = self.max_shared_bytes = opened.max_shared_bytes
        self.connected = True
        self._retry.opened()
        self._acknowledge(progress.received, progress.durable)
        if self.window.released == self.window.last and not progress.closing:
            self._retry.progressed()

    def _resume(self, wanted: int) -> None:
        if wanted <= self.window.released:
            raise DataLoss(
                f"the server wants message {wanted} of stream {self._stream_id!r} again, but all"
                f" up to {self.window.released} was acknowledged, or sent by a former writer:"
                " it has lost what it had",
                reason="ACKNOWLEDGED_DATA_LOST",
            )
        if wanted > self.progress.sent + 1:
            raise FailedPrecondition(
                f"the server has message {wanted - 1} of stream {self._stream_id!r}, but only"
                f" {self.progress.sent} were sent: another writer uses the id",
                reason="STREAM_ID_SHARED",
            )
        self.reconnects += 1
        log.warning("stream %s goes on with message %d", self._stream_id, wanted)

    def _acknowledge(self, received: int, durable: int) -> None:
        progress, before = self.progress, self.acknowledged
        if max(received, durable) > progress.sent:
            raise ServerError(
                f"the server acknowledged {max(received, durable)},"
                f" but {progress.sent} was the last sent"
            )
        progress.received = max(progress.received, received)
        progress.durable = max(progress.durable, durable)
        if self.acknowledged > before:
            self._retry.progressed()
        self.window.release(self.acknowledged)
        self._noted()


def _wait_for_end(handle: Any) -> None:
    """Lets the server end the call, as it does behind Closed: cancelled, it would count as such."""
    # The timer's thread ends a moment after it is cancelled, and must not keep the call till then.
    held = weakref.ref(handle)

    def give_up() -> None:
        call = held()
        if call is not None:
            call.cancel()

    timer = threading.Timer(_END_SECONDS, give_up)
    timer.daemon = True
    timer.start()
    try:
        # All that was wanted of the call is there, however it ends.
        with contextlib.suppress(grpc.RpcError):
            for _ in handle:
                pass
    finally:
        timer.cancel()
