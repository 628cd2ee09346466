"""How does a client's region get from the wire into dirty chunks, exactly once?

A stream is one client's ordered sequence: 1, 2, 3, ... Each number is accepted once; a
repeat is counted and ignored, a gap is refused. A stream outlives the call that
carries it, and the server, so that a client that lost its connection learns where to
go on.

`received` is the last number that reads see. `durable` follows it: a write is durable
once the log that holds it is synced, or once it is stored (journal.py).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass

import numpy as np

from ziggurat_engine.cache import Budget, DirtyDirectory
from ziggurat_engine.errors import (
    Cancelled,
    FailedPrecondition,
    InvalidArgument,
    LimitExceeded,
    NotFound,
    OutOfRange,
    StreamHeld,
    Unavailable,
)
from ziggurat_engine.grid import Grid, Part
from ziggurat_engine.images import OpenImage
from ziggurat_engine.journal import Journal, StreamKey
from ziggurat_engine.log import Appended, Skip
from ziggurat_engine.log import Region as Record
from ziggurat_engine.pyramid import Level
from ziggurat_engine.region import Region
from ziggurat_engine.settle import Settler, never
from ziggurat_engine.space import Space
from ziggurat_engine.spec import Array
from ziggurat_engine.state import StreamState

MAX_STREAM_ID_BYTES = 128


@dataclass(slots=True)
class StreamCounters:
    """Since the stream was first opened on this server."""

    regions: int = 0
    bytes: int = 0
    skipped_frames: int = 0
    duplicates: int = 0


@dataclass(slots=True)
class Pending:
    """A write that is received and not known to be durable.

    tick: stored once no older tick is dirty; 0 where there are no pixels. position: of its
    log record's end, 0 where the log does not hold it. order: the log's end when it was
    merged.
    """

    sequence: int
    tick: int
    position: int
    order: int


class Stream:
    """One client's sequence of writes to one image.

    received, durable: the highest sequence numbers of which that is true of all up to
    them. logged: False where the client asked for less than durable acknowledgements.
    `changed` guards what it holds, and is notified when either number may have grown.
    """

    def __init__(self, image: OpenImage, stream_id: str, state: StreamState | None) -> None:
        self.image = image
        self.stream_id = stream_id
        self.key = (image.image.uid, stream_id)
        self.held = False
        self.logged = True
        self.received = self.durable = state.sequence if state else 0
        self.counters = StreamCounters(**(state.facts if state else {}))
        self.changed = threading.Condition()
        # Something was stored or synced since `durable` was last looked at.
        self.stirred = False
        self.pending: deque[Pending] = deque()

    def stir(self) -> None:
        """Something was stored or synced."""
        with self.changed:
            self.stirred = True
            self.changed.notify_all()

    def state(self, sequence: int) -> StreamState:
        """What is to be remembered once `sequence` is durable."""
        return StreamState(*self.key, sequence, asdict(self.counters))


class Ingest:
    """All write streams. A stream's calls come one at a time, from whoever opened it."""

    def __init__(
        self,
        dirty: DirtyDirectory,
        budget: Budget,
        settler: Settler,
        journal: Journal,
        space: Space,
        *,
        max_streams: int,
    ) -> None:
        self._dirty = dirty
        self._budget = budget
        self._settler = settler
        self._journal = journal
        self._space = space
        self._max_streams = max_streams
        self._lock = threading.Condition()
        self.draining = False
        self._streams: dict[tuple[int, str], Stream] = {}
        # How far streams are that nobody has opened since the start.
        self._known: dict[StreamKey, StreamState] = {}

    def remember(self, states: Iterable[StreamState]) -> None:
        """How far streams were at the start; to be called before any is opened."""
        self._known.update({(state.image, state.stream): state for state in states})

    @property
    def open_streams(self) -> int:
        """Streams that somebody writes to now."""
        with self._lock:
            return sum(stream.held for stream in self._streams.values())

    def open(self, image: OpenImage, stream_id: str, *, logged: bool = True) -> Stream:
        """Begins or resumes a stream; the caller holds it until `release`.

        logged: whether the log takes its writes, so that they are durable at once; else
        they are when they are stored.

        Raises StreamHeld while another caller does, InvalidArgument for a bad id,
        LimitExceeded above max_streams, Unavailable once the engine is stopping.
        """
        size = len(stream_id.encode("utf-8", "surrogatepass"))
        if not 1 <= size <= MAX_STREAM_ID_BYTES:
            raise InvalidArgument(
                f"stream_id has {size} bytes, not 1 to {MAX_STREAM_ID_BYTES}",
                field="open.stream_id",
            )
        with self._lock:
            if self.draining:
                raise Unavailable("the server is stopping")
            if sum(stream.held for stream in self._streams.values()) >= self._max_streams:
                raise LimitExceeded(
                    f"max_streams = {self._max_streams} are open",
                    limit="max_streams",
                    max_streams=self._max_streams,
                )
            key = (image.number, stream_id)
            stream = self._streams.get(key)
            if stream is None:
                known = self._known.pop((image.image.uid, stream_id), None)
                stream = self._streams[key] = Stream(image, stream_id, known)
            if stream.held:
                raise StreamHeld(
                    f"another call writes to stream {stream_id!r} of {image.image.name!r}",
                    stream_id=stream_id,
                )
            stream.held = True
            # The call before may have ended without telling all that is durable by now.
            stream.stirred = True
            stream.logged = logged
            image.observers.add(stream.stir)
            self._journal.observers.add(stream.stir)
        return stream

    def release(self, stream: Stream) -> None:
        """The caller writes no more; the stream may be opened again."""
        with self._lock:
            stream.held = False
            stream.image.observers.discard(stream.stir)
            self._journal.observers.discard(stream.stir)
            self._lock.notify_all()

    def forget(self, image: OpenImage) -> None:
        """Forgets the streams of an image that is being deleted.

        Raises FailedPrecondition while one of them is held.
        """
        with self._lock:
            keys = [key for key in self._streams if key[0] == image.number]
            for key in keys:
                if self._streams[key].held:
                    raise FailedPrecondition(
                        f"stream {key[1]!r} writes to {image.image.name!r}", stream_id=key[1]
                    )
            for key in keys:
                del self._streams[key]

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

    def write(self, stream: Stream, sequence: int, region: Region, payload: memoryview) -> None:
        """Accepts one region of level 0; returns once reads see all of it.

        payload: its pixels, little-endian, C order; not used after the call. Waits
        while memory is full. Raises InvalidArgument, OutOfRange, FailedPrecondition
        for what can't be accepted, having changed nothing; OSError where the log can't
        be written, and DiskFull where it soon couldn't be, having changed nothing;
        Unavailable where memory is full and the store fails: part of the region may
        then be written, and the same number is wanted again.
        """
        image = stream.image
        if image.deleted:
            raise NotFound(f"image {image.image.name!r} was deleted", field="open.image")
        pixels = _pixels(image, region, payload)
        if not self._wanted(stream, sequence, "region.sequence"):
            return
        self._space.check()
        # What covers whole shards is stored at once: writing it twice would gain nothing.
        logged = stream.logged and not _covers_cells(image.pyramid.levels[0].shards, region)
        record = Record(bytes.fromhex(image.image.uid), stream.stream_id, sequence, region)
        with image.write_order:
            appended = self._journal.append(record, payload) if logged else None
            try:
                tick = self._merge(image, region, pixels)
            except BaseException:
                if appended is not None:
                    self._journal.abandoned(appended)
                raise
            order = self._journal.position
            image.revision = max(image.revision, tick)
        stream.counters.regions += 1
        stream.counters.bytes += pixels.nbytes
        self._received(stream, Pending(sequence, tick, 0, order), appended)

    def merge(self, image: OpenImage, region: Region, payload: memoryview) -> int:
        """Merges a region of level 0 that the log holds already; returns its tick."""
        tick = self._merge(image, region, _pixels(image, region, payload))
        image.revision = max(image.revision, tick)
        return tick

    def skip(self, stream: Stream, sequence: int, frames: int) -> None:
        """Accepts that `frames` frames will not come; raises as `write` does."""
        if frames < 1:
            raise InvalidArgument(f"skip.frames is {frames}, not at least 1", field="skip.frames")
        if not self._wanted(stream, sequence, "skip.sequence"):
            return
        self._space.check()
        record = Skip(bytes.fromhex(stream.key[0]), stream.stream_id, sequence, frames)
        appended = self._journal.append(record) if stream.logged else None
        stream.counters.skipped_frames += frames
        self._received(stream, Pending(sequence, 0, 0, self._journal.position), appended)

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
        self._settler.drain_all(stream.image, cancelled)
        self.flush(stream, cancelled)

    def refresh(self, stream: Stream, *, stirred: bool = False) -> tuple[int, int]:
        """(received, durable) as of now; `stirred`: looks again though nothing was told.

        OSError where what is stored can't be recorded as such; it is tried again at the
        next call.
        """
        with stream.changed:
            stirred, stream.stirred = stirred or stream.stirred, False
            pending = stream.pending
            if stirred and pending:
                try:
                    self._take_durable(stream)
                except BaseException:
                    stream.stirred = True
                    raise
            return stream.received, stream.durable

    def _take_durable(self, stream: Stream) -> None:
        """Takes off what is in the log, or stored; stops at the first that is neither."""
        oldest: int | None = None
        # 0 is where an empty log ends.
        applied: int | None = None
        count = 0
        for entry in stream.pending:
            if entry.position and not self._journal.lost(entry.position):
                if not self._journal.durable(entry.position):
                    # Its sync may yet fail: what is behind it has to wait.
                    break
            else:
                if applied is None:
                    oldest = self._dirty.oldest_tick(stream.image.number, 0)
                if oldest is not None and entry.tick >= oldest:
                    break
                applied = entry.order
            count += 1
        if count:
            last = stream.pending[count - 1].sequence
            if applied is not None:
                self._journal.stored(stream.state(last), applied)
            for _ in range(count):
                stream.pending.popleft()
            stream.durable = last

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

    def _received(self, stream: Stream, entry: Pending, appended: Appended | None) -> None:
        if appended is not None:
            entry.position = appended.position
            self._journal.merged(appended, entry.tick, stream.key, stream.state(entry.sequence))
        with stream.changed:
            stream.received = entry.sequence
            stream.pending.append(entry)
            if not entry.tick and not entry.position:
                stream.stirred = True
            stream.changed.notify_all()

    def _merge(self, image: OpenImage, region: Region, pixels: Array) -> int:
        tick = 0
        for parts in _by_shard(image.pyramid.levels[0], region, self._batch_chunks(image)):
            tick = self._settler.merge(image, 0, parts, pixels)
        return tick

    def _batch_chunks(self, image: OpenImage) -> int:
        # One region may touch more chunks than memory holds: an eighth at a time.
        return max(1, self._budget.dirty_limit_bytes // 8 // image.chunk_bytes)


def _pixels(image: OpenImage, region: Region, payload: memoryview) -> Array:
    shape, dtype = image.image.shape, image.image.dtype
    for field, numbers in (("region.offset", region.offset), ("region.shape", region.shape)):
        if len(numbers) != len(shape):
            raise InvalidArgument(
                f"{field} has {len(numbers)} numbers for {len(shape)} axes", field=field
            )
    if 0 in region.shape:
        raise InvalidArgument(f"region.shape {region.shape} is empty", field="region.shape")
    if not Region.whole(shape).contains(region):
        raise OutOfRange(
            f"region {region} reaches outside the image {Region.whole(shape)}",
            field="region.offset" if any(map(int.__ge__, region.offset, shape)) else "region.shape",
        )
    if payload.nbytes != region.size * dtype.itemsize:
        raise InvalidArgument(
            f"region.payload has {payload.nbytes} bytes; {'x'.join(map(str, region.shape))}"
            f" pixels of {dtype.name} are {region.size * dtype.itemsize}",
            field="region.payload",
        )
    return np.frombuffer(payload, dtype=dtype.newbyteorder("<")).reshape(region.shape)


def _covers_cells(grid: Grid, region: Region) -> bool:
    """True where every cell that `region` touches lies wholly in it."""
    return all(
        start % cell == 0 and (stop % cell == 0 or stop == size)
        for start, stop, cell, size in zip(
            region.offset, region.stop, grid.cell, grid.shape, strict=True
        )
    )


def _by_shard(level: Level, region: Region, limit: int) -> Iterator[list[Part]]:
    """The parts of `region` chunk by chunk, at most `limit` of one shard at a time."""
    for shard in level.shards.plan(region):
        box = Region(
            tuple(map(int.__add__, region.offset, shard.inside_region.offset)),
            shard.inside_region.shape,
        )
        parts = []
        for part in level.chunks.plan(box):
            inside = part.inside_region
            offset = tuple(map(int.__add__, shard.inside_region.offset, inside.offset))
            parts.append(part._replace(inside_region=Region(offset, inside.shape)))
            if len(parts) == limit:
                yield parts
                parts = []
        if parts:
            yield parts
