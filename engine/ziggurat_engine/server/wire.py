"""How do the two hot messages look on the wire?

Regions come up inside WriteRequest, pixels go down inside ReadResponse. The generated
code copies every payload at each touch; here a payload is sliced out of the received
bytes, and joined to its header once on the way down. The contract is write.proto and
read.proto:

    WriteRequest   12 <length of Region>
      Region         08 <sequence>
                     12 <length> <offset ...>       packed varints
                     1a <length> <shape ...>        packed varints
                     22 <length> <payload>
                     28 <timestamp>                 zigzag varint, where there is one
                     32 <length> <metadata>         where there is some
                     38 <shared_offset> 40 <shared_bytes>   in place of the payload
    ReadRegionsResponse   0a <length of ReadPiece>, ...
      ReadPiece      08 <index>
                     12 <length of ReadHeader>      with the first of its read
                     1a <length of ReadPart>
    ReadResponse   0a <length of ReadHeader>       in the first one
                   12 <length of ReadPart>
      ReadPart       0a <length> <offset ...>       packed varints
                     12 <length> <shape ...>        packed varints
                     1a <length> <payload>
                     22 <length> <frame_shape ...>  packed varints, where there is one

A tag is field number * 8 + wire type (0 varint, 2 length and bytes). What is encoded
equals the generated code's bytes; what is decoded may be any valid message: one that
does not have the usual fields, in any order, is left to the generated code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, TypeVar

from google.protobuf.message import DecodeError, Message
from ziggurat_proto.v1 import read_pb2, write_pb2

from ziggurat_engine.region import Region, Shape


class RegionWrite(NamedTuple):
    """A Region; `payload` is a view of the received message.

    shared_bytes: not 0: the pixels are so many bytes of shared memory, from `shared_offset`.
    """

    sequence: int
    region: Region
    payload: memoryview
    timestamp_ns: int | None = None
    metadata: str = ""
    shared_offset: int = 0
    shared_bytes: int = 0

    @property
    def nbytes(self) -> int:
        """Of its pixels, wherever they are."""
        return self.payload.nbytes + self.shared_bytes


@dataclass(frozen=True, slots=True)
class Malformed:
    """What arrived instead of a message; the servicer answers with INVALID_ARGUMENT."""

    reason: str


M = TypeVar("M", bound=Message)
WriteMessage: TypeAlias = RegionWrite | write_pb2.WriteRequest | Malformed


def decode_write_request(message: bytes) -> WriteMessage:
    """The WriteRequest in `message`; never raises."""
    try:
        found = _usual_region(message)
    except (IndexError, ValueError):
        found = None
    if found is not None:
        return found
    request = write_pb2.WriteRequest()
    try:
        request.ParseFromString(message)
    except DecodeError as error:
        return Malformed(f"not a WriteRequest: {error}")
    if request.WhichOneof("message") != "region":
        return request
    region = request.region
    return RegionWrite(
        region.sequence,
        Region(tuple(region.offset), tuple(region.shape)),
        memoryview(region.payload),
        region.timestamp_ns if region.HasField("timestamp_ns") else None,
        region.metadata_json,
        region.shared_offset,
        region.shared_bytes,
    )


def encode_part(
    box: Region, payload: memoryview, frame_shape: Shape = (), *, before: bytes = b""
) -> bytes:
    """A ReadResponse with a ReadPart; the payload, contiguous, is copied once.

    before: what `encode_header` gave, where the header is to come with it.
    """
    head, tail = _around_payload(box, payload, frame_shape)
    length = _varint(len(head) + payload.nbytes + len(tail))
    return b"".join((before, b"\x12", length, head, payload, tail))


def encode_piece(
    index: int,
    header: read_pb2.ReadHeader | None,
    box: Region,
    payload: memoryview | None,
    frame_shape: Shape = (),
) -> list[bytes | memoryview]:
    """A piece of a ReadRegionsResponse, to be joined; the payload, contiguous, is not copied."""
    head = b"\x08" + _varint(index) if index else b""
    if header is not None:
        said = header.SerializeToString()
        head += b"\x12" + _varint(len(said)) + said
    if payload is None:
        return [b"\x0a", _varint(len(head)), head]
    part, tail = _around_payload(box, payload, frame_shape)
    nbytes = len(part) + payload.nbytes + len(tail)
    part_length = b"\x1a" + _varint(nbytes)
    length = len(head) + len(part_length) + nbytes
    return [b"\x0a", _varint(length), head, part_length, part, payload, tail]


def _around_payload(box: Region, payload: memoryview, frame_shape: Shape) -> tuple[bytes, bytes]:
    """What comes before and behind the payload in a ReadPart."""
    head = _packed(0x0A, box.offset) + _packed(0x12, box.shape)
    if payload.nbytes:
        head += b"\x1a" + _varint(payload.nbytes)
    return head, _packed(0x22, frame_shape)


def encode_header(header: read_pb2.ReadHeader) -> bytes:
    """A ReadResponse with a ReadHeader."""
    return read_pb2.ReadResponse(header=header).SerializeToString()


def parser(kind: type[M]) -> Callable[[bytes], M | Malformed]:
    """A deserializer for messages of `kind` that never raises."""

    def parse(message: bytes) -> M | Malformed:
        found = kind()
        try:
            found.ParseFromString(message)
        except DecodeError as error:
            return Malformed(f"not a {kind.DESCRIPTOR.name}: {error}")
        return found

    return parse


_TAGS = frozenset((0x08, 0x12, 0x1A, 0x22, 0x28, 0x32, 0x38, 0x40))


def _usual_region(message: bytes) -> RegionWrite | None:  # noqa: C901 - one fast pass
    """The Region if the message holds one and nothing else, each field at most once.

    Raises IndexError or ValueError, or returns None, for anything else.
    """
    if not message or message[0] != 0x12:
        return None
    length, at = _read_varint(message, 1)
    end = at + length
    if end != len(message):
        return None
    sequence = 0
    offset: Shape = ()
    shape: Shape = ()
    payload = memoryview(b"")
    timestamp: int | None = None
    metadata = ""
    shared = {0x38: 0, 0x40: 0}
    seen = 0
    while at < end:
        tag = message[at]
        if tag not in _TAGS or seen & (1 << (tag >> 3)):
            return None
        seen |= 1 << (tag >> 3)
        value, at = _read_varint(message, at + 1)
        if tag == 0x08:
            sequence = value
            continue
        if tag == 0x28:
            timestamp = value >> 1 ^ -(value & 1)
            continue
        if tag in shared:
            shared[tag] = value
            continue
        stop = at + value
        if stop > end:
            return None
        if tag == 0x12:
            offset = _read_packed(message, at, stop)
        elif tag == 0x1A:
            shape = _read_packed(message, at, stop)
        elif tag == 0x32:
            metadata = message[at:stop].decode()
        else:
            payload = memoryview(message)[at:stop]
        at = stop
    box = Region(offset, shape)
    return RegionWrite(sequence, box, payload, timestamp, metadata, shared[0x38], shared[0x40])


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    value, shift = byte & 0x7F, 7
    while True:
        at += 1
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    if value >> 64 or not byte:
        # How long a form the generated code takes depends on the field: ask it.
        raise ValueError("a varint of more than 64 bits, or not in its shortest form")
    return value, at + 1


def _read_packed(data: bytes, at: int, stop: int) -> tuple[int, ...]:
    values = []
    while at < stop:
        value, at = _read_varint(data, at)
        values.append(value)
    if at != stop:
        raise ValueError("a varint crosses the end of its field")
    return tuple(values)


def _packed(tag: int, values: Sequence[int]) -> bytes:
    if not values:
        return b""
    body = b"".join(map(_varint, values))
    return bytes((tag,)) + _varint(len(body)) + body


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
