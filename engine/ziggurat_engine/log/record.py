"""Which bytes is a record of the log?

Pure bytes, no I/O. All numbers are little-endian; a record starts at a multiple of 64
bytes of its segment and is padded with zeros to the next.

    header, 64 bytes
     0  magic "ZgRc"      4  a record starts here, perhaps
     4  version         u16
     6  kind             u8  see Kind
     7  0                u8
     8  salt            u64  of the segment: what a segment's file held before has another
    16  position        u64  of this record: segment number << 32 | offset in the segment
    24  durable         u64  all that ends at or before this was on the disk when it was written
    32  length          u64  header, body, payload and padding
    40  body length     u32
    44  0               u32
    48  payload length  u64
    56  data CRC        u32  CRC-32C of body and payload
    60  header CRC      u32  CRC-32C of the 60 bytes above

    body of Region, Skip, Close
     0  image           16   uid
    16  sequence        u64   Close: the stream's last
    24  frames          u64  Skip: how many; otherwise 0
    32  stream length    u8  bytes of UTF-8
    33  axes             u8  Region; otherwise 0
    34  outcome          u8  Close; otherwise 0
    35  0                u8
    36  metadata length u32
    40  stream, offset (u64 an axis), shape (u64 an axis), metadata

    body of BEGIN
     0  previous end    u64  where the log ended before this segment: what earlier segments
                             hold from there on never happened

Lengths are believed only once the header's CRC is right, and salt and position are those
of the place: neither stale bytes of a recycled file nor pixels look like a record.
A number never gets another meaning: a new kind or field is a new version.
"""

from __future__ import annotations

import enum
import struct
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import google_crc32c
import numpy as np

from ziggurat_engine.errors import Corrupt, UnsupportedVersion
from ziggurat_engine.region import Region as Box
from ziggurat_engine.vfs import Buffer

VERSION: Final = 1
ALIGN: Final = 64
HEADER_BYTES: Final = 64
MAGIC: Final = b"ZgRc"
MAX_STREAM_BYTES: Final = 128
MAX_AXES: Final = 5

_HEADER = struct.Struct("<4sHBxQQQQI4xQI")
_CRC = struct.Struct("<I")
_BODY = struct.Struct("<16sQQBBBxI")
_BEGIN = struct.Struct("<Q")
_PADDING = bytes(ALIGN)


class Kind(enum.IntEnum):
    """What a record says. Those below REGION are the log's own; replay doesn't hand them out."""

    BEGIN = 1  # first of each segment
    MARK = 2  # nothing but its header: says what is durable
    REGION = 3
    SKIP = 4
    CLOSE = 6


class Region(NamedTuple):
    """A region of level 0 arrived; its pixels are the record's payload."""

    image: bytes
    stream: str
    sequence: int
    box: Box
    metadata: bytes = b""


class Skip(NamedTuple):
    """Number `sequence`, which takes the place of a region: `frames` frames were dropped."""

    image: bytes
    stream: str
    sequence: int
    frames: int


class Close(NamedTuple):
    """The stream ended behind `sequence`, its last number, which the record repeats.

    What `outcome` means is its writer's business (0..255).
    """

    image: bytes
    stream: str
    sequence: int
    outcome: int


Record: TypeAlias = Region | Skip | Close
"""What can be appended. `image` is a 16-byte uid, `stream` at most 128 bytes of UTF-8."""


class Header(NamedTuple):
    """A record's header, its CRC found right. See the drawing."""

    version: int
    kind: int
    salt: int
    position: int
    durable: int
    length: int
    body_bytes: int
    payload_bytes: int
    data_crc: int

    @property
    def end(self) -> int:
        """The position behind the record: where the next one starts."""
        return self.position + self.length


class Packed(NamedTuple):
    """A record before it has a place: all but the header."""

    kind: Kind
    body: bytes
    payload: memoryview
    data_crc: int
    length: int
    """Bytes of the record with header and padding."""


def crc32c(data: Buffer, crc: int = 0) -> int:
    """CRC-32C of `data`, going on from `crc`; copies nothing."""
    # google_crc32c takes bytes and arrays, but no memoryview; the array is a view. It
    # holds the GIL, about 0.09 ms/MiB, unless it is given bytes of 1 MiB or more.
    view = data if isinstance(data, bytes) else np.frombuffer(data, np.uint8)
    return int(google_crc32c.extend(crc, view))


def pack(record: Record, payload: Buffer = b"") -> Packed:
    """Body and CRC of a record. The payload is read once and not copied.

    ValueError where a field does not fit the layout, or a payload goes with another
    record than a Region.
    """
    match record:
        case Region(image, stream, sequence, box, metadata):
            body = _pack_body(image, stream, sequence, box=box, metadata=metadata)
            return _packed(Kind.REGION, body, payload)
        case Skip(image, stream, sequence, frames):
            kind, body = Kind.SKIP, _pack_body(image, stream, sequence, frames=frames)
        case Close(image, stream, sequence, outcome):
            kind, body = Kind.CLOSE, _pack_body(image, stream, sequence, outcome=outcome)
    if memoryview(payload).nbytes:
        raise ValueError(f"{kind.name} has no payload")
    return _packed(kind, body)


def pack_begin(previous_end: int) -> Packed:
    """The first record of a segment; `previous_end` is the position the log goes on from."""
    return _packed(Kind.BEGIN, _BEGIN.pack(previous_end))


def pack_mark() -> Packed:
    """A record that only says, in its header, what is durable."""
    return _packed(Kind.MARK, b"")


def place(packed: Packed, *, salt: int, position: int, durable: int) -> list[Buffer]:
    """The buffers to write at `position`, `packed.length` bytes together."""
    kind, body, payload, data_crc, length = packed
    head = _HEADER.pack(
        MAGIC,
        VERSION,
        kind,
        salt,
        position,
        durable,
        length,
        len(body),
        payload.nbytes,
        data_crc,
    )
    head += _CRC.pack(google_crc32c.value(head))
    padding = _PADDING[: length - HEADER_BYTES - len(body) - payload.nbytes]
    return [head + body, payload, padding] if payload.nbytes else [head + body + padding]


def unpack_header(data: Buffer) -> Header | None:
    """The header in the first 64 bytes of `data`, of whatever version; None where there is none."""
    head = bytes(data[:HEADER_BYTES])
    if len(head) < HEADER_BYTES or head[:4] != MAGIC:
        return None
    if _CRC.unpack_from(head, HEADER_BYTES - 4)[0] != google_crc32c.value(head[:-4]):
        return None
    return Header(*_HEADER.unpack_from(head)[1:])


def data_is_right(header: Header, data: Buffer) -> bool:
    """True where `data`, all of the record behind its header, has the CRC it was written with."""
    view = memoryview(data)[: header.body_bytes + header.payload_bytes]
    return view.nbytes == header.body_bytes + header.payload_bytes and (
        crc32c(view) == header.data_crc
    )


def unpack(header: Header, data: Buffer, path: Path) -> tuple[Record, memoryview]:
    """The record and its payload (a view of `data`) from what is behind the header.

    Its CRC was found right, so bytes that make no sense were written so: Corrupt.
    UnsupportedVersion where a kind is unknown. Both name `path`.
    """
    body = bytes(memoryview(data)[: header.body_bytes])
    payload = memoryview(data)[header.body_bytes : header.body_bytes + header.payload_bytes]
    try:
        image, sequence, frames, stream_bytes, axes, outcome, _ = _BODY.unpack_from(body)
        at = _BODY.size + stream_bytes
        stream = body[_BODY.size : at].decode()
        match header.kind:
            case Kind.REGION:
                numbers = struct.unpack_from(f"<{2 * axes}Q", body, at)
                box = Box(numbers[:axes], numbers[axes:])
                return Region(image, stream, sequence, box, body[at + 16 * axes :]), payload
            case Kind.SKIP:
                return Skip(image, stream, sequence, frames), payload
            case Kind.CLOSE:
                return Close(image, stream, sequence, outcome), payload
    except (struct.error, UnicodeDecodeError) as error:
        raise Corrupt(f"{path}: log record at position {header.position}: {error}") from error
    raise UnsupportedVersion(
        f"{path}: log record at position {header.position} is of unknown kind {header.kind}"
    )


def unpack_begin(data: Buffer) -> int:
    """The previous end that a BEGIN names."""
    return int(_BEGIN.unpack_from(data)[0])


def _pack_body(
    image: bytes,
    stream: str,
    sequence: int,
    *,
    frames: int = 0,
    box: Box | None = None,
    outcome: int = 0,
    metadata: bytes = b"",
) -> bytes:
    name = stream.encode()
    offset, shape = box if box is not None else ((), ())
    if len(image) != 16:
        raise ValueError(f"image uid of {len(image)} bytes, not 16")
    if len(name) > MAX_STREAM_BYTES:
        raise ValueError(f"stream id of {len(name)} bytes, more than {MAX_STREAM_BYTES}")
    if len(offset) != len(shape) or len(shape) > MAX_AXES:
        raise ValueError(f"offset of {len(offset)} and shape of {len(shape)} axes")
    try:
        fixed = _BODY.pack(image, sequence, frames, len(name), len(shape), outcome, len(metadata))
        numbers = struct.pack(f"<{2 * len(shape)}Q", *offset, *shape)
    except struct.error as error:
        raise ValueError(f"a field does not fit: {error}") from error
    return b"".join((fixed, name, numbers, metadata))


def _packed(kind: Kind, body: bytes, payload: Buffer = b"") -> Packed:
    crc = crc32c(body)
    nbytes = HEADER_BYTES + len(body)
    view = memoryview(payload)
    if view.nbytes:
        crc = crc32c(payload, crc)
        nbytes += view.nbytes
        view = view.cast("B")
    else:
        view = memoryview(b"")
    return Packed(kind, body, view, crc, -(-nbytes // ALIGN) * ALIGN)
