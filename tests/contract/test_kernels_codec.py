"""Does every implementation of Kernels encode and decode as the protocol says?"""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from numcodecs import zstd
from ziggurat_engine.errors import Corrupt
from ziggurat_engine.kernels import codec as codec_module
from ziggurat_engine.kernels.protocol import Kernels
from ziggurat_engine.spec import Blosc, Codec, Gzip, Uncompressed, Zstd

from tests.contract.kernel_cases import (
    DTYPES,
    IMPLEMENTATIONS,
    implementation,
    noise,
    recipe,
    same_bits,
)

BLOSC_CODECS: list[Codec] = [
    Blosc(compressor=compressor, shuffle=shuffle, level=level)
    for compressor in ("zstd", "lz4")
    for shuffle in ("none", "byte", "bit")
    for level in (0, 1, 5)
]
CODECS: list[Codec] = [
    *BLOSC_CODECS,
    Zstd(),
    Zstd(level=-5),
    Zstd(level=0),
    Gzip(),
    Gzip(level=0),
    Uncompressed(),
]
KINDS: list[Codec] = [Blosc(), Blosc(compressor="lz4"), Zstd(), Gzip(), Uncompressed()]


def label(value: object) -> str:
    if isinstance(value, Blosc):
        return f"blosc-{value.compressor}-{value.shuffle}-{value.level}"
    if isinstance(value, Zstd | Gzip):
        return f"{value.kind}-{value.level}"
    return "none" if isinstance(value, Uncompressed) else str(value)


@pytest.fixture(params=IMPLEMENTATIONS, scope="module")
def kernels(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    with implementation(request.param) as chosen:
        yield chosen


@pytest.mark.parametrize("codec", CODECS, ids=label)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_encoded_is_decoded(
    kernels: Kernels, dtype: np.dtype[np.generic], codec: Codec
) -> None:
    for shape in ((8, 16, 32), (1, 1), (3, 1, 5, 7)):
        chunk = noise(shape, dtype)
        chunk.flat[0] = 1  # never all fill
        (settled,) = kernels.settle([chunk], [shape], recipe(dtype, codec=codec))
        assert isinstance(settled.frame, bytes | memoryview)
        back = kernels.decode(bytes(settled.frame), codec, dtype, shape)
        assert same_bits(back, chunk)
        assert back.flags.c_contiguous
        assert back.flags.writeable
        assert back.base is None or back.base.base is None
        assert back.dtype.isnative


@pytest.mark.parametrize("codec", KINDS, ids=label)
def test_the_payload_is_little_endian(codec: Codec) -> None:
    swapped = np.arange(6, dtype=">u2").reshape(2, 3)
    little = np.arange(6, dtype="<u2").reshape(2, 3)
    assert codec_module.encode(swapped, codec) == codec_module.encode(little, codec)
    assert codec_module.encode(little, Uncompressed()) == bytes(
        [0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0]
    )


@pytest.mark.parametrize("codec", KINDS, ids=label)
def test_an_array_in_another_order_is_encoded_in_c_order(codec: Codec) -> None:
    chunk = noise((4, 6), np.dtype("u2"))
    other = np.asfortranarray(chunk)
    assert codec_module.encode(other, codec) == codec_module.encode(chunk, codec)


@pytest.mark.parametrize("codec", BLOSC_CODECS, ids=label)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_blosc_frame_names_its_typesize_and_sizes(
    dtype: np.dtype[np.generic], codec: Codec
) -> None:
    chunk = noise((16, 32, 32), dtype)
    frame = codec_module.encode(chunk, codec)
    version, _, _, typesize, nbytes, _, cbytes = struct.unpack_from("<BBBBIII", frame)
    assert (version, typesize, nbytes, cbytes) == (2, dtype.itemsize, chunk.nbytes, len(frame))


def test_any_blosc_frame_decodes_whatever_it_was_compressed_with(kernels: Kernels) -> None:
    chunk = noise((4, 8, 8), np.dtype("u2"))
    for written in BLOSC_CODECS:
        frame = codec_module.encode(chunk, written)
        assert same_bits(kernels.decode(frame, Blosc(), chunk.dtype, chunk.shape), chunk)


def test_a_zstd_frame_without_a_content_size_decodes(kernels: Kernels) -> None:
    # magic, descriptor (nothing declared), window, one last raw block of 6 bytes
    frame = b"\x28\xb5\x2f\xfd\x00\x00" + ((6 << 3) | 1).to_bytes(3, "little") + bytes(range(6))
    assert kernels.decode(frame, Zstd(), np.dtype("u1"), (2, 3)).ravel().tolist() == list(range(6))
    for shape in ((1, 5), (1, 7)):
        with pytest.raises(Corrupt):
            kernels.decode(frame, Zstd(), np.dtype("u1"), shape)


@pytest.mark.parametrize("size", [1, 255, 256, 257, 65_791, 65_792, 70_000])
def test_each_form_of_the_zstd_content_size_is_understood(kernels: Kernels, size: int) -> None:
    chunk = noise((1, size), np.dtype("u1"))
    frame = zstd.compress(chunk, 1)
    assert same_bits(kernels.decode(frame, Zstd(), chunk.dtype, chunk.shape), chunk)
    for wrong in (size + 1, size - 1):
        with pytest.raises(Corrupt, match="zstd"):
            kernels.decode(frame, Zstd(), chunk.dtype, (1, wrong))


@pytest.mark.parametrize("codec", KINDS, ids=label)
def test_a_frame_of_another_size_is_corrupt(kernels: Kernels, codec: Codec) -> None:
    dtype = np.dtype("u2")
    frame = codec_module.encode(noise((8, 16), dtype), codec)
    for shape in ((8, 15), (8, 17), (1, 1), (1000, 1000)):
        with pytest.raises(Corrupt, match="expected"):
            kernels.decode(frame, codec, dtype, shape)


@pytest.mark.parametrize("codec", KINDS, ids=label)
def test_a_frame_that_breaks_off_or_goes_on_is_corrupt(kernels: Kernels, codec: Codec) -> None:
    chunk = np.arange(8 * 16 * 16, dtype="u2").reshape(8, 16, 16)
    frame = codec_module.encode(chunk, codec)
    for length in [*range(min(len(frame), 64)), len(frame) // 2, len(frame) - 1]:
        with pytest.raises(Corrupt):
            kernels.decode(frame[:length], codec, chunk.dtype, chunk.shape)
    for rest in (b"\0", b"more than a header of bytes", frame):
        with pytest.raises(Corrupt):
            kernels.decode(frame + rest, codec, chunk.dtype, chunk.shape)


@pytest.mark.parametrize("codec", KINDS, ids=label)
def test_garbage_is_corrupt(kernels: Kernels, codec: Codec) -> None:
    rng = np.random.default_rng(7)
    for length in (0, 1, 4, 15, 16, 17, 100, 5000):
        with pytest.raises(Corrupt):
            kernels.decode(rng.bytes(length), codec, np.dtype("u2"), (8, 16))


@pytest.mark.parametrize("codec", KINDS, ids=label)
def test_a_damaged_frame_gives_pixels_or_corrupt_and_nothing_else(
    kernels: Kernels, codec: Codec
) -> None:
    rng = np.random.default_rng(11)
    chunk = np.minimum(noise((8, 16, 16), np.dtype("u2")), 99)
    frame = codec_module.encode(chunk, codec)
    for trial in range(400):
        damaged = bytearray(frame)
        within = min(len(frame), 48) if trial % 2 else len(frame)
        for _ in range(1 + trial % 3):
            damaged[rng.integers(within)] = rng.integers(256)
        try:
            back = kernels.decode(bytes(damaged), codec, chunk.dtype, chunk.shape)
        except Corrupt:
            continue
        assert back.shape == chunk.shape


def test_a_hostile_header_takes_no_memory(kernels: Kernels) -> None:
    bomb = gzip.compress(bytes(2**26), 9)
    declared = b"\x28\xb5\x2f\xfd\xe0" + (2**50).to_bytes(8, "little") + bytes(8)
    blosc = struct.pack("<BBBBIII", 2, 1, 0x94, 2, 2**31 - 17, 2**31 - 17, 64) + bytes(48)
    tracemalloc.start()
    try:
        for frame, codec in ((bomb, Gzip()), (declared, Zstd()), (blosc, Blosc())):
            with pytest.raises(Corrupt, match="expected"):
                kernels.decode(frame, codec, np.dtype("u2"), (16, 16))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
