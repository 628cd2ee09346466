"""How does a client's region get from the wire into dirty chunks, exactly once?

A stream is one client's ordered sequence: 1, 2, 3, ... Each number is accepted once; a
repeat is counted and ignored, a gap is refused. A stream outlives the call that
carries it, so that a client that lost its connection learns where to go on.

`received` is the last number that reads see. `durable` follows it as shards are
stored: a number is durable once no dirty shard of level 0 holds a write as old.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ziggurat_engine.cache import Budget, DirtyDirectory
from ziggurat_engine.errors import (
    FailedPrecondition,
    InvalidArgument,
    LimitExceeded,
    OutOfRange,
    StreamHeld,
    Unavailable,
)
from ziggurat_engine.grid import Part
from ziggurat_engine.images import OpenImage
from ziggurat_engine.pyramid import Level
from ziggurat_engine.region import Region
from ziggurat_engine.settle import Settler, never
from ziggurat_engine.spec import Array

MAX_STREAM_ID_BYTES = 128


@dataclass(slots=True)
class StreamCounters:
    """Since the stream was first opened on this server."""

    regions: int = 0
    bytes: int = 0
    skipped_frames: int = 0
    duplicates: int = 0


class Stream:
    """One client's sequence of writes to one image.

    received, durable: the highest sequence numbers of which that is true of all up to
    them. `changed` is notified when either may have grown.
    """

    def __init__(self, image: OpenImage, stream_id: str) -> None:
        self.image = image
        self.stream_id = stream_id
        self.held = False
        self.received = 0
        self.durable = 0
        self.counters = StreamCounters()
        self.changed = threading.Condition()
        # Level 0 was stored since `durable` was last looked at.
        self.stored = False
        # (sequence, tick) of what is received and not durable, in order.
        self.pending: deque[tuple[int, int]] = deque()

    def notify(self) -> None:
        """Something of the image was stored."""
        with self.changed:
            self.stored = True
            self.changed.notify_all()


class Ingest:
    """All write streams. A stream's calls come one at a time, from whoever opened it."""

    def __init__(
        self, dirty: DirtyDirectory, budget: Budget, settler: Settler, *, max_streams: int
    ) -> None:
        self._dirty = dirty
        self._budget = budget
        self._settler = settler
        self._max_streams = max_streams
        self._lock = threading.Condition()
        self.draining = False
        self._streams: dict[tuple[int, str], Stream] = {}

    @property
    def open_streams(self) -> int:
        """Streams that somebody writes to now."""
        with self._lock:
            return sum(stream.held for stream in self._streams.values())

    def open(self, image: OpenImage, stream_id: str) -> Stream:
        """Begins or resumes a stream; the caller holds it until `release`.

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
            stream = self._streams.setdefault(key, Stream(image, stream_id))
            if stream.held:
                raise StreamHeld(
                    f"another call writes to stream {stream_id!r} of {image.image.name!r}",
                    stream_id=stream_id,
                )
            stream.held = True
            image.observers.add(stream.notify)
        return stream

    def release(self, stream: Stream) -> None:
        """The caller writes no more; the stream may be opened again."""
        with self._lock:
            stream.held = False
            stream.image.observers.discard(stream.notify)
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
            stream.notify()

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
        for what can't be accepted, having changed nothing; Unavailable where memory is
        full and the store fails: part of the region may then be written, and the same
        number is wanted again.
        """
        image = stream.image
        pixels = _pixels(image, region, payload)
        if not self._wanted(stream, sequence, "region.sequence"):
            return
        level = image.pyramid.levels[0]
        tick = 0
        for parts in _by_shard(level, region, self._batch_chunks(image)):
            tick = self._settler.merge(image, 0, parts, pixels)
        image.revision = max(image.revision, tick)
        stream.counters.regions += 1
        stream.counters.bytes += pixels.nbytes
        self._received(stream, sequence, tick)

    def skip(self, stream: Stream, sequence: int, frames: int) -> None:
        """Accepts that `frames` frames will not come; raises as `write` does."""
        if frames < 1:
            raise InvalidArgument(f"skip.frames is {frames}, not at least 1", field="skip.frames")
        if self._wanted(stream, sequence, "skip.sequence"):
            stream.counters.skipped_frames += frames
            self._received(stream, sequence, 0)

    def flush(self, stream: Stream, cancelled: Callable[[], bool] = never) -> None:
        """Returns once all that was received is durable.

        Raises Unavailable where it can't be, Cancelled where told to.
        """
        for _ in self._settler.drain(stream.image, 0, cancelled):
            pass
        stream.notify()

    def finish(self, stream: Stream, cancelled: Callable[[], bool] = never) -> None:
        """Returns once all is durable and every level is exact and stored; raises as `flush`."""
        self._settler.drain_all(stream.image, cancelled)
        stream.notify()

    def refresh(self, stream: Stream) -> tuple[int, int]:
        """(received, durable) as of now."""
        with stream.changed:
            stored, stream.stored = stream.stored, False
        if stored:
            oldest = self._dirty.oldest_tick(stream.image.number, 0)
            with stream.changed:
                while stream.pending and (oldest is None or stream.pending[0][1] < oldest):
                    stream.durable = stream.pending.popleft()[0]
        with stream.changed:
            return stream.received, stream.durable

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

    def _received(self, stream: Stream, sequence: int, tick: int) -> None:
        with stream.changed:
            stream.received = sequence
            if tick or stream.pending:
                stream.pending.append((sequence, tick))
            else:
                stream.durable = sequence
            stream.changed.notify_all()

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
