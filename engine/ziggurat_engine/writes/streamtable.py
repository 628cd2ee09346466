"""Which write streams are there, who holds them, and what is remembered of the others?

A stream is held by one caller at a time, from `open` to `release`. What is over and durable is
kept as a few numbers (StreamState), by image: an answer about one image looks at no other.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from ziggurat_engine.errors import (
    FailedPrecondition,
    InvalidArgument,
    LimitExceeded,
    NotFound,
    StreamHeld,
    Unavailable,
    ZigguratError,
)
from ziggurat_engine.images import OpenImage
from ziggurat_engine.measures import Measures
from ziggurat_engine.state import StreamState
from ziggurat_engine.writes.durability import Durability
from ziggurat_engine.writes.journal import Journal, StreamKey
from ziggurat_engine.writes.quotas import Quotas
from ziggurat_engine.writes.streams import Outcome, Stream, StreamInfo, remembered

MAX_STREAM_ID_BYTES = 128
# After how long a place among the streams may have become free.
RETRY_SECONDS = 1.0
# A stream that ends waits for others that write to its image, as long as messages come so soon one
# after the other, but not for longer than this.
BUSY_SECONDS = 0.1
TOGETHER_SECONDS = 0.5


class StreamTable:
    """All write streams. Methods may be called from any thread.

    draining: no stream is opened any more, and those that are open are to end.
    """

    def __init__(
        self,
        durability: Durability,
        journal: Journal,
        quotas: Quotas,
        measures: Measures,
        *,
        max_streams: int,
        lease_seconds: float,
    ) -> None:
        self._durability = durability
        self._journal = journal
        self._quotas = quotas
        self._measures = measures
        self._max_streams = max_streams
        self._lease_seconds = lease_seconds
        self._lock = threading.Condition()
        self._describing = threading.Lock()
        self.draining = False
        self._streams: dict[tuple[int, str], Stream] = {}
        # How far all others are: not opened since the start, or over (`_retire`).
        self._known: dict[str, dict[str, StreamState]] = {}
        self._expected: dict[str, dict[str, int]] = {}
        self._since = time.monotonic()

    def remember(self, states: Iterable[StreamState], expected: Mapping[StreamKey, int]) -> None:
        """How far streams were at the start; to be called before any is opened."""
        for (image, stream), frames in expected.items():
            self._know(StreamState(image, stream, 0), frames)
        for state in states:
            self._know(state)
        self._since = time.monotonic()

    def _know(self, state: StreamState, expected: int | None = None) -> None:
        self._known.setdefault(state.image, {})[state.stream] = state
        if expected is not None:
            self._expected.setdefault(state.image, {})[state.stream] = expected

    def of(self, image: OpenImage) -> list[StreamInfo]:
        """All streams that ever wrote to `image`, by id."""
        lease, uid = self._lease_seconds, image.image.uid
        with self._lock:
            opened = [s for key, s in self._streams.items() if key[0] == image.number]
            known = list(self._known.get(uid, {}).values())
            expected = dict(self._expected.get(uid, {}))
        found = [stream.info(lease) for stream in opened]
        found += [remembered(s, expected.get(s.stream), self._since, lease) for s in known]
        return sorted(found, key=lambda info: info.stream_id)

    @property
    def open_streams(self) -> int:
        """Streams that somebody writes to now."""
        with self._lock:
            return sum(stream.held for stream in self._streams.values())

    def held_images(self) -> list[str]:
        """The image of each stream that somebody writes to now."""
        with self._lock:
            return [s.image.image.name for s in self._streams.values() if s.held]

    def open(
        self,
        image: OpenImage,
        stream_id: str,
        *,
        logged: bool = True,
        expected_frames: int | None = None,
    ) -> Stream:
        """Begins or resumes a stream; the caller holds it until `release`.

        logged: whether the log takes its writes, so that they are durable at once; else
        they are when they are stored. expected_frames: what the client means to send;
        durable when it returns, None leaves it as it was.

        Raises FailedPrecondition where the image is adopted read-only, NotFound where it is
        deleted, StreamHeld while another caller writes to the stream, InvalidArgument for a bad id,
        LimitExceeded above max_streams of the server or a quota, Unavailable once the engine is
        stopping, OSError where what it expects can't be recorded.
        """
        size = len(stream_id.encode("utf-8", "surrogatepass"))
        if not 1 <= size <= MAX_STREAM_ID_BYTES:
            raise InvalidArgument(
                f"stream_id has {size} bytes, not 1 to {MAX_STREAM_ID_BYTES}",
                field="open.stream_id",
            )
        image.check_writable()
        self._retire()
        with self._lock:
            if self.draining:
                raise Unavailable("the server is stopping")
            # With the lock, as `refuse`: an image is never deleted while a stream is held.
            image.check_taken()
            held = [s.image.image.name for s in self._streams.values() if s.held]
            if len(held) >= self._max_streams:
                raise LimitExceeded(
                    f"max_streams = {self._max_streams} are open",
                    limit="max_streams",
                    value=self._max_streams,
                    asked=self._max_streams + 1,
                    retry_seconds=RETRY_SECONDS,
                )
            self._quotas.check_streams(image.image.name, held)
            key = (image.number, stream_id)
            stream = self._streams.get(key)
            if stream is None:
                uid = image.image.uid
                known = self._known.get(uid, {}).pop(stream_id, None)
                expected = self._expected.get(uid, {}).get(stream_id)
                prefix = self._measures.usage.prefix(image.image.name)
                stream = Stream(image, stream_id, known, expected, prefix)
                self._streams[key] = stream
            if stream.held:
                raise StreamHeld(
                    f"another call writes to stream {stream_id!r} of {image.image.name!r}",
                    stream_id=stream_id,
                )
            stream.held = True
            stream.ending = stream.lasting = False
            # The call before may have ended without telling all that is durable by now.
            stream.stirred = True
            stream.logged = logged
            image.base.observers.add(stream.stir)
            self._journal.observers.add(stream.stir)
        if expected_frames is not None and expected_frames != stream.expected_frames:
            try:
                self._journal.expect(stream.key, expected_frames)
            except BaseException:
                self.release(stream)
                raise
            stream.expected_frames = expected_frames
        return stream

    def release(self, stream: Stream) -> None:
        """The caller writes no more; the stream may be opened again."""
        with self._lock:
            stream.last_held = time.monotonic()
            stream.held = False
            stream.image.base.observers.discard(stream.stir)
            self._journal.observers.discard(stream.stir)
            self._lock.notify_all()

    def end(self, stream: Stream, cancelled: Callable[[], bool]) -> None:
        """A stream is about to end: returns once what its image has should be stored.

        Not at once where others write to the image right now, but together with them where they
        end soon: what they have written of a shard so far would be stored, and then once more.
        Who does not end is waited for once.
        """
        with self._lock:
            stream.ending = True
            self._lock.notify_all()
            until = time.monotonic() + TOGETHER_SECONDS
            while (busy := self._busy(stream)) and not (self.draining or cancelled()):
                now = time.monotonic()
                if now >= until:
                    for other in busy:
                        other.lasting = True
                    break
                quiet = max(other.last_received for other in busy) + BUSY_SECONDS
                self._lock.wait(min(quiet, until) - now)

    def _busy(self, stream: Stream) -> list[Stream]:
        """Others that write to the image of `stream` right now, and may end soon."""
        since = time.monotonic() - BUSY_SECONDS
        return [
            other
            for (number, _), other in self._streams.items()
            if number == stream.image.number
            and other.held
            and other.last_received > since
            and not (other.ending or other.lasting)
        ]

    def _retire(self) -> None:
        """Of streams that are over and durable only a few numbers are kept."""
        with self._lock:
            over = [
                (key, stream)
                for key, stream in self._streams.items()
                if not stream.held and stream.info(self._lease_seconds).outcome is not Outcome.OPEN
            ]
        for key, stream in over:
            # What the disk refuses now, or a broken table, is asked for again: it is no affair
            # of the stream that is being opened.
            with contextlib.suppress(OSError, ZigguratError):
                self._durability.refresh(stream, stirred=True)
            with self._lock:
                if self._streams.get(key) is stream and not (stream.held or stream.pending):
                    del self._streams[key]
                    self._know(stream.state(stream.received), stream.expected_frames)

    def refuse(self, image: OpenImage) -> None:
        """From now on no stream of the image is opened.

        Raises FailedPrecondition while one of them is held, NotFound where the image is deleted.
        """
        with self._lock:
            if image.base.gone:
                raise NotFound(f"there is no image {image.image.name!r}", field="name")
            self._free_streams(image)
            image.base.deleted = True

    def forget(self, image: OpenImage) -> None:
        """Forgets the streams of an image that is deleted; raises as `refuse` does."""
        with self._lock:
            for key in self._free_streams(image):
                del self._streams[key]
            self._known.pop(image.image.uid, None)
            self._expected.pop(image.image.uid, None)

    def _free_streams(self, image: OpenImage) -> list[tuple[int, str]]:
        keys = [key for key in self._streams if key[0] == image.number]
        for key in keys:
            if self._streams[key].held:
                raise FailedPrecondition(
                    f"stream {key[1]!r} writes to {image.image.name!r}", stream_id=key[1]
                )
        return keys

    def drain(self) -> None:
        """From now on no stream is opened, and those that are open are to end."""
        with self._lock:
            self.draining = True
            self._lock.notify_all()
            held = [stream for stream in self._streams.values() if stream.held]
        for stream in held:
            stream.stir()

    def wait_released(self, timeout_seconds: float) -> bool:
        """Waits until nobody holds a stream; False where somebody still does."""
        with self._lock:
            return self._lock.wait_for(
                lambda: not any(stream.held for stream in self._streams.values()), timeout_seconds
            )

    def remember_all(self) -> None:
        """Remembers how far every stream is, all being stored.

        Where one can't be (OSError, ZigguratError), that is raised behind all others.
        """
        with self._lock:
            streams = list(self._streams.values())
        failed: OSError | ZigguratError | None = None
        for stream in streams:
            try:
                self._durability.refresh(stream, stirred=True)
            except (OSError, ZigguratError) as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def describe(self, image: OpenImage, closing: Stream | None = None) -> None:
        """Writes what is known of the image's streams into its metadata.

        closing: a stream that is held, but is described as if it were not. OSError.
        """
        # One at a time, so that the file ends with the newest facts.
        with self._describing:
            streams = self.of(image)
            if closing is not None:
                outcome = Outcome(closing.counters.outcome)
                streams = [
                    replace(info, outcome=outcome) if info.stream_id == closing.stream_id else info
                    for info in streams
                ]
            image.stored.metadata.write_streams([info.described() for info in streams])
