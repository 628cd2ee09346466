"""Are the values at points of a plane those of SciPy, from every implementation alike?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ziggurat_engine.kernels import reference
from ziggurat_engine.kernels.protocol import Kernels, Points

from tests.contract.kernel_cases import DTYPES, IMPLEMENTATIONS, implementation, noise, same_bits


@pytest.fixture(params=IMPLEMENTATIONS, scope="module")
def kernels(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    with implementation(request.param) as chosen:
        yield chosen


FLOATS = st.floats(-3, 3)
VECTORS = st.tuples(FLOATS, FLOATS, FLOATS)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6)),
    start=st.tuples(st.floats(-2, 7), st.floats(-2, 7), st.floats(-2, 7)),
    row=VECTORS,
    column=VECTORS,
    dtype=st.sampled_from(["uint16", "int8", "float32", "float64"]),
    interpolation=st.sampled_from(["nearest", "linear"]),
)
def test_it_is_what_scipy_makes(kernels, shape, start, row, column, dtype, interpolation) -> None:
    pixels = noise(shape, np.dtype(dtype)) if dtype != "float32" else noise(shape, np.dtype("f4"))
    points = Points(start, row, column, (0, 0), (5, 7))
    fill = pixels.dtype.type(3)
    found = kernels.sample(pixels, (0, 0, 0), shape, points, interpolation, fill)
    places = np.stack(points.coordinates())
    sizes = np.array(shape)[:, None, None]
    inside = ((places >= -0.5) & (places < sizes - 0.5)).all(axis=0)
    clipped = np.clip(places, 0, sizes - 1)
    order = 0 if interpolation == "nearest" else 1
    wanted = scipy.ndimage.map_coordinates(
        pixels.astype(np.float64), clipped, order=order, mode="nearest"
    )
    assert (found[~inside] == fill).all()
    assert found.dtype == pixels.dtype
    close = 1e-5 * np.abs(pixels.astype(np.float64)).max()
    # SciPy sums in another order: a rounded half may go either way.
    slack = close if pixels.dtype.kind == "f" else 0.5 + 1e-6
    np.testing.assert_allclose(found[inside].astype(float), wanted[inside], rtol=0, atol=slack)
    # To the bit from all of them, and whatever box it is cut from.
    same = reference.sample(pixels, (0, 0, 0), shape, points, interpolation, fill)
    assert same_bits(found, same)
    for half in points.halves():
        i, j = half.first
        part = kernels.sample(pixels, (0, 0, 0), shape, half, interpolation, fill)
        assert same_bits(part, same[i : i + half.shape[0], j : j + half.shape[1]].copy())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_extremes(kernels: Kernels, dtype: np.dtype[np.generic]) -> None:
    info = np.iinfo(dtype) if dtype.kind != "f" else np.finfo(dtype)
    pixels = np.full((2, 2, 2), info.max, dtype)
    pixels[0] = info.min
    points = Points((0.0, 0.3, 0.7), (0.25, 0.0, 0.0), (0.0, 0.1, 0.0), (0, 0), (5, 2))
    found = kernels.sample(pixels, (0, 0, 0), (2, 2, 2), points, "linear", dtype.type(0))
    # Weights of 64 bits add up to 1 but for the last of them.
    close = 1e-15 if dtype.itemsize == 8 else 0
    np.testing.assert_allclose(found[0].astype("f8"), float(info.min), rtol=close)
    np.testing.assert_allclose(found[4].astype("f8"), float(info.max), rtol=close)
    centre = Points((1.0, 1.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0, 0), (1, 1))
    pixels[1, 1, 1] = info.max if dtype.kind == "f" else info.max - 1
    found = kernels.sample(pixels, (0, 0, 0), (2, 2, 2), centre, "linear", dtype.type(0))
    assert found[0, 0] == pixels[1, 1, 1]


def test_a_neighbour_of_weight_0_does_not_count(kernels: Kernels) -> None:
    pixels = np.ones((1, 2, 2), "float32")
    pixels[0, 1] = np.nan
    points = Points((0.0, 0.0, 0.0), (0.0, 0.5, 0.0), (0.0, 0.0, 0.5), (0, 0), (2, 2))
    found = kernels.sample(pixels, (0, 0, 0), (1, 2, 2), points, "linear", np.float32(0))
    assert (found[0] == 1).all()
    assert np.isnan(found[1]).all()
