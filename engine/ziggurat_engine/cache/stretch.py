"""What is a stretch of a chunk, where only some of its pixels were decoded?

Pixels that follow each other in C order. So a box of a chunk lies in one, from its first pixel
to its last, and a plane of a chunk is one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ziggurat_engine.region import Region, Shape
from ziggurat_engine.spec import Array


class Extent(NamedTuple):
    """The pixels first <= n < stop of a chunk, counted in C order."""

    first: int
    stop: int

    @property
    def size(self) -> int:
        """How many pixels these are."""
        return self.stop - self.first

    def holds(self, other: Extent) -> bool:
        """Whether all of `other` is in it."""
        return self.first <= other.first and other.stop <= self.stop


class Extents:
    """What of each chunk of a level lies in a box of the level: the shortest that holds it.

    cell: shape of a chunk. box: in pixels; it has some. unit: extents begin and end with
    multiples of so many pixels, or with the chunk.
    """

    __slots__ = ("_axes", "_size", "_unit")

    def __init__(self, cell: Shape, box: Region, unit: int = 1) -> None:
        self._axes = tuple(zip(cell, box.offset, box.stop, strict=True))
        self._unit, self._size = unit, math.prod(cell)

    def of(self, at: Shape) -> Extent:
        """That of the chunk with index `at`, which the box touches."""
        # Asked for each chunk of a read: plain integers, and no box made on the way.
        first = last = 0
        for index, (length, start, stop) in zip(at, self._axes, strict=True):
            origin = index * length
            first = first * length + (start - origin if start > origin else 0)
            last = last * length + (stop - origin if stop < origin + length else length) - 1
        unit = self._unit
        return Extent(first // unit * unit, min((last // unit + 1) * unit, self._size))


class Stretch(NamedTuple):
    """Pixels of a chunk from number `first` on: one axis, C-contiguous, not to be written to."""

    first: int
    pixels: Array

    @property
    def extent(self) -> Extent:
        """Which pixels these are."""
        return Extent(self.first, self.first + self.pixels.size)

    @property
    def nbytes(self) -> int:
        """Of the pixels."""
        return self.pixels.nbytes

    def take(self, cell: Shape, source: tuple[slice, ...]) -> Array:
        """The pixels `source` of a chunk of shape `cell`, all of which it holds; a view.

        source: with a start, a stop and no negative step along each axis.
        """
        itemsize = self.pixels.itemsize
        strides = [itemsize * math.prod(cell[axis + 1 :]) for axis in range(len(cell))]
        offset = -self.first * itemsize
        shape = []
        for part, stride in zip(source, strides, strict=True):
            offset += part.start * stride
            shape.append(len(range(part.start, part.stop, part.step or 1)))
        steps = [s * (part.step or 1) for s, part in zip(strides, source, strict=True)]
        if 0 in shape:
            offset = 0
        return np.ndarray(shape, self.pixels.dtype, self.pixels, offset, steps)


class Stretches(NamedTuple):
    """Those that are kept of one chunk, few; none lies within another."""

    parts: tuple[Stretch, ...]

    @property
    def nbytes(self) -> int:
        """Of all of them."""
        return sum(part.nbytes for part in self.parts)

    @property
    def size(self) -> int:
        """Pixels of all of them."""
        return sum(part.pixels.size for part in self.parts)

    def holding(self, extent: Extent) -> Stretch | None:
        """One that holds all of `extent`."""
        first, stop = extent
        for part in self.parts:
            if part.first <= first and stop <= part.first + part.pixels.size:
                return part
        return None

    def joined(self, one: Stretch) -> Stretches:
        """These, and another one."""
        apart = (part for part in self.parts if not one.extent.holds(part.extent))
        return Stretches((*apart, one))
