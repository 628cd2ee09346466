"""How do spooled messages lie in a file?

    segment   header, record, record, ...       <first number, 20 digits>.spool
      header    magic     8 bytes  "ZIGSPOOL"
                version   u32
                length    u32      of the owner
                durable   u64      the stream was known to be durable up to here
                owner     ...      UTF-8: which image and stream this is of
                crc32     u32      of all the above
      record    length    u32      of the message
                crc32     u32      of sequence and message
                sequence  u64      first number, then one more a record
                message   ...      a serialized WriteRequest

All little-endian. A segment is only ever appended to. What a process that died had
half written is torn: a record that reaches past the end of the file, that is the last
and fails its checksum, or that begins zeros up to the end. It is cut off. Anything
else that does not fit is damage, and reported.

Checksums of all but the last record are verified when a record is read, not when a
segment is opened: a long spool is resumed at once.
"""

from __future__ import annotations

import os
import struct
import zlib
from array import array
from dataclasses import dataclass, field
from typing import BinaryIO

from ziggurat._errors import DataLoss, FailedPrecondition

SUFFIX = ".spool"
VERSION = 1

_MAGIC = b"ZIGSPOOL"
_HEADER = struct.Struct("<8sIIQ")
_CHECKSUM = struct.Struct("<I")
_RECORD = struct.Struct("<IIQ")
_SEQUENCE = struct.Struct("<Q")

RECORD_OVERHEAD = _RECORD.size


@dataclass(slots=True, eq=False)
class Segment:
    """Where the records of one file lie; the numbers first to last, without gaps.

    ends: where each record ends in the file. begin: where the first begins.
    """

    path: str
    first: int
    begin: int
    durable: int
    owner: str
    ends: array[int] = field(default_factory=lambda: array("Q"))

    @property
    def last(self) -> int:
        """The highest number held; first - 1 where there is none."""
        return self.first + len(self.ends) - 1

    @property
    def size(self) -> int:
        """Bytes of the file, up to the end of the last record."""
        return self.ends[-1] if self.ends else self.begin

    def message_size(self, number: int) -> int:
        """Bytes of one message."""
        start, end = self._span(number)
        return end - start - _RECORD.size

    def read(self, number: int) -> bytes:
        """One message. Raises DataLoss where it is damaged, OSError."""
        start, end = self._span(number)
        with open(self.path, "rb") as file:
            file.seek(start)
            head, message = file.read(_RECORD.size), file.read(end - start - _RECORD.size)
        if head != record_head(number, message):
            raise _damaged(self.path, start)
        return message

    def _span(self, number: int) -> tuple[int, int]:
        index = number - self.first
        return self.ends[index - 1] if index else self.begin, self.ends[index]


def file_name(first: int) -> str:
    """The name of the segment that begins with this number; names sort as numbers do."""
    return f"{first:020d}{SUFFIX}"


def header(owner: str, durable: int) -> bytes:
    """The first bytes of a segment."""
    name = owner.encode()
    head = _HEADER.pack(_MAGIC, VERSION, len(name), durable) + name
    return head + _CHECKSUM.pack(zlib.crc32(head))


def record_head(number: int, message: bytes) -> bytes:
    """What comes before a message."""
    checksum = zlib.crc32(message, zlib.crc32(_SEQUENCE.pack(number)))
    return _RECORD.pack(len(message), checksum, number)


def scan(path: str) -> Segment | None:
    """The segment in a file, its torn end cut off; None where that leaves nothing.

    Raises DataLoss for damage, FailedPrecondition for a newer version, OSError.
    """
    first = int(os.path.basename(path).removesuffix(SUFFIX))
    with open(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        found = _scan_header(file, path, first, size)
        if found is not None:
            _scan_records(file, found, size)
            if found.ends and found.size < size:
                file.truncate(found.size)
    if found is None or not found.ends:
        os.unlink(path)
        return None
    return found


def _scan_header(file: BinaryIO, path: str, first: int, size: int) -> Segment | None:
    fixed = file.read(_HEADER.size)
    if len(fixed) < _HEADER.size or not any(fixed):
        return None
    magic, version, length, durable = _HEADER.unpack(fixed)
    if magic != _MAGIC:
        raise _damaged(path, 0)
    if version > VERSION:
        raise FailedPrecondition(
            f"{path} was written by a newer ziggurat-client (format {version})",
            reason="UNSUPPORTED_VERSION",
        )
    begin = _HEADER.size + length + _CHECKSUM.size
    if begin > size:
        return None
    name, checksum = file.read(length), file.read(_CHECKSUM.size)
    if _CHECKSUM.unpack(checksum)[0] != zlib.crc32(fixed + name):
        if begin == size:
            return None
        raise _damaged(path, 0)
    return Segment(path, first, begin, durable, name.decode())


def _scan_records(file: BinaryIO, segment: Segment, size: int) -> None:
    at = segment.begin
    while at < size:
        file.seek(at)
        head = file.read(_RECORD.size)
        if len(head) < _RECORD.size:
            return
        length, _, number = _RECORD.unpack(head)
        end = at + _RECORD.size + length
        if number != segment.last + 1:
            if any(head) or any(file.read()):
                raise _damaged(segment.path, at)
            return
        if end > size or (end == size and record_head(number, file.read(length)) != head):
            return
        segment.ends.append(end)
        at = end


def _damaged(path: str, at: int) -> DataLoss:
    return DataLoss(
        f"the spool file {path} is damaged at byte {at}: move it away to send what is left;"
        " its messages then count as lost",
        reason="SPOOL_DAMAGED",
        details={"path": path, "offset": str(at)},
    )
