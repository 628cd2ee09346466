"""Are the bytes of a shard's index those of Zarr's sharding_indexed codec?"""

import struct

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ziggurat_engine.errors import Corrupt
from ziggurat_engine.store.shard import ABSENT, ShardIndex, index_size


def raw(*entries, crc=None):
    body = b"".join(struct.pack("<QQ", *entry) for entry in entries)
    return body + struct.pack("<I", google_crc32c.value(body) if crc is None else crc)


def test_bytes_of_a_small_index():
    index = ShardIndex.empty(3)
    index.append(2, 5)
    index.append(0, 7)
    packed = index.pack()
    assert packed == raw((5, 7), (ABSENT, ABSENT), (0, 5))
    assert len(packed) == index_size(3) == 52
    assert index.present == 2


def test_checksum_is_crc32c():
    assert google_crc32c.value(b"123456789") == 0xE3069283


@given(st.lists(st.none() | st.integers(0, 2**20), min_size=1, max_size=50), st.randoms())
def test_unpack_gives_back_what_was_packed(sizes, random):
    index, expected, end = ShardIndex.empty(len(sizes)), {}, 0
    order = list(range(len(sizes)))
    random.shuffle(order)
    for position in order:
        size = sizes[position]
        expected[position] = None if size is None else (end, size)
        if size is not None:
            index.append(position, size)
            end += size
    read = ShardIndex.unpack(index.pack(), len(sizes), end, what="key")
    assert {p: read.get(p) for p in order} == expected
    assert read.present == sum(size is not None for size in sizes)
    assert read.pack() == index.pack()


def test_chunks_may_lie_apart_and_together():
    index = ShardIndex.unpack(raw((4096, 10), (0, 10), (0, 10)), 3, 5000, what="key")
    assert [index.get(p) for p in range(3)] == [(4096, 10), (0, 10), (0, 10)]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (raw((0, 10)), "has 20 bytes, not 36"),
        (b"", "has 0 bytes"),
        (raw((0, 10), (10, 10), crc=1), "checksum"),
        (raw((0, 10), (91, 10)), "chunk 1 at 91"),
        (raw((101, 0), (0, 10)), "chunk 0"),
        (raw((0, 101), (0, 10)), "chunk 0"),
        (raw((2**64 - 5, 10), (0, 10)), "chunk 0"),
        (raw((5, 2**64 - 2), (0, 10)), "chunk 0"),
        (raw((ABSENT, 10), (0, 10)), "chunk 0"),
        (raw((0, ABSENT), (0, 10)), "chunk 0"),
    ],
    ids=[
        "short", "empty", "checksum", "end", "offset", "size", "wrap", "wrap-size",
        "half-absent-offset", "half-absent-size",
    ],
)  # fmt: skip
def test_broken_index_is_corrupt_and_named(data, what):
    with pytest.raises(Corrupt, match=f"some/key: .*{what}"):
        ShardIndex.unpack(data, 2, 100, what="some/key")


@given(st.integers(0, 51), st.integers(1, 255))
def test_every_flipped_byte_is_found(position, flip):
    data = bytearray(raw((5, 7), (ABSENT, ABSENT), (0, 5)))
    data[position] ^= flip
    with pytest.raises(Corrupt):
        ShardIndex.unpack(bytes(data), 3, 12, what="key")
