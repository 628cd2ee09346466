"""How does a record become durable, and when may it be forgotten?

The log is a directory of segments (segment.py) of records (record.py):

    released  | live, sealed            | active        | reserve | spares
    [ void ]    [ ab ] [ cdefg ] [ hi ]   [ jkl... 0 ]    [ 0 ]     [ void ] [ void ]
                 ^ replay starts here        ^ durable

append takes a record into memory for the active segment (staged.py); the sync thread
(commit.py) writes what there is and moves the durable position; the keeper (keeper.py) makes
the reserve and frees what was released; replay.py reads all of it back.

Assumed of the disk: what fdatasync returned for is there after a power cut; of what was
written since, any part may be, sector by sector. A file's size and blocks, once synced
with it, stay. A name is durable once its directory is synced.

Locks: the gate (one appender at a time) before the committer's, before the keeper's.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from ziggurat_engine.log import record as records
from ziggurat_engine.log import segment as segments
from ziggurat_engine.log.commit import Committer, Durable, Failed
from ziggurat_engine.log.keeper import Keeper
from ziggurat_engine.log.record import Packed, Record
from ziggurat_engine.log.replay import Chain, Replayed
from ziggurat_engine.log.segment import Segment, SegmentWriter, State
from ziggurat_engine.measures import Counted
from ziggurat_engine.vfs import Buffer, FileLock, FileSystem

_log = logging.getLogger(__name__)

MIB = 1024 * 1024


class Appended(NamedTuple):
    """Where a record went."""

    position: int
    """Its end: durable once the log's durable position is not below it."""
    segment: int
    """What it keeps from being released."""


class LogStats(NamedTuple):
    """Figures for the status and the metrics; counters run since the log was opened."""

    records: int
    record_bytes: int
    syncs: int
    failed_syncs: int
    sync_seconds_last: float
    sync_seconds_max: float
    sync_seconds_total: float
    segments: int
    """Segments whose records were not released."""
    spare_segments: int
    """Files that hold none: the reserve, spares, and what is being freed."""
    disk_bytes: int
    """Preallocated bytes of all files of the log."""


class Log:
    """A log in a directory of its own. All methods may be called from any thread.

    The way of use: open; exhaust replay(); append. Positions grow and never repeat.
    """

    def __init__(
        self,
        fs: FileSystem,
        lock: FileLock,
        found: list[segments.Found],
        keeper: Keeper,
        segment_bytes: int,
        identity: str,
    ) -> None:
        self.identity = identity
        """Tells this log from every other; 32 hexadecimal digits."""
        self._fs = fs
        self._lock = lock
        self._found = found
        self._keeper = keeper
        self._max_record_bytes = segment_bytes - segments.FIRST - segments.BEGIN_BYTES
        self._gate = threading.Lock()
        self._committer = Committer(self._gate)
        # Either way nothing more is written to what the sync was of.
        self._committer.subscribe(lambda _: self._free_late(), lambda *_: self._free_late())
        self._live: list[Segment] = []
        self._released = 0
        self._appended = 0
        self._appended_bytes = 0
        self._phase: Literal["opened", "replaying", "open", "closed"] = "opened"

    @classmethod
    def open(
        cls,
        fs: FileSystem,
        directory: Path,
        *,
        segment_bytes: int = 256 * MIB,
        max_spare_segments: int = 2,
        retry_seconds: float = 0.5,
        after: int = 0,
    ) -> Log:
        """Takes the directory (made where missing), refusing a second process.

        Writes nothing but the lock and its identity before replay() is exhausted.
        `segment_bytes` holds for new segments, a multiple of 64 below 4 GiB. after: new
        records get positions above this one, known from elsewhere. BlockingIOError where
        another log has the directory; Corrupt; UnsupportedVersion; OSError.
        """
        if segment_bytes % records.ALIGN or not (
            segments.MIN_SEGMENT_BYTES <= segment_bytes <= segments.MAX_SEGMENT_BYTES
        ):
            raise ValueError(f"segment_bytes {segment_bytes} is no multiple of 64 in 4 KiB..4 GiB")
        fs.make_dirs(directory)
        lock = fs.lock(directory / "lock")
        try:
            identity = _identity(fs, directory)
            found = segments.find(fs, directory)
        except BaseException:
            lock.close()
            raise
        keeper = Keeper(
            fs,
            directory,
            segment_bytes=segment_bytes,
            max_spares=max_spare_segments,
            retry_seconds=retry_seconds,
            next_number=1 + max((segments.segment_of(after), *(each.number for each in found))),
        )
        return cls(fs, lock, found, keeper, segment_bytes, identity)

    def subscribe(self, *, durable: Durable | None = None, failed: Failed | None = None) -> None:
        """Has these called by the sync thread, in the order in which things happen.

        They must not raise and should be quick: the next sync waits for them. They may
        call any method but wait, append, roll and close.
        """
        self._committer.subscribe(durable, failed)

    def replay(self) -> Iterator[Replayed]:
        """The records that were not released, in order; once, and to its end.

        Records that were never durable may be among them, after all those that were;
        when it ends all that it gave is durable. A torn tail is cut, with a warning in
        the process's log. Holds one record in memory.

        Corrupt (file and position named) where a record that was durable is damaged or
        missing; UnsupportedVersion; OSError.
        """
        if self._phase != "opened":
            raise RuntimeError("a log is replayed once")
        self._phase = "replaying"
        live = sorted(
            (
                Segment(each.path, each.header.number, each.header.salt, each.header.nbytes)
                for each in self._found
                if each.header is not None and each.header.state is State.LIVE
            ),
            key=lambda each: each.number,
        )
        chain = Chain(self._fs, live)
        yield from chain.records()
        if chain.torn is not None:
            _log.warning(
                "%s: log cut at position %d: it and %d records behind it were never durable",
                *chain.torn,
            )
        chain.make_durable()
        self._begin(live, chain.end)

    def _begin(self, live: list[Segment], end: int) -> None:
        """Opens for appends, behind `end`: always in another segment than those found.

        Records behind a cut must not join the chain again. The next BEGIN sees to that;
        until it is durable, those in later segments are voided before anything else is,
        the last one first.
        """
        last = segments.segment_of(end)
        self._live = [each for each in live if each.number <= last]
        self._keeper.free(reversed([each for each in live if each.number > last]))
        for each in self._found:
            if each.header is None:
                self._fs.remove(each.path)
            elif each.header.state is State.VOID:
                # Again: the crash may have come between the two steps of voiding it.
                self._keeper.free((Segment(each.path, each.number, 0, each.nbytes),))
        self._found = []
        self._keeper.start()
        self._committer.start(end)
        self._phase = "open"

    def append(self, record: Record, payload: Buffer = b"") -> Appended:
        """Takes the record into memory; returns before it is durable.

        Waits where much waits for the disk. `payload` may be changed once it returns. On any
        error the log is as before and may be used: OSError with errno and path (at once
        where no segment can be had; it passes by itself when there is space); ValueError
        for what does not fit the layout or a segment.
        """
        return self.when_room(partial(self.try_append, record, payload))

    def when_room(self, attempt: Callable[[], Appended | None]) -> Appended:
        """What `attempt`, which ends in `try_append`, returns; made anew where that is None.

        Waits for room before each, which a caller can't do with a lock held that syncs need.
        """
        while True:
            self._committer.wait_for_room()
            appended = attempt()
            if appended is not None:
                return appended

    def try_append(self, record: Record, payload: Buffer = b"") -> Appended | None:
        """As `append`; None where that would wait for the disk."""
        self._check()
        if not self._committer.has_room:
            return None
        packed = records.pack(record, payload)
        if packed.length > self._max_record_bytes:
            raise ValueError(f"a record of {packed.length} bytes is larger than a log segment")
        with self._gate:
            self._check()
            return self._append(packed) if self._committer.has_room else None

    def _append(self, packed: Packed) -> Appended:
        """The gate is held."""
        active = self._committer.active
        if active is None or active.room < packed.length:
            active = self._next_segment()
        end = active.append(packed, self._committer.durable)
        self._committer.appended(end, packed.length)
        self._appended += 1
        self._appended_bytes += packed.length
        return Appended(end, active.segment.number)

    def wait(self, position: int, timeout: float | None = None) -> bool:
        """Waits until `position` (of an Appended) is durable; False after `timeout` seconds.

        Raises the OSError of the sync that failed for it.
        """
        return self._committer.wait(position, timeout)

    def roll(self) -> int:
        """Ends the active segment, if it holds records, so that release() can free it.

        Returns a number that no record appended before is above, and none appended
        later is at or below. OSError as for append.
        """
        with self._gate:
            self._check()
            active = self._committer.active
            if active is None:
                return segments.segment_of(self._committer.end)
            if active.end > active.segment.base + segments.FIRST + segments.BEGIN_BYTES:
                self._next_segment()
                return active.segment.number
            return active.segment.number - 1

    def release(self, segment: int) -> None:
        """No record in this segment and those before it is needed any more.

        Their files are reused or deleted by a thread of the log's, oldest first; until
        then a crash may bring their records back in replay. The segment being appended
        to stays: see roll.
        """
        with self._gate:
            self._check()
            active = self._committer.active
            if active is not None:
                segment = min(segment, active.segment.number - 1)
            if self._live:
                self._released = max(self._released, min(segment, self._live[-1].number))
            self._free()

    def _free(self) -> None:
        """Frees what was released, but for what a sync may yet write to. The gate is held."""
        through, oldest = self._released, self._committer.oldest_open
        if oldest is not None:
            through = min(through, oldest - 1)
        freed = [each for each in self._live if each.number <= through]
        self._live = self._live[len(freed) :]
        self._keeper.free(freed)
        if self._live:
            self._committer.forget(self._live[0].base)

    def _free_late(self) -> None:
        """What was released before a sync was done with it."""
        live = self._live
        if live and live[0].number <= self._released:
            with self._gate:
                self._free()

    @property
    def position(self) -> int:
        """The end of the last record."""
        return self._committer.end

    @property
    def durable(self) -> int:
        """All records that end at or before this and did not fail are on the disk."""
        return self._committer.durable

    @property
    def state(self) -> Literal["open", "full", "closed"]:
        """full: no next segment can be had now (`error` says why); appends will be refused.

        closed: before replay() has ended, too.
        """
        if self._phase != "open":
            return "closed"
        return "open" if self.error is None else "full"

    @property
    def error(self) -> OSError | None:
        """Why the log is full, or None."""
        return self._keeper.error

    @property
    def room(self) -> int:
        """Bytes of records that can be appended though the disk may be full."""
        active = self._committer.active
        return self._keeper.room + (active.room if active is not None else 0)

    def stats(self) -> LogStats:
        """Figures at this moment."""
        syncs = self._committer.stats
        spares, spare_bytes = self._keeper.files()
        live = self._live
        return LogStats(
            self._appended,
            self._appended_bytes,
            *syncs,
            len(live),
            spares,
            sum(each.nbytes for each in live) + spare_bytes,
        )

    def sync_seconds(self) -> Counted:
        """How long successful syncs took, since the log was opened."""
        return self._committer.seconds.read()

    def close(self) -> None:
        """Makes all durable and ends the threads; OSError where that failed. Again is harmless.

        What was released is freed first, so that the next replay is short.
        """
        phase, self._phase = self._phase, "closed"
        if phase == "closed":
            return
        try:
            if phase == "open":
                self._finish()
        finally:
            self._lock.close()

    def _finish(self) -> None:
        committer = self._committer
        try:
            try:
                error = committer.close()
            finally:
                with self._gate:
                    self._free()
                self._keeper.close()
            if error is not None:
                raise error
            active = committer.active
            if active is not None and active.room >= records.pack_mark().length:
                # The witness that the last records were durable: damage to them is
                # then seen as such, and not taken for a torn tail. They are durable
                # without it.
                try:
                    active.append(records.pack_mark(), committer.durable)
                    active.sync()
                except OSError as error:
                    _log.warning("the log was closed without its mark: %s", error)
        finally:
            committer.close_files()

    def _check(self) -> None:
        if self._phase != "open":
            raise RuntimeError("the log is closed, or was not replayed")
        self._committer.check()

    def _next_segment(self) -> SegmentWriter:
        """Makes the reserve the active segment. The gate is held."""
        committer = self._committer
        reserve = self._keeper.take()
        begin: Packed = records.pack_begin(committer.resume)
        try:
            reserve.append(begin, committer.durable)
        except OSError:
            self._keeper.give_back(reserve)
            raise
        self._live = [*self._live, reserve.segment]
        committer.activate(reserve)
        return reserve


def _identity(fs: FileSystem, directory: Path) -> str:
    """What the file `identity` says; made where there is none, before the log's first record."""
    path = directory / "identity"
    if fs.exists(path):
        known = fs.read_file(path)
        if re.fullmatch(rb"[0-9a-f]{32}", known):
            return known.decode()
        # A crash came while it was made.
        fs.remove(path)
    made = os.urandom(16).hex()
    file = fs.create(path)
    try:
        file.write(made.encode())
        file.sync()
    finally:
        file.close()
    fs.sync_dir(directory)
    return made
