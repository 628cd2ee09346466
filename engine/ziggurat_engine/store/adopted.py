"""How are objects of an adopted image replaced in a directory that others made?

Keys are those of the catalog: what would lie in the image's own directory lies below
`path`. A write goes to a hidden directory of the group first, on the same file system, as
every write does; it is made by the first write, swept, and removed when the store is closed.

A level has to lie as it did when it was adopted: log and notes name chunks of that grid.
That an object is absent counts only while the documents of the group and the level are there:
a directory that is gone, or not mounted, holds no fill values. Nothing but objects is ever
made or removed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from ziggurat_engine.errors import Corrupt
from ziggurat_engine.measures import Tally
from ziggurat_engine.spec import Adopted
from ziggurat_engine.store.objects import LocalStore, ObjectInfo, ObjectReader
from ziggurat_engine.vfs import Buffer, FileLock, FileSystem

TMP = ".ziggurat-tmp"
_SAID_OF_PIXELS = ("attributes", "dimension_names")


def check_there(adopted: Adopted) -> None:
    """OSError, with the path, where the group of an adopted image is not there."""
    document = Path(adopted.path) / adopted.document
    try:
        document.stat()
    except OSError as error:
        code = error.errno or errno.EIO
        raise OSError(code, "the adopted image is not there", adopted.path) from None


def check_level_there(adopted: Adopted, level: int) -> None:
    """OSError, with the path, where the group or this level of it is not there."""
    check_there(adopted)
    _stamp(adopted, level)


def layout_of(document: bytes) -> str:
    """A digest of what an array's document says of its chunks, not of what they mean."""
    said = json.loads(document)
    layout = {key: value for key, value in said.items() if key not in _SAID_OF_PIXELS}
    return hashlib.sha256(json.dumps(layout, sort_keys=True).encode()).hexdigest()


def document_of(adopted: Adopted, level: int) -> Path:
    """The file that makes an array of a level."""
    name = "zarr.json" if adopted.document == "zarr.json" else ".zarray"
    return Path(adopted.path) / adopted.levels[level].path / name


def check_same(adopted: Adopted, level: int) -> None:
    """Corrupt where a level does not lie as it was adopted; OSError where it is not there."""
    check_there(adopted)
    document = document_of(adopted, level)
    try:
        same = layout_of(document.read_bytes()) == adopted.levels[level].layout
    except (ValueError, AttributeError):
        same = False
    if not same:
        raise Corrupt(
            f"{document}: level {level} is not the one that was adopted; delete the image here,"
            " which leaves its files alone, and adopt it again"
        )


def _stamp(adopted: Adopted, level: int) -> tuple[int, int, int]:
    """What tells the document of a level from any other; OSError where it is not there."""
    document = document_of(adopted, level)
    try:
        status = document.stat()
    except OSError as error:
        what = f"level {level} of the adopted image is not there"
        raise OSError(error.errno or errno.EIO, what, str(document.parent)) from None
    return status.st_ino, status.st_dev, status.st_mtime_ns


class AdoptedStore:
    """The objects below `at`, a prefix of the catalog, as files below `adopted.path`.

    stages: as of LocalStore. All methods may be called from any thread. One process at a time
    may write to an image: it holds a lock on the group's document.
    """

    def __init__(
        self, fs: FileSystem, at: str, adopted: Adopted, stages: Tally | None = None
    ) -> None:
        self._fs = fs
        self._at = f"{at}/"
        self._adopted = adopted
        self._root = Path(adopted.path)
        self._files = LocalStore(fs, self._root, self._root / TMP, stages)
        self._opening = threading.Lock()
        self._lock: FileLock | None = None
        # What the documents were when they were last compared; and when they first were.
        self._stamps: list[tuple[int, int, int]] = []
        self._first: list[tuple[int, int, int]] = []

    def get(self, key: str) -> bytes | None:
        """See Objects."""
        self._check_same()
        data = self._files.get(self._below(key))
        if data is None:
            self._check_same()
        return data

    def open(self, key: str) -> ObjectReader | None:
        """See Objects."""
        self._check_same()
        reader = self._files.open(self._below(key))
        if reader is None:
            self._check_same()
        return reader

    def put(self, key: str, parts: Iterable[Buffer]) -> int:
        """See Objects."""
        self._begin()
        below = self._below(key)
        self._check_plain(below)
        return self._files.put(below, parts)

    def delete(self, key: str) -> None:
        """See Objects."""
        self._begin()
        below = self._below(key)
        self._check_plain(below)
        self._files.delete(below)

    def names(self, prefix: str, most: int) -> set[str] | None:
        """See Objects."""
        self._check_same()
        names = self._files.names(self._below(prefix), most)
        if not names:
            self._check_same()
        return names

    def walk(self, prefix: str) -> Iterator[ObjectInfo]:
        """See Objects."""
        for entry in self._files.walk(self._below(prefix)):
            yield ObjectInfo(self._at + entry.key, entry.size)

    def close(self) -> None:
        """Leaves the directory to others; no write may be running."""
        with self._opening:
            if self._lock is not None:
                with contextlib.suppress(OSError):
                    self._fs.remove_tree(self._root / TMP)
                self._lock.close()
                self._lock = None

    def _below(self, key: str) -> str:
        if not key.startswith(self._at):
            raise ValueError(f"key {key!r} is not below {self._at!r}")
        return key.removeprefix(self._at)

    def _check_plain(self, key: str) -> None:
        """OSError where a link leads to the object: what lies behind it is somebody else's."""
        directory = (self._root / key).parent
        real = os.path.realpath(directory)
        if real != str(directory):
            raise OSError(errno.EXDEV, f"a link leads to {real}, not to be written to", directory)

    def _check_same(self) -> None:
        """Chunks of another layout, or of another image, must be neither read nor written.

        OSError where the group, or a level, is not there, or others took their place while
        the server runs: what waits to be stored is not theirs.
        """
        check_there(self._adopted)
        levels = range(len(self._adopted.levels))
        stamps = [_stamp(self._adopted, level) for level in levels]
        if stamps == self._stamps:
            return
        for level in levels:
            check_same(self._adopted, level)
        # A disk that comes back may have another number; files keep theirs.
        self._first = self._first or stamps
        if [stamp[0] for stamp in stamps] != [first[0] for first in self._first]:
            raise OSError(
                errno.ESTALE,
                "the adopted image was replaced while the server runs: put it back, or start"
                " the server again to write to this one",
                self._adopted.path,
            )
        self._stamps = stamps

    def _begin(self) -> None:
        # Before each write: directories are made for it, which must not happen below a path
        # where something else is mounted, or nothing.
        self._check_same()
        with self._opening:
            if self._lock is not None:
                # Whoever put a copy in its place may have left it out.
                self._fs.make_dir(self._root / TMP)
                return
            document = self._root / self._adopted.document
            try:
                lock = self._fs.lock(document)
            except BlockingIOError:
                raise BlockingIOError(
                    errno.EAGAIN, "another server writes to this image", str(self._root)
                ) from None
            try:
                self._files.sweep()
            except BaseException:
                lock.close()
                raise
            self._lock = lock
