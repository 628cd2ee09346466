"""The hand-wired messages equal the generated code's, both ways."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ziggurat import ServerError
from ziggurat._wire import Part, decode_pieces, decode_response, encode_region
from ziggurat_proto.v1 import read_pb2, write_pb2

uint64 = st.one_of(st.integers(0, 300), st.integers(0, 2**64 - 1))
numbers = st.lists(uint64, max_size=6)
payloads = st.one_of(st.binary(max_size=20), st.sampled_from([b"x" * n for n in (127, 128, 16384)]))


timestamps = st.one_of(st.none(), st.integers(-300, 300), st.integers(-(2**63), 2**63 - 1))


shares = st.one_of(st.none(), st.tuples(uint64, uint64))


@given(uint64, numbers, numbers, payloads, timestamps, st.text(max_size=200), shares)
def test_region_is_byte_equal(sequence, offset, shape, payload, timestamp, metadata, shared):
    region = write_pb2.Region(
        sequence=sequence,
        offset=offset,
        shape=shape,
        payload=payload,
        timestamp_ns=timestamp,
        metadata_json=metadata,
        **dict(zip(("shared_offset", "shared_bytes"), shared or (), strict=False)),
    )
    expected = write_pb2.WriteRequest(region=region).SerializeToString()
    for buffer in (payload, memoryview(payload), bytearray(payload)):
        found = encode_region(
            sequence,
            offset,
            shape,
            buffer,
            shared=shared,
            timestamp_ns=timestamp,
            metadata=metadata.encode(),
        )
        assert type(found) is bytes
        assert found == expected


@pytest.mark.parametrize("wrong", [-1, 2**64])
def test_region_refuses_what_is_no_uint64(wrong):
    with pytest.raises(ValueError, match="unsigned 64-bit"):
        encode_region(1, [wrong], [1], b"x")


@given(numbers, numbers, payloads, numbers)
def test_part_equals_generated(offset, shape, payload, frame):
    part = read_pb2.ReadPart(offset=offset, shape=shape, payload=payload, frame_shape=frame)
    header, found = decode_response(read_pb2.ReadResponse(part=part).SerializeToString())
    assert header is None
    assert isinstance(found, Part)
    assert found == (tuple(offset), tuple(shape), payload, tuple(frame))


def test_payload_is_a_view_of_the_message():
    part = read_pb2.ReadPart(offset=[0], shape=[4], payload=b"abcd")
    for header in (None, read_pb2.ReadHeader(level=3, shape=[4])):
        message = read_pb2.ReadResponse(header=header, part=part).SerializeToString()
        said, found = decode_response(message)
        assert said == header
        assert found.payload.obj is message
        assert found.payload.readonly


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number, kind, body):
    length = varint(len(body)) if kind == 2 else b""
    return varint(number << 3 | kind) + length + body


pieces = st.one_of(
    st.builds(lambda v: field(1, 2, b"".join(map(varint, v))), numbers),
    st.builds(lambda v: field(2, 2, b"".join(map(varint, v))), numbers),
    st.builds(lambda v: field(1, 0, varint(v)), uint64),
    st.builds(lambda v: field(2, 0, varint(v)), uint64),
    st.builds(lambda v: field(3, 2, v), payloads),
    st.builds(lambda n, v: field(n, 0, varint(v)), st.integers(4, 3000), uint64),
    st.builds(lambda n, v: field(n, 2, v), st.integers(4, 3000), payloads),
    st.builds(lambda n, v: field(n, 5, v), st.integers(4, 30), st.binary(min_size=4, max_size=4)),
    st.builds(lambda n, v: field(n, 1, v), st.integers(4, 30), st.binary(min_size=8, max_size=8)),
)
parts = st.lists(pieces, max_size=6).map(lambda found: field(2, 2, b"".join(found)))
headers = st.builds(
    lambda level, shape: field(
        1, 2, read_pb2.ReadHeader(level=level, shape=shape).SerializeToString()
    ),
    st.integers(0, 9),
    numbers,
)
unknown = st.builds(lambda v: field(9, 2, v), payloads)


def agrees_with_generated(message):
    try:
        expected = read_pb2.ReadResponse.FromString(message)
    except Exception:
        expected = None
    if expected is None or not (expected.HasField("header") or expected.HasField("part")):
        with pytest.raises(ServerError) as caught:
            decode_response(message)
        assert caught.value.reason == "MALFORMED_MESSAGE"
        return
    header, found = decode_response(message)
    assert header == (expected.header if expected.HasField("header") else None)
    if not expected.HasField("part"):
        assert found is None
        return
    part = expected.part
    assert found == (tuple(part.offset), tuple(part.shape), part.payload, tuple(part.frame_shape))


@given(st.lists(st.one_of(parts, headers, unknown), min_size=1, max_size=3).map(b"".join))
def test_any_valid_form_is_taken(message):
    agrees_with_generated(message)


@given(st.one_of(st.binary(max_size=60), st.binary(max_size=60).map(lambda b: field(2, 2, b))))
def test_garbage_is_refused_as_generated_code_does(message):
    agrees_with_generated(message)


@given(parts, st.data())
def test_a_cut_message_is_refused_or_read_alike(message, data):
    agrees_with_generated(message[: data.draw(st.integers(0, len(message)))])


@pytest.mark.parametrize(
    "text", [b"", b"GET / HTTP/1.1", b"\xff" * 32, b"\x12\xff\xff\xff\xff\x0f"]
)
def test_garbage_says_so(text):
    with pytest.raises(ServerError, match="ReadResponse"):
        decode_response(text)


# Of a ReadPiece: index, header, part in any order and number, and fields that nobody knows.
of_piece = st.one_of(
    st.builds(lambda v: field(1, 0, varint(v)), uint64),
    headers.map(
        lambda header: field(
            2, 2, read_pb2.ReadResponse.FromString(header).header.SerializeToString()
        )
    ),
    st.lists(pieces, max_size=4).map(lambda found: field(3, 2, b"".join(found))),
    unknown,
)
answers = st.lists(
    st.lists(of_piece, max_size=4).map(lambda found: field(1, 2, b"".join(found))), max_size=4
).map(b"".join)


def pieces_agree(message):
    try:
        expected = read_pb2.ReadRegionsResponse.FromString(message)
    except Exception:
        with pytest.raises(ServerError, match="ReadRegionsResponse"):
            decode_pieces(message)
        return
    found = decode_pieces(message)
    assert len(found) == len(expected.pieces)
    for piece, wanted in zip(found, expected.pieces, strict=True):
        assert piece.number == wanted.index
        assert piece.header == (wanted.header if wanted.HasField("header") else None)
        if not wanted.HasField("part"):
            assert piece.part is None
            continue
        part = wanted.part
        numbers_ = tuple(part.offset), tuple(part.shape), part.payload, tuple(part.frame_shape)
        assert piece.part == numbers_


@given(answers, st.data())
def test_pieces_equal_generated(message, data):
    pieces_agree(message)
    pieces_agree(message[: data.draw(st.integers(0, len(message)))])


@given(st.binary(max_size=60))
def test_no_pieces(message):
    pieces_agree(message)
    pieces_agree(field(1, 2, message))


def test_the_payload_of_a_piece_is_a_view_of_the_message():
    part = read_pb2.ReadPart(offset=[0], shape=[4], payload=b"abcd")
    piece = read_pb2.ReadPiece(index=300, header=read_pb2.ReadHeader(level=3), part=part)
    message = read_pb2.ReadRegionsResponse(pieces=[piece, piece]).SerializeToString()
    for found in decode_pieces(message):
        assert found.part.payload.obj is message
        assert found.number == 300
