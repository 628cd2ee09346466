"""What does the engine do behind a disk that is much slower than its clients?

SlowFs has the operating system's files, and disks that take so many bytes a second. A
disk is busy with one request at a time: who comes later waits longer.

    the store   staged files: each write waits for the disk, as past the page cache
    the log     files that are overwritten in place: a write goes to the page cache, its
                sync waits for the disk

Everything else (metadata, the state database, reads) is as fast as it is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from pathlib import Path

from ziggurat_engine.vfs import AppendFile, BlockFile, Buffer, OsFileSystem


class Disk:
    """Takes `bytes_per_second`, more than 0; for any thread."""

    def __init__(self, bytes_per_second: float) -> None:
        self._seconds_per_byte = 1 / bytes_per_second
        self._lock = threading.Lock()
        self._free_at = 0.0

    def take(self, nbytes: int) -> None:
        """Returns when the disk has taken `nbytes`, behind all that it was given before."""
        with self._lock:
            start = max(self._free_at, time.monotonic())
            self._free_at = done = start + nbytes * self._seconds_per_byte
        while (left := done - time.monotonic()) > 0:
            time.sleep(left)


class SlowFs(OsFileSystem):
    """See FileSystem and this module; a disk that is None is as fast as the system's."""

    def __init__(self, store: Disk | None = None, log: Disk | None = None) -> None:
        self._store = store
        self._log = log

    def create(self, path: Path, *, preallocate: int = 0, staged: bool = False) -> AppendFile:
        """See FileSystem."""
        file = super().create(path, preallocate=preallocate, staged=staged)
        return _SlowAppend(file, self._store) if staged and self._store is not None else file

    def open_write(self, path: Path, *, direct: bool = False) -> BlockFile:
        """See FileSystem."""
        file = super().open_write(path, direct=direct)
        return file if self._log is None else _SlowBlock(file, self._log)


class _SlowAppend:
    def __init__(self, file: AppendFile, disk: Disk) -> None:
        self._file = file
        self._disk = disk
        self.sync = file.sync
        self.close = file.close

    @property
    def position(self) -> int:
        return self._file.position

    def write(self, data: Buffer) -> None:
        self.writev((data,))

    def writev(self, buffers: Iterable[Buffer]) -> None:
        for data in buffers:
            self._file.write(data)
            self._disk.take(memoryview(data).nbytes)


class _SlowBlock:
    def __init__(self, file: BlockFile, disk: Disk) -> None:
        self._file = file
        self._disk = disk
        self._lock = threading.Lock()
        self._cached = 0
        self.close = file.close

    def writev(self, buffers: Iterable[Buffer], offset: int) -> None:
        data = list(buffers)
        self._file.writev(data, offset)
        with self._lock:
            self._cached += sum(memoryview(each).nbytes for each in data)

    def sync(self) -> None:
        with self._lock:
            nbytes, self._cached = self._cached, 0
        self._disk.take(nbytes)
        self._file.sync()
