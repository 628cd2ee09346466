"""How do the chunks of a new level get on disk, and back for the level above?

A level is written into a directory that nobody reads yet (see stage.py), so a file needs
no temporary name: what of it is finished, the journal says. Without shards a chunk is a
file. With shards frames are appended to the shard's file as they come, in any order, at
offsets given out under a lock, and the index follows once the last one is there: an open
shard costs 16 bytes a chunk of memory, whatever its size.
"""

from __future__ import annotations

import math
import os
import threading
from pathlib import Path
from typing import NamedTuple

from ziggurat_engine.errors import Corrupt
from ziggurat_engine.grid import Grid
from ziggurat_engine.region import Shape
from ziggurat_engine.store.keys import Keys
from ziggurat_engine.store.shard import ShardIndex, index_size


class Entry(NamedTuple):
    """A finished chunk: `nbytes` at `offset` of its file, none at all where it is absent."""

    level: int
    number: int
    offset: int
    nbytes: int


class LevelSink:
    """The chunks of one level below `path`. Any thread may call; a chunk is put once.

    level: its number in entries. chunks, cells: the level cut into chunks and objects.
    """

    def __init__(self, path: Path, level: int, keys: Keys, chunks: Grid, cells: Grid) -> None:
        self.path = path
        self.chunks = chunks
        self._level = level
        self._keys = keys
        self._per_cell = tuple(s // c for s, c in zip(cells.cell, chunks.cell, strict=True))
        self._sharded = cells.cell != chunks.cell
        self._lock = threading.Lock()
        self._indices: dict[Shape, tuple[ShardIndex, int]] = {}
        self._directories: set[str] = set()
        self._touched: set[str] = set()

    def put(self, chunk: Shape, frame: bytes | memoryview | None) -> Entry:
        """Writes `frame`; None where the chunk is all fill value. Not durable. OSError."""
        number = self._number(chunk)
        if frame is None:
            return Entry(self._level, number, 0, 0)
        cell, position = self._place(chunk)
        path = self._file(cell)
        offset = 0
        if self._sharded:
            with self._lock:
                index, end = self._indices.get(cell) or (self._empty(), 0)
                offset = end
                index.put(position, offset, len(frame))
                self._indices[cell] = index, end + len(frame)
        self._write(path, frame, offset)
        return Entry(self._level, number, offset, len(frame))

    def get(self, chunk: Shape) -> bytes | None:
        """See reader.Frames: what `put` wrote, in this run or one that it continues."""
        cell, position = self._place(chunk)
        offset, nbytes = 0, -1
        if self._sharded:
            with self._lock:
                held = self._indices.get(cell)
                span = held[0].get(position) if held else None
            if span is None:
                return None
            offset, nbytes = span
        try:
            fd = os.open(self._file(cell), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            if nbytes < 0:
                nbytes = os.fstat(fd).st_size
            data = os.pread(fd, nbytes, offset)
        finally:
            os.close(fd)
        if len(data) != nbytes:
            raise Corrupt(f"{self._file(cell)}: {len(data)} bytes where {nbytes} should be")
        return data

    def restore(self, entry: Entry) -> bool:
        """Takes over what an earlier run finished; False where its file is not as it should be."""
        if not entry.nbytes:
            return True
        chunk = self._chunk(entry.number)
        cell, position = self._place(chunk)
        try:
            size = os.stat(self._file(cell)).st_size
        except FileNotFoundError:
            return False
        if not self._sharded:
            return size == entry.nbytes
        if size < entry.offset + entry.nbytes:
            return False
        index, end = self._indices.get(cell) or (self._empty(), 0)
        index.put(position, entry.offset, entry.nbytes)
        self._indices[cell] = index, max(end, entry.offset + entry.nbytes)
        return True

    def seal(self) -> None:
        """Ends all shards with their index; to be called once, when no chunk will come. OSError."""
        for cell, (index, end) in self._indices.items():
            path = self._file(cell)
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                # Whatever an earlier run left behind the frames that count.
                os.ftruncate(fd, end)
                _write_all(fd, index.pack(), end)
            finally:
                os.close(fd)
            self._touched.add(path)

    def take_touched(self) -> set[str]:
        """The files written to since the last call."""
        with self._lock:
            touched, self._touched = self._touched, set()
        return touched

    @property
    def directories(self) -> set[str]:
        """Directories that files were made in, up to the level's own."""
        return self._directories

    @property
    def index_bytes(self) -> int:
        """What the index of one shard takes on disk, 0 without shards."""
        return index_size(math.prod(self._per_cell)) if self._sharded else 0

    def _write(self, path: str, data: bytes | memoryview, offset: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (0 if self._sharded else os.O_TRUNC)
        directory = os.path.dirname(path)
        if directory not in self._directories:
            os.makedirs(directory, exist_ok=True)
            with self._lock:
                while len(directory) >= len(str(self.path)):
                    self._directories.add(directory)
                    directory = os.path.dirname(directory)
        fd = os.open(path, flags, 0o666)
        try:
            _write_all(fd, data, offset)
        except OSError as error:
            error.filename = error.filename or path
            raise
        finally:
            os.close(fd)
        with self._lock:
            self._touched.add(path)

    def _empty(self) -> ShardIndex:
        return ShardIndex.empty(math.prod(self._per_cell))

    def _file(self, cell: Shape) -> str:
        return f"{self.path}/{self._keys.name(cell)}"

    def _place(self, chunk: Shape) -> tuple[Shape, int]:
        position = 0
        for i, n in zip(chunk, self._per_cell, strict=True):
            position = position * n + i % n
        return tuple(i // n for i, n in zip(chunk, self._per_cell, strict=True)), position

    def _number(self, chunk: Shape) -> int:
        number = 0
        for i, n in zip(chunk, self.chunks.counts, strict=True):
            number = number * n + i
        return number

    def _chunk(self, number: int) -> Shape:
        index = []
        for n in reversed(self.chunks.counts):
            number, i = divmod(number, n)
            index.append(i)
        return tuple(reversed(index))


def _write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view.nbytes:
        written = os.pwrite(fd, view, offset)
        offset += written
        view = view[written:]
