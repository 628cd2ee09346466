"""Which records does a log hold after a crash, and is one of them damaged?

Segments are read by number. Each begins with a BEGIN that names the position where the
log stood before it, so that a chain leads from the first record to the last:

    segment 4             segment 5             segment 7
    BEGIN a b c | d e     BEGIN f g             BEGIN(end of c) h i

Here a sync failed after c: d to g never happened, and only the BEGIN of 7 says so.

Un-synced records may be lost in any order at a power cut. So where the chain breaks, at
P, all behind P was un-synced, a torn tail, and is cut - unless some record behind P says
in its header that more than P was durable: then the log is Corrupt. All that is behind
is searched for such a record, whether a chain leads there or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from ziggurat_engine.errors import NEWER, Corrupt, UnsupportedVersion
from ziggurat_engine.log import record, segment
from ziggurat_engine.log.record import Header, Kind, Record
from ziggurat_engine.log.segment import Segment
from ziggurat_engine.vfs import FileSystem, ReadFile

_SCAN_BYTES = 1 << 20


class Replayed(NamedTuple):
    """A record that the log held when it was opened."""

    position: int
    """Its end, as in Appended."""
    segment: int
    record: Record
    payload: memoryview
    """A Region's pixels; otherwise empty. Valid as long as it is held."""


class Torn(NamedTuple):
    """Where the log was cut: what is behind was never durable. lost: records that lie there."""

    path: Path
    position: int
    lost: int


class _Link(NamedTuple):
    """A segment in the chain."""

    segment: Segment
    begin: int | None
    """Where the log stood before it; None: its BEGIN is not there, it holds nothing."""
    limit: int | None
    """Its records from here on never happened; None: nothing is said about its end."""

    @property
    def start(self) -> int:
        return self.segment.base + segment.FIRST


class Chain:
    """The records of `segments`, which are live and in the order of their numbers."""

    def __init__(self, fs: FileSystem, segments: Sequence[Segment]) -> None:
        self._fs = fs
        self._links = _link(fs, segments)
        self._read: list[tuple[Segment, int]] = []
        self._durable = 0
        self.end = self._links[0].start if self._links else 0
        """The position behind the last record; known once `records` is exhausted."""
        self.torn: Torn | None = None
        """Where it was cut, if it was; known then, too."""

    def records(self) -> Iterator[Replayed]:
        """All records, in order. Corrupt; UnsupportedVersion; OSError."""
        chained = False
        for index, link in enumerate(self._links):
            if link.limit is not None and link.limit <= link.start:
                continue
            if link.begin is None or (chained and link.begin != self.end):
                self._cut(index, self.end if chained else link.start)
                return
            chained = True
            file = self._fs.open_read(link.segment.path)
            try:
                yield from self._records_of(link, file)
            finally:
                file.close()
            self._read.append((link.segment, self.end))
            if self.end != link.limit:
                self._cut(index, self.end)
                return

    def _records_of(self, link: _Link, file: ReadFile) -> Iterator[Replayed]:
        """Leaves self.end at the limit, or at the first record that is not right."""
        self.end = link.start
        while self.end != link.limit:
            found = read_record(file, link.segment, self.end)
            if found is None:
                return
            header, data = found
            self.end = header.end
            self._durable = max(self._durable, header.durable)
            if header.kind >= Kind.REGION:
                unpacked = record.unpack(header, data, link.segment.path)
                yield Replayed(header.end, link.segment.number, *unpacked)

    def make_durable(self) -> None:
        """All records that were given are on the disk when it returns."""
        for each, end in self._read:
            start = max(each.base + segment.FIRST, self._durable)
            if start < end:
                segment.rewrite(self._fs, each, start - each.base, end - each.base)

    def _cut(self, index: int, position: int) -> None:
        """The chain breaks at `position`, in the segment at `index` or before it."""
        lost = 0
        torn = False
        for link in self._links[index:]:
            file = self._fs.open_read(link.segment.path)
            try:
                inside = segment.segment_of(position) == link.segment.number
                start = position if inside else link.start
                torn |= inside and any(file.pread(record.HEADER_BYTES, start - link.segment.base))
                for header in _scan(file, link.segment, start):
                    self._durable = max(self._durable, header.durable)
                    lost += header.position > position and header.kind >= Kind.REGION
                    if header.durable > position:
                        _damaged(self._links[index].segment, position, header)
            finally:
                file.close()
        self.end = position
        if lost or torn:
            self.torn = Torn(self._links[index].segment.path, position, lost)


def _link(fs: FileSystem, segments: Sequence[Segment]) -> list[_Link]:
    links: list[_Link] = []
    limit: int | None = None
    for each in reversed(segments):
        file = fs.open_read(each.path)
        try:
            found = read_record(file, each, each.base + segment.FIRST)
        finally:
            file.close()
        begin = None
        if found is not None and found[0].kind == Kind.BEGIN:
            begin = record.unpack_begin(found[1])
        links.append(_Link(each, begin, limit))
        if begin is not None:
            limit = begin if limit is None else min(limit, begin)
    return links[::-1]


def read_record(file: ReadFile, at: Segment, position: int) -> tuple[Header, bytes] | None:
    """The record at `position` and what is behind its header; None if it is not right."""
    offset = position - at.base
    header = _header(file.pread(record.HEADER_BYTES, offset), at, position)
    if header is None or header.end > at.base + at.nbytes:
        return None
    data = file.pread(header.length - record.HEADER_BYTES, offset + record.HEADER_BYTES)
    return (header, data) if record.data_is_right(header, data) else None


def _scan(file: ReadFile, at: Segment, position: int) -> Iterator[Header]:
    """The headers of all records at or behind `position`, whatever lies between them."""
    offset = position - at.base
    magic = np.frombuffer(record.MAGIC, "<u4")
    while True:
        # What was preallocated and never written is most of a segment, as a rule.
        ahead = file.next_data(offset)
        offset = max(offset, ahead - ahead % record.ALIGN)
        data = file.pread(_SCAN_BYTES, offset)
        if not data:
            return
        # Only where records may begin: a segment is mostly room when a server starts.
        words = np.frombuffer(data, "<u4", len(data) // 4)[:: record.ALIGN // 4]
        for place in np.flatnonzero(words == magic).tolist():
            found = place * record.ALIGN
            piece = data[found : found + record.HEADER_BYTES]
            header = _header(piece, at, at.base + offset + found)
            if header is not None:
                yield header
        offset += len(data)


def _header(data: bytes, at: Segment, position: int) -> Header | None:
    """The header of a record of this segment at this position. UnsupportedVersion."""
    header = record.unpack_header(data)
    if header is None or header.salt != at.salt or header.position != position:
        return None
    if header.version > record.VERSION:
        raise UnsupportedVersion(
            f"{at.path} holds a log record of format {header.version} at position {position}; "
            f"this server knows {record.VERSION}: {NEWER}",
            path=at.path,
            position=position,
        )
    return header


def _damaged(at: Segment, position: int, witness: Header) -> NoReturn:
    raise Corrupt(
        f"{at.path}: the log record at position {position} is damaged or missing, though the "
        f"record at {witness.position} says that all up to {witness.durable} was durable",
        path=at.path,
        position=position,
    )
