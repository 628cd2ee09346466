"""How do frames get to the server while the camera goes on?

    write() ─ cut, serialize ─> window ─> gRPC's thread ─> server
                                  ^                          │
                    reader thread └──── acknowledgements ────┘

write() copies pixels once, into messages ready for the wire, and returns. Messages
stay in the window until the server has acknowledged them as received; write() blocks
only while the window is full. A thread reads the answers.

Invariants, all under one condition:
- `_window` holds every message with a number above `_received`, in order; what was
  not handed to gRPC yet is also in `_outbox`, which holds Open, Flush and Close too.
- `_window_bytes` is the size of `_window`; it exceeds the limit only where a single
  message does.
- Once `_ended` is set nothing is sent any more and every waiting thread wakes; it is
  set exactly once, by the reader thread, however the call ends.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
from numpy.typing import ArrayLike
from ziggurat_proto.v1 import write_pb2

from ziggurat._errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    ServerError,
    ZigguratError,
    from_rpc,
)
from ziggurat._frames import as_pixels, check_inside, payload_of, place_frame, strips
from ziggurat._index import whole_numbers
from ziggurat._rpc import Connection
from ziggurat._values import Shape, WriteSummary
from ziggurat._wire import encode_region

# A wait on Windows can't be interrupted by Ctrl-C, so no wait is longer than this.
_TICK_SECONDS = 0.5


class Writer:
    """One ordered stream of writes to level 0 of an image; made by `Image.writer`.

    A context manager: leaving the block closes the stream, leaving it by an exception
    cancels it. Several threads may share a writer; each write() stays together.
    Every method raises the error that ended the stream, with `sequence` set to the
    first number that was not acknowledged as received.
    """

    def __init__(
        self,
        connection: Connection,
        image: str,
        axes: str,
        shape: Shape,
        dtype: np.dtype[Any],
        *,
        stream_id: str | None,
        window_bytes: int,
        strip_bytes: int,
    ) -> None:
        _check_settings(stream_id, window_bytes, strip_bytes)
        self._axes, self._shape, self._dtype = axes, shape, dtype
        self._window_limit, self._strip_bytes = window_bytes, strip_bytes
        self._stream_id = stream_id or uuid.uuid4().hex
        self._server = connection.server
        # Held while messages are numbered and queued, so that a frame stays together.
        self._writing = threading.Lock()
        self._changed = threading.Condition()
        self._outbox: deque[bytes] = deque()
        self._window: deque[tuple[int, bytes]] = deque()
        self._window_bytes = 0
        self._sent_here = False
        self._opened = False
        self._closing = False
        self._ended = False
        self._sequence = self._received = self._durable = 0
        self._error: ZigguratError | None = None
        self._summary: WriteSummary | None = None
        self._outbox.append(_control(open=write_pb2.Open(image=image, stream_id=self._stream_id)))
        self._call = connection.write(self._requests())
        threading.Thread(target=self._listen, name="ziggurat-writer", daemon=True).start()
        try:
            self._wait(lambda: self._opened, connection.timeout_seconds, "the stream to open")
        except BaseException:
            self._call.cancel()
            raise

    @property
    def stream_id(self) -> str:
        """The id that resumes this stream in another writer."""
        return self._stream_id

    @property
    def sequence(self) -> int:
        """The last sequence number given to a message; 0 before the first."""
        return self._sequence

    @property
    def received(self) -> int:
        """Up to this number the server has everything in memory: reads see it."""
        return self._received

    @property
    def durable(self) -> int:
        """Up to this number everything is durable, as far as this call was told."""
        return self._durable

    @property
    def backlog_bytes(self) -> int:
        """Bytes written but not acknowledged as received, at most about `window_bytes`."""
        return self._window_bytes

    @property
    def summary(self) -> WriteSummary | None:
        """What the server counted; None before `close` has returned."""
        return self._summary

    def write(
        self,
        frame: ArrayLike,
        *,
        t: int | None = None,
        c: int | None = None,
        z: int | None = None,
        y: int | None = None,
        x: int | None = None,
    ) -> None:
        """Queues a frame; blocks only while the window is full.

        frame: of the image's dtype in either byte order, any strides. Its axes are the
        image's last ones: on an image "tczyx" an array (Y, X) is one plane and
        (Z, Y, X) a stack; along the axes before them it is one pixel thick.
        t, c, z, y, x: where the frame begins along each axis, 0 by default.

        The frame may be changed as soon as write() returns. Raises InvalidArgument and
        OutOfRange, with nothing queued, for a frame that does not fit.
        """
        place = {"t": t, "c": c, "z": z, "y": y, "x": x}
        array, offset = place_frame(frame, place, self._axes, self._shape, self._dtype)
        self._send(array, offset)

    def write_region(self, array: ArrayLike, offset: Sequence[int]) -> None:
        """Queues a box of any place and size; blocks and raises as `write` does.

        array: as many axes as the image has. offset: its first pixel, one number an
        axis.
        """
        pixels = as_pixels("array", array, self._dtype)
        if pixels.ndim != len(self._axes):
            raise InvalidArgument(
                f"array has {pixels.ndim} axes, the image has {self._axes}", field="array"
            )
        start = whole_numbers("offset", offset, pixels.ndim)
        check_inside(pixels.shape, start, self._axes, self._shape)
        self._send(pixels, start)

    def skip(self, frames: int = 1) -> None:
        """Tells the server that `frames` frames were dropped; changes no pixel."""
        (count,) = whole_numbers("frames", (frames,), 1)
        if count < 1:
            raise InvalidArgument(f"frames must be at least 1, got {count}", field="frames")
        with self._writing:
            number = self._sequence + 1
            self._queue(_control(skip=write_pb2.Skip(sequence=number, frames=count)))

    def flush(self, timeout_seconds: float | None = None) -> None:
        """Returns once everything written so far is acknowledged as durable.

        timeout_seconds: None waits as long as it takes. Raises DeadlineExceeded after
        it; the stream goes on.
        """
        with self._writing:
            target = self._sequence
            with self._changed:
                self._check()
                if not self._sent_here or self._durable >= target:
                    return
                self._outbox.append(_control(flush=write_pb2.Flush()))
                self._changed.notify_all()
        what = f"sequence {target} to become durable"
        self._wait(lambda: self._durable >= target, timeout_seconds, what)

    def close(self, timeout_seconds: float | None = None) -> WriteSummary:
        """Ends the stream; returns once all of it is stored and every level is exact.

        timeout_seconds: None waits as long as it takes. Raises DeadlineExceeded after
        it; the server goes on, and close() may be called again. Later calls return the
        same summary.
        """
        with self._writing, self._changed:
            if self._summary is None:
                self._check(closing=True)
                if not self._closing:
                    self._closing = True
                    self._outbox.append(_control(close=write_pb2.Close()))
                    self._changed.notify_all()
        self._wait(lambda: self._summary is not None, timeout_seconds, "the stream to close")
        assert self._summary is not None
        return self._summary

    def cancel(self) -> None:
        """Drops the stream without closing it; what was acknowledged stays. Never raises."""
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.cancel()
            return
        try:
            self.close()
        finally:
            self.cancel()

    def _send(self, array: np.ndarray[Any, np.dtype[Any]], offset: Shape) -> None:
        with self._writing:
            for start, extent in strips(array.shape, array.dtype.itemsize, self._strip_bytes):
                payload = payload_of(array, start, extent)
                at = tuple(o + s for o, s in zip(offset, start, strict=True))
                self._wait_for_room(payload.nbytes)
                self._queue(encode_region(self._sequence + 1, at, extent, payload))

    def _wait_for_room(self, size: int) -> None:
        def room() -> bool:
            return not self._window or self._window_bytes + size <= self._window_limit

        with self._changed:
            self._check()
        self._wait(room, None, "room in the window")

    def _queue(self, message: bytes) -> None:
        with self._changed:
            self._check()
            self._sequence += 1
            self._sent_here = True
            self._window.append((self._sequence, message))
            self._window_bytes += len(message)
            self._outbox.append(message)
            self._changed.notify_all()

    def _check(self, *, closing: bool = False) -> None:
        """Raises what keeps the stream from being used. Called with `_changed` held."""
        if self._error is not None:
            raise self._error.at(self._received + 1)
        if self._closing and not closing:
            raise FailedPrecondition("the writer is closed", reason="WRITER_CLOSED")

    def _wait(self, done: Callable[[], bool], timeout_seconds: float | None, what: str) -> None:
        """Waits until done() holds; raises when the stream ends first, or time is up."""
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        with self._changed:
            while not done():
                if self._error is not None:
                    raise self._error.at(self._received + 1)
                left = _TICK_SECONDS if end is None else end - time.monotonic()
                if left <= 0:
                    raise DeadlineExceeded(
                        f"waited {timeout_seconds:g} s for {what}", sequence=self._received + 1
                    )
                self._changed.wait(min(left, _TICK_SECONDS))

    def _requests(self) -> Iterator[bytes]:
        """The messages in order, for gRPC's thread; ends with the call."""
        while True:
            with self._changed:
                while not self._outbox and not self._ended:
                    self._changed.wait()
                if self._ended:
                    return
                message = self._outbox.popleft()
                last = self._closing and not self._outbox
            yield message
            if last:
                return

    def _listen(self) -> None:
        """Reads answers until the call ends, then wakes everyone; never raises."""
        error: ZigguratError
        try:
            for answer in self._call:
                self._take(answer)
            error = ServerError("the server ended the stream before it was closed")
        except grpc.RpcError as status:
            error = from_rpc(status, server=self._server)
        except ZigguratError as wrong:
            error = wrong
        except Exception as bug:  # a thread that died silently would leave the others waiting
            error = ServerError(f"reading answers failed: {bug!r}")
        self._call.cancel()
        with self._changed:
            self._ended = True
            if self._summary is None:
                self._error = error
            self._outbox.clear()
            self._changed.notify_all()

    def _take(self, answer: write_pb2.WriteResponse) -> None:
        member = answer.WhichOneof("message")
        with self._changed:
            if member == "opened":
                if self._opened or not answer.opened.next_sequence:
                    raise ServerError(f"the server opened the stream with {answer!r}")
                self._opened = True
                # The numbers before were accepted by an earlier call of this stream.
                self._sequence = self._received = answer.opened.next_sequence - 1
            elif member == "acknowledgement":
                self._acknowledge(answer.acknowledgement.received, answer.acknowledgement.durable)
            elif member == "closed":
                closed = answer.closed
                self._acknowledge(closed.durable, closed.durable)
                self._summary = WriteSummary(
                    durable=closed.durable,
                    regions=closed.regions,
                    bytes=closed.bytes,
                    skipped_frames=closed.skipped_frames,
                    duplicates=closed.duplicates,
                )
            self._changed.notify_all()

    def _acknowledge(self, received: int, durable: int) -> None:
        if received > self._sequence:
            raise ServerError(
                f"the server acknowledged {received}, but {self._sequence} was the last sent"
            )
        self._received = max(self._received, received)
        self._durable = max(self._durable, durable)
        while self._window and self._window[0][0] <= self._received:
            self._window_bytes -= len(self._window.popleft()[1])


def _control(**member: Any) -> bytes:
    return write_pb2.WriteRequest(**member).SerializeToString()


def _check_settings(stream_id: str | None, window_bytes: int, strip_bytes: int) -> None:
    if stream_id is not None and not 1 <= len(str(stream_id).encode()) <= 128:
        raise InvalidArgument(
            f"stream_id must be 1 to 128 bytes, got {stream_id!r}", field="stream_id"
        )
    for field, size in (("window_bytes", window_bytes), ("strip_bytes", strip_bytes)):
        if not isinstance(size, int) or size < 1:
            raise InvalidArgument(f"{field} must be at least 1, got {size!r}", field=field)
