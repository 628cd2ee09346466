"""Is every mean what tensorstore makes of the same pixels?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

import numpy as np
import pytest
import tensorstore
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ziggurat_engine.kernels.protocol import Kernels, Recipe
from ziggurat_engine.kernels.select import select
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Array, DTypeName, Uncompressed

MOST_PIXELS = 6000


@dataclass(frozen=True)
class Case:
    """A chunk, how much of it is valid, and the factors."""

    chunk: Array
    valid: Shape
    factors: Shape

    def __repr__(self) -> str:
        pixels = self.chunk.tolist() if self.chunk.size < 20 else "..."
        return (
            f"{self.chunk.dtype} {self.chunk.shape} valid={self.valid} "
            f"factors={self.factors} {pixels}"
        )


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    """2 to 5 axes of 1 to 70 pixels, MOST_PIXELS in all; the long axis may be any."""
    extents: list[int] = []
    left = MOST_PIXELS
    for _ in range(draw(st.integers(2, 5))):
        extents.append(draw(st.integers(1, min(70, left))))
        left //= extents[-1]
    return tuple(draw(st.permutations(extents)))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Pixels are drawn from a few values, extreme ones among them, or are random bits."""
    dtype = np.dtype(draw(st.sampled_from(get_args(DTypeName))))
    shape = draw(shapes())
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    if dtype.kind == "f":
        palette = draw(st.lists(hnp.from_dtype(dtype), min_size=1, max_size=6))
        chunk = rng.choice(np.array(palette, dtype), shape)
        if draw(st.booleans()):
            with np.errstate(over="ignore"):
                chunk = (rng.standard_normal(shape) * 10.0 ** rng.integers(-50, 50)).astype(dtype)
    else:
        bounds = np.iinfo(dtype.name)
        edges = [bounds.min, bounds.min + 1, 0, 1, bounds.max - 1, bounds.max]
        values = st.sampled_from(edges) | st.integers(bounds.min, bounds.max)
        palette = draw(st.lists(values, min_size=1, max_size=6))
        chunk = rng.choice(np.array(palette, dtype), shape)
        if draw(st.booleans()):
            chunk = np.frombuffer(rng.bytes(chunk.nbytes), dtype).reshape(shape)
    valid = tuple(draw(st.integers(1, n)) for n in shape) if draw(st.booleans()) else shape
    factors = tuple(draw(st.integers(1, 4)) for _ in shape)
    return Case(np.ascontiguousarray(chunk), valid, factors)


@pytest.fixture(params=["reference", "cpu"], scope="module")
def kernels(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    made = select(request.param, 2)
    yield made
    made.close()


@settings(max_examples=1500, deadline=None)
@given(case=cases())
def test_a_mean_equals_tensorstore_s(kernels: Kernels, case: Case) -> None:
    pixels = case.chunk[tuple(map(slice, case.valid))].copy()
    expected = tensorstore.downsample(tensorstore.array(pixels), case.factors, "mean")
    wanted = np.asarray(expected.read().result())
    recipe = Recipe(Uncompressed(), case.chunk.dtype.type(0), case.factors)
    (settled,) = kernels.settle([case.chunk], [case.valid], recipe)
    assert settled.parent is not None
    assert settled.parent.dtype == wanted.dtype
    np.testing.assert_array_equal(settled.parent, wanted)
    if wanted.dtype.kind == "f":
        copied = any(f > 1 for f in case.factors) and all(
            min(n, f) == 1 for n, f in zip(case.valid, case.factors, strict=True)
        )
        # A NaN's payload is the processor's choice there, and where every window has one pixel
        # its -0.0 is kept.
        numbers = ~np.isnan(wanted) if not copied else ~np.isnan(wanted) & (wanted != 0)
        np.testing.assert_array_equal(
            np.signbit(settled.parent[numbers]), np.signbit(wanted[numbers])
        )
