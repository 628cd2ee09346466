"""Is what the server gives back what was written, and is every level its right downsample?

Boxes are chosen before the first pixel is written. While planes pass on their way to
the server, each box keeps the pixels of level 0 that it depends on, its footprint; so
an image of any size is checked in bounded memory. Afterwards the footprint is taken
down the levels with plain NumPy, sharing no code with the engine, and compared with
what the server answers: equal to the last bit, or it failed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ziggurat
from numpy.typing import NDArray

# Images up to this size are compared wholly, at every level.
WHOLE_BYTES = 48 * 2**20
BOXES_PER_LEVEL = 6
# The footprint of a box at most, in pixels along each axis.
_EDGES = {"t": 2, "c": 4, "z": 32, "y": 256, "x": 256}

Pixels = NDArray[Any]
Shape = tuple[int, ...]


@dataclass(slots=True)
class Box:
    """A box of one level, and its footprint (offset and pixels) in level 0."""

    level: int
    offset: Shape
    shape: Shape
    origin: Shape
    source: Pixels


class Probe:
    """Boxes of `image` at every level; `take` sees each plane, `boxes` are then complete."""

    def __init__(self, image: ziggurat.Image, *, seed: int = 7) -> None:
        self.whole = image.nbytes <= WHOLE_BYTES
        self._factors = [level.factors for level in image.levels]
        self.boxes: list[Box] = []
        rng = np.random.default_rng(seed)
        for level in image.levels:
            if self.whole:
                self._add(image, level.index, (0,) * image.ndim, level.shape)
                continue
            binned = self._binned(level.index)
            most = [
                min(n, max(1, _EDGES[axis] // b))
                for axis, n, b in zip(image.axes, level.shape, binned, strict=True)
            ]
            last = [n - s for n, s in zip(level.shape, most, strict=True)]
            # Both ends are always among them: the far one has the odd edges.
            offsets = [(0,) * image.ndim, tuple(last)]
            while len(offsets) < BOXES_PER_LEVEL:
                offsets.append(tuple(int(rng.integers(0, n + 1)) for n in last))
            for offset in dict.fromkeys(offsets):
                self._add(image, level.index, offset, tuple(most))

    def take(self, index: Shape, plane: Pixels) -> None:
        """Keeps what the boxes need of one plane (Y, X) at `index`, the axes before y."""
        for box in self.boxes:
            lead = tuple(i - o for i, o in zip(index, box.origin, strict=False))
            inside = zip(lead, box.source.shape, strict=False)
            if all(0 <= at < size for at, size in inside):
                (y, x), (height, width) = box.origin[-2:], box.source.shape[-2:]
                box.source[lead] = plane[y : y + height, x : x + width]

    def expected(self, box: Box) -> Pixels:
        """What the server should answer for `box`, whose footprint is complete."""
        pixels = box.source
        for factors in self._factors[1 : box.level + 1]:
            pixels = halved(pixels, factors)
        return pixels

    def _binned(self, level: int) -> Shape:
        """Pixels of level 0 that a pixel of `level` stands for, along each axis."""
        return tuple(map(math.prod, zip(*self._factors[: level + 1], strict=True)))

    def _add(self, image: ziggurat.Image, level: int, offset: Shape, shape: Shape) -> None:
        binned = self._binned(level)
        origin = tuple(o * b for o, b in zip(offset, binned, strict=True))
        extent = tuple(
            min((o + s) * b, n) - first
            for o, s, b, n, first in zip(offset, shape, binned, image.shape, origin, strict=True)
        )
        source: Pixels = np.zeros(extent, image.dtype)
        self.boxes.append(Box(level, offset, shape, origin, source))


def halved(pixels: Pixels, factors: Sequence[int]) -> Pixels:
    """The mean of each window of `factors` pixels, with what there is of it at the edges.

    Integers round half to even. Floats are added in the order of the window's pixels,
    in their own type.
    """
    floats = pixels.dtype.kind == "f"
    # A sum of float64 is exact for up to 32 bits; Python's integers are for 64.
    wide = pixels.dtype if floats else np.dtype(object if pixels.dtype.itemsize == 8 else "f8")
    shape = [-(-n // f) for n, f in zip(pixels.shape, factors, strict=True)]
    total: Pixels = np.zeros(shape, wide)
    count = np.zeros(shape, np.int64)
    for place in itertools.product(*map(range, factors)):
        part = pixels[tuple(slice(p, None, f) for p, f in zip(place, factors, strict=True))]
        there = tuple(map(slice, part.shape))
        total[there] += part.astype(wide)
        count[there] += 1
    if floats:
        mean: Pixels = total / count.astype(wide)
    elif wide.kind == "O":
        double, odd = 2 * (total % count), total // count % 2
        mean = total // count + ((double > count) | ((double == count) & (odd == 1)))
    else:
        mean = np.rint(total / count)
    return mean.astype(pixels.dtype)


def same(found: Pixels, expected: Pixels) -> bool:
    """True where both have equal shapes and equal pixels; a NaN equals a NaN."""
    return np.array_equal(found, expected, equal_nan=expected.dtype.kind == "f")
