"""Do the device kernels downsample as the reference does, byte for byte?

They run on the CPU here (tests/support/shim.py), from the same sources that a card gets.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ziggurat_engine.kernels import reference
from ziggurat_engine.kernels.cuda import abi
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Array

from tests.contract.cuda_batch import Chunks
from tests.contract.kernel_cases import CASES, DTYPES, noise, same_bits
from tests.support import shim

pytestmark = pytest.mark.skipif(not shim.available(), reason="no g++ to compile the kernels with")

SUPPORTED = [case for case in CASES if abi.supports("mean", np.dtype("u1"), case[2])]
SPECIALS = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, -np.nan, 1e38, -1e38, 1e-45, 0.1]


def check(
    chunks: list[Array], valid: list[Shape], factors: Shape, method: str, **how: bool
) -> None:
    found = Chunks(chunks).parents(valid, factors, method, **how)
    for chunk, extent, parent in zip(chunks, valid, found, strict=True):
        expected = reference.METHODS[method](chunk, extent, factors)
        assert same_bits(parent, expected), (parent, expected)


def crowded(shape: Shape, dtype: np.dtype[np.generic], seed: int) -> Array:
    """Few different values, so that windows have modes; of floats those that are special."""
    rng = np.random.default_rng(seed)
    if dtype.kind == "f":
        values = np.array(SPECIALS, np.float64)
        with np.errstate(over="ignore", under="ignore"):
            pixels: Array = rng.choice(values, shape).astype(dtype)
        return pixels
    limits = np.iinfo(dtype.name)
    values = np.array([limits.min, limits.max, limits.max - 1, 0, 1, limits.max // 2], dtype)
    return rng.choice(values, shape)


def test_the_cases_of_the_suite_are_supported() -> None:
    assert len(SUPPORTED) >= 10


@pytest.mark.parametrize("method", abi.METHODS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_parents_are_those_of_the_reference(dtype: np.dtype[np.generic], method: str) -> None:
    for shape, valid, factors in SUPPORTED:
        check([noise(shape, dtype), crowded(shape, dtype, 1)], [valid, shape], factors, method)


@pytest.mark.parametrize("factors", list(itertools.product((1, 2, 3), repeat=3)), ids=str)
def test_windows_of_every_shape(factors: Shape) -> None:
    for dtype, shape in ((np.dtype("u1"), (5, 7, 96)), (np.dtype("f4"), (6, 6, 24))):
        for method in abi.METHODS:
            chunks = [noise(shape, dtype), crowded(shape, dtype, 2)]
            check(chunks, [shape, (shape[0] - 1, 4, shape[2] - 1)], factors, method)


@pytest.mark.parametrize("method", abi.METHODS)
def test_lanes_in_another_order_make_the_same(method: str) -> None:
    chunk = noise((4, 9, 40), np.dtype("i2"))
    check([chunk], [(4, 9, 40)], (2, 2, 2), method, backwards=True)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_batch(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(DTYPES))
    method = data.draw(st.sampled_from(abi.METHODS))
    rank = data.draw(st.integers(1, 5))
    factors = abi.five(data.draw(st.tuples(*[st.sampled_from(abi.FACTORS)] * min(3, rank))))
    factors = factors[5 - rank :]
    shape = data.draw(
        st.tuples(*[st.integers(1, 5)] * (rank - 1), st.integers(1, 70)), label="shape"
    )
    extents = st.tuples(*[st.integers(1, n) for n in shape])
    valid = data.draw(st.lists(extents, min_size=1, max_size=3), label="valid")
    make = data.draw(st.sampled_from([noise, crowded]))
    chunks = [make(shape, dtype, seed) for seed in range(len(valid))]
    check(chunks, valid, factors, method)


FILLS = [
    pytest.param(dtype, fill, id=f"{dtype}-{fill}")
    for dtype in DTYPES
    for fill in ([0, 7] if dtype.kind != "f" else [0.0, -0.0, 0.1, np.nan])
]


@pytest.mark.parametrize(("dtype", "fill"), FILLS)
def test_fill_is_found_by_its_bits(dtype: np.dtype[np.generic], fill: float) -> None:
    shape = (7, 11, 143)
    size = 7 * 11 * 143
    places = [0, 1, 7, 1023, 1024, 4099, size - 2, size - 1]
    chunks = [np.full(shape, fill, dtype) for _ in range(len(places) + 2)]
    for chunk, place in zip(chunks, places, strict=False):
        chunk.flat[place] = 3
    if dtype.kind == "f":
        bits = np.dtype(f"u{dtype.itemsize}")
        chunks[-1].view(bits)[...] ^= bits.type(1 << (8 * dtype.itemsize - 1))  # -0.0 for 0.0
    found = Chunks(chunks, dtype.type(fill)).differs
    expected = [not reference.is_filled(chunk, dtype.type(fill)) for chunk in chunks]
    assert found.astype(bool).tolist() == expected
    assert expected[:-1] == [True] * len(places) + [False]
