"""How does a program hand frames to the server while the camera goes on?

write() cuts a frame into messages ready for the wire, with one copy of its pixels,
and returns. Keeping them until they are acknowledged, sending them, and sending them
again after a failure is the work of _stream.py.
"""

from __future__ import annotations

import datetime
import math
import os
import threading
import uuid
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike
from ziggurat_proto.v1 import write_pb2

from ziggurat._call import CLOSE, control
from ziggurat._errors import InvalidArgument
from ziggurat._frames import as_pixels, check_inside, payload_of, place_frame, strips
from ziggurat._frametable import json_object, nanoseconds
from ziggurat._index import whole_numbers
from ziggurat._rpc import Connection
from ziggurat._shared_memory import Lent, ring
from ziggurat._spool import Spool
from ziggurat._stream import Durability, Outcome, Stream
from ziggurat._values import Shape, WriteSummary
from ziggurat._window import Message
from ziggurat._wire import Said, encode_region

Transport: TypeAlias = Literal["grpc", "shared_memory"]

# About what a message holds: smaller ones cost more of both sides' threads, larger ones wait
# longer for each other.
STRIP_BYTES = 2 * 2**20
# About what one points at.
SHARED_STRIP_BYTES = 4 * 2**20
# Less only where it was asked for. A window has room for some messages, so that one is on its
# way while others are made.
LEAST_STRIP_BYTES = 2**20


class Writer:
    """One ordered stream of writes to level 0 of an image; made by `Image.writer`.

    A context manager: leaving the block closes the stream, leaving it by an exception
    cancels it: the stream stays open for whoever resumes it, and counts as abandoned if
    nobody does. Several threads may share a writer; each write() stays together.

    A lost connection, a restarting server and its full disk are not errors: the writer
    reconnects in the background and sends again what was not acknowledged, each message
    taking effect once. Meanwhile write() goes on until window and spool are full; flush()
    and close() wait. What can't be mended so ends the stream, and then every method
    raises the reason, with `sequence` set to the first number that was not acknowledged:
    Unavailable once `retry_seconds` are over, DataLoss where the server has lost what
    it had acknowledged, and whatever is the caller's fault at once.

    The numbers below are read without waiting and may be a moment old.
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
        durability: Durability,
        expected_frames: int | None,
        window_bytes: int,
        strip_bytes: int | None,
        retry_seconds: float,
        spool: str | os.PathLike[str] | None,
        spool_bytes: int | None,
    ) -> None:
        _check_settings(stream_id, durability, retry_seconds)
        _check_sizes(window_bytes=window_bytes)
        if strip_bytes is not None:
            _check_sizes(strip_bytes=strip_bytes)
        if spool_bytes is not None:
            _check_sizes(spool_bytes=spool_bytes)
        if expected_frames is not None:
            _check_sizes(expected_frames=expected_frames)
        self._axes, self._shape, self._dtype = axes, shape, dtype
        self._strip_bytes, self._shared_strip_bytes = (
            strip_bytes or max(LEAST_STRIP_BYTES, min(most, window_bytes // 4))
            for most in (STRIP_BYTES, SHARED_STRIP_BYTES)
        )
        self._stream_id = stream_id or uuid.uuid4().hex
        # Held while messages are numbered and queued, so that a frame stays together.
        self._writing = threading.Lock()
        self._spool = (
            None if spool is None else Spool(os.fspath(spool), spool_bytes, image, self._stream_id)
        )
        self._stream = Stream(
            connection,
            image,
            self._stream_id,
            durability,
            expected_frames=expected_frames,
            window_bytes=window_bytes,
            spool=self._spool,
            # What the window holds, and what is left unused before the ring's end.
            ring=ring(connection.server, window_bytes + 2 * self._shared_strip_bytes)
            if connection.shared_memory
            else None,
            retry_seconds=retry_seconds,
        )
        try:
            self._stream.wait_opened()
        except BaseException:
            self._stream.cancel()
            raise

    @property
    def stream_id(self) -> str:
        """The id that resumes this stream in another writer."""
        return self._stream_id

    @property
    def sequence(self) -> int:
        """The last sequence number given to a message; 0 before the first."""
        return self._stream.window.last

    @property
    def received(self) -> int:
        """Up to this number the server has everything in memory: reads see it.

        Goes back where the server died and came up without what was not durable.
        """
        return self._stream.progress.received

    @property
    def durable(self) -> int:
        """Up to this number everything is on the server's disk. Never goes back."""
        return self._stream.progress.durable

    @property
    def lost(self) -> tuple[int, ...]:
        """Numbers that a former process had only in memory when it died, ascending.

        Only where a spool was resumed. In their place Skips are sent, so that the server
        counts them; write those frames again, if they are still there.
        """
        return tuple(sorted(self._stream.window.lost))

    @property
    def backlog_bytes(self) -> int:
        """Bytes written and not acknowledged at the stream's durability.

        In the window, in the spool, or in both: each message counts once.
        """
        return self._stream.window.backlog_bytes

    @property
    def spooled_bytes(self) -> int:
        """What the spool's files take, at most `spool_bytes`; 0 without a spool.

        They are deleted some messages at a time, so it falls in steps.
        """
        return 0 if self._spool is None else self._spool.size

    @property
    def connected(self) -> bool:
        """Whether the server has the stream open now."""
        return self._stream.connected

    @property
    def transport(self) -> Transport:
        """How pixels go to the server that had the stream last.

        "shared_memory": it is on this machine, and gets at the writer's memory; "grpc": in
        messages, as everywhere else. Small parts, and all that the spool held, always do.
        """
        return "shared_memory" if self._stream.max_shared_bytes else "grpc"

    @property
    def reconnects(self) -> int:
        """How often the stream was opened again after its call was lost."""
        return self._stream.reconnects

    @property
    def seconds_to_full(self) -> float | None:
        """When write() begins to block if the backlog grows on as in the last seconds.

        Until window and spool are full; None while the backlog does not grow.
        """
        return self._stream.seconds_to_full()

    @property
    def summary(self) -> WriteSummary | None:
        """What the server counted; None before `close` has returned."""
        return self._stream.summary

    def write(
        self,
        frame: ArrayLike,
        *,
        t: int | None = None,
        c: int | None = None,
        z: int | None = None,
        y: int | None = None,
        x: int | None = None,
        timestamp: int | datetime.datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Queues a frame; blocks only while the window is full, and the spool.

        frame: of the image's dtype in either byte order, any strides. Its axes are the
        image's last ones: on an image "tczyx" an array (Y, X) is one plane and
        (Z, Y, X) a stack; along the axes before them it is one pixel thick.
        t, c, z, y, x: where the frame begins along each axis, 0 by default.
        timestamp: when it was taken: nanoseconds since the Unix epoch, or a datetime
            (one without a zone is in local time).
        metadata: whatever else is known of it, as JSON has it; at most the server's
            max_metadata_bytes, 16 KiB. Both come back from `Image.frames`.

        The frame may be changed as soon as write() returns. Raises InvalidArgument and
        OutOfRange, with nothing queued, for a frame that does not fit.
        """
        place = {"t": t, "c": c, "z": z, "y": y, "x": x}
        array, offset = place_frame(frame, place, self._axes, self._shape, self._dtype)
        self._send(array, offset, nanoseconds(timestamp), json_object(metadata))

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
        """Tells the server that `frames` frames were dropped; changes no pixel.

        Takes one sequence number; blocks as `write` does.
        """
        (count,) = whole_numbers("frames", (frames,), 1)
        if count < 1:
            raise InvalidArgument(f"frames must be at least 1, got {count}", field="frames")
        with self._writing:
            number = self.sequence + 1
            self._stream.put(control(skip=write_pb2.Skip(sequence=number, frames=count)))

    def flush(self, timeout_seconds: float | None = None) -> None:
        """Returns once everything written so far is acknowledged as durable.

        timeout_seconds: None waits as long as it takes. Raises DeadlineExceeded after
        it; the stream goes on. While another thread's write() blocks it waits for that.
        """
        with self._writing:
            target = self.sequence
            self._stream.flush(target)
        what = f"sequence {target} to become durable"
        self._stream.wait(lambda: self.durable >= target, timeout_seconds, what)

    def close(
        self, timeout_seconds: float | None = None, *, outcome: Outcome = "complete"
    ) -> WriteSummary:
        """Ends the stream; returns once all of it is stored and every level is exact.

        outcome: "complete", or "aborted" where the run was stopped before its end; kept
            with the image (`Image.streams`). A stream may be resumed after it.
        timeout_seconds: None waits as long as it takes. Raises DeadlineExceeded after
        it; the server goes on, and close() may be called again. Later calls return the
        same summary. While another thread's write() blocks it waits for that.
        """
        if outcome not in CLOSE:
            raise InvalidArgument(
                f'outcome must be "complete" or "aborted", got {outcome!r}', field="outcome"
            )
        with self._writing:
            self._stream.close(outcome)
        self._stream.wait(lambda: self.summary is not None, timeout_seconds, "the stream to close")
        assert self.summary is not None
        return self.summary

    def cancel(self) -> None:
        """Drops the stream without closing it; what was acknowledged stays. Never raises.

        What was not acknowledged goes to the spool, where there is one, else it is lost.
        """
        self._stream.cancel()

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

    def _send(
        self,
        array: np.ndarray[Any, np.dtype[Any]],
        offset: Shape,
        timestamp_ns: int | None = None,
        metadata: bytes = b"",
    ) -> None:
        with self._writing:
            for start, extent in strips(array.shape, array.dtype.itemsize, self._cut_bytes()):
                at = tuple(o + s for o, s in zip(offset, start, strict=True))
                self._stream.put(self._message(array, start, extent, at, timestamp_ns, metadata))
                # Once a frame.
                timestamp_ns, metadata = None, b""

    def _cut_bytes(self) -> int:
        """About what a message holds, or points at."""
        # Strips are up to half as large again, and a message has some bytes beside them.
        most = self._stream.max_shared_bytes
        if most:
            return max(1, min(self._shared_strip_bytes, most * 2 // 3))
        most = self._stream.max_message_bytes
        return max(1, min(self._strip_bytes, most * 5 // 8)) if most else self._strip_bytes

    def _message(
        self,
        array: np.ndarray[Any, np.dtype[Any]],
        start: Shape,
        extent: Shape,
        at: Shape,
        timestamp_ns: int | None,
        metadata: bytes,
    ) -> Message:
        """The next message, of a box of `array` that goes to `at`; its pixels are copied once."""
        number = self.sequence + 1
        said: Said = {"timestamp_ns": timestamp_ns, "metadata": metadata}
        room = self._stream.room(math.prod(extent) * array.dtype.itemsize)
        if room is None:
            return encode_region(number, at, extent, payload_of(array, start, extent), **said)
        box = array[tuple(slice(o, o + n) for o, n in zip(start, extent, strict=True))]
        return Lent(*room, number, at, box, **said)


def _check_settings(stream_id: str | None, durability: str, retry_seconds: float) -> None:
    if stream_id is not None and not 1 <= len(str(stream_id).encode()) <= 128:
        raise InvalidArgument(
            f"stream_id must be 1 to 128 bytes, got {stream_id!r}", field="stream_id"
        )
    if durability not in get_args(Durability):
        raise InvalidArgument(
            f'durability must be "durable" or "received", got {durability!r}', field="durability"
        )
    if not retry_seconds >= 0:
        raise InvalidArgument(
            f"retry_seconds must be 0 or more, got {retry_seconds!r}", field="retry_seconds"
        )


def _check_sizes(**sizes: int) -> None:
    for field, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise InvalidArgument(f"{field} must be at least 1, got {size!r}", field=field)
