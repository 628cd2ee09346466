"""What becomes of all pixels along some axes, when they come piece by piece?

Sums of integers are exact and never overflow. Pixels of 64 bits are added as two halves of
32 bits; with at most 2^31 of them both sums have room. The mean is then taken by long
division and rounded half to even, as everywhere (kernels/reference.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from ziggurat_engine.errors import InvalidArgument, LimitExceeded
from ziggurat_engine.region import Region, Shape
from ziggurat_engine.spec import Array

Method: TypeAlias = Literal["max", "min", "mean"]
Numbers: TypeAlias = np.ndarray[Any, Any]

# Pixels of 32 or 64 bits that one sum has room for.
MOST_WIDE_PIXELS = 2**31
_HALF = 32
_LOW = 2**_HALF - 1


@dataclass(frozen=True, slots=True)
class Projection:
    """How pixels become one along `axes`, numbers of axes in rising order."""

    method: Method
    axes: Shape

    def shape(self, shape: Shape) -> Shape:
        """What is left of `shape`: 1 along the axes."""
        return tuple(1 if axis in self.axes else n for axis, n in enumerate(shape))

    def inside(self, box: Region) -> tuple[slice, ...]:
        """Where the pixels of `box` end up, counted as it is."""
        return tuple(
            slice(0, 1) if axis in self.axes else part for axis, part in enumerate(box.slices())
        )

    def count(self, shape: Shape) -> int:
        """How many pixels of a box of `shape` become one."""
        return math.prod(shape[axis] for axis in self.axes)

    def counts(self, shape: Shape) -> Numbers:
        """That number, for each pixel of what becomes of the box."""
        return np.full(self.shape(shape), self.count(shape), np.int64)

    def bytes_per_pixel(self, dtype: np.dtype[np.generic]) -> int:
        """Memory for each pixel of the result while pieces come, and for how many are missing."""
        if self.method != "mean":
            return dtype.itemsize + 8
        return 24 if dtype.kind != "f" and dtype.itemsize == 8 else 16


class Accumulator(Protocol):
    """Takes pieces that cover a box once."""

    def add(self, box: Region, pixels: Array) -> None:
        """Takes the pixels of a part of the box, counted from its first one; not kept."""
        ...

    def fill(self, missing: Numbers, value: np.generic) -> None:
        """So many pixels below each of the result, of those not added, have this value."""
        ...

    def result(self) -> Array:
        """What all pixels have become, once they are there."""
        ...


def projection_of(names: Sequence[str], method: Method, axes: Sequence[str]) -> Projection:
    """Of an image with axes `names`; raises InvalidArgument, fields as in ReadRequest."""
    field = "projection.axes"
    if not axes:
        raise InvalidArgument(f"{field} names no axis", field=field)
    for k, axis in enumerate(axes):
        if axis not in names:
            raise InvalidArgument(
                f"{field}[{k}] is {axis!r}, which the image ({''.join(names)}) does not have",
                field=f"{field}[{k}]",
            )
        if axis in axes[:k]:
            raise InvalidArgument(f"{field}[{k}] is {axis!r} again", field=f"{field}[{k}]")
    return Projection(method, tuple(sorted(names.index(axis) for axis in axes)))


def check_projection(projection: Projection, shape: Shape, dtype: np.dtype[np.generic]) -> None:
    """InvalidArgument where there is nothing to project, LimitExceeded where too much."""
    count = projection.count(shape)
    if not count:
        raise InvalidArgument(
            f"projection.axes: the box {shape} is empty along them", field="projection.axes"
        )
    wide = dtype.kind != "f" and dtype.itemsize >= 4
    if projection.method == "mean" and wide and count > MOST_WIDE_PIXELS:
        raise LimitExceeded(
            f"projection.axes: the mean of {count} pixels of {dtype.name}; of at most"
            f" {MOST_WIDE_PIXELS} it can be taken",
            field="projection.axes",
        )


def accumulator(projection: Projection, shape: Shape, dtype: np.dtype[np.generic]) -> Accumulator:
    """For a box of `shape`: what it becomes has `projection.shape(shape)` and `dtype`."""
    if projection.method != "mean":
        return _Extreme(projection, shape, dtype)
    if dtype.kind == "f":
        return _FloatMean(projection, shape, dtype)
    if dtype.itemsize == 8:
        return _WideMean(projection, shape, dtype)
    return _Mean(projection, shape, dtype)


class _Extreme:
    """The largest or smallest; a NaN is passed over."""

    def __init__(self, projection: Projection, shape: Shape, dtype: np.dtype[np.generic]) -> None:
        self._projection, self._axes = projection, projection.axes
        largest = projection.method == "max"
        self._better = np.fmax if largest else np.fmin
        if dtype.kind == "f":
            worst: Any = -math.inf if largest else math.inf
        else:
            worst = np.iinfo(dtype.name).min if largest else np.iinfo(dtype.name).max
        self._found: Numbers = np.full(projection.shape(shape), worst, dtype)

    def add(self, box: Region, pixels: Array) -> None:
        with np.errstate(invalid="ignore"):
            found = self._better.reduce(pixels, axis=self._axes, keepdims=True)
            target = self._found[self._projection.inside(box)]
            self._better(target, found, out=target)

    def fill(self, missing: Numbers, value: np.generic) -> None:
        with np.errstate(invalid="ignore"):
            self._better(self._found, value, out=self._found, where=missing > 0)

    def result(self) -> Array:
        return self._found


class _Mean:
    """Of integers of at most 32 bits."""

    def __init__(self, projection: Projection, shape: Shape, dtype: np.dtype[np.generic]) -> None:
        self._projection, self._axes, self._dtype = projection, projection.axes, dtype
        self._count = projection.count(shape)
        self._total: Numbers = np.zeros(projection.shape(shape), np.int64)

    def add(self, box: Region, pixels: Array) -> None:
        found = np.add.reduce(pixels, axis=self._axes, dtype=np.int64, keepdims=True)
        self._total[self._projection.inside(box)] += found

    def fill(self, missing: Numbers, value: np.generic) -> None:
        self._total += missing * np.int64(value)

    def result(self) -> Array:
        quotient, rest = np.divmod(self._total, self._count)
        found: Array = (quotient + _up(quotient, rest, self._count)).astype(self._dtype)
        return found


class _WideMean:
    """Of integers of 64 bits."""

    def __init__(self, projection: Projection, shape: Shape, dtype: np.dtype[np.generic]) -> None:
        self._projection, self._axes, self._dtype = projection, projection.axes, dtype
        self._count = projection.count(shape)
        self._high: Numbers = np.zeros(projection.shape(shape), dtype)
        self._low: Numbers = np.zeros(projection.shape(shape), np.uint64)

    def add(self, box: Region, pixels: Array) -> None:
        # Shifted with the sign: high * 2^32 + low is the pixel, low being at least 0.
        high: Any = pixels >> self._dtype.type(_HALF)  # type: ignore[operator]
        low: Any = (pixels & self._dtype.type(_LOW)).astype(np.uint64)  # type: ignore[operator]
        inside = self._projection.inside(box)
        self._high[inside] += np.add.reduce(high, axis=self._axes, dtype=self._dtype, keepdims=True)
        self._low[inside] += np.add.reduce(low, axis=self._axes, dtype=np.uint64, keepdims=True)

    def fill(self, missing: Numbers, value: np.generic) -> None:
        self._high += missing.astype(self._dtype) * self._dtype.type(int(value) >> _HALF)
        self._low += missing.astype(np.uint64) * np.uint64(int(value) & _LOW)

    def result(self) -> Array:
        count = np.uint64(self._count)
        quotient, rest = np.divmod(self._high, self._dtype.type(self._count))
        # rest < 2^31, so that rest * 2^32 and low, which is below 2^63, have room together.
        low, rest = np.divmod((rest.astype(np.uint64) << np.uint64(_HALF)) + self._low, count)
        # A mean is no larger than its largest pixel: what is carried out of 64 bits here is
        # the sign.
        found = (quotient.astype(np.uint64) << np.uint64(_HALF)) + low
        found += _up(found, rest, count).astype(np.uint64)
        return found.view(self._dtype)


class _FloatMean:
    """Of floats, summed in 64 bits."""

    def __init__(self, projection: Projection, shape: Shape, dtype: np.dtype[np.generic]) -> None:
        self._projection, self._axes, self._dtype = projection, projection.axes, dtype
        self._count = projection.count(shape)
        self._total: Numbers = np.zeros(projection.shape(shape), np.float64)

    def add(self, box: Region, pixels: Array) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            found = np.add.reduce(pixels, axis=self._axes, dtype=np.float64, keepdims=True)
            self._total[self._projection.inside(box)] += found

    def fill(self, missing: Numbers, value: np.generic) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            rest = missing * np.float64(value)
            np.add(self._total, rest, out=self._total, where=missing > 0)

    def result(self) -> Array:
        found: Numbers = (self._total / self._count).astype(self._dtype)
        found[np.isnan(found)] = np.nan
        return found


def _up(quotient: Numbers, rest: Numbers, count: Any) -> Numbers:
    """Where a quotient with `rest` left is rounded up: above a half, or at one to even."""
    twice = rest * type(count)(2)
    found: Numbers = (twice > count) | ((twice == count) & (quotient % type(count)(2) == 1))
    return found
