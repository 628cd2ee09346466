"""What is a box of pixels, and what can be asked of it?

A Region is half-open: it holds the pixels offset <= p < offset + shape, one number
an axis. Pure integers; no arrays, no I/O.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

Shape: TypeAlias = tuple[int, ...]
"""One integer an axis, in axis order."""


class Region(NamedTuple):
    """A half-open box. `offset` and `shape` have one number an axis; shape >= 0."""

    # A named tuple, not a dataclass: several are made for each frame and chunk, and
    # made in C they cost a fifth.
    offset: Shape
    shape: Shape

    @classmethod
    def whole(cls, shape: Shape) -> Region:
        """The box of `shape` at the origin."""
        return cls((0,) * len(shape), tuple(shape))

    @property
    def stop(self) -> Shape:
        """The first pixel behind the box along each axis."""
        return tuple(map(int.__add__, self.offset, self.shape))

    @property
    def size(self) -> int:
        """Pixels in the box."""
        return math.prod(self.shape)

    def intersect(self, other: Region) -> Region:
        """The pixels in both; shape 0 along some axis where there are none."""
        offset = tuple(map(max, self.offset, other.offset))
        shape = tuple(
            max(0, min(a, b) - o) for a, b, o in zip(self.stop, other.stop, offset, strict=True)
        )
        return Region(offset, shape)

    def contains(self, other: Region) -> bool:
        """True where every pixel of `other` is in this box."""
        return all(map(int.__le__, self.offset, other.offset)) and all(
            map(int.__ge__, self.stop, other.stop)
        )

    def holds(self, pixel: Shape) -> bool:
        """True where `pixel` is in the box."""
        return all(o <= p < o + n for p, o, n in zip(pixel, self.offset, self.shape, strict=True))

    def relative_to(self, origin: Shape) -> Region:
        """The same box, counted from `origin`."""
        return Region(tuple(map(int.__sub__, self.offset, origin)), self.shape)

    def moved(self, by: Shape) -> Region:
        """The box, so much further along each axis."""
        return Region(tuple(map(int.__add__, self.offset, by)), self.shape)

    def slices(self) -> tuple[slice, ...]:
        """The box as an index into an array that starts at the origin."""
        return tuple(map(slice, self.offset, self.stop))

    def indices(self) -> Iterator[Shape]:
        """Every pixel in the box, the last axis fastest."""
        return itertools.product(*map(range, self.offset, self.stop))

    def subtract(self, other: Region) -> list[Region]:
        """This box without `other`, as at most 2 disjoint boxes an axis."""
        common = self.intersect(other)
        if common.size == 0:
            return [self] if self.size else []
        pieces = []
        offset, stop = list(self.offset), list(self.stop)
        for axis, (low, high) in enumerate(zip(common.offset, common.stop, strict=True)):
            for start, end in ((offset[axis], low), (high, stop[axis])):
                if start < end:
                    piece_offset, piece_stop = offset.copy(), stop.copy()
                    piece_offset[axis], piece_stop[axis] = start, end
                    pieces.append(_from_bounds(piece_offset, piece_stop))
            offset[axis], stop[axis] = low, high
        return pieces

    def __str__(self) -> str:
        return "[" + ", ".join(map("{}:{}".format, self.offset, self.stop)) + "]"


def _from_bounds(start: list[int], stop: list[int]) -> Region:
    return Region(tuple(start), tuple(b - a for a, b in zip(start, stop, strict=True)))
