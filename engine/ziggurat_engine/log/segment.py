"""How does a file of the log begin, and how is it made, written, voided?

A segment is a file of fixed size with a number that never comes again. Its header is
there twice, in two sectors, so that one of them is right at any instant:

      0  header, and again at 512
         0  magic "ZigguLog"
         8  version  u32  these three and the CRC keep their places in all versions
        12  state    u32  1 live, 2 void
        16  number   u64  the segment's base position is number << 32
        24  salt     u64  of its records, drawn anew each time the file is used
        32  bytes    u64  of the file
        40  zeros
        60  CRC      u32  CRC-32C of the 60 bytes above
   1024  records, back to back (record.py); the first is a BEGIN

The file is preallocated, so that a full disk is met when a segment is made and never
while one is written, and so that a sync has no size to record.

The life of a file, each step durable before the next: made; live header; records; void
header; first record wiped; live header with another number and salt; and so on. So
a file whose headers are both damaged held nothing durable unless its first record is
whole. A torn write may leave any mixture of old and new in the sectors it touched.
"""

from __future__ import annotations

import enum
import os
import re
import struct
from pathlib import Path
from typing import Final, NamedTuple

from ziggurat_engine.errors import NEWER, Corrupt, UnsupportedVersion
from ziggurat_engine.log import record
from ziggurat_engine.log.staged import StagedFile
from ziggurat_engine.vfs import BlockFile, FileSystem

VERSION: Final = 1
MAGIC: Final = b"ZigguLog"
SECTOR: Final = 512
FIRST: Final = 2 * SECTOR
"""Offset of the first record."""
NUMBER_SHIFT: Final = 32
MAX_SEGMENT_BYTES: Final = (1 << NUMBER_SHIFT) - record.ALIGN
MIN_SEGMENT_BYTES: Final = 4096
BEGIN_BYTES: Final = record.pack_begin(0).length

_HEADER = struct.Struct("<8sIIQQQ20x")
_CRC = struct.Struct("<I")
_NAME = re.compile(r"[0-9]+\.log")


class State(enum.IntEnum):
    """What the records of a segment's file are worth."""

    LIVE = 1
    VOID = 2


class Header(NamedTuple):
    """See the drawing."""

    state: State
    number: int
    salt: int
    nbytes: int


class Found(NamedTuple):
    """A file of the log's directory; `header` is None where it has none."""

    path: Path
    nbytes: int
    header: Header | None

    @property
    def number(self) -> int:
        """The highest number that is known to have been used for it."""
        named = int(self.path.stem)
        return named if self.header is None else max(named, self.header.number)


class Segment(NamedTuple):
    """A live segment."""

    path: Path
    number: int
    salt: int
    nbytes: int

    @property
    def base(self) -> int:
        """The position of the file's first byte."""
        return self.number << NUMBER_SHIFT


def segment_of(position: int) -> int:
    """The number of the segment that a position lies in."""
    return position >> NUMBER_SHIFT


def pack_header(header: Header) -> bytes:
    """The 64 bytes of a header."""
    head = _HEADER.pack(MAGIC, VERSION, *header)
    return head + _CRC.pack(record.crc32c(head))


def unpack_header(data: bytes, path: Path) -> Header | None:
    """The header in `data`, None where there is none; UnsupportedVersion."""
    if len(data) < 64 or data[:8] != MAGIC:
        return None
    if _CRC.unpack_from(data, 60)[0] != record.crc32c(data[:60]):
        return None
    _, version, state, *rest = _HEADER.unpack_from(data)
    if version > VERSION:
        raise UnsupportedVersion(
            f"{path} is a log segment of format {version}; this server knows {VERSION}: {NEWER}",
            path=path,
        )
    return Header(State(state), *rest)


def name_of(number: int) -> str:
    """The name of a file made for segment `number`; it keeps it when it is used again."""
    return f"{number:012d}.log"


def find(fs: FileSystem, directory: Path) -> list[Found]:
    """The log's files, by name.

    Corrupt where a file lost both headers but not the records behind them.
    """
    names = sorted(entry.name for entry in fs.list_dir(directory) if not entry.is_dir)
    return [_look(fs, directory / name) for name in names if _NAME.fullmatch(name)]


def _look(fs: FileSystem, path: Path) -> Found:
    file = fs.open_read(path)
    try:
        for offset in (0, SECTOR):
            header = unpack_header(file.pread(64, offset), path)
            if header is not None:
                return Found(path, file.size, header)
        first = record.unpack_header(file.pread(record.HEADER_BYTES, FIRST))
        if first is not None:
            raise Corrupt(
                f"{path} holds log records from position {first.position} on, "
                f"but both copies of its header are damaged",
                path=path,
                position=first.position,
            )
        return Found(path, file.size, None)
    finally:
        file.close()


class SegmentWriter:
    """A live segment's file behind its headers.

    `append` is for one thread at a time; `sync` may run beside it.
    """

    def __init__(self, segment: Segment, file: BlockFile) -> None:
        self.segment = segment
        self._file = StagedFile(file, FIRST, segment.nbytes)
        self._end = FIRST

    @property
    def end(self) -> int:
        """The position behind the last record."""
        return self.segment.base + self._end

    @property
    def room(self) -> int:
        """Bytes that are left."""
        return self.segment.nbytes - self._end

    def append(self, packed: record.Packed, durable: int) -> int:
        """Takes a record that fits; returns its end. After an error it is as if never tried."""
        buffers = record.place(packed, salt=self.segment.salt, position=self.end, durable=durable)
        self._file.append(buffers)
        self._end += packed.length
        return self.end

    def sync(self) -> None:
        """All records appended before are durable. After an error: close, no second try."""
        self._file.sync()

    def close(self) -> None:
        """Gives the descriptor back."""
        self._file.close()


def create(fs: FileSystem, path: Path, number: int, nbytes: int) -> SegmentWriter:
    """A new file for a segment, durable by name and header when it returns.

    On any error, ENOSPC above all, the file is gone again.
    """
    fs.create(path, preallocate=nbytes).close()
    try:
        writer = reuse(fs, path, number, nbytes)
    except OSError:
        fs.remove(path)
        raise
    try:
        fs.sync_dir(path.parent)
    except OSError:
        writer.close()
        fs.remove(path)
        raise
    return writer


def reuse(fs: FileSystem, path: Path, number: int, nbytes: int) -> SegmentWriter:
    """A voided file as a segment with another number; durable when it returns."""
    salt = int.from_bytes(os.urandom(8), "little")
    header = pack_header(Header(State.LIVE, number, salt, nbytes))
    file = fs.open_write(path, direct=True)
    try:
        file.writev((header,), 0)
        file.sync()
        # The second copy becomes durable with the first record.
        file.writev((header,), SECTOR)
    except BaseException:
        file.close()
        raise
    return SegmentWriter(Segment(path, number, salt, nbytes), file)


def void(fs: FileSystem, segment: Segment) -> None:
    """What the segment holds no longer counts, durably; the file may be used again."""
    header = pack_header(Header(State.VOID, segment.number, 0, segment.nbytes))
    file = fs.open_write(segment.path)
    try:
        file.writev((header,), 0)
        file.sync()
        file.writev((header, bytes(2 * SECTOR - len(header))), SECTOR)
        file.sync()
    finally:
        file.close()


def rewrite(fs: FileSystem, segment: Segment, start: int, stop: int) -> None:
    """Makes the bytes between two offsets durable that were read but perhaps never written.

    A process that died may have met a failed sync, after which the system shows bytes as
    clean that are not on the disk: to sync them proves nothing, to write them again does.
    """
    source = fs.open_read(segment.path)
    try:
        file = fs.open_write(segment.path)
        try:
            for offset in range(start, stop, 1 << 20):
                file.writev((source.pread(min(1 << 20, stop - offset), offset),), offset)
            file.sync()
        finally:
            file.close()
    finally:
        source.close()
