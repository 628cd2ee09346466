"""When is a record durable, and what if a sync fails?

One thread syncs for all: whatever was appended while a sync ran becomes durable with the
next one (group commit).

After a failed sync nobody knows what is on the disk, and a second sync would succeed
without writing anything. So the segments that were not synced are abandoned at the last
durable position, in one step with all that was appended to them, and the log goes on in
another segment, whose BEGIN names that position. Observers are told, once and in order.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from ziggurat_engine.log.keeper import again
from ziggurat_engine.log.segment import SegmentWriter
from ziggurat_engine.measures import SYNC_SECONDS, Histogram
from ziggurat_engine.spans import span

MOST_WAITING_BYTES = 32 * 2**20
"""Of records that may wait for a sync: what comes then waits as well."""

Durable: TypeAlias = Callable[[int], None]
"""durable(position): all that ends at or before it and did not fail is on the disk."""

Failed: TypeAlias = Callable[[OSError, int, int], None]
"""failed(error, after, through): a sync failed. Records that end in (after, through] are
not in the log and never will be; whoever needs them stores them some other way."""


class SyncStats(NamedTuple):
    """Counted since the log was opened; seconds of one successful sync."""

    syncs: int = 0
    failed: int = 0
    seconds_last: float = 0.0
    seconds_max: float = 0.0
    seconds_total: float = 0.0


class _Gap(NamedTuple):
    """Positions in (after, through] will never be durable."""

    after: int
    through: int
    error: OSError


class Committer:
    """The durable position, and the thread that moves it.

    gate: held by whoever appends. `active` is only touched with it held, and so is
    `end`: no record is under way while segments are abandoned.
    """

    def __init__(self, gate: threading.Lock) -> None:
        self._gate = gate
        self.active: SegmentWriter | None = None
        self.end = 0
        """The position behind the last record."""
        self.durable = 0
        """All that ends at or before this and is in no gap is on the disk."""
        self.resume = 0
        """What the BEGIN of the next segment names, while there is no active one."""
        self.stats = SyncStats()
        self.seconds = Histogram(SYNC_SECONDS)
        """Of successful syncs."""
        self._settled = 0  # durable or given up
        self._waiting_bytes = 0  # of records behind that
        self._dirty: list[SegmentWriter] = []  # not wholly synced, in order; the active one last
        self._gaps: list[_Gap] = []
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._moved = threading.Condition(self._lock)
        self._observers: list[tuple[Durable | None, Failed | None]] = []
        self._died: BaseException | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="log-sync", daemon=True)

    def start(self, end: int) -> None:
        """Begins to sync what will be appended; all that ends at `end` or before is durable."""
        self.end = self.durable = self.resume = self._settled = end
        self._thread.start()

    def subscribe(self, durable: Durable | None, failed: Failed | None) -> None:
        """See Log.subscribe."""
        self._observers = [*self._observers, (durable, failed)]

    def check(self) -> None:
        """RuntimeError if nothing will be synced any more."""
        if self._died is not None or self._closing:
            raise RuntimeError("the log is closed") from self._died

    def activate(self, writer: SegmentWriter) -> None:
        """Appends go there from now on; its BEGIN is written. The gate is held."""
        with self._lock:
            self.active = writer
            self._dirty.append(writer)
        self.appended(writer.end, 0)

    def appended(self, end: int, nbytes: int) -> None:
        """A record of so many bytes was appended, and ends there. The gate is held."""
        with self._lock:
            self.end = self.resume = end
            self._waiting_bytes += nbytes
            self._work.notify()

    @property
    def has_room(self) -> bool:
        """Whether a record may be appended: few enough bytes wait for a sync."""
        return self._waiting_bytes <= MOST_WAITING_BYTES

    def wait_for_room(self) -> None:
        """Returns once there is room, or nothing will be synced any more; without the gate."""
        with self._lock:
            self._moved.wait_for(lambda: self.has_room or self._died or self._closing)

    @property
    def oldest_open(self) -> int | None:
        """The first segment that a sync may yet write to, if there is one."""
        with self._lock:
            return self._dirty[0].segment.number if self._dirty else None

    def wait(self, position: int, timeout: float | None) -> bool:
        """See Log.wait."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            while True:
                for gap in self._gaps:
                    if gap.after < position <= gap.through:
                        raise again(gap.error)
                if self.durable >= position:
                    return True
                if self._died is not None:
                    raise RuntimeError("the log's sync thread has ended") from self._died
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self._moved.wait(left)

    def forget(self, position: int) -> None:
        """Nobody asks any more about what ends before `position`."""
        with self._lock:
            self._gaps = [gap for gap in self._gaps if gap.through >= position]

    def close(self) -> OSError | None:
        """Syncs what there is and ends the thread; the error if that failed."""
        with self._gate, self._lock:
            self._closing = True
            self._work.notify()
            self._moved.notify_all()
        if self._thread.ident is not None:
            self._thread.join()
        if self._died is not None:
            raise RuntimeError("the log's sync thread had ended") from self._died
        lost = [gap.error for gap in self._gaps if gap.through == self.end]
        return lost[0] if lost else None

    def close_files(self) -> None:
        """Gives the descriptors back."""
        for writer in self._dirty:
            writer.close()

    def _run(self) -> None:
        try:
            while self._commit():
                pass
        except BaseException as error:
            with self._lock:
                self._died = error
                self._moved.notify_all()

    def _commit(self) -> bool:
        with self._lock:
            while self.end == self._settled:
                if self._closing:
                    return False
                self._work.wait()
            target, nbytes, writers = self.end, self._waiting_bytes, list(self._dirty)
        started = time.perf_counter()
        try:
            with span("log.sync"):
                for writer in writers:
                    writer.sync()
        except OSError as error:
            self._abandon(error)
        else:
            self._advance(target, nbytes, writers, time.perf_counter() - started)
        return True

    def _advance(
        self, target: int, nbytes: int, writers: list[SegmentWriter], seconds: float
    ) -> None:
        with self._lock:
            # The last one may have been appended to since; those before it are full.
            del self._dirty[: len(writers) - 1]
            self.durable = self._settled = target
            self._waiting_bytes -= nbytes
            stats = self.stats
            self.stats = stats._replace(
                syncs=stats.syncs + 1,
                seconds_last=seconds,
                seconds_max=max(stats.seconds_max, seconds),
                seconds_total=stats.seconds_total + seconds,
            )
            self._moved.notify_all()
        self.seconds.add(seconds)
        for writer in writers[:-1]:
            writer.close()
        for durable, _ in self._observers:
            if durable is not None:
                durable(target)

    def _abandon(self, error: OSError) -> None:
        with self._gate:
            with self._lock:
                after, through = self.durable, self.end
                if self._gaps and self._gaps[-1].after == after:
                    self._gaps.pop()
                self._gaps.append(_Gap(after, through, error))
                writers, self._dirty = self._dirty, []
                self.active, self.resume, self._settled = None, after, through
                self._waiting_bytes = 0
                self.stats = self.stats._replace(failed=self.stats.failed + 1)
                self._moved.notify_all()
            for writer in writers:
                with contextlib.suppress(OSError):  # it says nothing new
                    writer.close()
        for _, failed in self._observers:
            if failed is not None:
                failed(error, after, through)
