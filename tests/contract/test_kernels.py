"""Does every implementation of Kernels keep the protocol's promises?"""

from __future__ import annotations

import itertools
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import overload

import numpy as np
import pytest
from ziggurat_engine.errors import InvalidArgument
from ziggurat_engine.kernels import codec as codec_module
from ziggurat_engine.kernels import cpu, reference
from ziggurat_engine.kernels.protocol import Kernels, Recipe
from ziggurat_engine.kernels.select import select
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Array, Blosc, Codec

from tests.contract.kernel_cases import (
    CASES,
    DTYPES,
    HUGE,
    IMPLEMENTATIONS,
    THREADS,
    implementation,
    noise,
    recipe,
    same_bits,
)
from tests.support.gpu import missing


@pytest.fixture(params=IMPLEMENTATIONS, scope="module")
def kernels(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    with implementation(request.param) as chosen:
        yield chosen


@pytest.fixture(params=("reference", "cpu"))
def chunkwise(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    """Those that take a chunk at a time; for batches see tests/unit/test_cuda_kernels.py."""
    with implementation(request.param) as chosen:
        yield chosen


# --- the fill value


FILLS = [
    pytest.param(dtype, fill, id=f"{dtype}-{fill}")
    for dtype in DTYPES
    for fill in ([0, 7] if dtype.kind != "f" else [0.0, -0.0, 0.1, np.nan, np.inf])
]


@pytest.mark.parametrize(("dtype", "fill"), FILLS)
def test_a_chunk_of_nothing_but_fill_is_not_stored(
    kernels: Kernels, dtype: np.dtype[np.generic], fill: float
) -> None:
    for shape in ((3, 5, 7), (1, 1), (64, 64)):
        chunk = np.full(shape, fill, dtype)
        factors = (2,) * len(shape)
        (settled,) = kernels.settle([chunk], [shape], recipe(dtype, factors, fill=fill))
        assert settled.frame is None
        assert settled.parent is not None
        assert same_bits(settled.parent, reference.mean(chunk, shape, factors))


@pytest.mark.parametrize(("dtype", "fill"), FILLS)
def test_one_other_pixel_anywhere_is_stored(
    kernels: Kernels, dtype: np.dtype[np.generic], fill: float
) -> None:
    shape = (7, 11, 43)
    places = (0, 1, 7, 8, 1023, 1024, 7 * 11 * 43 - 2, 7 * 11 * 43 - 1)
    chunks = [np.full(shape, fill, dtype) for _ in places]
    for chunk, place in zip(chunks, places, strict=True):
        chunk.flat[place] = 3
    settled = list(kernels.settle(chunks, [shape] * len(chunks), recipe(dtype, fill=fill)))
    assert all(one.frame is not None for one in settled)


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_fill_is_compared_by_its_bits(kernels: Kernels, name: str) -> None:
    dtype = np.dtype(name)
    bits = np.dtype(f"u{dtype.itemsize}")
    payload = (np.array(np.nan, dtype).view(bits) + bits.type(1)).view(dtype)
    for fill, value in ((0.0, -0.0), (-0.0, 0.0), (np.nan, payload)):
        chunk = np.full((4, 4), value, dtype)
        (settled,) = kernels.settle([chunk], [(4, 4)], recipe(dtype, fill=fill))
        assert settled.frame is not None
        assert same_bits(kernels.decode(settled.frame, Blosc(), dtype, (4, 4)), chunk)


# --- downsampling


@pytest.mark.parametrize("method", reference.METHODS)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_parent_is_made_of_the_valid_pixels(
    kernels: Kernels, dtype: np.dtype[np.generic], case: tuple[Shape, Shape, Shape], method: str
) -> None:
    check_parent(kernels, dtype, case, method)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_mean_of_a_huge_window(kernels: Kernels, dtype: np.dtype[np.generic]) -> None:
    check_parent(kernels, dtype, HUGE, "mean")


def check_parent(
    kernels: Kernels, dtype: np.dtype[np.generic], case: tuple[Shape, Shape, Shape], method: str
) -> None:
    shape, valid, factors = case
    chunk = noise(shape, dtype)
    kept = chunk.copy()
    chunk.flags.writeable = False
    (settled,) = kernels.settle([chunk], [valid], recipe(dtype, factors, method=method))
    assert settled.parent is not None
    if kernels.name != "reference":
        assert same_bits(settled.parent, reference.METHODS[method](chunk, valid, factors))
    assert settled.parent.shape == tuple(-(-n // f) for n, f in zip(valid, factors, strict=True))
    assert settled.parent.flags.c_contiguous
    assert settled.parent.flags.writeable
    assert not np.shares_memory(settled.parent, chunk)
    assert same_bits(chunk, kept)


MEANS = [  # pixels, dtype, mean
    ([0, 1], "uint8", 0),
    ([1, 2], "uint8", 2),
    ([2, 3], "uint8", 2),
    ([255] * 8, "uint8", 255),
    ([0, 0, 1], "uint16", 0),
    ([0, 1, 1], "uint16", 1),
    ([-1, 0], "int8", 0),
    ([-1, -2], "int8", -2),
    ([-3, -2], "int16", -2),
    ([-128, -127, -127], "int8", -127),
    ([2**64 - 1] * 7, "uint64", 2**64 - 1),
    ([2**64 - 1, 2**64 - 2], "uint64", 2**64 - 2),
    ([2**63, 2**63 + 1, 2**63 + 1], "uint64", 2**63 + 1),
    ([-(2**63)] * 5, "int64", -(2**63)),
    ([-(2**63), 2**63 - 1], "int64", 0),
    ([-(2**63), -(2**63) + 1], "int64", -(2**63)),
    ([2**32 - 1] * 64, "uint32", 2**32 - 1),
    ([0.1] * 3, "float32", np.float32(0.3) / np.float32(3) + np.float32(0)),
    ([1e308, 1e308], "float64", np.inf),
    ([np.inf, -np.inf], "float32", np.nan),
    ([np.nan, 1.0], "float32", np.nan),
    ([-0.0, -0.0], "float32", 0.0),
]


@pytest.mark.parametrize(("pixels", "name", "mean"), MEANS)
def test_known_means(kernels: Kernels, pixels: list[float], name: str, mean: float) -> None:
    dtype = np.dtype(name)
    for shape in ((1, len(pixels)), (len(pixels), 1)):
        chunk = np.array(pixels, dtype).reshape(shape)
        (settled,) = kernels.settle([chunk], [shape], recipe(dtype, shape))
        assert settled.parent is not None
        np.testing.assert_array_equal(settled.parent, np.array([[mean]], dtype))


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_a_mean_that_is_not_a_number_has_no_payload(kernels: Kernels, name: str) -> None:
    dtype = np.dtype(name)
    bits = np.dtype(f"u{dtype.itemsize}")
    payload = (np.array(np.nan, dtype).view(bits) + bits.type(5)).view(dtype)
    chunk = np.array([[payload, 1], [np.inf, -np.inf], [-np.nan, payload]], dtype)
    (settled,) = kernels.settle([chunk], [(3, 2)], recipe(dtype, (1, 2)))
    assert settled.parent is not None
    assert same_bits(settled.parent, np.full((3, 1), np.nan, dtype))


def test_the_top_level_has_no_parent(kernels: Kernels) -> None:
    chunk = noise((4, 4), np.dtype("u2"))
    (settled,) = kernels.settle([chunk], [(4, 4)], recipe(chunk.dtype))
    assert settled.parent is None
    assert settled.frame is not None


def test_without_a_codec_nothing_is_encoded(kernels: Kernels) -> None:
    chunk = noise((4, 6), np.dtype("u2"))
    (settled,) = kernels.settle([chunk], [(4, 5)], Recipe(None, np.uint16(0), (2, 2)))
    assert settled.frame is None
    assert settled.parent is not None
    assert same_bits(settled.parent, reference.mean(chunk, (4, 5), (2, 2)))


def test_an_unknown_method_is_refused_at_once(kernels: Kernels) -> None:
    with pytest.raises(InvalidArgument, match="blur") as caught:
        kernels.settle([], [], Recipe(Blosc(), np.uint8(0), (2, 2), downsampling="blur"))
    assert caught.value.field == "downsampling"


# --- batches


class Counting(Sequence[Array]):
    """Chunks 0, 1, 2, ...; `taken` is how many were asked for."""

    def __init__(self, count: int) -> None:
        self._chunks = [self.chunk(i) for i in range(count)]
        self.taken = 0

    @staticmethod
    def chunk(index: int) -> Array:
        return np.full((4, 8), index + 1, np.uint16)

    @overload
    def __getitem__(self, index: int) -> Array: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Array]: ...
    def __getitem__(self, index: int | slice) -> Array | Sequence[Array]:
        self.taken += 1
        return self._chunks[index]

    def __len__(self) -> int:
        return len(self._chunks)


def test_results_come_in_the_order_of_the_chunks(kernels: Kernels) -> None:
    chunks = Counting(50)
    settled = list(kernels.settle(chunks, [(4, 8)] * 50, recipe(np.dtype("u2"), (2, 2))))
    assert len(settled) == 50
    for index, one in enumerate(settled):
        assert one.frame is not None
        assert one.parent is not None
        back = kernels.decode(one.frame, Blosc(), np.dtype("u2"), (4, 8))
        assert same_bits(back, Counting.chunk(index))
        assert (one.parent == index + 1).all()


def test_an_empty_batch_gives_nothing(kernels: Kernels) -> None:
    assert list(kernels.settle([], [], recipe(np.dtype("u2"), (2, 2)))) == []


def test_few_results_are_ahead_of_the_consumer(chunkwise: Kernels) -> None:
    chunks = Counting(100)
    batch = chunkwise.settle(chunks, [(4, 8)] * 100, recipe(np.dtype("u2"), (2, 2)))
    for consumed, _ in enumerate(itertools.islice(batch, 60), start=1):
        assert chunks.taken <= consumed + 2 * THREADS


def test_fewer_of_large_chunks_are_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "AHEAD_BYTES", 2 * Counting.chunk(0).nbytes)
    kernels = cpu.CpuKernels(THREADS)
    chunks = Counting(20)
    batch = kernels.settle(chunks, [(4, 8)] * 20, recipe(np.dtype("u2"), (2, 2)))
    for consumed, _ in enumerate(batch, start=1):
        assert chunks.taken <= consumed + 2
    kernels.close()


def test_a_batch_closed_early_abandons_the_rest(chunkwise: Kernels) -> None:
    chunks = Counting(100)
    batch = chunkwise.settle(chunks, [(4, 8)] * 100, recipe(np.dtype("u2"), (2, 2)))
    next(batch)
    batch.close()  # type: ignore[attr-defined]
    assert chunks.taken <= 1 + 2 * THREADS
    assert len(list(chunkwise.settle(Counting(3), [(4, 8)] * 3, recipe(np.dtype("u2"))))) == 3


def test_an_error_is_raised_in_its_turn(
    chunkwise: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = codec_module.encode

    def failing(array: Array, codec: Codec) -> bytes:
        if array.flat[0] == 8:
            raise InvalidArgument("eight")
        return encode(array, codec)

    monkeypatch.setattr(codec_module, "encode", failing)
    batch = chunkwise.settle(Counting(20), [(4, 8)] * 20, recipe(np.dtype("u2")))
    assert len(list(itertools.islice(batch, 7))) == 7
    with pytest.raises(InvalidArgument, match="eight"):
        next(batch)
    assert list(batch) == []
    assert len(list(chunkwise.settle(Counting(7), [(4, 8)] * 7, recipe(np.dtype("u2"))))) == 7


def test_as_many_extents_as_chunks_are_needed(kernels: Kernels) -> None:
    with pytest.raises(ValueError, match="zip"):
        list(kernels.settle(Counting(2), [(4, 8)], recipe(np.dtype("u2"))))


def test_many_threads_share_the_kernels(kernels: Kernels) -> None:
    def work(seed: int) -> None:
        dtype = DTYPES[seed % len(DTYPES)]
        chunks = [noise((9, 17, 33), dtype, seed * 100 + i) for i in range(6)]
        valid = [(9, 17, 33 - i) for i in range(6)]
        settled = kernels.settle(chunks, valid, recipe(dtype, (2, 2, 2)))
        for chunk, extent, one in zip(chunks, valid, settled, strict=True):
            assert one.frame is not None
            assert one.parent is not None
            assert same_bits(kernels.decode(one.frame, Blosc(), dtype, chunk.shape), chunk)
            assert same_bits(one.parent, reference.mean(chunk, extent, (2, 2, 2)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))


# --- how kernels are chosen, and the compiled ones


def test_auto_is_the_fastest_that_is_here() -> None:
    fastest = "cpu" if missing() else "cuda"
    for name, expected in (("auto", fastest), ("cpu", "cpu"), ("reference", "reference")):
        chosen = select(name, 1)
        assert chosen.name == expected
        chosen.close()


def test_bad_choices_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="abacus"):
        select("abacus", 1)
    with pytest.raises(InvalidArgument, match="threads"):
        select("cpu", 0)


def test_first_use_by_many_threads_where_nothing_can_be_kept() -> None:
    script = textwrap.dedent(
        """
        from concurrent.futures import ThreadPoolExecutor
        import numpy as np
        from numba.core import caching

        caching.CacheImpl._locator_classes = []
        from ziggurat_engine.kernels import _mean, reference

        assert not _mean._add.stats.cache_path
        chunk = np.arange(5 * 6 * 7, dtype=np.uint8).reshape(5, 6, 7)
        with ThreadPoolExecutor(8) as pool:
            means = [pool.submit(_mean.mean, chunk, (5, 6, 7), (2, 2, 2)) for _ in range(16)]
        wanted = reference.mean(chunk, (5, 6, 7), (2, 2, 2)).tobytes()
        assert all(one.result().tobytes() == wanted for one in means)
        """
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=100)
