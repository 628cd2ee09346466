"""How do pixels become another type, and how is a window of values stretched over it?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ziggurat_engine.errors import InvalidArgument
from ziggurat_engine.spec import Array


@dataclass(frozen=True, slots=True)
class Conversion:
    """What values become. dtype: None keeps the image's. window: (start, end) or None.

    Without a window values are kept: integers and floats are rounded half to even to
    integers and clipped to the type's range, NaN becomes 0; to floats they are rounded to the
    nearest. With a window v becomes rint(clip((v - start) / (end - start), 0, 1) * top),
    in 64-bit floats; top is the largest number of an integer type and 1, without rint, of
    a float; NaN becomes 0 in integers and stays NaN in floats.
    """

    dtype: np.dtype[np.generic] | None = None
    window: tuple[float, float] | None = None

    def check(self) -> None:
        """InvalidArgument for a window that is none; fields as in ReadRequest."""
        if self.window is None:
            return
        start, end = self.window
        if not (math.isfinite(start) and math.isfinite(end) and start < end):
            raise InvalidArgument(
                f"conversion.window: start must be below end and both finite, got {start} to {end}",
                field="conversion.window",
            )
        if not math.isfinite(end - start):
            raise InvalidArgument(
                f"conversion.window: {start} to {end} is too wide for a 64-bit float",
                field="conversion.window",
            )

    def of(self, dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
        """What pixels of `dtype` become."""
        return self.dtype or dtype

    def keeps(self, dtype: np.dtype[np.generic]) -> bool:
        """Whether pixels of `dtype` stay as they are."""
        return self.window is None and self.of(dtype) == dtype

    def apply(self, pixels: Array) -> Array:
        """The values converted; `pixels` itself where nothing is to be done."""
        if self.keeps(pixels.dtype):
            return pixels
        target = self.of(pixels.dtype)
        if self.window is not None:
            return _stretched(pixels, self.window, target)
        return _kept(pixels, target)


def _stretched(pixels: Array, window: tuple[float, float], dtype: np.dtype[np.generic]) -> Array:
    start, end = window
    share: Any = pixels.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        share -= start
        share /= end - start
    np.clip(share, 0, 1, out=share)
    if dtype.kind == "f":
        found: Array = share.astype(dtype)
        return found
    return _rounded(share * float(np.iinfo(dtype.name).max), dtype)


def _kept(pixels: Array, dtype: np.dtype[np.generic]) -> Array:
    if dtype.kind == "f":
        with np.errstate(over="ignore", invalid="ignore"):
            found: Array = pixels.astype(dtype)
        return found
    if pixels.dtype.kind == "f":
        return _rounded(pixels, dtype)
    # Compared in the type of the pixels: 64 bits fit in no other.
    have, wanted = np.iinfo(pixels.dtype.name), np.iinfo(dtype.name)
    values: Any = pixels
    clipped = np.clip(values, max(have.min, wanted.min), min(have.max, wanted.max))
    kept: Array = clipped.astype(dtype)
    return kept


def _rounded(pixels: Any, dtype: np.dtype[np.generic]) -> Array:
    """Floats as integers: half to even, clipped, 0 for NaN."""
    limits = np.iinfo(dtype.name)
    whole = np.rint(pixels).astype(np.float64, copy=False)
    # As floats the limits of 64 bits are powers of two; from the upper one on no cast fits.
    high, low = whole >= float(limits.max), whole <= float(limits.min)
    whole[high | low | np.isnan(whole)] = 0
    found: Any = whole.astype(dtype)
    found[high], found[low] = limits.max, limits.min
    result: Array = found
    return result
