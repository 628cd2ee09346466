"""How are boxes of an array read without zarr-python between the file and the pixels?

Where a chunk is a file, or lies in a shard with an index that we know, and its codec is
one of ours, bytes go from the file to numcodecs and nowhere else: NumPy and numcodecs let
go of the interpreter's lock, so that threads scale. Anything else (filters, Fortran order
with odd codecs, nested shards) is read by zarr-python, box by box. Both give the same
pixels: native byte order, C order, bool as 0 and 1 of uint8.

What is absent is found by listing names, never by trying: None comes back for a box of
which no chunk is stored, and it cost nothing.
"""

from __future__ import annotations

import math
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ziggurat_engine.errors import Corrupt
from ziggurat_engine.foreign.guard import Guard, check_inside, frame_limit
from ziggurat_engine.foreign.source import ZarrArray
from ziggurat_engine.grid import Grid
from ziggurat_engine.kernels import coding
from ziggurat_engine.region import Region, Shape
from ziggurat_engine.spec import Array, Codec
from ziggurat_engine.store.handles import ShardHandle, ShardHandles
from ziggurat_engine.store.objects import LocalStore
from ziggurat_engine.store.shard import ShardIndex, index_size
from ziggurat_engine.vfs import OsFileSystem


class Frames(Protocol):
    """Where the encoded chunks of a level come from."""

    def get(self, chunk: Shape) -> bytes | None:
        """The frame of `chunk`, None where it is absent. Any thread may ask."""
        ...


class Reader(Protocol):
    """Pixels of one level; any thread may read."""

    def read(self, region: Region) -> Array | None:
        """A new array of the region's shape, None where nothing of it is stored."""
        ...


class Counter:
    """How many chunks were decoded, or boxes read where zarr-python does it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.count = 0

    def add(self) -> None:
        """One more."""
        with self._lock:
            self.count += 1


def pixel_type(dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
    """What kernels see of `dtype`: bool as uint8, whose rounded mean is what most pixels are."""
    return np.dtype(np.uint8) if dtype == np.bool_ else dtype


class FileFrames:
    """Each chunk a file of its own."""

    def __init__(self, array: ZarrArray) -> None:
        self._path = str(array.path)
        self._root = os.path.realpath(array.path)
        self._keys = array.keys
        self._limit = frame_limit(math.prod(array.chunk) * array.dtype.itemsize)

    def get(self, chunk: Shape) -> bytes | None:
        """See Frames. Corrupt, OSError."""
        path = f"{self._path}/{self._keys.name(chunk)}"
        try:
            # What is no file, such as a pipe that nobody writes to, must not hold up its reader.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        try:
            check_inside(fd, path, self._root)
            size = os.fstat(fd).st_size
            if size > self._limit:
                raise Corrupt(f"{path}: {size} bytes are more than a chunk can have")
            data = os.pread(fd, size, 0)
            while len(data) < size:
                more = os.pread(fd, size - len(data), len(data))
                if not more:
                    break
                data += more
            return data
        finally:
            os.close(fd)


class ShardFrames:
    """Chunks in shards with an index at the end; the last few shards stay open, in `handles`."""

    def __init__(self, array: ZarrArray, handles: ShardHandles) -> None:
        self._store = LocalStore(OsFileSystem(), array.path, array.path)
        self._path = str(array.path)
        self._limit = frame_limit(math.prod(array.chunk) * array.dtype.itemsize)
        self._handles = handles
        self._keys = array.keys
        self._counts = tuple(s // c for s, c in zip(array.cell, array.chunk, strict=True))
        self._chunks = int(np.prod(self._counts))

    def get(self, chunk: Shape) -> bytes | None:
        """See Frames. Corrupt, OSError."""
        shard = tuple(i // n for i, n in zip(chunk, self._counts, strict=True))
        key = self._keys.name(shard)
        with self._lease(key) as handle:
            if handle is None:
                return None
            position = 0
            for i, n in zip(chunk, self._counts, strict=True):
                position = position * n + i % n
            span = handle.index.get(position)
            if span is None:
                return None
            if span[1] > self._limit:
                raise Corrupt(f"{key}: {span[1]} bytes are more than a chunk can have")
            data = handle.reader.read(*span)
            if len(data) != span[1]:
                raise Corrupt(f"{key}: {len(data)} bytes where {span[1]} should be")
            return data

    def present(self, shard: Shape) -> int:
        """How many chunks of a shard are not absent. Corrupt, OSError."""
        with self._lease(self._keys.name(shard)) as handle:
            return 0 if handle is None else handle.index.present

    def _lease(self, key: str) -> AbstractContextManager[ShardHandle | None]:
        # By the whole path, since others may keep shards in the same table.
        return self._handles.lease(f"{self._path}/{key}", lambda: self._open(key))

    def _open(self, key: str) -> ShardHandle | None:
        reader = self._store.open(key)
        if reader is None:
            return None
        try:
            payload = reader.size - index_size(self._chunks)
            if payload < 0:
                raise Corrupt(f"{key}: {reader.size} bytes are less than its index")
            tail = reader.read(payload, index_size(self._chunks))
            return ShardHandle(reader, ShardIndex.unpack(tail, self._chunks, payload, what=key))
        except BaseException:
            reader.close()
            raise


class ChunkReader:
    """Boxes out of frames that our own codecs decode."""

    def __init__(
        self,
        source: Frames,
        grid: Grid,
        dtype: np.dtype[np.generic],
        codec: Codec,
        fill: np.generic,
        *,
        big_endian: bool = False,
        fortran: bool = False,
        counter: Counter | None = None,
    ) -> None:
        self._source = source
        self._grid = grid
        self._dtype = dtype
        self._codec = codec
        self._fill = fill
        self._swap = big_endian and dtype.itemsize > 1
        self._fortran = fortran
        self._counter = counter or Counter()

    def read(self, region: Region) -> Array | None:
        """See Reader. Corrupt, OSError."""
        result: Array | None = None
        for part in self._grid.plan(region):
            chunk = self._chunk(part.at)
            if chunk is None:
                continue
            if part.inside_region.shape == region.shape:
                # Often the box is what one chunk has of the level.
                return chunk if chunk.shape == region.shape else chunk[part.inside_cell.slices()]
            if result is None:
                result = np.full(region.shape, self._fill, self._dtype)
            result[part.inside_region.slices()] = chunk[part.inside_cell.slices()]
        return result

    def _chunk(self, index: Shape) -> Array | None:
        frame = self._source.get(index)
        if frame is None:
            return None
        self._counter.add()
        shape = self._grid.cell[::-1] if self._fortran else self._grid.cell
        try:
            pixels = coding.decode(frame, self._codec, self._dtype, shape)
        except Corrupt as error:
            raise Corrupt(f"chunk {index}: {error}") from error
        if self._swap:
            pixels.byteswap(inplace=True)
        return pixels.T if self._fortran else pixels


class ZarrReader:
    """Boxes read by zarr-python: slower, and right for whatever it knows."""

    def __init__(self, array: ZarrArray, counter: Counter | None = None) -> None:
        self._array = array
        self._guard = Guard(array)
        self._counter = counter or Counter()

    def read(self, region: Region) -> Array | None:
        """See Reader. Corrupt, ValueError, OSError, as zarr-python gives them."""
        self._counter.add()
        self._guard.check(region)
        pixels = np.asarray(self._array.handle[region.slices()])
        native = np.ascontiguousarray(pixels, self._array.dtype)
        return native.view(pixel_type(self._array.dtype))


def open_reader(array: ZarrArray, handles: ShardHandles, counter: Counter | None = None) -> Reader:
    """The fastest reader that is right for `array`; `handles`: where its shards stay open."""
    coding = array.coding
    if coding.reads is None:
        return ZarrReader(array, counter)
    return ChunkReader(
        ShardFrames(array, handles) if array.sharded else FileFrames(array),
        array.chunks,
        pixel_type(array.dtype),
        coding.reads,
        fill_of(array),
        big_endian=coding.big_endian,
        fortran=coding.fortran,
        counter=counter,
    )


def fill_of(array: ZarrArray) -> np.generic:
    """What absent pixels are, 0 where nothing is said."""
    dtype = pixel_type(array.dtype)
    value = 0 if array.fill_value is None else array.fill_value
    return dtype.type(value)


class Stored:
    """An object that is there."""

    __slots__ = ("index", "modified", "size")

    def __init__(self, index: Shape, size: int, modified: float) -> None:
        self.index = index
        self.size = size
        self.modified = modified


def scan(  # noqa: C901 - one walk, four ways to name an object
    array: ZarrArray, *, sizes: bool = True
) -> Iterator[Stored]:
    """Every object of `array` that is on disk, in no order; other files are passed over.

    sizes: False saves a call a file, and both numbers are 0.
    """
    root = array.path / "c" if array.keys.prefix and array.keys.separator == "/" else array.path
    counts = array.objects.counts
    depth = len(counts) if array.keys.separator == "/" else 1
    lead = f"{array.keys.prefix}." if array.keys.prefix and array.keys.separator == "." else ""

    def walk(directory: str, above: Shape) -> Iterator[Stored]:
        try:
            entries = os.scandir(directory)
        except (FileNotFoundError, NotADirectoryError):
            return
        with entries:
            for entry in entries:
                name = entry.name
                if not name.startswith(lead):
                    continue
                index = _numbers(name[len(lead) :])
                if index is None:
                    continue
                if len(above) + 1 < depth:
                    yield from walk(entry.path, above + index)
                    continue
                whole = above + index
                if len(whole) != len(counts) or any(map(int.__ge__, whole, counts)):
                    continue
                if sizes:
                    status = entry.stat()
                    if stat.S_ISREG(status.st_mode):
                        yield Stored(whole, status.st_size, status.st_mtime)
                elif entry.is_file():
                    yield Stored(whole, 0, 0.0)

    return walk(str(root), ())


def present(array: ZarrArray) -> NDArray[np.int64]:
    """The index of every object on disk, shape (objects, axes)."""
    # A flat run of numbers takes 8 bytes each, a list of tuples ten times that.
    flat = np.fromiter(
        (number for stored in scan(array, sizes=False) for number in stored.index), np.int64
    )
    return flat.reshape(-1, len(array.shape))


def _numbers(name: str) -> Shape | None:
    try:
        numbers = tuple(map(int, name.split(".")))
    except ValueError:
        return None
    return numbers if ".".join(map(str, numbers)) == name else None
