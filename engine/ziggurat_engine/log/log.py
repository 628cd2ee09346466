"""How does a record become durable, and when may it be forgotten?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from ziggurat_engine.log.record import Record
from ziggurat_engine.vfs import Buffer, FileSystem

MIB = 1024 * 1024

Durable: TypeAlias = Callable[[int], None]
"""durable(position): all that ends at or before it and did not fail is on the disk."""

Failed: TypeAlias = Callable[[OSError, int, int], None]
"""failed(error, after, through): a sync failed. Records that end in (after, through] are
not in the log and never will be; whoever needs them stores them some other way."""


class Appended(NamedTuple):
    """Where a record went."""

    position: int
    """Its end: durable once the log's durable position is not below it."""
    segment: int
    """What it keeps from being released."""


class Replayed(NamedTuple):
    """A record that the log held when it was opened."""

    position: int
    """Its end, as in Appended."""
    segment: int
    record: Record
    payload: memoryview
    """A Region's pixels; otherwise empty. Valid as long as it is held."""


class LogStats(NamedTuple):
    """Figures for the status and the metrics; counters run since the log was opened."""

    records: int
    record_bytes: int
    syncs: int
    failed_syncs: int
    sync_seconds_last: float
    sync_seconds_max: float
    sync_seconds_total: float
    unsynced_bytes: int
    segments: int
    """Segments that hold records that are not released."""
    spare_segments: int
    disk_bytes: int
    """Preallocated bytes of all files of the log."""


class Log:
    """A log in a directory of its own. All methods may be called from any thread.

    The way of use: open; exhaust replay(); append. Positions grow and never repeat.
    """

    @classmethod
    def open(
        cls,
        fs: FileSystem,
        directory: Path,
        *,
        segment_bytes: int = 256 * MIB,
        max_spare_segments: int = 2,
        retry_seconds: float = 0.5,
    ) -> Log:
        """Takes the directory (made where missing), refusing a second process.

        Writes nothing but the lock before replay() is exhausted. BlockingIOError where
        another log has it open; Corrupt; UnsupportedVersion; OSError.
        """
        raise NotImplementedError

    def subscribe(self, *, durable: Durable | None = None, failed: Failed | None = None) -> None:
        """Has these called by the sync thread, in the order in which things happen.

        They must not raise and should be quick: the next sync waits for them. They may
        call the log's methods other than wait and close.
        """
        raise NotImplementedError

    def replay(self) -> Iterator[Replayed]:
        """The records that were not released, in order; once, and to its end.

        Records that were never durable may be among them, after all those that were;
        when it ends all that it gave is durable. A torn tail is cut, with a warning in
        the process's log. Holds one record in memory.

        Corrupt (file and position named) where a record that was durable is damaged or
        missing; UnsupportedVersion; OSError.
        """
        raise NotImplementedError

    def append(self, record: Record, payload: Buffer = b"") -> Appended:
        """Writes the record to the page cache; returns before it is durable.

        `payload` is not copied and may be changed once it returns. On any error the log
        is as before and may be used: OSError with errno and path (ENOSPC at once where
        no segment can be had; it passes by itself when there is space); ValueError for
        what does not fit the layout or a segment.
        """
        raise NotImplementedError

    def wait(self, position: int, timeout: float | None = None) -> bool:
        """Waits until `position` (of an Appended) is durable; False after `timeout` seconds.

        Raises the OSError of the sync that failed for it.
        """
        raise NotImplementedError

    def roll(self) -> int:
        """Ends the present segment, if it holds records; returns its number.

        So that release() can free it, though it is not full. OSError as for append.
        """
        raise NotImplementedError

    def release(self, segment: int) -> None:
        """No record in this segment and those before it is needed any more.

        Their files are reused or deleted by a thread of the log's, oldest first; until
        then a crash may bring their records back in replay. The segment being appended
        to stays: see roll.
        """
        raise NotImplementedError

    @property
    def position(self) -> int:
        """The end of the last record."""
        raise NotImplementedError

    @property
    def durable(self) -> int:
        """All records that end at or before this and did not fail are on the disk."""
        raise NotImplementedError

    @property
    def state(self) -> Literal["open", "full", "closed"]:
        """full: no next segment can be had now (`error` says why); appends will be refused."""
        raise NotImplementedError

    @property
    def error(self) -> OSError | None:
        """Why the log is full, or None."""
        raise NotImplementedError

    @property
    def room(self) -> int:
        """Bytes of records that can be appended though the disk may be full."""
        raise NotImplementedError

    def stats(self) -> LogStats:
        """Figures at this moment."""
        raise NotImplementedError

    def close(self) -> None:
        """Makes all durable and ends the threads; OSError where that failed. Again is harmless.

        What was released is freed first, so that the next replay is short.
        """
        raise NotImplementedError
