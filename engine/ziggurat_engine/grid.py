"""Which chunks does a box touch, and which part of each?

A Grid cuts the box (0, shape) into cells of `cell` pixels, the last ones along an
axis clipped by the shape. The same grid serves chunks and shards: a shard is a cell
of a coarser grid. Planning yields frozen values; whoever executes them needs no
geometry of its own.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from ziggurat_engine.region import Region, Shape


class Part(NamedTuple):
    """The common pixels of a box and one cell.

    at: the cell's index. inside_cell: counted from the cell's first pixel.
    inside_region: counted from the box's.
    """

    at: Shape
    inside_cell: Region
    inside_region: Region


@dataclass(frozen=True, slots=True)
class Grid:
    """`shape` pixels cut into cells of `cell` pixels; both one number an axis, >= 1."""

    shape: Shape
    cell: Shape

    @property
    def counts(self) -> Shape:
        """Cells along each axis."""
        return tuple(-(-n // c) for n, c in zip(self.shape, self.cell, strict=True))

    @property
    def size(self) -> int:
        """Cells in the grid."""
        return math.prod(self.counts)

    def region(self, index: Shape) -> Region:
        """The pixels of cell `index`, clipped by the grid's shape."""
        offset = tuple(i * c for i, c in zip(index, self.cell, strict=True))
        return Region(
            offset,
            tuple(min(c, n - o) for c, n, o in zip(self.cell, self.shape, offset, strict=True)),
        )

    def touched(self, region: Region) -> Region:
        """The box of cell indices that `region` (within the grid) touches."""
        offset = tuple(o // c for o, c in zip(region.offset, self.cell, strict=True))
        if region.size == 0:
            return Region(offset, (0,) * len(offset))
        stop = tuple(-(-s // c) for s, c in zip(region.stop, self.cell, strict=True))
        return Region(offset, tuple(b - a for a, b in zip(offset, stop, strict=True)))

    def indices(self, region: Region | None = None) -> Iterator[Shape]:
        """The cells that `region` touches (or all), the last axis fastest."""
        box = Region.whole(self.counts) if region is None else self.touched(region)
        return box.indices()

    def plan(self, region: Region) -> Iterator[Part]:
        """The parts of `region` (within the grid) cell by cell, the last axis fastest."""
        axes = [
            (_few_spans if stop - offset <= _FEW * cell else _spans)(offset, stop, cell)
            for offset, stop, cell in zip(region.offset, region.stop, self.cell, strict=True)
        ]
        for cells in itertools.product(*axes):
            at, inside_cell, inside_region, shape = zip(*cells, strict=True)
            yield Part(at, Region(inside_cell, shape), Region(inside_region, shape))


_Span: TypeAlias = tuple[int, int, int, int]


def _spans(offset: int, stop: int, cell: int) -> tuple[_Span, ...]:
    """Along one axis, of each cell that [offset, stop) touches what a Part says of it.

    (at, first pixel inside the cell, first inside the box, pixels)
    """
    spans = []
    for at in range(offset // cell, -(-stop // cell) if stop > offset else 0):
        start = at * cell
        low, high = max(offset, start), min(stop, start + cell)
        spans.append((at, low - start, low - offset, high - low))
    return tuple(spans)


# The boxes of a stream differ along few axes. Long lists are seldom asked for again.
_FEW = 64
_few_spans = functools.lru_cache(maxsize=4096)(_spans)
