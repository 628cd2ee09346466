"""How does a client's region get from the wire into dirty chunks, exactly once?

A stream is one client's ordered sequence: 1, 2, 3, ... Each number is accepted once; a
repeat is counted and ignored, a gap is refused. A stream outlives the call that
carries it, and the server, so that a client that lost its connection learns where to
go on.

`received` is the last number that reads see. `durable` follows it: a write is durable
once the log that holds it is synced, or once it is stored (journal.py).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from ziggurat_engine.cache import Budget, DirtyDirectory
from ziggurat_engine.cutting import by_shard, covers_cells, pixels_of
from ziggurat_engine.errors import (
    Cancelled,
    FailedPrecondition,
    InvalidArgument,
    LimitExceeded,
    NotFound,
    OutOfRange,
    StreamHeld,
    Unavailable,
    ZigguratError,
)
from ziggurat_engine.frames import Frames, check_metadata, pack, row_of
from ziggurat_engine.images import Images, OpenImage
from ziggurat_engine.journal import Journal, StreamKey
from ziggurat_engine.log import Appended, Close, Skip
from ziggurat_engine.log import Region as Record
from ziggurat_engine.measures import Measures
from ziggurat_engine.pacing import InFlight
from ziggurat_engine.quotas import Account, Quotas
from ziggurat_engine.region import Region
from ziggurat_engine.settle import Settler, never
from ziggurat_engine.space import Space
from ziggurat_engine.spec import Array
from ziggurat_engine.state import StreamState
from ziggurat_engine.streams import Outcome, Pending, Stream, StreamInfo, remembered

MAX_STREAM_ID_BYTES = 128
# As far as the database counts, and messages do.
MAX_FRAMES = 2**63 - 1
# After how long a place among the streams may have become free.
RETRY_SECONDS = 1.0


class Ingest:
    """All write streams. A stream's calls come one at a time, from whoever opened it."""

    def __init__(
        self,
        dirty: DirtyDirectory,
        budget: Budget,
        settler: Settler,
        journal: Journal,
        frames: Frames,
        space: Space,
        quotas: Quotas,
        images: Images,
        measures: Measures,
        *,
        max_streams: int,
        max_metadata_bytes: int,
        max_inflight_bytes: int,
        lease_seconds: float,
    ) -> None:
        self._dirty = dirty
        self._budget = budget
        self._settler = settler
        self._journal = journal
        self._frames = frames
        self._max_metadata_bytes = max_metadata_bytes
        self._space = space
        self._quotas = quotas
        self._images = images
        self.in_flight = InFlight(max_inflight_bytes)
        self._measures = measures
        self._max_streams = max_streams
        self._lease_seconds = lease_seconds
        self._lock = threading.Condition()
        self._describing = threading.Lock()
        self.draining = False
        self._streams: dict[tuple[int, str], Stream] = {}
        # How far all others are: not opened since the start, or over (`_retire`). By image, and
        # there by stream: an answer about one image looks at no other.
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

    def streams(self, image: OpenImage) -> list[StreamInfo]:
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
            self._check_taken(image)
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
                self.refresh(stream, stirred=True)
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
            held = [stream for stream in self._streams.values() if stream.held]
        for stream in held:
            stream.stir()

    def wait_released(self, timeout_seconds: float) -> bool:
        """Waits until nobody holds a stream; False where somebody still does."""
        with self._lock:
            return self._lock.wait_for(
                lambda: not any(stream.held for stream in self._streams.values()), timeout_seconds
            )

    def pace(self, stream: Stream, nbytes: int, cancelled: Callable[[], bool] = never) -> None:
        """Returns when a message of so many bytes may be taken, however fast they come.

        Raises Cancelled where told to, Unavailable where the engine is stopping.
        """
        name, flow = stream.image.image.name, "/".join(stream.key)
        try:
            self._quotas.pace(name, flow, nbytes, lambda: self.draining or cancelled())
        except Cancelled:
            if self.draining:
                raise Unavailable("the server is stopping") from None
            raise

    def write(
        self,
        stream: Stream,
        sequence: int,
        region: Region,
        payload: memoryview,
        *,
        timestamp_ns: int | None = None,
        metadata: str = "",
    ) -> None:
        """Accepts one region of level 0; returns once reads see all of it.

        payload: its pixels, little-endian, C order; not used after the call.
        timestamp_ns, metadata (a JSON object): kept beside the image (frames.py). Waits
        while memory is full. Raises InvalidArgument, OutOfRange, FailedPrecondition
        for what can't be accepted, having changed nothing; OSError where the log can't
        be written, and DiskFull where it soon couldn't be, having changed nothing;
        Unavailable where memory is full and the store fails: part of the region may
        then be written, and the same number is wanted again. Both also where it is adopted
        and can't be stored now, having changed nothing. LimitExceeded where a quota of stored
        bytes has no room, having changed nothing.
        """
        since = time.perf_counter()
        image = stream.image
        self._check_taken(image)
        pixels = pixels_of(image, region, payload)
        check_metadata(metadata, self._max_metadata_bytes)
        if not self._wanted(stream, sequence, "region.sequence"):
            return
        self._space.check()
        self._settler.check_storable(image)
        if image.image.adopted is None:
            nbytes = pixels.nbytes + len(metadata)
            self._quotas.check_stored(image.image.name, nbytes, self._settle)
        said = pack(timestamp_ns, metadata)
        # What covers whole shards is stored at once: writing it twice would gain nothing,
        # unless there is something to say of it.
        cells = image.pyramid.levels[0].shards
        logged = stream.logged and (bool(said) or not covers_cells(cells, region))
        record = Record(bytes.fromhex(image.image.uid), stream.stream_id, sequence, region, said)
        self.in_flight.take(payload.nbytes)
        try:
            self._accept(stream, record, pixels, payload if logged else None, since)
        finally:
            self.in_flight.give(payload.nbytes)

    def _accept(
        self,
        stream: Stream,
        record: Record,
        pixels: Array,
        logged: memoryview | None,
        since: float,
    ) -> None:
        """Takes a region that was checked.

        logged: what the log gets of it, if it does. since: when it came, on the performance clock.
        """
        image, region = stream.image, record.box
        stirs = stream.stirs
        with self._budget.beside(pixels.nbytes), image.base.write_order:
            appended = None if logged is None else self._journal.append(record, logged)
            # Before the pixels: when they are stored the image's metadata has to reach so far.
            image.grow(region)
            try:
                tick = self._merge(image, region, pixels)
            except BaseException:
                if appended is not None:
                    self._journal.abandoned(appended)
                # Some of it may be there.
                image.base.renew(self._dirty.next_tick())
                raise
            order = self._journal.position
            image.base.renew(tick)
        stream.counters.regions += 1
        stream.counters.bytes += pixels.nbytes
        self._measures.usage.wrote(stream.prefix, pixels.nbytes)
        self._quotas.wrote(image.image.name, pixels.nbytes)
        self._received(stream, record, tick, order, appended, since, stirs=stirs)
        self._measures.received.add(time.perf_counter() - since)

    def merge(self, image: OpenImage, region: Region, payload: memoryview) -> int:
        """Merges a region of level 0 that the log holds already; returns its tick."""
        image.grow(region)
        tick = self._merge(image, region, pixels_of(image, region, payload))
        self._quotas.wrote(image.image.name, payload.nbytes)
        image.base.renew(tick)
        return tick

    def skip(self, stream: Stream, sequence: int, frames: int) -> None:
        """Accepts that `frames` frames will not come; raises as `write` does.

        OutOfRange where more were skipped than can be counted.
        """
        since = time.perf_counter()
        if frames < 1:
            raise InvalidArgument(f"skip.frames is {frames}, not at least 1", field="skip.frames")
        if not self._wanted(stream, sequence, "skip.sequence"):
            return
        total = stream.counters.skipped_frames + frames
        if total > MAX_FRAMES:
            raise OutOfRange(
                f"skip.frames: {total} skipped frames of a stream are more than {MAX_FRAMES}",
                field="skip.frames",
            )
        self._space.check()
        if stream.image.image.adopted is None:
            self._quotas.check_stored(stream.image.image.name, 1, self._settle)
        record = Skip(bytes.fromhex(stream.key[0]), stream.stream_id, sequence, frames)
        with stream.image.base.write_order:
            appended = self._journal.append(record) if stream.logged else None
            # A tick though there are no pixels: what says that a skip is stored also says
            # so of every write that was merged before it.
            tick, order = self._dirty.next_tick(), self._journal.position
        stream.counters.skipped_frames += frames
        self._received(stream, record, tick, order, appended, since, stirs=None)

    def remember_all(self) -> None:
        """Remembers how far every stream is, all being stored.

        Where one can't be (OSError, ZigguratError), that is raised behind all others.
        """
        with self._lock:
            streams = list(self._streams.values())
        failed: OSError | ZigguratError | None = None
        for stream in streams:
            try:
                self.refresh(stream, stirred=True)
            except (OSError, ZigguratError) as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def flush(self, stream: Stream, cancelled: Callable[[], bool] = never) -> None:
        """Returns once all that was received is durable.

        Raises Unavailable where it can't be stored, OSError where the log can't be
        written, Cancelled where told to.
        """
        target = stream.received
        while self.refresh(stream, stirred=True)[1] < target:
            if cancelled():
                raise Cancelled("the caller gave up")
            with stream.changed:
                held = [entry.position for entry in stream.pending if entry.position]
                # What a failed sync lost has to be stored, as what was never logged.
                waits = [position for position in held if not self._journal.lost(position)]
                bare = len(waits) < len(stream.pending)
            if bare:
                for _ in self._settler.drain(stream.image, 0, cancelled):
                    pass
            if waits:
                self._journal.wait(waits[-1], 0.5)

    def finish(self, stream: Stream, cancelled: Callable[[], bool] = never) -> None:
        """Returns once all is durable and every level is exact and stored; raises as `flush`."""
        for image in stream.image.steady():
            self._settler.drain_all(image, cancelled)
        self.flush(stream, cancelled)

    def close(self, stream: Stream, outcome: Outcome) -> None:
        """Ends a finished stream; durable when it returns. OSError as of log or store.

        The image's own metadata says so too. The stream may be opened again: the next
        message that it takes makes it open again.
        """
        record = Close(bytes.fromhex(stream.key[0]), stream.stream_id, stream.received, outcome)
        appended = self._journal.append(record)
        try:
            self._journal.sync(appended.position)
        except BaseException:
            self._journal.abandoned(appended)
            raise
        stream.counters.outcome = outcome
        state = stream.state(stream.received)
        self._journal.merged(appended, 0, stream.key, state)
        self._frames.store([state])
        self.describe(stream.image, closing=stream)

    def describe(self, image: OpenImage, closing: Stream | None = None) -> None:
        """Writes what is known of the image's streams into its metadata.

        closing: a stream that is held, but is described as if it were not. OSError.
        """
        # One at a time, so that the file ends with the newest facts.
        with self._describing:
            streams = self.streams(image)
            if closing is not None:
                outcome = Outcome(closing.counters.outcome)
                streams = [
                    replace(info, outcome=outcome) if info.stream_id == closing.stream_id else info
                    for info in streams
                ]
            image.stored.metadata.write_streams([info.described() for info in streams])

    def refresh(self, stream: Stream, *, stirred: bool = False) -> tuple[int, int]:
        """(received, durable) as of now; `stirred`: looks again though nothing was told.

        OSError where what is stored can't be recorded as such; it is tried again at the
        next call.
        """
        with stream.looking:
            with stream.changed:
                stirred, stream.stirred = stirred or stream.stirred, False
                count, applied = self._durable(stream) if stirred else (0, None)
                last = stream.pending[count - 1] if count else None
            if last is not None and applied is not None:
                try:
                    # Without `changed`: who tells of the next sync must not wait for the disk.
                    self._journal.stored(last.state, applied)
                except BaseException:
                    with stream.changed:
                        stream.stirred = True
                    raise
            with stream.changed:
                done = [stream.pending.popleft() for _ in range(count)]
                if done:
                    stream.durable = done[-1].state.sequence
                now = stream.received, stream.durable
            if stream.logged:
                # Else nobody waits for it.
                at = time.perf_counter()
                for entry in done:
                    self._measures.durable.add(at - entry.since)
            return now

    def _durable(self, stream: Stream) -> tuple[int, int | None]:
        """How many of the pending are in the log, or stored, up to the first that is neither.

        And the `order` of the last that is only stored, if there is one.
        """
        oldest: int | None = None
        # 0 is where an empty log ends.
        applied: int | None = None
        for count, entry in enumerate(stream.pending):
            if entry.position and not self._journal.lost(entry.position):
                if not self._journal.durable(entry.position):
                    # Its sync may yet fail: what is behind it has to wait.
                    return count, applied
            else:
                if applied is None:
                    oldest = self._dirty.oldest_tick(stream.image.number, 0)
                if oldest is not None and entry.tick >= oldest:
                    return count, applied
                applied = entry.order
        return len(stream.pending), applied

    def _check_taken(self, image: OpenImage) -> None:
        if image.base.deleted:
            raise NotFound(f"image {image.image.name!r} was deleted", field="open.image")

    def _wanted(self, stream: Stream, sequence: int, field: str) -> bool:
        wanted = stream.received + 1
        if sequence < 1:
            raise InvalidArgument(f"{field} is {sequence}, not at least 1", field=field)
        if sequence > wanted:
            raise FailedPrecondition(
                f"{field} is {sequence}, wanted is {wanted}", field=field, wanted=wanted
            )
        if sequence < wanted:
            stream.counters.duplicates += 1
        return sequence == wanted

    def _received(
        self,
        stream: Stream,
        record: Record | Skip,
        tick: int,
        order: int,
        appended: Appended | None,
        since: float,
        *,
        stirs: int | None,
    ) -> None:
        """stirs: how often the stream was stirred before it was merged; None: look anyhow."""
        stream.counters.outcome = Outcome.OPEN
        entry = Pending(stream.state(record.sequence), tick, 0, order, since)
        # Before anybody can find that the write is durable.
        row = row_of(record)
        many = row is not None and self._frames.note(stream.image, row)
        if appended is not None:
            entry.position = appended.position
            self._journal.merged(appended, entry.tick, stream.key, entry.state)
        with stream.changed:
            stream.received = record.sequence
            stream.pending.append(entry)
            if appended is None:
                # With the lock: what stirs from now on finds it pending.
                before = stream.stirs != stirs
            else:
                before = self._journal.durable(appended.position)
            if before:
                # It may be durable since before it was pending.
                stream.stirred = True
            stream.changed.notify_all()
        if many:
            # Memory is bounded: what is said of frames may not wait for ever.
            self.flush(stream)
            self._frames.store([stream.state(stream.durable)])

    def _merge(self, image: OpenImage, region: Region, pixels: Array) -> int:
        tick = 0
        for box, parts in by_shard(image.pyramid.levels[0], region, self._batch_chunks(image)):
            tick = self._settler.merge(image, 0, parts, pixels[box.slices()])
        return tick

    def _settle(self, account: Account) -> None:
        """Stores what memory has of all images that `account` holds for; raises as `flush`."""
        for image in self._images.opened():
            if image.image.adopted is None and account.holds(image.image.name):
                self._settler.drain_all(image, deferred=False)

    def _batch_chunks(self, image: OpenImage) -> int:
        # One region may touch more chunks than memory holds: an eighth at a time.
        return max(1, self._budget.dirty_limit_bytes // 8 // image.chunk_bytes)
