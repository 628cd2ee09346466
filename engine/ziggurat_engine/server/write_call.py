"""How does one WriteStream call run?

Two threads: a reader takes the client's messages, in order, into the engine; the call's
own thread sends acknowledgements as the stream's numbers grow. The reader is the only
one that writes, so that messages are handled one at a time; while memory is full it
does not read, and gRPC's flow control slows the client.

A client that does not say which stream it is, or then nothing for long, is waited for by the
call's own thread, which ends the call: the reader can't be woken from waiting for a message.

The reader releases the stream when it ends: until then a client that reconnects is
told that its stream is held. Once the server is stopping the call ends by itself, with
UNAVAILABLE, so that an acquisition that would go on for days does not hold it up. So it
does once its caller's right has ended, within CHECK_SECONDS, also where nothing is sent.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import grpc
from ziggurat_proto.v1 import write_pb2

from ziggurat_engine import spans
from ziggurat_engine.engine import Engine
from ziggurat_engine.errors import FailedPrecondition, InvalidArgument, OutOfRange, Unavailable
from ziggurat_engine.server import sharing, wire
from ziggurat_engine.writes.streams import Outcome, Stream

# At least this long lies between two acknowledgements: they are cumulative, and each
# costs about as much as taking in a region does.
ACK_INTERVAL_SECONDS = 0.005
CHECK_SECONDS = 1.0

_OUTCOMES = {
    write_pb2.OUTCOME_UNSPECIFIED: Outcome.COMPLETE,
    write_pb2.OUTCOME_COMPLETE: Outcome.COMPLETE,
    write_pb2.OUTCOME_ABORTED: Outcome.ABORTED,
}


class Waits(NamedTuple):
    """How long a call waits for Open, and then for any message, in seconds."""

    open_seconds: float
    idle_seconds: float


class WriteCall:
    """One call; `responses` is what the call sends.

    check: raises once the caller may not write any more.
    """

    def __init__(
        self,
        engine: Engine,
        requests: Iterator[wire.WriteMessage],
        context: grpc.ServicerContext,
        check: Callable[[], None],
        waits: Waits,
        limits: sharing.Limits,
    ) -> None:
        self._engine = engine
        self._check = check
        self._waits = waits
        self._limits = limits
        # What the client shares; the reader's, which closes it.
        self._memory: sharing.SharedMemory | None = None
        # Since when the reader waits for a message; None while it handles one.
        self._waiting_since: float | None = None
        self._requests = requests
        self._context = context
        # Set by the reader: a Flush is to be answered, also where no number has grown.
        self._asked = False
        # Set by the reader when it ends: why, or that the client sent Close.
        self._over = False
        self._closed = False
        self._error: Exception | None = None
        # Set when the client waits for an answer that must not be delayed.
        self._urgent = threading.Event()

    def responses(self) -> Iterator[write_pb2.WriteResponse]:
        """Opened, Acknowledgements, Closed; raises what ended the stream."""
        first = self._first()
        if isinstance(first, wire.Malformed):
            raise InvalidArgument(first.reason, field="request")
        if not isinstance(first, write_pb2.WriteRequest) or not first.HasField("open"):
            raise FailedPrecondition("the first message must be open", field="open")
        image = self._engine.image(first.open.image, "open.image")
        received = write_pb2.DURABILITY_RECEIVED
        logged = first.open.durability != received
        expected = first.open.expected_frames if first.open.HasField("expected_frames") else None
        if expected is not None and expected >> 63:
            # As far as the database counts.
            raise OutOfRange(f"{expected} are too many frames", field="open.expected_frames")
        stream = self._engine.streams.open(
            image, first.open.stream_id, logged=logged, expected_frames=expected
        )
        if first.open.HasField("shared_memory"):
            self._memory = sharing.attach(first.open.shared_memory, self._limits)
        opened = write_pb2.Opened(
            next_sequence=stream.received + 1,
            durable=stream.durable,
            durability=write_pb2.DURABILITY_DURABLE if logged else received,
            max_shared_bytes=self._memory.max_region_bytes if self._memory is not None else 0,
            max_message_bytes=self._limits.max_message_bytes,
        )
        # What it logs carries the id of this call.
        read = partial(contextvars.copy_context().run, self._read, stream)
        threading.Thread(target=read, name="write", daemon=True).start()
        yield write_pb2.WriteResponse(opened=opened)
        yield from self._acknowledge(stream)

    def _first(self) -> wire.WriteMessage | None:
        """The first message; None where there is none. Unavailable where it does not come."""
        found: list[wire.WriteMessage | None] = []
        there = threading.Event()

        def wait() -> None:
            # What grpc raises where the client is gone is of no use to anybody.
            with contextlib.suppress(Exception):
                found.append(next(self._requests, None))
            there.set()

        threading.Thread(target=wait, name="open", daemon=True).start()
        if not there.wait(self._waits.open_seconds):
            raise Unavailable(
                f"no message came within first_message_seconds = {self._waits.open_seconds:g}"
            )
        return found[0] if found else None

    def _acknowledge(self, stream: Stream) -> Iterator[write_pb2.WriteResponse]:
        streams = self._engine.streams
        sent = (stream.received, 0)
        while True:
            with stream.changed:
                stream.changed.wait_for(
                    lambda: (
                        self._over
                        or stream.received > sent[0]  # noqa: B023 - asked before it changes
                        or stream.stirred
                        or streams.draining
                    ),
                    min(CHECK_SECONDS, self._left()),
                )
            self._check()
            over = self._over
            now = self._engine.durability.refresh(stream)
            if now != sent or self._asked:
                self._asked = False
                sent = now
                yield write_pb2.WriteResponse(
                    acknowledgement=write_pb2.Acknowledgement(received=now[0], durable=now[1])
                )
            if over:
                break
            if streams.draining:
                raise Unavailable("the server is stopping; resume the stream later")
            self._urgent.wait(ACK_INTERVAL_SECONDS)
            self._urgent.clear()
        if self._error is not None:
            raise self._error
        if self._closed:
            counters = stream.counters
            yield write_pb2.WriteResponse(
                closed=write_pb2.Closed(
                    durable=stream.durable,
                    regions=counters.regions,
                    bytes=counters.bytes,
                    skipped_frames=counters.skipped_frames,
                    duplicates=counters.duplicates,
                )
            )

    def _left(self) -> float:
        """How long to wait for a message yet, in seconds; Unavailable where it is too late."""
        idle, since = self._waits.idle_seconds, self._waiting_since
        left = idle if since is None else since + idle - time.monotonic()
        if left <= 0:
            raise Unavailable(f"no message came for stream_idle_seconds = {idle:g}; resume later")
        return min(left, threading.TIMEOUT_MAX)

    def _messages(self) -> Iterator[wire.WriteMessage]:
        while True:
            self._waiting_since = time.monotonic()
            message = next(self._requests, None)
            self._waiting_since = None
            if message is None:
                return
            yield message

    def _read(self, stream: Stream) -> None:
        try:
            for message in self._messages():
                if self._take(stream, message):
                    self._closed = True
                    break
        except Exception as error:
            # grpc ends the iterator with an exception of its own where the client is gone.
            if self._context.is_active():
                self._error = error
        finally:
            if self._memory is not None:
                self._memory.close()
            # Behind it: a client that opens the stream again has its memory to itself.
            self._engine.streams.release(stream)
            self._urgent.set()
            with stream.changed:
                self._over = True
                stream.changed.notify_all()

    def _take(self, stream: Stream, message: wire.WriteMessage) -> bool:
        """Handles one message; True where it was Close."""
        ingest = self._engine.ingest
        if self._engine.streams.draining:
            raise Unavailable("the server is stopping; resume the stream later")
        if isinstance(message, wire.RegionWrite):
            ingest.pace(stream, message.nbytes + len(message.metadata), self._gone)
            payload = message.payload
            if message.shared_bytes:
                payload = sharing.pixels_in(
                    self._memory, payload, message.shared_offset, message.shared_bytes
                )
                self._engine.measures.shared.add("bytes", message.shared_bytes)
            facts = {"image": stream.image.image.name, "stream": stream.stream_id}
            with spans.root("ingest.write", **facts, sequence=message.sequence):
                ingest.write(
                    stream,
                    message.sequence,
                    message.region,
                    payload,
                    timestamp_ns=message.timestamp_ns,
                    metadata=message.metadata,
                )
            return False
        if isinstance(message, wire.Malformed):
            raise InvalidArgument(message.reason, field="request")
        kind = message.WhichOneof("message")
        if kind == "skip":
            ingest.skip(stream, message.skip.sequence, message.skip.frames)
        elif kind == "flush":
            ingest.flush(stream, self._gone)
            self._asked = True
            self._urgent.set()
            stream.stir()
        elif kind == "close":
            outcome = _OUTCOMES.get(message.close.outcome)
            if outcome is None:
                raise InvalidArgument(
                    f"close.outcome: {message.close.outcome} is not supported",
                    field="close.outcome",
                )
            ingest.finish(stream, self._gone)
            ingest.close(stream, outcome)
            return True
        elif kind == "open":
            raise FailedPrecondition("the stream is open already", field="open")
        else:
            raise InvalidArgument("a message without content", field="message")
        return False

    def _gone(self) -> bool:
        return not self._context.is_active()
