"""Where do messages wait that neither the server nor the window has taken?

In a directory of one writer: segments (see _segment.py) and a lock.

    DIR/lock                          held by the writer's process while it lives
    DIR/00000000000000000065.spool    messages 65, 66, ...
    DIR/00000000000000000129.spool

Messages are appended in the order of their numbers, read by number, and go when they
are acknowledged, a segment at a time. What a process leaves behind the next one finds.

Nothing is synced: the files outlive the death of the process, kill -9 too, but not
always a power cut of its machine. What the disk did not get by then is torn, and cut.

The lock is SQLite's on a file without content: the one lock in the standard library
that works alike on every system and that the system takes back from a dead process.
"""

from __future__ import annotations

import bisect
import json
import logging
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterable
from typing import BinaryIO

from ziggurat._errors import FailedPrecondition, ServerError
from ziggurat._segment import (
    RECORD_OVERHEAD,
    SUFFIX,
    Segment,
    file_name,
    header,
    record_head,
    scan,
)

log = logging.getLogger("ziggurat")

_MAX_SEGMENT_BYTES = 64 * 2**20
# How long a disk that refused is left alone.
_REFUSED_SECONDS = 5.0


class Spool:
    """The spool of one stream of one image; holds its directory until `close`.

    limit_bytes: what its files may take; None: half of what the disk has left.

    One thread may append beside others that read and release. Raises FailedPrecondition
    where another writer has the directory, or where it holds another stream's messages;
    DataLoss where they are damaged; OSError.
    """

    def __init__(self, directory: str, limit_bytes: int | None, image: str, stream_id: str) -> None:
        os.makedirs(directory, exist_ok=True)
        self._directory = directory
        self._owner = json.dumps({"image": image, "stream_id": stream_id})
        # Guards the index; held for no file access but unlink.
        self._lock = threading.Lock()
        # Held while a file is written, and taken before `_lock`.
        self._writing = threading.Lock()
        # In the order of their numbers; each holds a message at least.
        self._segments: list[Segment] = []
        self._size = 0
        # What is appended to. It joins `_segments` with its first message.
        self._current: Segment | None = None
        self._file: BinaryIO | None = None
        self._closed = False
        # Files that could not be deleted: on Windows one that is being read can't.
        self._leftover: list[str] = []
        # The disk refused: nothing is appended before this time.
        self._refused_until = 0.0
        self._directory_lock = _lock_directory(directory)
        try:
            self._find()
            if limit_bytes is None:
                limit_bytes = self.size + shutil.disk_usage(directory).free // 2
        except BaseException:
            self._directory_lock.close()
            raise
        self.limit_bytes = limit_bytes
        self._segment_limit = min(_MAX_SEGMENT_BYTES, max(limit_bytes // 16, 1))

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return self._size

    @property
    def durable(self) -> int:
        """The stream was durable up to this number when the spool was last written."""
        with self._lock:
            return max((segment.durable for segment in self._segments), default=0)

    @property
    def last(self) -> int:
        """The highest number held; 0 where there is none."""
        with self._lock:
            return self._segments[-1].last if self._segments else 0

    def has_room(self, size: int) -> bool:
        """Whether a message of `size` bytes may be appended now."""
        fits = self._size + size + RECORD_OVERHEAD <= self.limit_bytes
        return fits and time.monotonic() >= self._refused_until

    def message_size(self, number: int) -> int | None:
        """Bytes of a message; None where it is not held."""
        with self._lock:
            segment = self._segment_of(number)
            return None if segment is None else segment.message_size(number)

    def append(self, number: int, message: bytes, durable: int) -> bool:
        """Writes a message; False where the disk refuses, and then nothing is kept of it.

        number: one more than the last appended, or the first. durable: how far the stream
        is known to be.
        """
        with self._writing:
            return self._append(number, message, durable)

    def save(self, messages: Iterable[tuple[int, bytes]], durable: int) -> None:
        """Writes what is not held yet of numbered messages, in ascending order.

        They may come before those that are held. The limit is not kept: this is the
        last chance.
        """
        with self._writing:
            for number, message in messages:
                held = self.message_size(number) is not None
                if not held and not self._append(number, message, durable):
                    return

    def read(self, number: int) -> bytes:
        """A message that is held. Raises DataLoss where it can't be read."""
        with self._lock:
            segment = self._segment_of(number)
        if segment is None:
            raise ServerError(f"message {number} is not in the spool", reason="INTERNAL")
        return segment.read(number)

    def release(self, number: int) -> None:
        """Deletes the segments that hold nothing above `number`."""
        # While a file is written it can't be deleted: the next release does it.
        free = self._writing.acquire(blocking=False)
        try:
            with self._lock:
                while self._segments and self._segments[0].last <= number:
                    if self._segments[0] is self._current:
                        if not free:
                            break
                        self._close_file()
                    gone = self._segments.pop(0)
                    self._size -= gone.size
                    self._leftover.append(gone.path)
                self._leftover = [path for path in self._leftover if not _unlink(path)]
        finally:
            if free:
                self._writing.release()

    def close(self) -> None:
        """Lets go of the directory; what is held stays for the next. May be called twice."""
        with self._writing:
            self._close_file()
            self._closed = True
        self.release(0)
        self._directory_lock.close()

    def _find(self) -> None:
        names = sorted(name for name in os.listdir(self._directory) if name.endswith(SUFFIX))
        for name in names:
            segment = scan(os.path.join(self._directory, name))
            if segment is None:
                continue
            if segment.owner != self._owner:
                raise FailedPrecondition(
                    f"the spool {self._directory} holds messages of another stream,"
                    f" {segment.owner}: resume that one first, or use another directory",
                    reason="SPOOL_OF_ANOTHER_STREAM",
                    details=json.loads(segment.owner),
                )
            self._segments.append(segment)
            self._size += segment.size

    def _segment_of(self, number: int) -> Segment | None:
        index = bisect.bisect(self._segments, number, key=_first) - 1
        found = self._segments[index] if index >= 0 else None
        return found if found is not None and number <= found.last else None

    def _append(self, number: int, message: bytes, durable: int) -> bool:
        if self._closed:
            return False
        try:
            segment = self._segment_for(number, durable)
            assert self._file is not None
            _write(self._file, record_head(number, message))
            _write(self._file, message)
        except OSError as error:
            log.warning("the spool %s takes nothing now: %s", self._directory, error)
            self._refused_until = time.monotonic() + _REFUSED_SECONDS
            self._give_up_file()
            return False
        with self._lock:
            if not segment.ends:
                bisect.insort(self._segments, segment, key=_first)
                self._size += segment.begin
            segment.ends.append(segment.size + RECORD_OVERHEAD + len(message))
            self._size += RECORD_OVERHEAD + len(message)
        return True

    def _segment_for(self, number: int, durable: int) -> Segment:
        """The segment to append to: the one that is open, or a new one."""
        current = self._current
        if current is not None:
            if current.last + 1 == number and current.size < self._segment_limit:
                return current
            self._close_file()
        path = os.path.join(self._directory, file_name(number))
        head = header(self._owner, durable)
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115 - it outlives this call
        self._current = Segment(path, number, len(head), durable, self._owner)
        _write(self._file, head)
        return self._current

    def _give_up_file(self) -> None:
        """Closes the file after a failed write; half a record must not stay in it."""
        file, segment = self._file, self._current
        try:
            if file is not None and segment is not None:
                file.truncate(segment.size if segment.ends else 0)
        except OSError:
            # It stays as a torn end, which the next process cuts off.
            pass
        self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = self._current = None


def _first(segment: Segment) -> int:
    return segment.first


def _lock_directory(directory: str) -> sqlite3.Connection:
    lock = sqlite3.connect(
        os.path.join(directory, "lock"), timeout=0, isolation_level=None, check_same_thread=False
    )
    try:
        lock.execute("PRAGMA journal_mode = MEMORY")
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        lock.close()
        raise FailedPrecondition(
            f"another writer uses the spool {directory} ({error})", reason="SPOOL_IN_USE"
        ) from None
    return lock


def _write(file: BinaryIO, data: bytes) -> None:
    """All of it: a raw file may take less than it is given."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _unlink(path: str) -> bool:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
