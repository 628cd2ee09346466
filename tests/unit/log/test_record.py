"""Are the bytes of records and segment headers those that were drawn?"""

import struct
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ziggurat_engine.errors import Corrupt, UnsupportedVersion
from ziggurat_engine.log import record, segment
from ziggurat_engine.log.record import Close, Kind, Region, Skip
from ziggurat_engine.log.segment import Header, State
from ziggurat_engine.region import Region as Box

UID = bytes(range(16))
PATH = Path("/log/000000000001.log")
U64 = st.integers(0, 2**64 - 1)
STREAMS = st.text(max_size=32)
RECORDS = st.one_of(
    st.integers(0, 5).flatmap(
        lambda axes: st.builds(
            Region,
            st.binary(min_size=16, max_size=16),
            STREAMS,
            U64,
            st.builds(Box, st.tuples(*[U64] * axes), st.tuples(*[U64] * axes)),
            st.binary(max_size=100),
        )
    ),
    st.builds(Skip, st.binary(min_size=16, max_size=16), STREAMS, U64, U64),
    st.builds(Close, st.binary(min_size=16, max_size=16), STREAMS, U64, st.integers(0, 255)),
)


def placed(packed, position=1 << 32 | 1024):
    data = b"".join(record.place(packed, salt=7, position=position, durable=5))
    assert len(data) == packed.length
    assert len(data) % 64 == 0
    return data


def parse(data):
    header = record.unpack_header(data)
    assert record.data_is_right(header, data[64:])
    return header, *record.unpack(header, data[64:], PATH)


def test_golden_region():
    data = placed(record.pack(Region(UID, "cam-é", 3, Box((1, 2), (3, 4)), b'{"t": 1}'), b"pixels"))
    body = (
        UID
        + struct.pack("<QQBBBBI", 3, 0, 6, 2, 0, 0, 8)
        + b"cam-\xc3\xa9"
        + struct.pack("<QQQQ", 1, 2, 3, 4)
        + b'{"t": 1}'
    )
    head = b"ZgRc" + struct.pack(
        "<HBBQQQQIIQI",
        *(1, 3, 0, 7, 1 << 32 | 1024, 5, 192, len(body), 0, 6),
        google_crc32c.value(body + b"pixels"),
    )
    head += struct.pack("<I", google_crc32c.value(head))
    assert data == (head + body + b"pixels").ljust(192, b"\0")
    assert data[56:64].hex() == "f864a2595c18c93b"


@pytest.mark.parametrize(
    ("packed", "kind", "length", "crc"),
    [
        (record.pack_begin(1 << 32), 1, 128, None),
        (record.pack_mark(), 2, 64, 0),
        (record.pack(Skip(UID, "s", 1, 2)), 4, 128, None),
        (record.pack(Close(UID, "s", 1, 1)), 6, 128, None),
    ],
    ids=["begin", "mark", "skip", "close"],
)
def test_golden_kinds(packed, kind, length, crc):
    data = placed(packed)
    assert (data[6], len(data)) == (kind, length)
    assert crc is None or struct.unpack_from("<I", data, 56)[0] == crc


def test_golden_segment_header():
    data = segment.pack_header(Header(State.LIVE, 9, 0x0102030405060708, 1 << 20))
    head = (
        b"ZigguLog"
        + struct.pack("<II", 1, 1)
        + struct.pack("<QQQ", 9, 0x0102030405060708, 1 << 20)
        + bytes(20)
    )
    assert data == head + struct.pack("<I", google_crc32c.value(head))
    assert segment.unpack_header(data, PATH) == (State.LIVE, 9, 0x0102030405060708, 1 << 20)
    newer = bytearray(data)
    newer[8] = 2
    newer[60:] = struct.pack("<I", google_crc32c.value(bytes(newer[:60])))
    with pytest.raises(UnsupportedVersion, match=r"000000000001\.log"):
        segment.unpack_header(bytes(newer), PATH)


@given(RECORDS, st.binary(max_size=300), U64, U64, U64)
def test_round_trip(given_record, payload, salt, position, durable):
    payload = payload if isinstance(given_record, Region) else b""
    packed = record.pack(given_record, payload)
    buffers = record.place(packed, salt=salt, position=position, durable=durable)
    header, found, pixels = parse(b"".join(buffers))
    assert found == given_record
    assert pixels == payload
    assert (header.salt, header.position, header.durable) == (salt, position, durable)
    assert header.end == position + packed.length


@given(RECORDS, st.data())
def test_every_damaged_byte_is_noticed(given_record, data):
    packed = record.pack(given_record, b"pixels" if isinstance(given_record, Region) else b"")
    good = placed(packed)
    used = 64 + len(packed.body) + packed.payload.nbytes
    at = data.draw(st.integers(0, used - 1))
    bad = bytearray(good)
    bad[at] ^= data.draw(st.integers(1, 255))
    header = record.unpack_header(bad)
    assert (header is None) == (at < 64)
    assert header is None or not record.data_is_right(header, bytes(bad[64:]))


@pytest.mark.parametrize(
    "payload",
    [
        b"abcdef" * 8,
        bytearray(b"abcdef" * 8),
        memoryview(bytearray(b"abcdef" * 8)),
        memoryview(np.frombuffer(b"abcdef" * 8, "<u2").reshape(2, 3, 4)),
    ],
    ids=["bytes", "bytearray", "memoryview", "array"],
)
def test_the_payload_is_not_copied(payload):
    packed = record.pack(Region(UID, "s", 0, Box((), ())), payload)
    view = record.place(packed, salt=0, position=0, durable=0)[1]
    assert np.shares_memory(np.frombuffer(view, np.uint8), np.frombuffer(payload, np.uint8))
    assert packed.data_crc == google_crc32c.value(packed.body + b"abcdef" * 8)


@pytest.mark.parametrize(
    ("bad", "payload", "message"),
    [
        (Region(b"short", "s", 0, Box((), ())), b"", "uid of 5 bytes"),
        (Region(UID, "é" * 65, 0, Box((), ())), b"", "130 bytes"),
        (Region(UID, "s", 0, Box((0,) * 6, (1,) * 6)), b"", "6 axes"),
        (Region(UID, "s", 0, Box((0,), (1, 1))), b"", "offset of 1"),
        (Region(UID, "s", 2**64, Box((), ())), b"", "does not fit"),
        (Region(UID, "s", 0, Box((-1,), (1,))), b"", "does not fit"),
        (Close(UID, "s", 1, 256), b"", "does not fit"),
        (Skip(UID, "s", 0, 1), b"x", "no payload"),
    ],
)
def test_refuses_what_does_not_fit(bad, payload, message):
    with pytest.raises(ValueError, match=message):
        record.pack(bad, payload)


def test_an_unknown_kind_is_newer_and_nonsense_is_corrupt():
    packed = record.pack(Skip(UID, "s", 0, 1))
    data = placed(packed._replace(kind=77))
    with pytest.raises(UnsupportedVersion, match="kind 77"):
        parse(data)
    short = record._packed(Kind.SKIP, b"short")
    with pytest.raises(Corrupt, match=r"000000000001\.log"):
        parse(placed(short))
