"""Which pixels does a read with steps take, and where do they lie in the chunks?

A lattice is every n-th pixel of a box. Counted in steps, it is itself a box, which can be
cut along the chunks as a box of pixels can.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from ziggurat_engine.grid import Grid
from ziggurat_engine.region import Region, Shape


class Place(NamedTuple):
    """The pixels of a lattice in one cell of a grid.

    at: the cell's index. inside_cell: the pixels, as an index into the cell. inside: the
    same ones, as an index into an array of the lattice's shape.
    """

    at: Shape
    inside_cell: tuple[slice, ...]
    inside: tuple[slice, ...]


@dataclass(frozen=True, slots=True)
class Lattice:
    """The pixels offset + k * steps, k from 0 to shape - 1, along each axis; steps >= 1."""

    offset: Shape
    shape: Shape
    steps: Shape

    @classmethod
    def of(cls, region: Region, steps: Shape) -> Lattice:
        """Pixels 0, n, 2 n, ... of `region` along each axis."""
        counts = tuple(-(-n // s) for n, s in zip(region.shape, steps, strict=True))
        return cls(region.offset, counts, steps)

    @property
    def covered(self) -> Region:
        """The smallest box that holds the pixels."""
        return Region(
            self.offset,
            tuple(max(0, (n - 1) * s + 1) for n, s in zip(self.shape, self.steps, strict=True)),
        )

    def part(self, box: Region) -> Lattice:
        """Its pixels with numbers in `box`, which is counted in steps from its first one."""
        offset = (o + b * s for o, b, s in zip(self.offset, box.offset, self.steps, strict=True))
        return replace(self, offset=tuple(offset), shape=box.shape)

    def counted(self, grid: Grid) -> tuple[Grid, Region]:
        """`grid` and this lattice as a box of it, both counted in steps.

        Where the steps divide the cells a cell still holds the same pixels, else about as
        many. The box does not begin at 0: `part` takes boxes relative to its offset.
        """
        shape = tuple(-(-n // s) for n, s in zip(grid.shape, self.steps, strict=True))
        cell = tuple(max(1, c // s) for c, s in zip(grid.cell, self.steps, strict=True))
        offset = tuple(o // s for o, s in zip(self.offset, self.steps, strict=True))
        return Grid(shape, cell), Region(offset, self.shape)

    def places(self, grid: Grid) -> Iterator[Place]:
        """Its pixels cell by cell, the last axis fastest; cells that hold none are left out."""
        axes = []
        for offset, count, step, cell in zip(
            self.offset, self.shape, self.steps, grid.cell, strict=True
        ):
            spans, k = [], 0
            while k < count:
                index, inside = divmod(offset + k * step, cell)
                # Up to the last one in this cell.
                stop = min(count, k + -(-(cell - inside) // step))
                last = inside + (stop - k - 1) * step
                spans.append((index, slice(inside, last + 1, step), slice(k, stop)))
                k = stop
            axes.append(spans)
        for spans_of_cell in itertools.product(*axes):
            at, inside_cell, inside = zip(*spans_of_cell, strict=True)
            yield Place(at, inside_cell, inside)
