"""What does a start have to do before it may serve?

The log is replayed: every record is merged again, in order, as if it had just arrived;
memory is bounded by the cache's budget as always, and what is replayed settles as
always. Replaying what is stored already changes nothing (a write is idempotent, and
records come in the order in which they were merged), except where a write that the log
does not hold came after: what is older than an image's `applied` position is skipped.
Records of images that were deleted are skipped too. Of an image that is not there and was
not deleted they are all there is: the start is refused. Of an adopted image that can't be
stored memory takes so many; the rest stays in the log, and the image is not served.

A stream is as far as its numbers are known without a gap, from the state database and
then from the log. A record behind a gap was never acknowledged as durable; it is
merged all the same, and its client sends it again.

Then the shards whose parents may not be stored are deferred: these are made in the
background, or, in an image whose pyramid is, when they are asked for. Levels that another
method was making are gone on with, or removed, before all that (remake.py).
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from ziggurat_engine.errors import DataLoss, Unavailable, ZigguratError
from ziggurat_engine.images import Images, OpenImage
from ziggurat_engine.log import Close, Log, Region, Replayed, Skip
from ziggurat_engine.remake import Remaker
from ziggurat_engine.settling.settle import Settler
from ziggurat_engine.state import UNKNOWN, State, StreamState
from ziggurat_engine.store.frames import Row
from ziggurat_engine.writes.frames import Frames, row_of
from ziggurat_engine.writes.ingest import Ingest
from ziggurat_engine.writes.journal import Journal, StreamKey
from ziggurat_engine.writes.streams import StreamCounters
from ziggurat_engine.writes.streamtable import StreamTable

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 5.0


@dataclass(slots=True)
class _Progress:
    """How far one stream is known to be; `ahead`: what numbers behind a gap count."""

    sequence: int
    facts: dict[str, int]
    ahead: dict[int, tuple[Row | None, dict[str, int]]] = field(default_factory=dict)

    def saw(self, sequence: int, row: Row | None, **counts: int) -> list[Row]:
        """The stream sent this number; returns the rows of frames that are known for sure.

        What is behind a gap counts once the gap is closed.
        """
        rows = []
        if sequence > self.sequence:
            self.ahead[sequence] = (row, counts)
        while (found := self.ahead.pop(self.sequence + 1, None)) is not None:
            self.sequence += 1
            self.facts["outcome"] = 0
            for name, count in found[1].items():
                self.facts[name] += count
            if found[0] is not None:
                rows.append(found[0])
        return rows


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a start found. seconds: that replay took."""

    records: int
    bytes: int
    skipped: int
    stale_shards: int
    seconds: float


class Recovery:
    """Runs once, before streams are opened. `bytes_done` may be read from any thread."""

    def __init__(
        self,
        file: Log,
        state: State,
        journal: Journal,
        images: Images,
        streams: StreamTable,
        ingest: Ingest,
        settler: Settler,
        frames: Frames,
        remaker: Remaker,
        *,
        accept_loss: bool,
    ) -> None:
        self._file = file
        self._state = state
        self._journal = journal
        self._images = images
        self._table = streams
        self._ingest = ingest
        self._settler = settler
        self._frames = frames
        self._remaker = remaker
        self._accept_loss = accept_loss
        self._deleted: set[str] = set()
        # The log is not the one that the data was last used with.
        self._foreign = False
        self._gone: set[str] = set()
        # Images of which the log holds anything.
        self._logged: set[str] = set()
        self._streams: dict[StreamKey, _Progress] = {}
        self._closed: dict[str, OpenImage] = {}
        self.bytes_done = 0

    def run(self) -> Recovered:
        """Replays the log, then defers what is stale; returns when reads see all of it.

        Raises Corrupt and UnsupportedVersion as the log does, DataLoss unless that is
        accepted, Unavailable where memory is full and the store fails.
        """
        started = told = time.monotonic()
        records = skipped = 0
        self._check_log()
        for known in self._state.streams():
            self._streams[known.image, known.stream] = _Progress(known.sequence, known.facts)
        applied = self._state.applied()
        # Before anything is stored: levels that are being made follow it.
        self._remaker.recover()
        deleted = self._state.deleted()
        self._deleted = {uid for uid in deleted if self._images.with_uid(uid) is None}
        if self._deleted != deleted:
            # Their deletion had not begun when the server died.
            self._state.not_deleted(deleted - self._deleted)
        for replayed in self._file.replay():
            records += 1
            skipped += not self._replay(replayed, applied)
            self.bytes_done += replayed.payload.nbytes
            if time.monotonic() - told > PROGRESS_SECONDS:
                told = time.monotonic()
                log.info("replay: %d records, %d MiB", records, self.bytes_done >> 20)
        self._table.remember(
            (
                StreamState(*key, progress.sequence, progress.facts)
                for key, progress in self._streams.items()
            ),
            self._state.expected(),
        )
        for closed in self._closed.values():
            # The crash may have come between the record and the image's metadata.
            try:
                self._table.describe(closed)
            except (ZigguratError, OSError) as error:
                log.warning("%s: its streams can't be described: %s", closed.image.name, error)
        notes = self._state.stale()
        for note in notes:
            image = self._images.with_uid(note.image)
            for levels in (image, image.base.next) if image is not None else ():
                if levels is not None and note.level in levels.noted_levels:
                    level = note.level - levels.noted(0)
                    lazy = levels.lazy(level)
                    self._settler.defer(levels, level, note.shard, note.chunks, lazy=lazy)
        self._adopt_log()
        found = Recovered(records, self.bytes_done, skipped, len(notes), time.monotonic() - started)
        log.info(
            "replayed %d log records (%d MiB, %d skipped) in %.2f s; %d shards are stale",
            found.records,
            found.bytes >> 20,
            found.skipped,
            found.seconds,
            found.stale_shards,
        )
        return found

    def _replay(self, replayed: Replayed, applied: dict[str, int]) -> bool:
        """Merges one record; False where its pixels are not wanted."""
        record = replayed.record
        uid = record.image.hex()
        self._logged.add(uid)
        key = (uid, record.stream)
        stream = self._streams.setdefault(key, _Progress(0, StreamCounters().facts()))
        image = self._images.with_uid(uid)
        wanted, tick = True, 0
        if self._foreign:
            # What it holds may be older than what is stored.
            self._of_before()
            wanted = False
        elif isinstance(record, Close):
            # One of before the last number known was taken back by what came after it.
            if record.sequence >= stream.sequence:
                stream.facts["outcome"] = record.outcome
                if image is not None:
                    self._closed[uid] = image
        elif isinstance(record, Skip):
            rows = stream.saw(record.sequence, row_of(record), skipped_frames=record.frames)
            self._note(image, stream, rows)
        else:
            nbytes = replayed.payload.nbytes
            rows = stream.saw(record.sequence, row_of(record), regions=1, bytes=nbytes)
            self._note(image, stream, rows)
            wanted = replayed.position > applied.get(uid, 0) and uid not in self._deleted
            if wanted and image is None:
                self._missing(uid)
                wanted = False
            if wanted and image is not None:
                tick = self._merge(image, record, replayed)
        self._journal.replayed(
            replayed.segment, tick, key, StreamState(*key, stream.sequence, dict(stream.facts))
        )
        return wanted

    def _merge(self, image: OpenImage, record: Region, replayed: Replayed) -> int:
        """Merges a region; of an adopted image that can't be stored as much as memory takes."""
        if not image.base.unmerged:
            try:
                return self._ingest.merge(image, record.box, replayed.payload)
            except Unavailable as error:
                if image.image.adopted is None:
                    raise
                log.error(
                    "image %s: some of what the log holds waits for the next start: %s",
                    image.image.name,
                    error,
                )
                image.base.unmerged = True
        self._journal.keep(replayed.segment)
        return 0

    def _check_log(self) -> None:
        """Is it the log that goes with the data?"""
        known, identity = self._state.log(), self._file.identity
        if known is not None and known[0] != identity and known[1]:
            self._lost(
                "the directory of the write-ahead log is not the one that the data directory "
                "was last used with, which may hold acknowledged frames: set `log` to that"
            )
        self._foreign = known is not None and known[0] != identity

    def _adopt_log(self) -> None:
        """From now on it is the one that goes with the data, and all that it holds is known."""
        forgotten = self._deleted - self._logged
        if forgotten:
            self._state.not_deleted(forgotten)
        if self._state.log() != (self._file.identity, True):
            self._state.save_log(self._file.identity, needed=True)

    def _of_before(self) -> None:
        if "log" not in self._gone:
            self._lost(
                "the log holds frames, but the data directory was last used with another log, "
                "of which nothing is missing: set `log` to that or to an empty directory"
            )
            self._gone.add("log")

    def _missing(self, uid: str) -> None:
        if uid in self._gone:
            return
        if UNKNOWN in self._deleted:
            log.warning("image %s is not there: deleted before that was written down", uid)
            self._state.save_deleted(uid)
            self._gone.add(uid)
            return
        refused = self._images.refused()
        self._lost(
            f"the log holds acknowledged frames of image {uid}, which is not there: put it back"
            + (f", or mend what keeps these from being used: {', '.join(refused)}" * bool(refused))
        )
        self._gone.add(uid)

    def _lost(self, what: str) -> None:
        if not self._accept_loss:
            raise DataLoss(f"{what}; or start with accept_loss, and do without them")
        log.error("%s; accept_loss is set: they are lost", what)

    def _note(self, image: OpenImage | None, stream: _Progress, rows: list[Row]) -> None:
        """Keeps what is known of frames, as when it arrived; drops that of a deleted image."""
        for row in rows:
            if image is not None and self._frames.note(image, row):
                self._frames.store([StreamState(image.image.uid, row.stream, stream.sequence)])
