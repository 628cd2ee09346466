"""Where do objects lie, and how is one replaced so that no reader sees half of it?

ObjectStore is the seam: keys such as "lab/run-3.ome.zarr/0/c/0/1" to bytes, written
whole. LocalStore keeps an object as the file of that path below a root. Every write
goes to a name of its own in a separate directory of the same file system, is synced,
and is then renamed: what a crash leaves is never below the root, and is swept away at
the next start.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from ziggurat_engine.measures import Tally
from ziggurat_engine.vfs import AppendFile, Buffer, FileSystem, ReadFile

_log = logging.getLogger(__name__)

# Directories remembered as durable; a bound on memory, not a tuning knob.
_MAX_DURABLE_DIRS = 100_000


class ObjectInfo(NamedTuple):
    """An object and its size in bytes."""

    key: str
    size: int


class ObjectReader(Protocol):
    """One version of one object. Reads may run beside each other.

    It stays the same version whatever happens at its key; close it, or use it as a
    context manager.
    """

    @property
    def size(self) -> int:
        """Bytes in the object."""
        ...

    def read(self, offset: int, nbytes: int) -> bytes:
        """The bytes at `offset`; fewer than `nbytes` only at the object's end."""
        ...

    def close(self) -> None:
        """Gives the object up; no read may be running. Again is harmless."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Objects(Protocol):
    """Objects by key. All methods may be called from any thread, beside each other.

    Keys are segments joined by "/"; a prefix is the leading whole segments of keys, ""
    for all. Errors of the disk or the network surface as OSError.
    """

    def get(self, key: str) -> bytes | None:
        """The bytes of the object, None where there is none."""
        ...

    def open(self, key: str) -> ObjectReader | None:
        """The object as it is now, for ranged reads; None where there is none."""
        ...

    def put(self, key: str, parts: Iterable[Buffer]) -> int:
        """Stores `parts`, joined, as the object; returns its bytes.

        `parts` are written as they come and not kept. The object appears whole, in
        place of the old one, and is durable when it returns. On any error, one raised
        by `parts` included, the old object stays; only if making the new one durable
        fails at the very end may either be found later.
        """
        ...

    def delete(self, key: str) -> None:
        """Removes the object; none is fine. Durable when it returns."""
        ...

    def names(self, prefix: str, most: int) -> set[str] | None:
        """The segments one below `prefix`, of objects and prefixes; None where above `most`.

        What is put or deleted meanwhile may or may not be among them.
        """
        ...

    def walk(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects below `prefix`, in no order.

        What is put or deleted meanwhile may or may not be among them.
        """
        ...


class ObjectStore(Objects, Protocol):
    """Objects by key, and trees of them."""

    def list(self, prefix: str) -> tuple[list[str], list[str]]:
        """(objects, prefixes) one segment below `prefix`, as last segments, sorted."""
        ...

    def create_tree(self, prefix: str, objects: Mapping[str, bytes]) -> None:
        """Stores several objects, by their keys below `prefix`, all or none of them.

        They appear at once and are durable when it returns. FileExistsError where
        anything is below `prefix`; of two calls at once exactly one gets through.
        """
        ...

    def delete_tree(self, prefix: str) -> None:
        """Removes all below `prefix`; none is fine.

        All disappears at once, and durably before the space is freed; both have
        happened when it returns. No put below `prefix` may be running.
        """
        ...


class LocalStore:
    """Objects as files below `root`; `tmp` is for writes under way, on the same file system.

    stages: takes the seconds of "write" and "sync". Makes no file before `sweep`. One process
    at a time may use the two directories.
    No object is read, written or removed behind a symbolic link that leads out of `root`: OSError
    (ELOOP), with the path. `root` itself may be reached by one.
    """

    def __init__(self, fs: FileSystem, root: Path, tmp: Path, stages: Tally | None = None) -> None:
        self._fs = fs
        self._stages = stages or Tally()
        self._root = root
        self._tmp = tmp
        self._real_root: str | None = None
        self._making = threading.Lock()
        self._durable: set[Path] = set()

    def sweep(self) -> None:
        """Creates `root` and `tmp` where missing and removes what a crash left in `tmp`.

        To be called once, before anything else. Both directories are durable when it
        returns.
        """
        self._fs.make_dirs(self._root)
        self._fs.make_dirs(self._tmp)
        for entry in self._fs.list_dir(self._tmp):
            if entry.is_dir:
                self._fs.remove_tree(self._tmp / entry.name)
            else:
                self._fs.remove(self._tmp / entry.name)

    def get(self, key: str) -> bytes | None:
        """See ObjectStore."""
        try:
            return self._fs.read_file(self._inside(key))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def open(self, key: str) -> ObjectReader | None:
        """See ObjectStore."""
        try:
            return _LocalReader(self._fs.open_read(self._inside(key)))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def put(self, key: str, parts: Iterable[Buffer]) -> int:
        """See ObjectStore."""
        target, staged = self._inside(key), self._staged()
        file = self._fs.create(staged, staged=True)
        try:
            filled = _fill(file, parts)
            renaming = time.perf_counter()
            self._rename(staged, target)
        except BaseException:
            self._discard(staged)
            raise
        self._fs.sync_dir(target.parent)
        self._stages.add("write", filled.write_seconds)
        self._stages.add("sync", filled.sync_seconds + time.perf_counter() - renaming)
        return filled.nbytes

    def delete(self, key: str) -> None:
        """See ObjectStore."""
        path = self._inside(key)
        try:
            self._fs.remove(path)
        except (FileNotFoundError, NotADirectoryError):
            # Perhaps removed by a process that died before it could sync.
            if not self._fs.is_dir(path.parent):
                return
        self._fs.sync_dir(path.parent)

    def list(self, prefix: str) -> tuple[list[str], list[str]]:
        """See ObjectStore."""
        try:
            entries = sorted(self._fs.list_dir(self._path(prefix)))
        except (FileNotFoundError, NotADirectoryError):
            return [], []
        return [e.name for e in entries if not e.is_dir], [e.name for e in entries if e.is_dir]

    def names(self, prefix: str, most: int) -> set[str] | None:
        """See ObjectStore."""
        try:
            return self._fs.names(self._inside(prefix), most)
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def walk(self, prefix: str) -> Iterator[ObjectInfo]:
        """See ObjectStore."""
        prefixes = [prefix]
        while prefixes:
            parent = prefixes.pop()
            head = f"{parent}/" if parent else ""
            objects, below = self.list(parent)
            prefixes.extend(head + name for name in below)
            for name in objects:
                try:
                    size = self._fs.size(self._path(head + name))
                except FileNotFoundError:
                    continue
                yield ObjectInfo(head + name, size)

    def create_tree(self, prefix: str, objects: Mapping[str, bytes]) -> None:
        """See ObjectStore."""
        target, staged = self._inside(prefix), self._staged()
        if not objects:
            raise ValueError(f"{prefix}: a tree without objects can't be told from none")
        directories = {staged}
        self._fs.make_dir(staged)
        try:
            for key, data in objects.items():
                path = staged.joinpath(*_segments(key))
                above = [p for p in path.parents if staged in p.parents]
                for directory in reversed(above):
                    self._fs.make_dir(directory)
                directories.update(above)
                _fill(self._fs.create(path), (data,))
            for directory in directories:
                self._fs.sync_dir(directory)
            self._rename(staged, target)
        except BaseException as error:
            self._discard(staged, tree=True)
            if isinstance(error, OSError) and self._fs.exists(target):
                raise FileExistsError(17, "Something is there", str(target)) from error
            raise
        self._fs.sync_dir(target.parent)

    def delete_tree(self, prefix: str) -> None:
        """See ObjectStore."""
        target, staged = self._inside(prefix), self._staged()
        try:
            self._fs.rename(target, staged)
        except (FileNotFoundError, NotADirectoryError):
            return
        with self._making:
            # Whoever makes them again is not to be taken for having synced them.
            self._durable = {each for each in self._durable if target not in (each, *each.parents)}
        # Both: that it is gone from one directory may be known only with the other.
        self._fs.sync_dir(staged.parent)
        self._fs.sync_dir(target.parent)
        self._fs.remove_tree(staged)

    def _path(self, key: str) -> Path:
        return self._root.joinpath(*_segments(key)) if key else self._root

    def _inside(self, key: str) -> Path:
        """The path of an object, no link on the way to which leads out of the root."""
        path = self._path(key)
        if self._real_root is None:
            self._real_root = os.path.realpath(self._root)
        real = os.path.realpath(path)
        if real != self._real_root and not real.startswith(f"{self._real_root}/"):
            raise OSError(errno.ELOOP, f"a link leads out of {self._root}, to {real}", str(path))
        return path

    def _staged(self) -> Path:
        return self._tmp / uuid.uuid4().hex

    def _rename(self, staged: Path, target: Path) -> None:
        try:
            self._ensure(target.parent)
            self._fs.rename(staged, target)
        except FileNotFoundError:
            # A directory that was made sure of is gone: its tree was deleted.
            self._ensure(target.parent, anew=True)
            self._fs.rename(staged, target)

    def _ensure(self, directory: Path, *, anew: bool = False) -> None:
        """Makes `directory` durable, with all above it up to the root.

        That a directory exists does not say so: another thread may be about to sync
        it, or a process may have died before. So each is synced once by this one.
        """
        if directory in self._durable and not anew:
            return
        with self._making:
            chain = []
            while directory != self._root and (anew or directory not in self._durable):
                chain.append(directory)
                directory = directory.parent
            if len(self._durable) > _MAX_DURABLE_DIRS:
                self._durable.clear()
            for each in reversed(chain):
                self._fs.make_dir(each)
                self._fs.sync_dir(each.parent)
                self._durable.add(each)

    def _discard(self, staged: Path, *, tree: bool = False) -> None:
        """Removes a failed write's leftovers, as well as it can: a better error is on its way."""
        try:
            if tree:
                self._fs.remove_tree(staged)
            else:
                self._fs.remove(staged)
        except OSError as error:
            _log.warning("%s is left until the next start: %s", staged, error)


class _LocalReader:
    def __init__(self, file: ReadFile) -> None:
        self._file = file

    @property
    def size(self) -> int:
        return self._file.size

    def read(self, offset: int, nbytes: int) -> bytes:
        return self._file.pread(nbytes, offset)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Filled(NamedTuple):
    """A file that is synced. write_seconds: without those that its parts took to come."""

    nbytes: int
    write_seconds: float
    sync_seconds: float


def _fill(file: AppendFile, parts: Iterable[Buffer]) -> _Filled:
    """Writes, syncs and closes. Closes whatever happens."""
    clock, writing = time.perf_counter, 0.0
    try:
        for part in parts:
            start = clock()
            file.write(part)
            writing += clock() - start
        start = clock()
        file.sync()
        return _Filled(file.position, writing, clock() - start)
    finally:
        file.close()


def _segments(key: str) -> list[str]:
    segments = key.split("/")
    for segment in segments:
        if segment in ("", ".", "..") or "\0" in segment:
            raise ValueError(f"key {key!r} has the segment {segment!r}")
    return segments
