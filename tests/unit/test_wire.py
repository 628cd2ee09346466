"""Are the hand-wired messages those of the generated code, both ways, whatever arrives?"""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from ziggurat_engine.region import Region
from ziggurat_engine.server import wire
from ziggurat_proto.v1 import image_pb2, read_pb2, write_pb2

uint64 = st.one_of(st.integers(0, 300), st.integers(0, 2**64 - 1))
numbers = st.lists(uint64, max_size=5)
payloads = st.one_of(st.binary(max_size=300), st.just(bytes(range(256)) * 70))


def generated(
    sequence: int, offset: list, shape: list, payload: bytes, **said: object
) -> write_pb2.WriteRequest:
    return write_pb2.WriteRequest(
        region=write_pb2.Region(
            sequence=sequence, offset=offset, shape=shape, payload=payload, **said
        )
    )


def as_region(request: write_pb2.WriteRequest) -> wire.RegionWrite:
    region = request.region
    return wire.RegionWrite(
        region.sequence,
        Region(tuple(region.offset), tuple(region.shape)),
        memoryview(region.payload),
        region.timestamp_ns if region.HasField("timestamp_ns") else None,
        region.metadata_json,
        region.shared_offset,
        region.shared_bytes,
    )


def same(found: wire.WriteMessage, message: bytes) -> None:
    """What the generated code makes of `message`, or that it is no message."""
    request = write_pb2.WriteRequest()
    try:
        request.ParseFromString(message)
    except DecodeError:
        assert isinstance(found, wire.Malformed), f"{found!r} out of a malformed message"
        assert found.reason
        return
    if request.WhichOneof("message") == "region":
        assert found == as_region(request)
    else:
        assert found == request


timestamps = st.one_of(st.none(), st.integers(-300, 300), st.integers(-(2**63), 2**63 - 1))


@given(uint64, numbers, numbers, payloads, timestamps, st.text(max_size=200), uint64, uint64)
def test_regions_are_decoded(
    sequence: int,
    offset: list,
    shape: list,
    payload: bytes,
    timestamp: int | None,
    said: str,
    at: int,
    nbytes: int,
) -> None:
    message = generated(
        sequence,
        offset,
        shape,
        payload,
        timestamp_ns=timestamp,
        metadata_json=said,
        shared_offset=at,
        shared_bytes=nbytes,
    ).SerializeToString()
    found = wire.decode_write_request(message)
    box = Region(tuple(offset), tuple(shape))
    assert found == wire.RegionWrite(sequence, box, payload, timestamp, said, at, nbytes)
    assert found.nbytes == len(payload) + nbytes
    same(found, message)


def test_the_payload_is_a_view_of_the_message() -> None:
    message = generated(1, [0, 0], [2, 2], b"abcd").SerializeToString()
    found = wire.decode_write_request(message)
    assert isinstance(found, wire.RegionWrite)
    assert found.payload.obj is message


@given(numbers, numbers, payloads, numbers)
def test_parts_are_encoded(offset: list, shape: list, payload: bytes, frame: list) -> None:
    part = read_pb2.ReadPart(offset=offset, shape=shape, payload=payload, frame_shape=frame)
    wanted = read_pb2.ReadResponse(part=part).SerializeToString()
    box = Region(tuple(offset), tuple(shape))
    found = wire.encode_part(box, memoryview(payload), tuple(frame))
    assert type(found) is bytes, "anything else hangs the client"
    assert found == wanted


def test_headers_are_encoded() -> None:
    header = read_pb2.ReadHeader(
        level=1, data_type=image_pb2.DATA_TYPE_INT8, offset=[1], scale=[0.5], stale=True
    )
    found = wire.encode_header(header)
    assert read_pb2.ReadResponse.FromString(found).header == header
    both = wire.encode_part(Region((1,), (2,)), memoryview(b"ab"), before=found)
    part = read_pb2.ReadPart(offset=[1], shape=[2], payload=b"ab")
    assert both == read_pb2.ReadResponse(header=header, part=part).SerializeToString()


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes((value & 0x7F | 0x80,))
        value >>= 7
    return out + bytes((value,))


def field(number: int, body: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(body)) + body


SEQUENCE = b"\x08\x05"
FIELDS = {
    "sequence": SEQUENCE,
    "offset": field(2, b"\x01\x02"),
    "offset-unpacked": b"\x10\x01\x10\x02",
    "shape": field(3, b"\x03\xac\x02"),
    "payload": field(4, b"pixels"),
    "empty-payload": field(4, b""),
    "shared": b"\x38\x40\x40\x80\x10",
    "shared-bytes": b"\x40\x01",
    "shared-wrong-type": field(7, b"\x01"),
    "unknown-varint": b"\x78\x01",
    "unknown-bytes": field(1000, b"what a later version says"),
    "unknown-fixed32": b"\x7d\x01\x02\x03\x04",
    "unknown-fixed64": b"\x79\x01\x02\x03\x04\x05\x06\x07\x08",
    "unknown-group": b"\x73\x08\x01\x74",
    "long-varint": b"\x08\x85\x80\x80\x00",
    "longest-varint": b"\x08" + b"\x85" + b"\x80" * 8 + b"\x00",
    "too-long-varint": b"\x08" + b"\x85" + b"\x80" * 12 + b"\x00",
    "overflowing-varint": b"\x08" + b"\xff" * 9 + b"\x7f",
    "long-tag": b"\xa2\x80\x00\x01p",
    "long-length": b"\x22\x81\x80\x00p",
    "longer-length": b"\x22\x81" + b"\x80" * 7 + b"\x00p",
    "wrong-type": b"\x0d\x01\x02\x03\x04",
    "wrong-type-payload": b"\x20\x01",
    "tag-zero": b"\x00\x01",
    "truncated-length": b"\x22\x05ab",
    "truncated-varint": b"\x08\x80",
    "packed-cut-short": field(2, b"\x01\x80"),
}


@given(st.lists(st.sampled_from(sorted(FIELDS)), max_size=7))
def test_any_fields_in_any_order(names: list[str]) -> None:
    """Twice, unpacked, unknown, in another order, or cut short: as the generated code says."""
    message = field(2, b"".join(FIELDS[name] for name in names))
    same(wire.decode_write_request(message), message)


@pytest.mark.parametrize("name", FIELDS)
def test_each_odd_field_alone(name: str) -> None:
    message = field(2, FIELDS[name])
    same(wire.decode_write_request(message), message)


OUTSIDE = {
    "empty": b"",
    "two-regions": field(2, SEQUENCE) + field(2, field(4, b"second")),
    "region-then-flush": field(2, SEQUENCE) + field(4, b""),
    "flush-then-region": field(4, b"") + field(2, SEQUENCE),
    "unknown-before": b"\x78\x01" + field(2, SEQUENCE),
    "unknown-after": field(2, SEQUENCE) + b"\x78\x01",
    "open": field(1, field(1, b"image") + field(2, b"id")),
    "open-not-utf8": field(1, field(1, b"\xff\xfe")),
    "skip": field(3, b"\x08\x01\x10\x05"),
    "close": field(5, b""),
    "cut": field(2, SEQUENCE + field(4, b"pixels"))[:-1],
    "long-length": b"\x12\x82\x80\x80\x00" + SEQUENCE,
    "longer-length": b"\x12\x82" + b"\x80" * 7 + b"\x00" + SEQUENCE,
    "only-a-tag": b"\x12",
}


@pytest.mark.parametrize("message", OUTSIDE.values(), ids=OUTSIDE)
def test_other_messages(message: bytes) -> None:
    same(wire.decode_write_request(message), message)


@given(st.binary(max_size=60))
def test_garbage(message: bytes) -> None:
    """Never raises, and never takes what the generated code refuses."""
    same(wire.decode_write_request(message), message)
    same(wire.decode_write_request(field(2, message)), field(2, message))


@given(st.binary(min_size=1, max_size=40), st.data())
def test_damaged_messages(payload: bytes, data: st.DataObject) -> None:
    message = bytearray(generated(7, [1, 2**40], [3, 300], payload).SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(message) - 1))
        message[at] = data.draw(st.integers(0, 255))
    cut = bytes(message[: data.draw(st.integers(0, len(message)))])
    for damaged in (bytes(message), cut):
        same(wire.decode_write_request(damaged), damaged)


@given(st.binary(max_size=60))
def test_other_parsers_never_raise(message: bytes) -> None:
    parse = wire.parser(read_pb2.ReadRequest)
    found = parse(message)
    try:
        wanted = read_pb2.ReadRequest.FromString(message)
    except DecodeError:
        assert isinstance(found, wire.Malformed)
        assert "ReadRequest" in found.reason
    else:
        assert found == wanted
