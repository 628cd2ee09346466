"""Where does a build put its work until it is whole, and how does the next one find it?

    GROUP/.ziggurat-build/           hidden, beside the levels, on their file system
        lock                         held while a build runs: one at a time
        run.json                     what is being built, from what, and when it began
        journal                      chunks that are finished and durable, 32 bytes each:
                                     u32 level | u64 number | u64 offset | u64 bytes | u32 CRC-32C
        1/, 2/, ...                  the new levels, as they will lie in the group

A run goes on with what it finds only if run.json says exactly what it would write itself,
and no object of the source is younger than run.json; else the directory is emptied. A
chunk counts as finished only if the journal says so, and the journal only says so once
the chunk's bytes are durable: first the files are synced, then the records are appended
and synced. A torn record at the end, or one with a wrong checksum, ends the journal.

Many small files are made durable with one syncfs, few with fsync each: a sync of each
of a million files would take longer than all the rest.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import struct
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import google_crc32c

from ziggurat_engine.errors import FailedPrecondition
from ziggurat_engine.offline.sink import Entry
from ziggurat_engine.vfs import FileLock, OsFileSystem

NAME = ".ziggurat-build"
VERSION = 1

_RECORD = struct.Struct("<IQQQI")
_SYNC_EACH = 256
_SYNCS_AT_A_TIME = 16


class Stage:
    """The directory of one build. One thread at a time."""

    def __init__(self, group: Path) -> None:
        self.path = group / NAME
        self._fs = OsFileSystem()
        self._lock: FileLock | None = None
        self._journal = -1
        self._end = 0

    def open(self, run: dict[str, Any], newest_source: float | None = None) -> bool:
        """Makes or takes over the directory; True where an earlier build can be continued.

        run: what is built, as JSON. FailedPrecondition where another build is at it. OSError.
        """
        os.makedirs(self.path, exist_ok=True)
        try:
            self._lock = self._fs.lock(self.path / "lock")
        except BlockingIOError:
            raise FailedPrecondition(f"{self.path.parent}: another build is running") from None
        wanted = json.dumps({"version": VERSION, **run}, indent=2, sort_keys=True)
        marker = self.path / "run.json"
        with contextlib.suppress(FileNotFoundError):
            began = marker.stat().st_mtime
            if marker.read_text("utf-8") == wanted and (newest_source or 0.0) <= began:
                return True
        for entry in os.scandir(self.path):
            if entry.name != "lock":
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    os.unlink(entry.path)
        replace_file(marker, wanted.encode())
        return False

    @property
    def exists(self) -> bool:
        """True where an earlier build left something."""
        return (self.path / "run.json").exists()

    def finished(self) -> Iterator[Entry]:
        """What the journal says; it is cut behind its last whole record. To be read once."""
        try:
            file = open(self.path / "journal", "rb")  # noqa: SIM115 - closed below
        except FileNotFoundError:
            return
        with file:
            while len(record := file.read(_RECORD.size)) == _RECORD.size:
                level, number, offset, nbytes, crc = _RECORD.unpack(record)
                if crc != google_crc32c.value(record[:-4]):
                    break
                self._end += _RECORD.size
                yield Entry(level, number, offset, nbytes)

    def checkpoint(self, entries: Iterable[Entry], files: set[str]) -> None:
        """Makes `files` durable, then says that `entries` are finished. OSError."""
        sync_files(files, self.path)
        packed = bytearray()
        for entry in entries:
            record = _RECORD.pack(*entry, 0)[:-4]
            packed += record + int(google_crc32c.value(record)).to_bytes(4, "little")
        if self._journal < 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
            self._journal = os.open(self.path / "journal", flags, 0o666)
            os.ftruncate(self._journal, self._end)
        if packed:
            self._end += os.pwrite(self._journal, packed, self._end)
            os.fdatasync(self._journal)

    def close(self, *, remove: bool = False) -> None:
        """Lets go of the directory; remove: nothing of it is needed any more."""
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1
        if remove:
            shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def sync_files(files: set[str], directory: Path) -> None:
    """Files, and directories, are durable when it returns; all lie on the disk of `directory`."""
    if len(files) > _SYNC_EACH:
        sync_disk(directory)
        return
    # Side by side: the file system's own log then takes several with one write.
    with ThreadPoolExecutor(max(1, min(len(files), _SYNCS_AT_A_TIME)), "sync") as pool:
        for _ in pool.map(_sync, files):
            pass


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_disk(directory: Path) -> None:
    """All that was written to the file system of `directory` is durable. OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if libc.syncfs(fd):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(directory))
    finally:
        os.close(fd)


def replace_file(path: Path, data: bytes) -> None:
    """`path` holds `data`, durably, and never anything between. OSError."""
    staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(staged, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(staged, path)
    except BaseException:
        with contextlib.suppress(OSError):
            staged.unlink()
        raise
    OsFileSystem().sync_dir(path.parent)
