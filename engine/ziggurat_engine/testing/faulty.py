"""What does a power cut, a failing sync or a full disk do to the one who relies on files?

FaultyFs is a FileSystem in memory that is an honest POSIX disk and no more: what was
synced is there after a cut, of the rest anything may be (disk.py).

    fs = FaultyFs()
    ... work; fs.sync_points counts ...
    fs = FaultyFs(); fs.stop_after(k)
    ... the same work, until PowerCut ...
    for seed in range(100):
        check(fs.crash(seed))   # a file system of its own; opened anew

Or in one run, where it does not matter how whoever works bears the cut:

    fs.at_sync_point(lambda: left.append(fs.left(seed)))

A sync point is a sync of a file or a directory that succeeded. Paths are absolute; there
are no links. One lock around all: calls are as if one after the other.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Literal, TypeAlias

from ziggurat_engine.testing.disk import Change, Directory, File, Journal, Mode, Node
from ziggurat_engine.vfs import (
    AppendFile,
    BlockFile,
    Buffer,
    DirEntry,
    DiskSpace,
    FileLock,
    ReadFile,
)

Op: TypeAlias = Literal["read", "write", "sync", "sync_dir", "create", "rename", "remove"]


class PowerCut(Exception):
    """The power is gone. Not an OSError: nobody can handle it."""


class FaultyFs:
    """See FileSystem and this module.

    capacity_bytes: all bytes that files may have together; None: no bound. May be set
    at any time; what is there stays.
    """

    def __init__(self, *, capacity_bytes: int | None = None) -> None:
        self.capacity_bytes = capacity_bytes
        self.sync_points = 0
        self._root = Directory()
        self._journal = Journal()
        self._guard = threading.RLock()
        self._stop_after: int | None = None
        self._look: Callable[[], None] | None = None
        self._cut = False
        self._faults: list[tuple[Op, int, str, int]] = []
        self._locks: set[Path] = set()
        self._rng = Random(0)
        self._used = 0

    def stop_after(self, sync_point: int) -> None:
        """The power fails right after that sync point: all calls behind it raise PowerCut."""
        with self._guard:
            self._stop_after = sync_point
            self._cut = self._cut or self.sync_points >= sync_point

    def at_sync_point(self, look: Callable[[], None]) -> None:
        """Calls `look` right behind each sync point, before any other call goes on."""
        with self._guard:
            self._look = look

    def sync_point(self) -> None:
        """Counts a sync point of something that lives beside this file system."""
        with self._guard:
            self._count()

    def cut(self) -> None:
        """The power fails now."""
        self._cut = True

    @property
    def is_cut(self) -> bool:
        """True once the power failed."""
        return self._cut

    def crash(self, mode: Mode) -> FaultyFs:
        """The power fails, if it has not; the disk as it is then, without faults or locks.

        mode: what was not synced is dropped ("drop"), kept ("keep"), or a mixture that
        is the same for the same seed. May be called again, with other modes.
        """
        with self._guard:
            self._cut = True
            return self.left(mode)

    def left(self, mode: Mode) -> FaultyFs:
        """As `crash`, of a power cut right now; but the power stays."""
        with self._guard:
            cut = Random(mode) if isinstance(mode, int) else mode
            disk = self._journal.after(cut)
            fs = FaultyFs(capacity_bytes=self.capacity_bytes)
            fs._root = _copy(self._root, disk, cut)
            fs._used = sum(len(file.data) for file in _files(fs._root))
            return fs

    def fail_next(self, op: Op, error: int = errno.EIO, *, path: str = "", times: int = 1) -> None:
        """The next `times` calls of that kind on a path that contains `path` raise OSError.

        A failed write has written half. A failed sync has made any part durable, and
        the rest can't be made so by another sync.
        """
        with self._guard:
            self._faults.append((op, error, path, times))

    def heal(self) -> None:
        """Takes back what fail_next announced."""
        with self._guard:
            self._faults.clear()

    def used_bytes(self) -> int:
        """Bytes of all files that have a name."""
        return self._used

    def open_read(self, path: Path) -> ReadFile:
        """See FileSystem."""
        with self._op("read", path):
            return _Read(self, path, self._file(path))

    def create(
        self,
        path: Path,
        *,
        preallocate: int = 0,
        staged: bool = False,  # noqa: ARG002 - here everything is
    ) -> AppendFile:
        """See FileSystem."""
        with self._op("create", path):
            parent = self._directory(path.parent)
            if path.name in parent.entries:
                raise _error(errno.EEXIST, path)
            file = File()
            self._grow(file, preallocate, path)
            if preallocate:
                file.resize(preallocate)
            self._journal.add(Change(parent, {(parent, path.name): file}))
            return _Append(self, path, file)

    def open_write(
        self,
        path: Path,
        *,
        direct: bool = False,  # noqa: ARG002 - there is no page cache here
    ) -> BlockFile:
        """See FileSystem."""
        with self._op("write", path, opening=True):
            return _Block(self, path, self._file(path))

    def lock(self, path: Path) -> FileLock:
        """See FileSystem."""
        with self._op("create", path):
            if path in self._locks:
                raise _error(errno.EAGAIN, path)
            if self._find(path) is None:
                self.create(path).close()
            self._locks.add(path)
            return _Lock(self._locks, path)

    def read_file(self, path: Path) -> bytes:
        """See FileSystem."""
        file = self.open_read(path)
        return file.pread(file.size, 0)

    def size(self, path: Path) -> int:
        """See FileSystem."""
        with self._op("read", path):
            node = self._node(path)
            return len(node.data) if isinstance(node, File) else 4096

    def exists(self, path: Path) -> bool:
        """See FileSystem."""
        with self._op("read", path):
            return self._find(path) is not None

    def is_dir(self, path: Path) -> bool:
        """See FileSystem."""
        with self._op("read", path):
            return isinstance(self._find(path), Directory)

    def list_dir(self, path: Path) -> list[DirEntry]:
        """See FileSystem."""
        with self._op("read", path):
            entries = self._directory(path).entries.items()
            return [DirEntry(name, isinstance(node, Directory)) for name, node in entries]

    def names(self, path: Path, most: int) -> set[str] | None:
        """See FileSystem."""
        found = {entry.name for entry in self.list_dir(path)}
        return None if len(found) > most else found

    def make_dir(self, path: Path) -> None:
        """See FileSystem."""
        with self._op("create", path):
            found = self._find(path)
            if isinstance(found, File):
                raise _error(errno.EEXIST, path)
            if found is None:
                parent = self._directory(path.parent)
                self._journal.add(Change(parent, {(parent, path.name): Directory()}))

    def make_dirs(self, path: Path) -> None:
        """See FileSystem."""
        missing = [path]
        while not self.is_dir(missing[-1].parent):
            missing.append(missing[-1].parent)
        for directory in reversed(missing):
            self.make_dir(directory)
            self.sync_dir(directory.parent)

    def sync_dir(self, path: Path) -> None:
        """See FileSystem."""
        with self._op("sync_dir", path):
            self._journal.sync(self._directory(path))
            self._count()

    def rename(self, source: Path, target: Path) -> None:
        """See FileSystem."""
        with self._op("rename", source):
            moved, replaced = self._node(source), self._find(target)
            if moved is replaced:
                return
            if isinstance(moved, Directory) and isinstance(replaced, File):
                raise _error(errno.ENOTDIR, target)
            if isinstance(replaced, Directory):
                if isinstance(moved, File):
                    raise _error(errno.EISDIR, target)
                if replaced.entries:
                    raise _error(errno.ENOTEMPTY, target)
            if isinstance(replaced, File):
                self._used -= len(replaced.data)
            home, old = self._directory(target.parent), self._directory(source.parent)
            names: dict[tuple[Directory, str], Node | None] = {
                (old, source.name): None,
                (home, target.name): moved,
            }
            self._journal.add(Change(home, names))

    def remove(self, path: Path) -> None:
        """See FileSystem."""
        with self._op("remove", path):
            self._used -= len(self._file(path).data)
            parent = self._directory(path.parent)
            self._journal.add(Change(parent, {(parent, path.name): None}))

    def remove_tree(self, path: Path) -> None:
        """See FileSystem."""
        for name, is_dir in self.list_dir(path):
            if is_dir:
                self.remove_tree(path / name)
            else:
                self.remove(path / name)
        with self._op("remove", path):
            parent = self._directory(path.parent)
            self._journal.add(Change(parent, {(parent, path.name): None}))

    def disk_space(self, path: Path) -> DiskSpace:
        """See FileSystem."""
        with self._op("read", path):
            room = self._room()
            return (
                DiskSpace(1 << 60, 1 << 60)
                if room is None
                else DiskSpace(room, self.capacity_bytes or 0)
            )

    def _write(self, path: Path, file: File, data: bytes, offset: int) -> int:
        """Bytes written: less than all only on a full disk."""
        fault = None
        try:
            with self._op("write", path):
                pass
        except OSError as error:
            fault = error
        with self._op("write", path, opening=True):
            if fault is not None:
                data = data[: len(data) // 2]
            end = offset + len(data)
            room = self._room()
            if room is not None and end - len(file.data) > room:
                fault = fault or _error(errno.ENOSPC, path)
                data = data[: max(0, len(file.data) + room - offset)]
            self._grow(file, offset + len(data), path)
            file.write(data, offset)
        if fault is not None:
            raise fault
        return len(data)

    def _sync(self, path: Path, file: File) -> None:
        with self._guard:
            try:
                with self._op("sync", path):
                    file.sync()
                    self._count()
            except OSError:
                file.fail_sync(self._rng)
                raise

    def _read(self, path: Path, file: File, nbytes: int, offset: int) -> bytes:
        with self._op("read", path):
            return bytes(file.data[offset : offset + nbytes])

    @contextmanager
    def _op(self, op: Op, path: Path, *, opening: bool = False) -> Iterator[None]:
        """Every call goes through here. opening: faults wait for the call proper."""
        with self._guard:
            if self._cut:
                raise PowerCut
            for index, (kind, error, part, times) in enumerate(self._faults):
                if not opening and kind == op and part in str(path):
                    if times > 1:
                        self._faults[index] = (kind, error, part, times - 1)
                    else:
                        del self._faults[index]
                    raise _error(error, path)
            yield

    def _count(self) -> None:
        self.sync_points += 1
        if self._stop_after is not None and self.sync_points >= self._stop_after:
            self._cut = True
        if self._look is not None:
            self._look()

    def _room(self) -> int | None:
        return None if self.capacity_bytes is None else max(0, self.capacity_bytes - self._used)

    def _grow(self, file: File, size: int, path: Path) -> None:
        grown = max(0, size - len(file.data))
        room = self._room()
        if room is not None and grown > room:
            raise _error(errno.ENOSPC, path)
        self._used += grown

    def _find(self, path: Path) -> Node | None:
        node: Node | None = self._root
        for name in path.parts[1:]:
            if not isinstance(node, Directory):
                return None
            node = node.entries.get(name)
        return node

    def _node(self, path: Path) -> Node:
        node = self._find(path)
        if node is None:
            above = self._find(path.parent)
            raise _error(errno.ENOTDIR if isinstance(above, File) else errno.ENOENT, path)
        return node

    def _file(self, path: Path) -> File:
        node = self._node(path)
        if isinstance(node, Directory):
            raise _error(errno.EISDIR, path)
        return node

    def _directory(self, path: Path) -> Directory:
        node = self._node(path)
        if isinstance(node, File):
            raise _error(errno.ENOTDIR, path)
        return node


class _Open:
    def __init__(self, fs: FaultyFs, path: Path, file: File) -> None:
        self._fs = fs
        self._path = path
        self._node = file

    def sync(self) -> None:
        self._fs._sync(self._path, self._node)

    def close(self) -> None:
        pass


class _Read(_Open):
    def __init__(self, fs: FaultyFs, path: Path, file: File) -> None:
        super().__init__(fs, path, file)
        self._size = len(file.data)

    @property
    def size(self) -> int:
        return self._size

    def pread(self, nbytes: int, offset: int) -> bytes:
        return self._fs._read(self._path, self._node, nbytes, offset)

    def next_data(self, offset: int) -> int:
        rest = bytes(self._node.data[offset : self._size])
        return min(offset + len(rest) - len(rest.lstrip(b"\0")), self._size)


class _Append(_Open):
    position = 0

    def write(self, data: Buffer) -> None:
        self.writev((data,))

    def writev(self, buffers: Iterable[Buffer]) -> None:
        data = b"".join(buffers)
        self.position += self._fs._write(self._path, self._node, data, self.position)


class _Block(_Open):
    def writev(self, buffers: Iterable[Buffer], offset: int) -> None:
        self._fs._write(self._path, self._node, b"".join(buffers), offset)


class _Lock:
    def __init__(self, locks: set[Path], path: Path) -> None:
        self._locks = locks
        self._path = path

    def close(self) -> None:
        self._locks.discard(self._path)


def _error(code: int, path: Path) -> OSError:
    return OSError(code, os.strerror(code), str(path))


def _copy(
    directory: Directory,
    disk: dict[Directory, dict[str, Node]],
    cut: Random | Literal["drop", "keep"],
) -> Directory:
    copy = Directory()
    for name, node in disk.get(directory, directory.disk).items():
        if isinstance(node, File):
            copy.entries[name] = File(node.after(cut))
        else:
            copy.entries[name] = _copy(node, disk, cut)
    copy.disk = dict(copy.entries)
    return copy


def _files(directory: Directory) -> Iterator[File]:
    for node in directory.entries.values():
        if isinstance(node, File):
            yield node
        else:
            yield from _files(node)
