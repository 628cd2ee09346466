"""Does every implementation downsample by the rules that kernels/reference.py states?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from ziggurat_engine.errors import InvalidArgument
from ziggurat_engine.kernels import reference
from ziggurat_engine.kernels.protocol import Kernels, Recipe, Surrounded, halo
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Array

from tests.contract.kernel_cases import (
    DTYPES,
    IMPLEMENTATIONS,
    implementation,
    noise,
    recipe,
    same_bits,
)

NAN, INF = np.nan, np.inf
TOP = 2**64 - 1


@pytest.fixture(params=IMPLEMENTATIONS, scope="module")
def kernels(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    with implementation(request.param) as chosen:
        yield chosen


def parent(kernels: Kernels, chunk: Array, valid: Shape, factors: Shape, method: str) -> Array:
    (settled,) = kernels.settle([chunk], [valid], recipe(chunk.dtype, factors, method=method))
    assert settled.parent is not None
    return settled.parent


KNOWN = [  # method, pixels of one window, dtype, result
    ("median", [4, 1, 3], "uint8", 3),
    ("median", [4, 1, 3, 2], "uint8", 2),
    ("median", [4, 1, 3, 2], "int64", 2),
    ("median", [-1, -128, 127, 0], "int8", -1),
    ("median", [TOP, TOP - 1, 0, TOP], "uint64", TOP - 1),
    ("median", [2.0, -INF, 1.0, INF], "float32", 1.0),
    ("median", [2.0, NAN, 1.0], "float64", 2.0),
    ("median", [NAN, 2.0, 1.0, NAN], "float64", 2.0),
    ("median", [NAN, 1.0, NAN], "float32", NAN),
    ("median", [0.0, -0.0, 1.0], "float32", 0.0),
    ("median", [0.0, -0.0], "float32", -0.0),
    ("mode", [7], "uint16", 7),
    ("mode", [3, 1, 2], "uint16", 1),
    ("mode", [5, 5, 1, 1], "uint16", 1),
    ("mode", [5, 1, 5, 1, 5], "uint32", 5),
    ("mode", [TOP, 0, TOP], "uint64", TOP),
    ("mode", [-5, 3, -5, 3], "int64", -5),
    ("mode", [-(2**63), -(2**63), 1], "int64", -(2**63)),
    ("mode", [1.0, NAN, NAN], "float32", NAN),
    ("mode", [NAN, 2.0], "float64", 2.0),
    ("mode", [0.0, 1.0, -0.0, 1.0, 1.0, 0.0], "float32", -0.0),
    ("mode", [0.0, 1.0, 0.0], "float64", 0.0),
    ("min", [3, 1, 2], "uint8", 1),
    ("min", [TOP, TOP - 1], "uint64", TOP - 1),
    ("min", [5, -(2**63)], "int64", -(2**63)),
    ("min", [NAN, 2.0, 1.0], "float32", 1.0),
    ("min", [NAN, NAN], "float32", INF),
    ("min", [NAN], "float64", INF),
    ("min", [0.0, -0.0], "float64", 0.0),
    ("min", [-0.0, 0.0], "float64", -0.0),
    ("max", [3, 1, 2], "uint8", 3),
    ("max", [-128, -127], "int8", -127),
    ("max", [0, TOP], "uint64", TOP),
    ("max", [2.0, NAN, 1.0], "float32", 2.0),
    ("max", [NAN, NAN, NAN], "float64", -INF),
    ("max", [-0.0, 0.0], "float32", -0.0),
    ("stride", [3, 1, 2], "uint8", 3),
    ("stride", [NAN, 1.0], "float32", NAN),
    ("stride", [-0.0, 1.0], "float64", -0.0),
]


@pytest.mark.parametrize(("method", "pixels", "name", "result"), KNOWN)
def test_known_results(
    kernels: Kernels, method: str, pixels: list[float], name: str, result: float
) -> None:
    dtype = np.dtype(name)
    # Factors beyond the chunk: a window of one pixel is one too.
    factors = (len(pixels) + 1, len(pixels) + 1)
    for shape in ((1, len(pixels)), (len(pixels), 1)):
        chunk = np.array(pixels, dtype).reshape(shape)
        assert same_bits(
            parent(kernels, chunk, shape, factors, method), np.array([[result]], dtype)
        )


@pytest.mark.parametrize("method", ["median", "mode", "mean"])
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_no_payload_of_a_nan_is_passed_on(kernels: Kernels, name: str, method: str) -> None:
    dtype = np.dtype(name)
    bits = np.dtype(f"u{dtype.itemsize}")
    payload = (np.array(np.nan, dtype).view(bits) + bits.type(5)).view(dtype)
    chunk = np.array([[payload, payload], [-np.nan, payload], [np.nan, -np.nan]], dtype)
    found = parent(kernels, chunk, (3, 2), (1, 2), method)
    assert same_bits(found, np.full((3, 1), np.nan, dtype))


@pytest.mark.parametrize("name", ["uint8", "int16"])
@pytest.mark.parametrize("method", ["median", "mode"])
def test_a_window_has_more_pixels_than_its_type_counts(
    kernels: Kernels, name: str, method: str
) -> None:
    shape = (16, 16) if name == "uint8" else (182, 182)
    chunk = np.zeros(shape, name)
    chunk[:, 7:] = 9
    assert parent(kernels, chunk, shape, shape, method).tolist() == [[9]]


@pytest.mark.parametrize("method", reference.METHODS)
def test_factors_of_one_copy(kernels: Kernels, method: str) -> None:
    chunk = noise((3, 5), np.dtype("f4"))
    chunk[1, 1] = -0.0
    chunk[0, 0] = np.nan
    assert same_bits(parent(kernels, chunk, (2, 5), (1, 1), method), chunk[:2])


# --- the method that looks beyond its window


def around(level: Array, start: Shape, stop: Shape, factors: Shape) -> Surrounded:
    """The block [start, stop) of `level` with its halo."""
    reach = halo("gaussian", factors)
    first = [max(0, a - h) for a, h in zip(start, reach, strict=True)]
    last = [min(n, b + h) for n, b, h in zip(level.shape, stop, reach, strict=True)]
    pixels = np.ascontiguousarray(level[tuple(map(slice, first, last))])
    return Surrounded(
        pixels,
        tuple(a - b for a, b in zip(start, first, strict=True)),
        tuple(b - a for a, b in zip(start, stop, strict=True)),
    )


def gaussian(kernels: Kernels, level: Array, factors: Shape) -> Array:
    whole = around(level, (0,) * level.ndim, level.shape, factors)
    (made,) = kernels.downsample([whole], recipe(level.dtype, factors, method="gaussian"))
    return made


GAUSSIAN = [  # shape, factors
    ((8, 16), (2, 2)),
    ((7, 15, 31), (2, 2, 2)),
    ((9, 10, 11), (3, 4, 2)),
    ((9, 10, 11), (1, 3, 3)),
    ((5, 1, 70), (4, 4, 4)),
    ((70, 1), (3, 3)),
    ((1, 1), (2, 2)),
    ((2, 3, 5, 6), (1, 2, 2, 2)),
    ((3, 2, 4, 5, 6), (1, 1, 2, 3, 4)),
    ((4, 5, 4, 5, 9), (4, 4, 4, 4, 4)),
    ((3, 4), (1, 1)),
    ((6, 6), (3, 1)),
]


@pytest.mark.parametrize(("shape", "factors"), GAUSSIAN)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gaussian_blocks_are_the_reference_s(
    kernels: Kernels, dtype: np.dtype[np.generic], shape: Shape, factors: Shape
) -> None:
    level = noise(shape, dtype)
    level.flags.writeable = False
    found = gaussian(kernels, level, factors)
    assert same_bits(found, reference.gaussian(level, (0,) * len(shape), shape, factors))
    assert found.shape == tuple(-(-n // f) for n, f in zip(shape, factors, strict=True))
    assert found.flags.c_contiguous
    assert found.flags.writeable
    assert not np.shares_memory(found, level)


WEIGHTED = [  # one row of pixels, factor, dtype, result
    ([8, 0, 0, 0, 0, 0], 2, "uint16", [3, 0, 0]),  # 8 * 3/7
    ([0, 0, 8, 0, 0, 0], 2, "uint16", [1, 3, 0]),  # 8 * 1/7, 8 * 3/8
    ([0, 0, 0, 0, 8], 2, "uint8", [0, 1, 6]),  # 8 * 1/8, 8 * 3/4
    ([16, 0, 0, 0, 0, 0], 3, "int16", [4, 0]),  # 16 * 4/15
    ([32, 0, 0, 0], 4, "int32", [5]),  # 32 * 5/30
    ([TOP] * 9, 3, "uint64", [TOP] * 3),
    ([-(2**63)] * 5, 2, "int64", [-(2**63)] * 3),
    ([0, 4, 4, 0], 2, "uint8", [2, 2]),  # 16/7, 16/7
    ([0.0, 7.0, 0.0, 0.0], 2, "float32", [3.0, 1.0]),
    ([NAN, 0, 0, 0, 0, 0], 2, "float64", [NAN, 0.0, 0.0]),
    ([INF, 0, 0, 0], 2, "float64", [INF, 0.0]),
    ([-0.0, -0.0], 2, "float32", [0.0]),
]


@pytest.mark.parametrize(("pixels", "factor", "name", "result"), WEIGHTED)
def test_known_weights(
    kernels: Kernels, pixels: list[float], factor: int, name: str, result: list[float]
) -> None:
    for shape in ((1, -1), (-1, 1)):
        level = np.array(pixels, name).reshape(shape)
        factors = tuple(factor if n > 1 else 1 for n in level.shape)
        found = gaussian(kernels, level, factors)
        assert same_bits(found, np.array(result, name).reshape(shape))


def test_a_level_in_blocks_is_the_level_at_once(kernels: Kernels) -> None:
    for dtype, factors in itertools.product(DTYPES, [(2, 2, 2), (1, 3, 4)]):
        level = noise((9, 21, 30), dtype)
        wanted = gaussian(kernels, level, factors)
        blocks, places = [], []
        for start in itertools.product((0, 4), (0, 12), (0, 8, 16, 24)):
            stop = tuple(
                min(n, a + size) for n, a, size in zip(level.shape, start, (4, 12, 8), strict=True)
            )
            if start[0] == 4:
                stop = (9, *stop[1:])
            blocks.append(around(level, start, stop, factors))
            places.append(
                tuple(
                    slice(a // f, -(-b // f)) for a, b, f in zip(start, stop, factors, strict=True)
                )
            )
        found = np.zeros_like(wanted)
        made = kernels.downsample(blocks, recipe(dtype, factors, method="gaussian"))
        for place, block in zip(places, made, strict=True):
            found[place] = block
        assert same_bits(found, wanted)


def test_other_methods_take_blocks_too(kernels: Kernels) -> None:
    chunk = noise((6, 8), np.dtype("u2"))
    for method in reference.METHODS:
        block = Surrounded(chunk, (0, 0), (5, 8))
        (made,) = kernels.downsample([block], recipe(chunk.dtype, (2, 2), method=method))
        assert same_bits(made, parent(kernels, chunk, (5, 8), (2, 2), method))


def test_settling_can_not_look_beyond_a_chunk(kernels: Kernels) -> None:
    with pytest.raises(InvalidArgument, match="gaussian"):
        kernels.settle([], [], recipe(np.dtype("u2"), (2, 2), method="gaussian"))


def test_bad_blocks_are_refused(kernels: Kernels) -> None:
    level = noise((10, 10), np.dtype("u2"))
    with pytest.raises(InvalidArgument, match="at most 4"):
        gaussian(kernels, level, (5, 2))
    with pytest.raises(InvalidArgument, match="blur"):
        kernels.downsample([], Recipe(None, np.uint16(0), (2, 2), "blur"))
    with pytest.raises(InvalidArgument, match="top level"):
        kernels.downsample([], Recipe(None, np.uint16(0), None, "gaussian"))


@pytest.mark.parametrize("method", [*reference.METHODS, *reference.HALO_METHODS])
def test_every_method_can_be_made_ready(kernels: Kernels, method: str) -> None:
    kernels.warm([np.dtype("uint8"), np.dtype("float64")], method)
