"""Where does the next segment come from, and where do the old ones go?

One thread of its own does all that is slow with segments as files: it keeps one ahead of
need, the reserve, so that an append does not wait and a full disk is known before the
log can't be written; and it voids what was released.

Invariants
- Segments are voided in the order in which they were handed in, each durably before the
  next one: what a crash leaves of the log has no hole.
- A number is used once.
- A file that a sync failed on is not used again, except to be voided: that writes its
  header anew each time it is tried.
- A file that could not be made is gone for good before the next segment is begun: if its
  name came back, it could be a live segment without records, where others were released.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from ziggurat_engine.log import segment
from ziggurat_engine.log.segment import Segment, SegmentWriter
from ziggurat_engine.vfs import FileSystem

_log = logging.getLogger(__name__)


class Keeper:
    """Hands out segments (`take`) and gets them back (`free`). For any thread."""

    def __init__(
        self,
        fs: FileSystem,
        directory: Path,
        *,
        segment_bytes: int,
        max_spares: int,
        retry_seconds: float,
        next_number: int,
    ) -> None:
        self._fs = fs
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._max_spares = max_spares
        self._retry_seconds = retry_seconds
        self._number = next_number
        self._changed = threading.Condition()
        self._released: deque[Segment] = deque()
        self._spares: list[Path] = []
        # Files that may be live segments, and are to be removed for good.
        self._doubtful: list[Path] = []
        self._reserve: SegmentWriter | None = None
        self._error: OSError | None = None
        self._void_error: OSError | None = None
        self._make_at = self._void_at = 0.0  # after an error: when to try again
        self._died: BaseException | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="log-keeper", daemon=True)

    def start(self) -> None:
        """Begins to work."""
        self._thread.start()

    def take(self) -> SegmentWriter:
        """The reserve; waits while one is being made, but for no disk to get better: OSError."""
        with self._changed:
            while self._reserve is None:
                if self._died is not None or self._closing:
                    raise RuntimeError("the log's keeper has ended") from self._died
                if self._error is not None:
                    raise again(self._error)
                self._changed.wait()
            reserve, self._reserve = self._reserve, None
            self._changed.notify_all()
            return reserve

    def give_back(self, reserve: SegmentWriter) -> None:
        """Takes a reserve again that could not be begun; nothing of it counts."""
        reserve.close()
        self.free((reserve.segment,))

    def free(self, segments: Iterable[Segment]) -> None:
        """Voids these, after those handed in before, and reuses or deletes their files."""
        with self._changed:
            self._released.extend(segments)
            self._changed.notify_all()

    @property
    def error(self) -> OSError | None:
        """Why there is no reserve, if it was tried."""
        with self._changed:
            return self._error if self._reserve is None else None

    @property
    def room(self) -> int:
        """Bytes of the reserve."""
        with self._changed:
            return self._reserve.room if self._reserve is not None else 0

    def files(self) -> tuple[int, int]:
        """(spare files, bytes of all files that hold no live records)."""
        with self._changed:
            ready = len(self._spares) + (self._reserve is not None)
            released = sum(each.nbytes for each in self._released)
            return ready + len(self._released), ready * self._segment_bytes + released

    def close(self) -> None:
        """Voids what was handed in, unless the disk refuses, and ends the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()
        if self._reserve is not None:
            self._reserve.close()

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._work()
        except BaseException as error:
            with self._changed:
                self._died = error
                self._changed.notify_all()

    def _wait_for_work(self) -> bool:
        with self._changed:
            while True:
                if self._closing and (self._void_error is not None or not self._released):
                    return False
                times = [self._void_at] if self._released else []
                if self._reserve is None and not self._closing:
                    times.append(self._make_at)
                left = min(times) - time.monotonic() if times else None
                if left is not None and left <= 0:
                    return True
                self._changed.wait(left)

    def _work(self) -> None:
        """One step: of a spare file the reserve is made at once, otherwise space is freed first."""
        with self._changed:
            now = time.monotonic()
            make = self._reserve is None and not self._closing and self._make_at <= now
            first = self._released[0] if self._released and self._void_at <= now else None
            spare = self._spares.pop() if make and self._spares else None
        if first is not None and spare is None:
            self._try_to_void(first)
        elif make:
            self._try_to_make(spare)

    def _try_to_make(self, spare: Path | None) -> None:
        try:
            reserve = self._make(spare)
        except OSError as error:
            if self._error is None:
                _log.warning("the log has no next segment: %s", error)
            with self._changed:
                self._error, self._make_at = error, time.monotonic() + self._retry_seconds
                self._changed.notify_all()
            return
        if self._error is not None:
            _log.info("the log has a next segment again")
        with self._changed:
            self._reserve, self._error = reserve, None
            self._changed.notify_all()

    def _make(self, spare: Path | None) -> SegmentWriter:
        try:
            self._remove_doubtful()
        except OSError:
            if spare is not None:
                with self._changed:
                    self._spares.append(spare)
            raise
        number, self._number = self._number, self._number + 1
        path = spare or self._directory / segment.name_of(number)
        try:
            if spare is None:
                return segment.create(self._fs, path, number, self._segment_bytes)
            return segment.reuse(self._fs, path, number, self._segment_bytes)
        except OSError:
            self._doubtful.append(path)
            raise

    def _remove_doubtful(self) -> None:
        if self._doubtful:
            for path in self._doubtful:
                with contextlib.suppress(FileNotFoundError):
                    self._fs.remove(path)
            self._fs.sync_dir(self._directory)
            self._doubtful.clear()

    def _try_to_void(self, first: Segment) -> None:
        try:
            self._void(first)
        except OSError as error:
            if self._void_error is None:
                _log.warning("a released log segment can't be freed: %s", error)
            with self._changed:
                self._void_error, self._void_at = error, time.monotonic() + self._retry_seconds
            return
        self._void_error, self._make_at = None, 0.0

    def _void(self, first: Segment) -> None:
        segment.void(self._fs, first)
        with self._changed:
            self._released.popleft()
            keep = first.nbytes == self._segment_bytes and (
                len(self._spares) < self._max_spares + (self._reserve is None)
            )
            if keep:
                self._spares.append(first.path)
        if not keep:
            # Not synced: if the name comes back, it is that of a voided file.
            self._fs.remove(first.path)


def again(error: OSError) -> OSError:
    """The same error, to be raised in another thread: a raised one keeps its traceback."""
    return OSError(error.errno, error.strerror, error.filename)
