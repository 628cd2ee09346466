"""May this object be decoded by zarr-python, or would it become more than it should?

zarr-python believes sizes that files declare, and decodes streams that declare none to their end: a
kilobyte may become all the memory there is. So each object is looked at before. What it says of
its size is read from its header, where the codec has one; a stream is decoded piece by piece,
and given up once it is longer than the chunk can be. Each version of a file is looked at once.

    blosc                    nbytes in the header
    zstd                     content size, where there is one
    lz4                      the first four bytes
    gzip, zlib, bz2, lzma    decoded, as far as is allowed

A shard is looked at chunk by chunk, by its index. Of codecs that are not named here no size is
known before; those that are known to compress may not lie in each other, since only the
first could be looked at.
"""

from __future__ import annotations

import bz2
import lzma
import math
import os
import threading
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numcodecs import zstd

from ziggurat_engine.errors import Corrupt, InvalidArgument
from ziggurat_engine.foreign.source import ZarrArray
from ziggurat_engine.kernels.codec import zstd_content_size
from ziggurat_engine.region import Region, Shape

Json = dict[str, Any]

COMPRESSORS = frozenset(("blosc", "zstd", "lz4", "zlib", "gzip", "bz2", "lzma"))
# Filters may widen pixels of one byte to eight; checksums and headers are short.
WIDEST = 8
SPARE_BYTES = 2**16
MAX_SHARD_CHUNKS = 2**22
# Verdicts that are remembered: a bound on memory.
MOST_SEEN = 100_000
_PIECE = 2**20


class Span(NamedTuple):
    """A part of an open file."""

    fd: int
    offset: int
    size: int

    def read(self, offset: int = 0, nbytes: int | None = None) -> bytes:
        """Bytes of it; fewer where the file was cut meanwhile."""
        left = max(0, self.size - offset)
        count = left if nbytes is None else min(nbytes, left)
        return os.pread(self.fd, count, self.offset + offset)

    def part(self, offset: int, size: int) -> Span:
        """A part of the part; Corrupt where it does not lie in it."""
        if offset + size > self.size:
            raise Corrupt(f"a chunk at {offset}, {size} bytes, of an object of {self.size}")
        return Span(self.fd, self.offset + offset, size)


def frame_limit(raw_bytes: int) -> int:
    """The largest frame that any codec makes of a chunk of so many bytes."""
    return 2 * WIDEST * raw_bytes + SPARE_BYTES


def check_inside(fd: int, path: str, root: str) -> None:
    """Corrupt where what was opened as `path` does not lie below `root`, a real path."""
    real = os.readlink(f"/proc/self/fd/{fd}")
    if not real.startswith(f"{root}/"):
        raise Corrupt(f"{path}: a link leads out of {root}, to {real}")


class Guard:
    """Looks at the objects of one array; any thread may ask.

    Raises InvalidArgument for an array of which no object could be looked at.
    """

    def __init__(self, array: ZarrArray) -> None:
        self._array = array
        self._root = os.path.realpath(array.path)
        self._codecs = codecs_of(array)
        check_codecs(self._codecs, array.path)
        self._raw_limit = WIDEST * math.prod(array.cell) * array.dtype.itemsize + SPARE_BYTES
        self._lock = threading.Lock()
        self._seen: dict[Shape, tuple[int, int, int]] = {}

    def check(self, region: Region) -> None:
        """Corrupt where an object that `region` touches would become too much; OSError."""
        for index in self._array.objects.indices(region):
            self._check_object(index)

    def _check_object(self, index: Shape) -> None:
        path = f"{self._array.path}/{self._array.keys.name(index)}"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            check_inside(fd, path, self._root)
            status = os.fstat(fd)
            version = (status.st_ino, status.st_mtime_ns, status.st_size)
            with self._lock:
                if self._seen.get(index) == version:
                    return
            if status.st_size > 2 * self._raw_limit:
                raise Corrupt(f"{status.st_size} bytes for {self._raw_limit} that it may become")
            itemsize = self._array.dtype.itemsize
            _check(Span(fd, 0, status.st_size), self._codecs, self._array.cell, itemsize)
        except Corrupt as error:
            raise Corrupt(f"{path}: {error.message}") from error
        finally:
            os.close(fd)
        with self._lock:
            if len(self._seen) >= MOST_SEEN:
                self._seen.clear()
            self._seen[index] = version


def codecs_of(array: ZarrArray) -> list[Json]:
    """The codecs of an array as Zarr v3 lists them: the last one was applied last."""
    document = array.document
    if array.version == 3:
        codecs: list[Json] = document["codecs"]
        return codecs
    filters = document.get("filters") or []
    compressor = document.get("compressor")
    applied = [*filters, *([compressor] if compressor else [])]
    return [{"name": each["id"], "configuration": each} for each in applied]


def check_codecs(codecs: Iterable[Json], path: Path) -> None:
    """InvalidArgument where compressed data lies in compressed data."""
    names = [_name(codec) for codec in codecs]
    found = [name for name in names if name in COMPRESSORS]
    shards = [codec for codec in codecs if _name(codec) == "sharding_indexed"]
    if len(found) > 1 or (found and shards):
        what = ", ".join([*("shards" for _ in shards), *found])
        raise InvalidArgument(
            f"{path}: {what}, one in the other: its size can't be known before it is decoded",
            field="path",
        )
    for shard in shards:
        settings = shard["configuration"]
        index = [_name(codec) for codec in settings.get("index_codecs", [])]
        if index not in (["bytes"], ["bytes", "crc32c"]):
            raise InvalidArgument(
                f"{path}: the index of its shards is coded by {', '.join(index)}", field="path"
            )
        check_codecs(settings["codecs"], path)


def _check(span: Span, codecs: list[Json], shape: Shape, itemsize: int) -> None:
    """Corrupt where what a span decodes to may be larger than pixels of `shape`."""
    for codec in reversed(codecs):
        name, settings = _name(codec), codec.get("configuration") or {}
        if name == "sharding_indexed":
            _check_shard(span, settings, shape, itemsize)
        elif name in COMPRESSORS:
            limit = WIDEST * math.prod(shape) * itemsize + SPARE_BYTES
            size = _size(name, span, settings, limit)
            if size > limit:
                raise Corrupt(f"{name} that becomes {size} bytes or more, of at most {limit}")


def _check_shard(span: Span, settings: Json, shape: Shape, itemsize: int) -> None:
    inner = tuple(settings["chunk_shape"])
    count = math.prod(s // c for s, c in zip(shape, inner, strict=True))
    if count > MAX_SHARD_CHUNKS:
        raise Corrupt(f"a shard of {count} chunks, more than {MAX_SHARD_CHUNKS}")
    codecs = settings["index_codecs"]
    size = 16 * count + 4 * (len(codecs) > 1)
    start = 0 if settings.get("index_location", "end") == "start" else span.size - size
    if start < 0:
        raise Corrupt(f"{span.size} bytes are less than the index of a shard")
    big = (codecs[0].get("configuration") or {}).get("endian") == "big"
    data = span.read(start, 16 * count)
    if len(data) < 16 * count:
        raise Corrupt("its index is cut short")
    entries = np.frombuffer(data, ">u8" if big else "<u8").reshape(count, 2)
    for offset, nbytes in entries[entries[:, 0] != 2**64 - 1].tolist():
        _check(span.part(offset, nbytes), settings["codecs"], inner, itemsize)


def _size(name: str, span: Span, settings: Json, limit: int) -> int:
    """What a frame becomes, or a number above `limit` where it is more."""
    if name == "blosc":
        return int.from_bytes(span.read(4, 4), "little")
    if name == "lz4":
        return int.from_bytes(span.read(0, 4), "little")
    data = span.read()
    if name == "zstd":
        declared = zstd_content_size(data)
        return _zstd_size(data, limit) if declared is None else declared
    try:
        return _streamed(name, data, settings, limit)
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
        raise Corrupt(f"{name} that does not decode: {error}") from error


def _zstd_size(data: bytes, limit: int) -> int:
    """Decodes into what is allowed, and fails where that is not enough."""
    try:
        zstd.decompress(data, np.empty(limit, np.uint8))
    except (RuntimeError, ValueError) as error:
        if "too small" in str(error):
            return limit + 1
    return limit


def _streamed(name: str, data: bytes, settings: Json, limit: int) -> int:
    """How long a stream is, with all that follow it, up to the first piece beyond `limit`."""
    size = 0
    while data and size <= limit:
        if name in ("gzip", "zlib"):
            inflating = zlib.decompressobj(zlib.MAX_WBITS + 32)
            while not inflating.eof and size <= limit:
                piece = len(inflating.decompress(data, _PIECE))
                size, data = size + piece, inflating.unconsumed_tail
                if not piece and not data:
                    return size  # it breaks off: zarr-python will say so
            data = inflating.unused_data.lstrip(b"\0") if name == "gzip" else b""
            continue
        reader: Any = bz2.BZ2Decompressor() if name == "bz2" else _lzma(settings, limit)
        while not reader.eof and size <= limit:
            piece = len(reader.decompress(data, _PIECE))
            size, data = size + piece, b""
            if not piece and reader.needs_input:
                return size
        data = reader.unused_data
    return size


def _lzma(settings: Json, limit: int) -> lzma.LZMADecompressor:
    form = settings.get("format", lzma.FORMAT_XZ)
    filters = settings.get("filters")
    if form == lzma.FORMAT_RAW:
        return lzma.LZMADecompressor(form, filters=filters)
    # Its dictionary is memory too.
    return lzma.LZMADecompressor(form, memlimit=2 * limit + 128 * 2**20)


def _name(codec: Json) -> str:
    return str(codec["name"]).removeprefix("numcodecs.")
