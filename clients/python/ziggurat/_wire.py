"""How do the two hot messages look on the wire?

Frames go up as Region inside WriteRequest, pixels come down as ReadPart inside
ReadResponse. Generated code copies each payload at least once more than is needed;
here the payload is joined to a header on the way up and sliced out of the received
bytes on the way down. The bytes are those of the contract (write.proto, read.proto):

    WriteRequest   12 <length of Region>
      Region         08 <sequence>
                     12 <length> <offset ...>       packed varints
                     1a <length> <shape ...>        packed varints
                     22 <length> <payload>
                     28 <timestamp>                 zigzag varint, where there is one
                     32 <length> <metadata>         where there is some
                     38 <shared_offset> 40 <shared_bytes>   in place of the payload
    ReadResponse   0a <length of ReadHeader>       in the first one
                   12 <length of ReadPart>
    ReadRegionsResponse   0a <length of ReadPiece>, ...
      ReadPiece      08 <index>
                     12 <length of ReadHeader>      with the first of its read
                     1a <length of ReadPart>
      ReadPart       0a <length> <offset ...>       packed varints
                     12 <length> <shape ...>        packed varints
                     1a <length> <payload>
                     22 <length> <frame_shape ...>  packed varints, where there is one

Lengths and numbers are varints: seven bits a byte, the lowest first, the top bit set
on all but the last. Fields that hold their default (0, empty) are left out. Encoding
equals the generated code's byte for byte. Decoding takes any valid message: what does
not have the usual form is left to the generated code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias, TypedDict, Unpack

from google.protobuf.message import DecodeError
from ziggurat_proto.v1 import read_pb2

from ziggurat._errors import ServerError

Buffer: TypeAlias = bytes | bytearray | memoryview

_MAX_UINT64 = 2**64 - 1


class Said(TypedDict, total=False):
    """What is told of a frame beside its pixels. metadata: UTF-8."""

    timestamp_ns: int | None
    metadata: bytes


class Part(NamedTuple):
    """One box of a read; `payload` is a view of the received message.

    offset, shape: pixels, one an axis, relative to the header's offset.
    payload: prod(shape) pixels, little-endian, C order. frame_shape: not (): a Blosc frame of
    such pixels, of which the part is the first ones.
    """

    offset: tuple[int, ...]
    shape: tuple[int, ...]
    payload: memoryview
    frame_shape: tuple[int, ...] = ()


class Piece(NamedTuple):
    """A part of the answer to one of many reads.

    number: which one. header: with the first piece of each.
    """

    number: int
    header: read_pb2.ReadHeader | None
    part: Part | None


def part_of(part: read_pb2.ReadPart) -> Part:
    """What generated code has parsed."""
    payload = memoryview(part.payload)
    return Part(tuple(part.offset), tuple(part.shape), payload, tuple(part.frame_shape))


def encode_region(
    sequence: int,
    offset: Sequence[int],
    shape: Sequence[int],
    payload: Buffer,
    *,
    shared: tuple[int, int] | None = None,
    **said: Unpack[Said],
) -> bytes:
    """A WriteRequest with a Region; the payload is copied once.

    payload: contiguous; its bytes are sent as they are. shared: where the pixels lie in
    shared memory, and how many bytes; the payload is empty then.
    Raises ValueError for numbers outside 0 to 2**64 - 1, and a timestamp outside int64.
    """
    timestamp_ns, metadata = said.get("timestamp_ns"), said.get("metadata", b"")
    size = payload.nbytes if isinstance(payload, memoryview) else len(payload)
    head = bytearray()
    if sequence:
        head.append(0x08)
        _put_varint(head, sequence)
    _put_packed(head, 0x12, offset)
    _put_packed(head, 0x1A, shape)
    if size:
        head.append(0x22)
        _put_varint(head, size)
    outer = bytearray(b"\x12")
    if timestamp_ns is None and not metadata and shared is None:
        _put_varint(outer, len(head) + size)
        return b"".join((outer, head, payload))
    tail = bytearray()
    if timestamp_ns is not None:
        tail.append(0x28)
        # Zigzag: 0, -1, 1, -2, ... become 0, 1, 2, 3, ...
        _put_varint(tail, timestamp_ns << 1 if timestamp_ns >= 0 else ~timestamp_ns << 1 | 1)
    if metadata:
        tail.append(0x32)
        _put_varint(tail, len(metadata))
        tail += metadata
    for tag, value in zip((0x38, 0x40), shared or (), strict=False):
        if value:
            tail.append(tag)
            _put_varint(tail, value)
    _put_varint(outer, len(head) + size + len(tail))
    return b"".join((outer, head, payload, tail))


def decode_response(message: bytes) -> tuple[read_pb2.ReadHeader | None, Part | None]:
    """Header and part of a ReadResponse, as far as they are there; a payload is not copied.

    Raises ServerError where `message` is not a ReadResponse with one of them.
    """
    found = _usual(message)
    if found is not None:
        return found
    try:
        response = read_pb2.ReadResponse.FromString(message)
    except DecodeError:
        raise ServerError(
            f"a message of {len(message)} bytes is not a ReadResponse: is this a Ziggurat server?",
            reason="MALFORMED_MESSAGE",
        ) from None
    header = response.header if response.HasField("header") else None
    part = part_of(response.part) if response.HasField("part") else None
    if header is None and part is None:
        raise ServerError("a ReadResponse has neither header nor part", reason="MALFORMED_MESSAGE")
    return header, part


def _usual(message: bytes) -> tuple[read_pb2.ReadHeader | None, Part | None] | None:
    """What a part, perhaps behind a header, holds; None for what generated code has to look at."""
    header, at = None, 0
    try:
        if message.startswith(b"\x0a"):
            size, start = _get_varint(message, 1)
            at = start + size
            if message[at] != 0x12:
                return None
            header = read_pb2.ReadHeader.FromString(message[start:at])
        part = _usual_part(message, at)
    except (IndexError, DecodeError, _UnusualError):
        return None
    return None if part is None else (header, part)


def _usual_part(message: bytes, at: int) -> Part | None:
    """The part that `message` ends with, from `at`, where it has the usual form.

    Else None, IndexError or _UnusualError.
    """
    if message[at] != 0x12:
        return None
    size, at = _get_varint(message, at + 1)
    return _part_fields(message, at, at + size) if at + size == len(message) else None


def _part_fields(message: bytes, at: int, end: int) -> Part | None:
    """The ReadPart between `at` and `end`, where it has the usual form; else as `_usual_part`."""
    offset: list[int] = []
    shape: list[int] = []
    frame_shape: list[int] = []
    payload = memoryview(b"")
    while at < end:
        tag = message[at]
        size, at = _get_varint(message, at + 1)
        if at + size > end:
            return None
        if tag == 0x1A:
            payload = memoryview(message)[at : at + size]
        elif tag == 0x0A:
            _get_packed(offset, message, at, at + size)
        elif tag == 0x12:
            _get_packed(shape, message, at, at + size)
        elif tag == 0x22:
            _get_packed(frame_shape, message, at, at + size)
        else:
            return None
        at += size
    return Part(tuple(offset), tuple(shape), payload, tuple(frame_shape))


def decode_pieces(message: bytes) -> Sequence[Piece]:
    """What a ReadRegionsResponse holds; a payload is not copied.

    Raises ServerError where `message` is none.
    """
    try:
        return _usual_pieces(message)
    except (IndexError, DecodeError, _UnusualError):
        pass
    try:
        response = read_pb2.ReadRegionsResponse.FromString(message)
    except DecodeError:
        raise ServerError(
            f"a message of {len(message)} bytes is not a ReadRegionsResponse",
            reason="MALFORMED_MESSAGE",
        ) from None
    return [
        Piece(
            piece.index,
            piece.header if piece.HasField("header") else None,
            part_of(piece.part) if piece.HasField("part") else None,
        )
        for piece in response.pieces
    ]


def _usual_pieces(message: bytes) -> list[Piece]:
    """Pieces in the usual form: index, header, part, each at most once and in this order.

    Else _UnusualError, or as `_usual_part`.
    """
    pieces: list[Piece] = []
    at = 0
    while at < len(message):
        index, header, part, last = 0, None, None, 0
        if message[at] != 0x0A:
            raise _UnusualError
        size, at = _get_varint(message, at + 1)
        end = at + size
        while at < end:
            tag = message[at]
            value, at = _get_varint(message, at + 1)
            stop = at if tag == 0x08 else at + value
            if tag <= last or stop > end:
                raise _UnusualError
            last = tag
            if tag == 0x08 and value < 2**32:
                index = value
            elif tag == 0x12:
                header = read_pb2.ReadHeader.FromString(message[at:stop])
            elif tag == 0x1A and (part := _part_fields(message, at, stop)) is not None:
                pass
            else:
                raise _UnusualError
            at = stop
        if at != end or end > len(message):
            raise _UnusualError
        pieces.append(Piece(index, header, part))
    return pieces


class _UnusualError(Exception):
    """Valid or not, this is not what a server usually sends."""


def _get_packed(into: list[int], message: bytes, at: int, end: int) -> None:
    while at < end:
        value, at = _get_varint(message, at)
        into.append(value)
    if at != end:
        raise _UnusualError


def _get_varint(message: bytes, at: int) -> tuple[int, int]:
    """The number at `at` and where the next byte lies.

    Raises IndexError at the end of the message and _UnusualError past nine bytes:
    only there can a varint overflow, and no size or offset is that large.
    """
    value = message[at]
    if value < 0x80:
        return value, at + 1
    value &= 0x7F
    for shift in range(7, 63, 7):
        at += 1
        byte = message[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + 1
    raise _UnusualError


def _put_packed(into: bytearray, tag: int, values: Sequence[int]) -> None:
    if not values:
        return
    packed = bytearray()
    for value in values:
        _put_varint(packed, value)
    into.append(tag)
    _put_varint(into, len(packed))
    into += packed


def _put_varint(into: bytearray, value: int) -> None:
    if not 0 <= value <= _MAX_UINT64:
        raise ValueError(f"{value} is not an unsigned 64-bit number")
    while value > 0x7F:
        into.append(value & 0x7F | 0x80)
        value >>= 7
    into.append(value)
