"""Is every block what tensorstore makes of the same pixels, however a level is cut?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import get_args

import numpy as np
import pytest
import tensorstore
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ziggurat_engine.kernels import reference
from ziggurat_engine.kernels.protocol import Kernels, Recipe, Surrounded, halo
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


@pytest.fixture(scope="module")
def cpu() -> Iterator[Kernels]:
    made = select("cpu", 2)
    yield made
    made.close()


@pytest.fixture(params=["reference", "cpu"], scope="module")
def kernels(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    made = select(request.param, 2)
    yield made
    made.close()


def ours(kernels: Kernels, case: Case, method: str) -> Array:
    recipe = Recipe(Uncompressed(), case.chunk.dtype.type(0), case.factors, method)
    (settled,) = kernels.settle([case.chunk], [case.valid], recipe)
    assert settled.parent is not None
    return settled.parent


def theirs(pixels: np.ndarray, factors: Shape, method: str) -> np.ndarray:
    made = tensorstore.downsample(tensorstore.array(pixels), list(factors), method)
    return np.asarray(made.read().result())


def comparable(case: Case, pixels: np.ndarray, method: str) -> np.ndarray:
    """The windows of floats that have to agree to the bit (see kernels/reference.py)."""

    def any_of(mask: np.ndarray) -> np.ndarray:
        return theirs(mask.astype(np.uint8), case.factors, "max").astype(bool)

    nan = any_of(np.isnan(pixels))
    zero = any_of((pixels == 0) & ~np.signbit(pixels)), any_of((pixels == 0) & np.signbit(pixels))
    copied = any(f > 1 for f in case.factors) and all(
        min(n, f) == 1 for n, f in zip(case.valid, case.factors, strict=True)
    )
    if method == "mean":
        # Its NaNs have payloads, and where every window has one pixel its -0.0 is kept.
        return ~(nan | (zero[1] & copied))
    if method in ("min", "max"):
        return ~(nan & copied)
    return ~(nan | (zero[0] & zero[1]))


@pytest.mark.parametrize("method", reference.METHODS)
@settings(max_examples=600, deadline=None)
@given(case=cases())
def test_a_block_equals_tensorstore_s(kernels: Kernels, case: Case, method: str) -> None:
    pixels = case.chunk[tuple(map(slice, case.valid))].copy()
    wanted = theirs(pixels, case.factors, method)
    found = ours(kernels, case, method)
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    if method != "stride" and wanted.dtype.kind == "f":
        same = comparable(case, pixels, method)
        if method == "mean":
            np.testing.assert_array_equal(found, wanted)
            # That of inf and -inf too.
            same &= ~np.isnan(wanted)
        elif method in ("median", "mode"):
            # All but the sign of a zero.
            clean = ~theirs(np.isnan(pixels).astype(np.uint8), case.factors, "max").astype(bool)
            np.testing.assert_array_equal(found[clean], wanted[clean])
        found, wanted = found[same], wanted[same]
    assert found.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("method", [m for m in reference.METHODS if m != "mean"])
@settings(max_examples=500, deadline=None)
@given(case=cases())
def test_the_compiled_block_is_the_reference_s(cpu: Kernels, case: Case, method: str) -> None:
    wanted = reference.METHODS[method](case.chunk, case.valid, case.factors)
    assert ours(cpu, case, method).tobytes() == wanted.tobytes()


# --- gaussian, which tensorstore does not have


def weighted(pixels: np.ndarray, factors: Shape) -> list[int]:
    """By the definition, one window after the other, with exact fractions."""
    found = []
    for window in np.ndindex(*(-(-n // f) for n, f in zip(pixels.shape, factors, strict=True))):
        axes = [
            [
                (w * f - (f > 1) + k, math.comb(f + 1, k) if f > 1 else 1)
                for k in range(f + 2 if f > 1 else 1)
                if 0 <= w * f - (f > 1) + k < n
            ]
            for w, n, f in zip(window, pixels.shape, factors, strict=True)
        ]
        total = weights = 0
        for taps in itertools.product(*axes):
            weight = math.prod(weight for _, weight in taps)
            total += weight * int(pixels[tuple(place for place, _ in taps)])
            weights += weight
        found.append(round(Fraction(total, weights)))
    return found


@st.composite
def small_levels(draw: st.DrawFn) -> Case:
    case = draw(cases())
    few = tuple(slice(0, draw(st.integers(1, 7))) for _ in case.valid[:3])
    chunk = np.ascontiguousarray(case.chunk[few + (0,) * (case.chunk.ndim - len(few))])
    return Case(chunk, chunk.shape, case.factors[: chunk.ndim])


@settings(max_examples=150, deadline=None)
@given(case=small_levels().filter(lambda case: case.chunk.dtype.kind != "f"))
def test_gaussian_is_what_its_definition_says(kernels: Kernels, case: Case) -> None:
    whole = Surrounded(case.chunk, (0,) * case.chunk.ndim, case.chunk.shape)
    recipe = Recipe(None, case.chunk.dtype.type(0), case.factors, "gaussian")
    (found,) = kernels.downsample([whole], recipe)
    assert [int(pixel) for pixel in found.ravel()] == weighted(case.chunk, case.factors)


@settings(max_examples=400, deadline=None)
@given(case=cases(), data=st.data())
def test_gaussian_does_not_depend_on_the_cut(kernels: Kernels, case: Case, data: st.DataObject):
    level = np.ascontiguousarray(case.chunk[tuple(map(slice, case.valid))])
    whole = Surrounded(level, (0,) * level.ndim, level.shape)
    recipe = Recipe(None, level.dtype.type(0), case.factors, "gaussian")
    wanted = reference.gaussian(level, whole.before, whole.valid, case.factors)
    spans = []
    for n, f in zip(level.shape, case.factors, strict=True):
        cuts = data.draw(st.lists(st.integers(0, n // f), max_size=2, unique=True))
        edges = sorted({0, n, *(cut * f for cut in cuts)})
        spans.append(list(itertools.pairwise(edges)))
    boxes = list(itertools.product(*spans))
    blocks = []
    for box in boxes:
        reach = halo("gaussian", case.factors)
        first = [max(0, a - h) for (a, _), h in zip(box, reach, strict=True)]
        last = [min(n, b + h) for (_, b), h, n in zip(box, reach, level.shape, strict=True)]
        blocks.append(
            Surrounded(
                np.ascontiguousarray(level[tuple(map(slice, first, last))]),
                tuple(a - start for (a, _), start in zip(box, first, strict=True)),
                tuple(b - a for a, b in box),
            )
        )
    found = np.zeros_like(wanted)
    for box, block in zip(boxes, kernels.downsample(blocks, recipe), strict=True):
        place = tuple(
            slice(a // f, -(-b // f)) for (a, b), f in zip(box, case.factors, strict=True)
        )
        found[place] = block
    assert found.tobytes() == wanted.tobytes()
