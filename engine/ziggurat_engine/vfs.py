"""What does the engine ask of a file system, and what has reached the disk when?

The one seam below store and log: crash tests put a file system here that loses
everything that was not synced. Assumed of the real one: a rename within it is atomic,
an fsync is honest, a write to one file leaves all other files alone.

A file's bytes and its name are made durable apart: `AppendFile.sync` for the bytes,
`FileSystem.sync_dir` of the directory for the name (creation, rename, removal).

Errors are OSErrors as the system gives them, always with errno and path. After a failed
sync nobody knows what reached the disk: give the file up, do not sync again.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

from ziggurat_engine.direct import DirectWriter, is_aligned, set_direct

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Bytes, or a C-contiguous memoryview."""

_IOV_MAX = 1024


class DirEntry(NamedTuple):
    """A name in a directory; a symbolic link is not a directory, wherever it leads."""

    name: str
    is_dir: bool


class DiskSpace(NamedTuple):
    """Bytes of a file system: what may still be written, and all."""

    free_bytes: int
    total_bytes: int


class ReadFile(Protocol):
    """A file open for positional reads, which may run beside each other.

    It goes on to read the same file after its name was removed or given to another.
    """

    @property
    def size(self) -> int:
        """Bytes in the file when it was opened."""
        ...

    def pread(self, nbytes: int, offset: int) -> bytes:
        """The bytes at `offset`; fewer than `nbytes` only at the end of the file."""
        ...

    def next_data(self, offset: int) -> int:
        """The first offset, from `offset` on, at which there may be more than zeros; or `size`.

        What was preallocated and never written need not be looked through, nor read: what was
        read once may count as data from then on.
        """
        ...

    def close(self) -> None:
        """Gives the descriptor back; no read may be running. Again is harmless."""
        ...


class AppendFile(Protocol):
    """A new file that one caller writes from its start on."""

    @property
    def position(self) -> int:
        """Bytes written; after a failed write any part of it may follow them."""
        ...

    def write(self, data: Buffer) -> None:
        """Appends all of `data`. Nothing is durable."""
        ...

    def writev(self, buffers: Iterable[Buffer]) -> None:
        """Appends all of `buffers`, in order, in few system calls. Nothing is durable."""
        ...

    def sync(self) -> None:
        """All that was written before is durable; the file's name is not (`sync_dir`)."""
        ...

    def close(self) -> None:
        """Gives the descriptor back. Makes nothing durable. Again is harmless."""
        ...


class BlockFile(Protocol):
    """A file that is there, open for writes at positions, beside reads and each other."""

    def writev(self, buffers: Iterable[Buffer], offset: int) -> None:
        """Writes all of `buffers`, joined; after an error any part. Nothing is durable."""
        ...

    def sync(self) -> None:
        """All that was written before is durable; the file's name is not (`sync_dir`)."""
        ...

    def close(self) -> None:
        """Gives the descriptor back. Makes nothing durable. Again is harmless."""
        ...


class FileLock(Protocol):
    """A lock that is held until it is closed or its process ends."""

    def close(self) -> None:
        """Gives the lock up; its file stays. Again is harmless."""
        ...


class FileSystem(Protocol):
    """Files and directories; all methods may be called from any thread."""

    def open_read(self, path: Path) -> ReadFile:
        """Opens a file for reading. FileNotFoundError; IsADirectoryError."""
        ...

    def create(self, path: Path, *, preallocate: int = 0, staged: bool = False) -> AppendFile:
        """Creates a file; FileExistsError where there is one.

        preallocate: the file has this size at once, on disk blocks of its own, and
        zeros where nothing was written yet: a sync then has no size to record.
        staged: what is written may be in the file only after `sync`, and passes by the
        page cache where it can: for large files that are seldom read back at once.
        Neither file nor name is durable when it returns.
        """
        ...

    def open_write(self, path: Path, *, direct: bool = False) -> BlockFile:
        """Opens a file to overwrite parts of it. FileNotFoundError; IsADirectoryError.

        direct: what is aligned (direct.PAGE_BYTES) passes by the page cache where it can. One
        write at a time then.
        """
        ...

    def lock(self, path: Path) -> FileLock:
        """Locks a file, made where missing; BlockingIOError where anybody holds it."""
        ...

    def read_file(self, path: Path) -> bytes:
        """All bytes of a file. FileNotFoundError; IsADirectoryError."""
        ...

    def size(self, path: Path) -> int:
        """Bytes of a file. FileNotFoundError."""
        ...

    def exists(self, path: Path) -> bool:
        """True where `path` is a file or a directory; links are followed."""
        ...

    def is_dir(self, path: Path) -> bool:
        """True where `path` is a directory; links are followed."""
        ...

    def list_dir(self, path: Path) -> list[DirEntry]:
        """What is in a directory, in no order. FileNotFoundError; NotADirectoryError."""
        ...

    def names(self, path: Path, most: int) -> set[str] | None:
        """The names in a directory; None where there are more than `most`. As `list_dir`."""
        ...

    def make_dir(self, path: Path) -> None:
        """Creates one directory; one that is there is fine. Not durable (`sync_dir`)."""
        ...

    def make_dirs(self, path: Path) -> None:
        """Creates a directory and those above it that are missing.

        The entries of all that it created are durable when it returns, and so is that
        of `path` itself, whoever created it.
        """
        ...

    def sync_dir(self, path: Path) -> None:
        """All that happened to names in this directory before is durable."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Moves a file or a directory, replacing a file or an empty directory.

        Atomic: `target` is the old or the new at any instant, after a crash too.
        Durable once the directory of `target` is synced. A directory that is not
        empty is not replaced: OSError (ENOTEMPTY or EEXIST).
        """
        ...

    def remove(self, path: Path) -> None:
        """Removes a file's name. Durable once its directory is synced. FileNotFoundError."""
        ...

    def remove_tree(self, path: Path) -> None:
        """Removes a directory with all below it, not at once; links are not followed.

        Not durable. FileNotFoundError where there is none.
        """
        ...

    def disk_space(self, path: Path) -> DiskSpace:
        """What the file system that holds `path` has now. FileNotFoundError."""
        ...


class OsFileSystem:
    """The operating system's files. See FileSystem."""

    def open_read(self, path: Path) -> ReadFile:
        """See FileSystem."""
        return _OsReadFile(path)

    def create(self, path: Path, *, preallocate: int = 0, staged: bool = False) -> AppendFile:
        """See FileSystem."""
        return _OsStagedFile(path, 0) if staged else _OsAppendFile(path, preallocate)

    def open_write(self, path: Path, *, direct: bool = False) -> BlockFile:
        """See FileSystem."""
        return _OsBlockFile(path, direct=direct)

    def lock(self, path: Path) -> FileLock:
        """See FileSystem."""
        file = _OsFile(path, os.O_RDWR | os.O_CREAT)
        try:
            with _named(path):
                fcntl.flock(file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            file.close()
            raise
        return file

    def read_file(self, path: Path) -> bytes:
        """See FileSystem."""
        file = _OsReadFile(path)
        try:
            return file.pread(file.size, 0)
        finally:
            file.close()

    def size(self, path: Path) -> int:
        """See FileSystem."""
        return os.stat(path).st_size

    def exists(self, path: Path) -> bool:
        """See FileSystem."""
        return _mode(path) is not None

    def is_dir(self, path: Path) -> bool:
        """See FileSystem."""
        mode = _mode(path)
        return mode is not None and stat.S_ISDIR(mode)

    def list_dir(self, path: Path) -> list[DirEntry]:
        """See FileSystem."""
        with os.scandir(path) as entries:
            return [DirEntry(e.name, e.is_dir(follow_symlinks=False)) for e in entries]

    def names(self, path: Path, most: int) -> set[str] | None:
        """See FileSystem."""
        with os.scandir(path) as entries:
            found = {entry.name for entry in itertools.islice(entries, most + 1)}
        return None if len(found) > most else found

    def make_dir(self, path: Path) -> None:
        """See FileSystem."""
        try:
            os.mkdir(path)
        except FileExistsError:
            if not self.is_dir(path):
                raise

    def make_dirs(self, path: Path) -> None:
        """See FileSystem."""
        path = path.absolute()
        missing = [path]
        while not self.is_dir(missing[-1].parent):
            missing.append(missing[-1].parent)
        for directory in reversed(missing):
            self.make_dir(directory)
            self.sync_dir(directory.parent)

    def sync_dir(self, path: Path) -> None:
        """See FileSystem."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with _named(path):
                os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        """See FileSystem."""
        os.rename(source, target)

    def remove(self, path: Path) -> None:
        """See FileSystem."""
        os.unlink(path)

    def remove_tree(self, path: Path) -> None:
        """See FileSystem."""
        shutil.rmtree(path)

    def disk_space(self, path: Path) -> DiskSpace:
        """See FileSystem."""
        found = os.statvfs(path)
        return DiskSpace(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)


class _OsFile:
    """A descriptor and the path it was opened by."""

    def __init__(self, path: Path, flags: int) -> None:
        self._path = path
        self.fd = os.open(path, flags | os.O_CLOEXEC, 0o666)

    def sync(self) -> None:
        with _named(self._path):
            os.fdatasync(self.fd)

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            with _named(self._path):
                os.close(fd)

    def _write_all(
        self, buffers: Iterable[Buffer], write: Callable[[list[memoryview]], int]
    ) -> None:
        left = [view for b in buffers if (view := memoryview(b).cast("B")).nbytes]
        left.reverse()
        while left:
            with _named(self._path):
                written = write(left[: -_IOV_MAX - 1 : -1])
            while left and written >= left[-1].nbytes:
                written -= left.pop().nbytes
            if written:
                left[-1] = left[-1][written:]


class _OsReadFile(_OsFile):
    def __init__(self, path: Path) -> None:
        super().__init__(path, os.O_RDONLY)
        try:
            with _named(path):
                status = os.fstat(self.fd)
            if stat.S_ISDIR(status.st_mode):
                # The system opens a directory and refuses the first read only.
                raise IsADirectoryError(21, os.strerror(21), str(path))
        except BaseException:
            self.close()
            raise
        self._size = status.st_size

    @property
    def size(self) -> int:
        return self._size

    def pread(self, nbytes: int, offset: int) -> bytes:
        with _named(self._path):
            data = os.pread(self.fd, nbytes, offset)
            if len(data) == nbytes:
                return data
            # The end of the file, or a read that the system cut short (2 GiB and more).
            pieces = [data]
            while data and (nbytes := nbytes - len(data)):
                offset += len(data)
                data = os.pread(self.fd, nbytes, offset)
                pieces.append(data)
            return b"".join(pieces)

    def next_data(self, offset: int) -> int:
        try:
            return os.lseek(self.fd, offset, os.SEEK_DATA)
        except OSError as error:
            # Nothing but a hole is left; or the file system does not know of holes.
            return self._size if error.errno == errno.ENXIO else offset


class _OsAppendFile(_OsFile):
    def __init__(self, path: Path, preallocate: int) -> None:
        super().__init__(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        self._position = 0
        try:
            if preallocate:
                with _named(path):
                    os.posix_fallocate(self.fd, 0, preallocate)
        except BaseException:
            self.close()
            os.unlink(path)
            raise

    @property
    def position(self) -> int:
        return self._position

    def write(self, data: Buffer) -> None:
        self.writev((data,))

    def writev(self, buffers: Iterable[Buffer]) -> None:
        def write(batch: list[memoryview]) -> int:
            written = os.writev(self.fd, batch)
            self._position += written
            return written

        self._write_all(buffers, write)


class _OsStagedFile(_OsAppendFile):
    def __init__(self, path: Path, preallocate: int) -> None:
        super().__init__(path, preallocate)
        self._writer = DirectWriter(self.fd)

    def writev(self, buffers: Iterable[Buffer]) -> None:
        for data in buffers:
            view = memoryview(data).cast("B")
            with _named(self._path):
                self._writer.write(view)
            self._position += view.nbytes

    def sync(self) -> None:
        with _named(self._path):
            self._writer.flush()
        super().sync()

    def close(self) -> None:
        self._writer.close()
        super().close()


class _OsBlockFile(_OsFile):
    def __init__(self, path: Path, *, direct: bool) -> None:
        super().__init__(path, os.O_WRONLY)
        self._direct = direct

    def writev(self, buffers: Iterable[Buffer], offset: int) -> None:
        views = [memoryview(data).cast("B") for data in buffers]
        if self._direct:
            alone = len(views) == 1 and is_aligned(views[0], offset)
            with _named(self._path):
                set_direct(self.fd, on=alone)

        def write(batch: list[memoryview]) -> int:
            nonlocal offset
            try:
                written = os.pwritev(self.fd, batch, offset)
            except OSError as error:
                if error.errno != errno.EINVAL or not self._direct:
                    raise
                # Not on this file system, or the rest of a write that was cut short.
                self._direct = False
                set_direct(self.fd, on=False)
                written = os.pwritev(self.fd, batch, offset)
            offset += written
            return written

        self._write_all(views, write)


def _mode(path: Path) -> int | None:
    """Unlike os.path.exists it does not take an I/O error for absence."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors of calls on a descriptor get the path that the system does not know."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
