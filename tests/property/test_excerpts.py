"""Is an excerpt of a frame what the whole frame has there, and no way into memory?"""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ziggurat_engine.cache.stretch import Extent, Extents, Stretch, Stretches
from ziggurat_engine.errors import Corrupt
from ziggurat_engine.kernels import codec, coding
from ziggurat_engine.kernels.excerpt import Excerpt, block_bytes, excerpt
from ziggurat_engine.region import Region
from ziggurat_engine.spec import Blosc, Codec, Gzip, Uncompressed, Zstd

PIXELS = 40_000
CODECS: dict[str, Codec] = {
    "none": Uncompressed(),
    "zstd": Zstd(level=1),
    "gzip": Gzip(level=1),
    **{
        f"blosc-{compressor}-{level}-{shuffle}": Blosc(
            compressor=compressor, level=level, shuffle=shuffle
        )
        for compressor in ("lz4", "zstd")
        for level in (1, 5)
        for shuffle in ("none", "byte", "bit")
    },
}
DTYPES = ("uint8", "uint16", "int32", "float64")
SETTINGS = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@functools.cache
def pixels_of(dtype: str, noise: bool) -> np.ndarray:
    """Noise in every bit is stored raw; else a ramp with some noise."""
    dice = np.random.default_rng(1)
    nbytes = PIXELS * np.dtype(dtype).itemsize
    if noise:
        return np.frombuffer(dice.bytes(nbytes), dtype)
    return (np.arange(PIXELS) // 90 + dice.integers(0, 8, PIXELS)).astype(dtype)


@functools.cache
def frame_of(dtype: str, noise: bool, name: str, ours: bool) -> bytes:
    encode = coding.encode if ours else codec.encode
    return bytes(encode(pixels_of(dtype, noise), CODECS[name]))


class File:
    """Bytes that are read in pieces, none outside of them."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.nbytes = 0

    def read(self, offset: int, nbytes: int) -> bytes:
        assert 0 <= offset <= offset + nbytes <= len(self.data)
        self.nbytes += nbytes
        return self.data[offset : offset + nbytes]


def cut(file: File, how: Codec, dtype: np.dtype, start: int, stop: int) -> Excerpt:
    unit = dtype.itemsize
    return excerpt(file.read, len(file.data), how, PIXELS * unit, start * unit, stop * unit, unit)


@SETTINGS
@given(
    st.sampled_from(DTYPES),
    st.booleans(),
    st.sampled_from(sorted(CODECS)),
    st.booleans(),
    st.tuples(st.integers(0, PIXELS - 1), st.integers(1, PIXELS)),
)
def test_an_excerpt_has_what_the_frame_has(
    dtype: str, noise: bool, name: str, ours: bool, place: tuple[int, int]
) -> None:
    kind, how = np.dtype(dtype), CODECS[name]
    start, stop = place[0], min(PIXELS, place[0] + place[1])
    file = File(frame_of(dtype, noise, name, ours))
    found = cut(file, how, kind, start, stop)
    assert found.start % kind.itemsize == found.stop % kind.itemsize == 0
    first, behind = found.start // kind.itemsize, found.stop // kind.itemsize
    assert first <= start < stop <= behind
    for decode in (coding.decode, codec.decode):
        pixels = decode(found.frame, how, kind, (behind - first,))
        # By their bytes: noise has numbers that are none.
        assert pixels.tobytes() == pixels_of(dtype, noise)[first:behind].tobytes()


@pytest.mark.parametrize("name", [name for name in CODECS if name not in ("zstd", "gzip")])
def test_little_is_read_for_little(name: str) -> None:
    pixels = np.tile(pixels_of("uint16", False), 64)
    file = File(coding.encode(pixels, CODECS[name]))
    size, how = len(file.data), CODECS[name]
    for start in (0, 1_200_000, pixels.size - 40):
        file.nbytes = 0
        found = excerpt(file.read, size, how, pixels.nbytes, start * 2, start * 2 + 80, unit=2)
        assert found.stop - found.start < pixels.nbytes / 4
        assert file.nbytes < size / 3


@SETTINGS
@given(st.data())
def test_a_damaged_frame_is_corrupt_or_has_as_many_pixels(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(CODECS)))
    frame = bytearray(frame_of("uint16", data.draw(st.booleans()), name, True))
    # The header and the table are where it hurts.
    places = st.one_of(st.integers(0, 80), st.integers(0, len(frame) - 1))
    for _ in range(data.draw(st.integers(0, 4))):
        frame[data.draw(places)] = data.draw(st.integers(0, 255))
    file = File(bytes(frame[: data.draw(st.one_of(places, st.just(len(frame))))]))
    start = data.draw(st.integers(0, PIXELS - 1))
    stop = data.draw(st.integers(start + 1, PIXELS))
    how, kind = CODECS[name], np.dtype("uint16")
    try:
        found = cut(file, how, kind, start, stop)
        pixels = coding.decode(found.frame, how, kind, ((found.stop - found.start) // 2,))
    except Corrupt:
        return
    assert found.start <= 2 * start < 2 * stop <= found.stop
    assert pixels.shape == ((found.stop - found.start) // 2,)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("offset", [0, 16, 2**31 - 1, 2**32 - 1])
def test_blocks_that_are_nowhere_are_not_asked_for(place: int, offset: int) -> None:
    """The frame has three blocks, and one of them begins where it does not."""
    how = CODECS["blosc-zstd-1-bit"]
    frame = bytearray(frame_of("uint16", False, "blosc-zstd-1-bit", True))
    frame[16 + 4 * place : 20 + 4 * place] = offset.to_bytes(4, "little")
    for start in (0, 20_000, PIXELS - 1):
        file = File(bytes(frame))
        found = cut(file, how, np.dtype("uint16"), start, start + 1)
        assert found == (0, 2 * PIXELS, bytes(frame))
        with pytest.raises(Corrupt):
            coding.decode(found.frame, how, np.dtype("uint16"), (PIXELS,))


@pytest.mark.parametrize("cell", [(64, 128, 128), (33, 101, 101)], ids=["even", "odd"])
@pytest.mark.parametrize(
    "how",
    [
        *(CODECS[name] for name in ("blosc-lz4-1-bit", "blosc-zstd-5-bit", "none", "gzip")),
        Blosc(level=0),
    ],
    ids=str,
)
def test_extents_begin_and_end_with_blocks(how: Codec, cell: tuple[int, ...]) -> None:
    nbytes = 2 * math.prod(cell)
    block = block_bytes(how, nbytes, 2)
    assert (block == nbytes) == isinstance(how, Gzip)
    pixels = np.resize(pixels_of("uint16", False), nbytes // 2)
    file = File(coding.encode(pixels, how))
    box = Region((cell[0], 0, 0), (7, 1, 1))
    extent = Extents(cell, box, block // 2).of((1, 0, 0))
    start, stop = extent.first * 2, extent.stop * 2
    found = excerpt(file.read, len(file.data), how, nbytes, start, stop, unit=2)
    assert (found.start, found.stop) == (start, stop)


@st.composite
def chunks_and_boxes(draw: st.DrawFn) -> tuple[tuple[int, ...], Region, tuple[int, ...]]:
    """Shape of a chunk, a box of the level, and the index of a chunk that it touches."""
    cell = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=5)))
    offset = tuple(draw(st.integers(0, 20)) for _ in cell)
    shape = tuple(draw(st.integers(1, 20)) for _ in cell)
    at = tuple(
        draw(st.integers(o // c, (o + n - 1) // c))
        for o, n, c in zip(offset, shape, cell, strict=True)
    )
    return cell, Region(offset, shape), at


@given(chunks_and_boxes(), st.data())
def test_a_box_is_taken_out_of_a_stretch(
    drawn: tuple[tuple[int, ...], Region, tuple[int, ...]], data: st.DataObject
) -> None:
    cell, box, at = drawn
    extent = Extents(cell, box).of(at)
    origin = tuple(i * c for i, c in zip(at, cell, strict=True))
    inside = box.intersect(Region(origin, cell)).relative_to(origin)
    chunk = np.arange(np.prod(cell), dtype="uint32").reshape(cell)
    numbers = chunk[inside.slices()]
    assert extent == (numbers.min(), numbers.max() + 1)
    more = data.draw(st.tuples(st.integers(0, extent.first), st.integers(0, 30)))
    kept = Stretch(more[0], chunk.reshape(-1)[more[0] : extent.stop + more[1]])
    assert kept.extent.holds(extent)
    source = tuple(
        slice(part.start, part.stop, data.draw(st.integers(1, 3))) for part in inside.slices()
    )
    assert np.array_equal(kept.take(cell, source), chunk[source])


def test_stretches_of_a_chunk() -> None:
    numbers = np.arange(100, dtype="uint8")

    def stretch(first: int, stop: int) -> Stretch:
        return Stretch(first, numbers[first:stop])

    kept = Stretches(())
    for first, stop in ((10, 20), (40, 50), (5, 25)):
        kept = kept.joined(stretch(first, stop))
    assert [part.extent for part in kept.parts] == [(40, 50), (5, 25)]
    assert (kept.size, kept.nbytes) == (30, 30)
    assert kept.holding(Extent(10, 25)) == kept.parts[1]
    assert kept.holding(Extent(20, 45)) is None
