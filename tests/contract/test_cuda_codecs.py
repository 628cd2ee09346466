"""Do all readers decode what the device kernels compress, and do these survive any bytes?

They run on the CPU here (tests/support/shim.py), from the same sources that a card gets.
"""

from __future__ import annotations

import struct

import lz4.block
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import blosc
from numpy.typing import NDArray
from ziggurat_engine.kernels import codec
from ziggurat_engine.kernels.cuda import abi
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Array, Blosc

from tests.contract.cuda_batch import (
    Chunks,
    address,
    bytes_of,
    decompressed,
    gathered,
    table,
)
from tests.contract.kernel_cases import DTYPES, noise, same_bits
from tests.support import shim

pytestmark = pytest.mark.skipif(not shim.available(), reason="no g++ to compile the kernels with")

SHUFFLES = {"none": blosc.NOSHUFFLE, "byte": blosc.SHUFFLE, "bit": blosc.BITSHUFFLE}
HEADER = struct.Struct("<BBBBIII")


def camera(shape: Shape, dtype: np.dtype[np.generic], seed: int = 0) -> Array:
    """Photon noise on a gradient, in each dtype."""
    rng = np.random.default_rng(seed)
    level = np.linspace(20, 100, shape[-1])
    return rng.poisson(level, shape).astype(dtype)


def raw(n: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, n, np.uint8)


def lz4_blocks(data: bytes, block_bytes: int, *, backwards: bool = False) -> list[bytes | None]:
    """What the device makes of each block of `data`; None where it stays raw."""
    chunks = Chunks([np.frombuffer(data, np.uint8)])
    blocks = abi.Blocks(len(data), abi.block_bytes(len(data), block_bytes))
    stride = abi.stride_of(blocks.block_bytes)
    slots, csizes = shim.empty(blocks.count * stride), table(blocks.count, np.int32)
    shim.launch(
        abi.lz4_compress(
            chunks.batch,
            blocks,
            source=chunks.batch.address,
            slots=address(slots),
            slot_stride=stride,
            csizes=address(csizes),
            differs=address(chunks.differs),
        ),
        backwards=backwards,
    )
    found: list[bytes | None] = []
    for i, csize in enumerate(csizes):
        size = min(blocks.block_bytes, len(data) - i * blocks.block_bytes)
        assert 0 < csize <= size
        slot = slots[i * stride : (i + 1) * stride]
        assert (slot[size:] == shim.POISON).all(), "written beyond a block's size"
        found.append(slot[:csize].tobytes() if csize < size else None)
    return found


def check_lz4(data: bytes, block_bytes: int = abi.MAX_BLOCK_BYTES) -> list[bytes | None]:
    made = lz4_blocks(data, block_bytes)
    streams = []
    for i, block in enumerate(made):
        expected = data[i * block_bytes : (i + 1) * block_bytes]
        if block is not None:
            assert lz4.block.decompress(block, uncompressed_size=len(expected)) == expected
            streams.append((block, expected))
    if streams:
        found = decompressed([(block, len(expected)) for block, expected in streams])
        assert found == [expected for _, expected in streams]
    return made


# --- LZ4


COMPRESSIBLE = {
    "zeros": bytes(70_000),
    "one byte differs": bytes(33_000) + b"\1" + bytes(32_000),
    "period 3": b"abc" * 9_000,
    "period 37": bytes(range(37)) * 1_000,
    "text": b"".join(b"row %d of the image, " % i for i in range(4_000)),
    "far repeats": bytes(raw(30_000)) * 2,
    "long literals": bytes(raw(20_000)) + bytes(20_000) + bytes(raw(16_000, 1)),
    "all lengths": b"".join(bytes(raw(i % 600, i)) + b"\0" * (i % 700) for i in range(0, 700, 13)),
    "mixed noise": bytes((raw(65_536) < 3).astype(np.uint8)),
}


@pytest.mark.parametrize("name", COMPRESSIBLE)
def test_lz4_blocks_decode(name: str) -> None:
    made = check_lz4(COMPRESSIBLE[name])
    assert all(block is not None for block in made)


def test_noise_stays_raw() -> None:
    assert check_lz4(raw(140_000).tobytes()) == [None, None, None]


def test_lz4_compresses_about_as_well_as_lz4() -> None:
    for name in COMPRESSIBLE:
        data = COMPRESSIBLE[name][: abi.MAX_BLOCK_BYTES]
        (block,) = lz4_blocks(data, abi.MAX_BLOCK_BYTES)
        assert block is not None
        assert len(block) <= 1.25 * len(lz4.block.compress(data, store_size=False)) + 64


@pytest.mark.parametrize("n", range(1, 48))
def test_short_blocks(n: int) -> None:
    for data in (bytes(n), bytes(range(n)), (b"ab" * n)[:n], bytes(raw(n))):
        check_lz4(data)
        if n <= 12:
            assert lz4_blocks(data, 256) == [None]


def test_lanes_in_another_order_write_the_same() -> None:
    for data in COMPRESSIBLE.values():
        made = lz4_blocks(data[:40_000], 8_192)
        assert lz4_blocks(data[:40_000], 8_192, backwards=True) == made
        streams = [(block, 8_192) for block in made[:2] if block is not None]
        if streams:
            assert decompressed(streams, backwards=True) == decompressed(streams)


PIECES = st.one_of(
    st.binary(max_size=40),
    st.tuples(st.binary(min_size=1, max_size=5), st.integers(1, 900)).map(lambda p: p[0] * p[1]),
    st.integers(0, 2_000).map(lambda n: raw(n, n).tobytes()),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(PIECES, min_size=1, max_size=12), st.sampled_from([256, 512, 4096, 65536]))
def test_any_bytes_survive(pieces: list[bytes], block_bytes: int) -> None:
    pieces += pieces[:3]
    data = b"".join(pieces)
    if data:
        check_lz4(data, block_bytes)


@settings(max_examples=150, deadline=None)
@given(st.lists(PIECES, min_size=1, max_size=6), st.booleans())
def test_what_lz4_compressed_is_decompressed(pieces: list[bytes], hard: bool) -> None:
    data = b"".join(pieces + pieces[:2])
    mode = "high_compression" if hard else "default"
    block = lz4.block.compress(data, mode=mode, store_size=False)
    if len(block) != len(data):  # that would mean raw
        assert decompressed([(block, len(data))]) == [data]


# --- LZ4 that nobody should trust


def known(block: bytes, size: int) -> bytes | None:
    """What lz4 makes of it; None where it refuses, or where another size comes out."""
    try:
        data: bytes = lz4.block.decompress(block, uncompressed_size=size)
    except lz4.block.LZ4BlockError:
        return None
    return data if len(data) == size else None


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_hostile_blocks_stay_within_bounds(data: st.DataObject) -> None:
    """`decompressed` sees what is written beyond a target; ASan also what is read."""
    good = data.draw(st.lists(PIECES, min_size=1, max_size=4).map(b"".join).filter(bool))
    block = bytearray(lz4.block.compress(good, store_size=False))
    for _ in range(data.draw(st.integers(0, 3))):
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(block[: data.draw(st.integers(0, len(block)))])
    size = max(0, len(good) + data.draw(st.sampled_from([0, 0, 0, -1, 1, 7, -5])))
    if len(cut) == size:
        return
    intact = (lz4.block.compress(b"a" * 100, store_size=False), 100)
    found = decompressed([intact, (cut, size), intact])
    assert found[0] == found[2] == b"a" * 100
    expected = known(cut, size)
    # lz4 is laxer in nothing but the rule for the last bytes, which only its encoder needs.
    if expected is not None:
        assert found[1] == expected


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 300))
def test_random_bytes_are_no_danger(block: bytes, size: int) -> None:
    if len(block) != size:
        found = decompressed([(block, size), (b"\x00", 0)])
        assert found[0] is None or len(found[0]) == size


HOSTILE = {  # block, size
    "nothing": (b"", 5),
    "offset 0": (b"\x14a\x00\x00" + b"\x50" + b"bcdef", 14),
    "offset before the start": (b"\x14a\x02\x00" + b"\x50" + b"bcdef", 14),
    "a length without end": (b"\xff" + b"\xff" * 200, 60_000),
    "a match without end": (b"\x1fa\x01\x00" + b"\xff" * 200, 60_000),
    "literals beyond the input": (b"\xf0\xff\x00abc", 300),
    "literals beyond the output": (b"\xa0" + b"abcdefghij", 5),
    "a match beyond the output": (b"\x1fa\x01\x00\xf0" + b"\x50" + b"bcdef", 40),
    "no offset": (b"\x14a\x01", 20),
    "ends with a match": (b"\x14a\x01\x00", 9),
    "too short": (b"\x50abcde", 7),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_lengths_are_refused(name: str) -> None:
    assert decompressed([HOSTILE[name]]) == [None]


# --- shuffles


def shuffled_by_numpy(block: NDArray[np.uint8], size: int, kind: str) -> NDArray[np.uint8]:
    """As formats.md and c-blosc have it; for elements of `size` bytes."""
    n = block.size // size
    elements = block[: n * size].reshape(n, size)
    if kind == "byte":
        body = elements.T.reshape(-1)
    elif n % 8:
        return block
    else:
        bits = np.unpackbits(elements.T.copy(), axis=1, bitorder="little").reshape(size, n, 8)
        body = np.packbits(bits.transpose(0, 2, 1), axis=2, bitorder="little").reshape(-1)
    return np.concatenate([body, block[n * size :]])


def unshuffled(
    frames: list[tuple[NDArray[np.uint8], int, bool]], size: int, kind: str
) -> list[NDArray[np.uint8]]:
    """Each (shuffled bytes, block size, whether it is shuffled at all) as it was."""
    entries = np.zeros(len(frames), abi.FRAME)
    target = 0
    for entry, (data, block_bytes, is_shuffled) in zip(entries, frames, strict=True):
        entry["target"], entry["nbytes"] = target, data.size
        entry["block_bytes"], entry["kind"] = block_bytes, is_shuffled
        target += -(-(data.size + 1) // 16) * 16
    source, out = shim.empty(target), shim.empty(target)
    for entry, (data, _, _) in zip(entries, frames, strict=True):
        source[entry["target"] : entry["target"] + data.size] = data
    shim.launch(
        abi.unshuffle(
            len(frames),
            max(data.size for data, _, _ in frames),
            size,
            kind,
            frames=address(entries),
            shuffled=address(source),
            out=address(out),
        )
    )
    found = []
    for entry, (data, _, _) in zip(entries, frames, strict=True):
        end = entry["target"] + data.size
        assert out[end] == shim.POISON, "written beyond a frame"
        found.append(out[entry["target"] : end])
    return found


@pytest.mark.parametrize("kind", ["byte", "bit"])
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_shuffles_are_those_of_blosc_and_back(size: int, kind: str) -> None:
    if not abi.shuffles(size, kind):
        return
    for count in (1, 7, 8, 9, 128, 2047, 2048, 2056, 2176, 4096, 5003):
        pixels = raw(count * size, count).view(f"u{size}")
        for block_bytes in (256, 4096, 65536):
            chunks = Chunks([pixels, pixels[::-1].copy()])
            made = chunks.shuffled(block_bytes, kind)
            cut = abi.block_bytes(pixels.nbytes, block_bytes)
            stride = chunks.batch.stride
            for i, chunk in enumerate((pixels, pixels[::-1])):
                data = bytes_of(chunk)
                expected = np.concatenate(
                    [
                        shuffled_by_numpy(data[at : at + cut], size, kind)
                        for at in range(0, data.size, cut)
                    ]
                )
                found = made[i * stride : i * stride + data.size]
                assert found.tobytes() == expected.tobytes()
                assert np.array_equal(unshuffled([(found, cut, True)], size, kind)[0], data)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_foreign_blocks_of_any_size_are_unshuffled(data: st.DataObject) -> None:
    """Of other writers: block sizes that are no multiple of 16, bytes that are no element."""
    size = data.draw(st.sampled_from([1, 2, 4, 8]))
    kind = data.draw(st.sampled_from(["byte", "bit"] if size > 1 else ["bit"]))
    frames, expected = [], []
    for seed in range(data.draw(st.integers(1, 3))):
        pixels = raw(data.draw(st.integers(1, 9_000)), seed)
        cut = size * data.draw(st.integers(1, 3_000))
        is_shuffled = data.draw(st.booleans())
        blocks = [pixels[at : at + cut] for at in range(0, pixels.size, cut)]
        made = [shuffled_by_numpy(b, size, kind) if is_shuffled else b for b in blocks]
        frames.append((np.concatenate(made), cut, is_shuffled))
        expected.append(pixels)
    for found, pixels in zip(unshuffled(frames, size, kind), expected, strict=True):
        assert np.array_equal(found, pixels)


def test_bits_shuffled_by_lanes_in_another_order() -> None:
    chunks = Chunks([noise((5000,), np.dtype("u4"))])
    made = chunks.shuffled(8192, "bit")
    assert np.array_equal(chunks.shuffled(8192, "bit", backwards=True), made)


# --- Blosc frames


@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_frames_are_blosc_frames(dtype: np.dtype[np.generic], shuffle: str) -> None:
    shape = (3, 20, 61)
    fill = dtype.type(7)
    kinds = [
        camera(shape, dtype),
        np.full(shape, fill),
        noise(shape, dtype),
        np.zeros(shape, dtype),
        np.arange(3 * 20 * 61).reshape(shape).astype(dtype),
    ]
    for block_bytes in (512, 65536):
        frames = Chunks(kinds, fill).frames(block_bytes, shuffle)
        assert frames[1] is None
        for chunk, frame in zip(kinds, frames, strict=True):
            if frame is not None:
                check_frame(frame, chunk, shuffle, block_bytes)
        assert frames[2] is not None
        assert len(frames[2]) <= chunk.nbytes + HEADER.size


def check_frame(frame: bytes, chunk: Array, shuffle: str, block_bytes: int) -> None:
    _, _, flags, typesize, nbytes, cut, cbytes = HEADER.unpack_from(frame)
    assert (typesize, nbytes, cbytes) == (chunk.itemsize, chunk.nbytes, len(frame))
    assert cut == min(block_bytes, chunk.nbytes)
    assert flags >> 5 == 1
    assert same_bits(codec.decode(frame, Blosc(), chunk.dtype, chunk.shape), chunk)
    assert blosc.decompress(frame) == chunk.tobytes()


def test_frames_are_about_as_small_as_those_of_blosc() -> None:
    chunk = camera((16, 64, 64), np.dtype("u2"))
    for shuffle, number in SHUFFLES.items():
        (frame,) = Chunks([chunk]).frames(65536, shuffle)
        theirs = blosc.compress(chunk, b"lz4", 5, number, 65536, 2)
        assert frame is not None
        assert len(frame) <= 1.1 * len(theirs)


def test_frames_aligned_as_direct_io_wants_them() -> None:
    chunks = [camera((8, 50, 50), np.dtype("u2"), seed) for seed in range(5)]
    frames = Chunks(chunks).frames(8192, "bit", align=4096)
    assert frames == Chunks(chunks).frames(8192, "bit")


def test_many_small_chunks() -> None:
    """More than the threads of the thread block that lays them out."""
    chunks = [np.full((4, 16), i % 7, np.uint16) for i in range(600)]
    frames = Chunks(chunks, np.uint16(3)).frames(256, "byte")
    for chunk, frame in zip(chunks, frames, strict=True):
        if chunk[0, 0] == 3:
            assert frame is None
        else:
            assert frame is not None
            assert blosc.decompress(frame) == chunk.tobytes()


def test_many_small_blocks() -> None:
    chunk = camera((300, 256), np.dtype("u2"))  # 600 blocks
    (frame,) = Chunks([chunk]).frames(256, "bit")
    assert frame is not None
    assert blosc.decompress(frame) == chunk.tobytes()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_chunks_survive(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(DTYPES))
    shuffle = data.draw(st.sampled_from(list(SHUFFLES)))
    n = data.draw(st.integers(1, 3_000))
    block_bytes = 256 * data.draw(st.integers(1, 256))
    makers = data.draw(st.lists(st.sampled_from([noise, camera]), min_size=1, max_size=3))
    chunks = [make((n,), dtype, seed) for seed, make in enumerate(makers)]
    for chunk in chunks:
        a, b = sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n))))
        chunk[a:b] = data.draw(st.integers(0, 100))
    fill = dtype.type(data.draw(st.sampled_from([0, 5])))
    for chunk, frame in zip(chunks, Chunks(chunks, fill).frames(block_bytes, shuffle), strict=True):
        if (chunk == fill).all():
            assert frame is None
        else:
            assert frame is not None
            check_frame(frame, chunk, shuffle, block_bytes)


# --- blocks that another compressor made


def adopt(
    blocks: abi.Blocks, count: int, found: list[int], statuses: list[int] | None = None
) -> tuple[list[int], int]:
    sizes, csizes = table(len(found), np.uint64), table(len(found), np.int32)
    told, bad = table(len(found), np.int32), table(1, np.uint32)
    sizes[:], bad[:] = found, 0
    if statuses is not None:
        told[:] = statuses
    shim.launch(
        abi.adopt_sizes(
            blocks,
            count,
            512 if not blocks.plain else 1024,
            found=address(sizes),
            statuses=address(told) if statuses is not None else 0,
            csizes=address(csizes),
            bad=address(bad),
        )
    )
    return csizes.tolist(), int(bad[0])


def test_sizes_that_another_compressor_reports() -> None:
    blocks = abi.Blocks(1000, 400)
    assert adopt(blocks, 2, [100, 400, 200, 500, 399, 17]) == ([100, 400, 200, 400, 399, 17], 0)
    assert adopt(blocks, 1, [100, 90, 80], [0, 3, 0]) == ([100, 0, 80], 1)
    assert adopt(blocks, 1, [100, 0, 2**40]) == ([100, 0, 0], 2)
    assert adopt(blocks, 1, [512, 513, 200]) == ([400, 0, 200], 1)
    assert adopt(abi.Blocks(1000, 1000, plain=True), 2, [1012, 30]) == ([1012, 30], 0)


@pytest.mark.parametrize("plain", [False, True])
def test_frames_of_blocks_that_another_compressor_made(plain: bool) -> None:
    from numcodecs import zstd

    dtype = np.dtype("u2")
    chunks = [
        camera((10, 50, 50), dtype),
        np.zeros((10, 50, 50), dtype),
        noise((10, 50, 50), dtype),
    ]
    batch = Chunks(chunks, dtype.type(0))
    nbytes = batch.batch.nbytes
    blocks = abi.Blocks(nbytes, nbytes if plain else 8192, plain)
    shuffle = "none" if plain else "byte"
    source = batch.memory if plain else batch.shuffled(8192, "byte")
    stride = abi.stride_of(2 * blocks.block_bytes)
    slots = shim.empty(3 * blocks.count * stride)
    csizes = table(3 * blocks.count, np.int32)
    csizes[:] = 0
    for i in range(3):
        for b in range(blocks.count):
            start = i * batch.batch.stride + b * blocks.block_bytes
            size = min(blocks.block_bytes, nbytes - b * blocks.block_bytes)
            made = zstd.compress(source[start : start + size].copy(), 1)
            index = i * blocks.count + b
            slots[index * stride : index * stride + len(made)] = bytes_of(np.frombuffer(made, "u1"))
            csizes[index] = len(made) if plain else min(len(made), size)
    frames, sizes, offsets = gathered(
        batch, blocks, source, slots, stride, csizes, compressor="zstd", shuffle=shuffle
    )
    assert sizes[1] == 0
    for i in (0, 2):
        frame = frames[offsets[i] : offsets[i] + sizes[i]].tobytes()
        decoded = zstd.decompress(frame) if plain else blosc.decompress(frame)
        assert decoded == chunks[i].tobytes()
