"""How does a client's region get from the wire into dirty chunks, exactly once?

A stream is one client's ordered sequence: 1, 2, 3, ... Each number is accepted once; a
repeat is counted and ignored, a gap is refused. A stream outlives the call that
carries it, and the server, so that a client that lost its connection learns where to
go on.

`received` is the last number that reads see. `durable` follows it: a write is durable
once the log that holds it is synced, or once it is stored (durability.py). Who may write to
a stream, and what is known of those nobody writes to, is told in streamtable.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ziggurat_engine.cache import Budget, DirtyDirectory
from ziggurat_engine.errors import (
    Cancelled,
    FailedPrecondition,
    InvalidArgument,
    OutOfRange,
    Unavailable,
)
from ziggurat_engine.images import Images, OpenImage
from ziggurat_engine.log import Appended, Close, Skip
from ziggurat_engine.log import Region as Record
from ziggurat_engine.measures import Measures
from ziggurat_engine.region import Region
from ziggurat_engine.settling.settle import Settler, never
from ziggurat_engine.space import Space
from ziggurat_engine.spec import Array
from ziggurat_engine.writes.cutting import by_shard, covers_cells, pixels_of
from ziggurat_engine.writes.durability import Durability
from ziggurat_engine.writes.frames import Frames, check_metadata, pack, row_of
from ziggurat_engine.writes.journal import Journal
from ziggurat_engine.writes.pacing import InFlight
from ziggurat_engine.writes.quotas import Account, Quotas
from ziggurat_engine.writes.streams import Outcome, Pending, Stream
from ziggurat_engine.writes.streamtable import StreamTable

# As far as the database counts, and messages do.
MAX_FRAMES = 2**63 - 1


class Ingest:
    """What streams bring. A stream's calls come one at a time, from whoever opened it."""

    def __init__(
        self,
        streams: StreamTable,
        durability: Durability,
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
        max_metadata_bytes: int,
        max_inflight_bytes: int,
    ) -> None:
        self._streams = streams
        self._durability = durability
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

    def pace(self, stream: Stream, nbytes: int, cancelled: Callable[[], bool] = never) -> None:
        """Returns when a message of so many bytes may be taken, however fast they come.

        Raises Cancelled where told to, Unavailable where the engine is stopping.
        """
        name, flow = stream.image.image.name, "/".join(stream.key)
        try:
            self._quotas.pace(name, flow, nbytes, lambda: self._streams.draining or cancelled())
        except Cancelled:
            if self._streams.draining:
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
        image.check_taken()
        pixels = pixels_of(image, region, payload)
        check_metadata(metadata, self._max_metadata_bytes)
        if not self._wanted(stream, sequence, "region.sequence"):
            return
        self._space.check()
        self._settler.failures.check_storable(image)
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
        self._settler.schedule.last_write = time.monotonic()
        with self._budget.beside(pixels.nbytes), image.base.write_order:
            appended = None if logged is None else self._journal.append(record, logged)
            # Before the pixels: when they are stored the image's metadata has to reach so far.
            image.grow(region)
            try:
                # What is to be durable, and not in the log, is so once it is stored.
                tick = self._merge(image, region, pixels, awaited=stream.logged and logged is None)
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

    def flush(self, stream: Stream, cancelled: Callable[[], bool] = never) -> None:
        """Returns once all that was received is durable.

        Raises Unavailable where it can't be stored, OSError where the log can't be
        written, Cancelled where told to.
        """
        target = stream.received
        while self._durability.refresh(stream, stirred=True)[1] < target:
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
        self._streams.end(stream, cancelled)
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
        self._streams.describe(stream.image, closing=stream)

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
            stream.last_received = time.monotonic()
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

    def _merge(
        self, image: OpenImage, region: Region, pixels: Array, *, awaited: bool = False
    ) -> int:
        tick = 0
        for box in by_shard(image.pyramid.levels[0], region, self._batch_chunks(image)):
            part = pixels[box.relative_to(region.offset).slices()]
            tick = self._settler.merge(image, 0, box, part, awaited=awaited)
        return tick

    def _settle(self, account: Account) -> None:
        """Stores what memory has of all images that `account` holds for; raises as `flush`."""
        for image in self._images.opened():
            if image.image.adopted is None and account.holds(image.image.name):
                self._settler.drain_all(image, deferred=False)

    def _batch_chunks(self, image: OpenImage) -> int:
        # One region may touch more chunks than memory holds: an eighth at a time.
        return max(1, self._budget.dirty_limit_bytes // 8 // image.chunk_bytes)
