"""Which pixels does a read with steps take, and where do they lie in the chunks?

A lattice is every n-th pixel of a box. Counted in steps, it is itself a box, which can be
cut along the chunks as a box of pixels can.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator
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
class Cells(Collection[int]):
    """Along one axis: the cells that hold pixels offset + k * step, k from 0 to count - 1."""

    offset: int
    count: int
    step: int
    cell: int

    def __len__(self) -> int:
        if self.count and self.step < self.cell:
            return self._last // self.cell - self.offset // self.cell + 1
        return self.count  # each pixel is in a cell of its own

    def __iter__(self) -> Iterator[int]:
        if self.count and self.step < self.cell:
            return iter(range(self.offset // self.cell, self._last // self.cell + 1))
        return (self._pixel(k) // self.cell for k in range(self.count))

    def __contains__(self, index: object) -> bool:
        return isinstance(index, int) and index >= 0 and bool(self.run(index))

    def run(self, index: int) -> range:
        """Which k lie in a cell."""
        first, behind = (
            -((self.offset - edge * self.cell) // self.step) for edge in (index, index + 1)
        )
        return range(max(0, first), min(self.count, behind))

    def slices(self, index: int) -> tuple[slice, slice]:
        """The pixels in a cell that holds some: as an index into the cell, and as numbers k."""
        run, start = self.run(index), index * self.cell
        inside = slice(self._pixel(run[0]) - start, self._pixel(run[-1]) - start + 1, self.step)
        return inside, slice(run.start, run.stop)

    @property
    def _last(self) -> int:
        return self._pixel(self.count - 1)

    def _pixel(self, k: int) -> int:
        return self.offset + k * self.step


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

    def cells(self, grid: Grid) -> tuple[Cells, ...]:
        """The cells that hold its pixels: these along each axis, each with each."""
        return tuple(map(Cells, self.offset, self.shape, self.steps, grid.cell))

    def chunks(self, grid: Grid) -> int:
        """How many cells hold its pixels."""
        return math.prod(map(len, self.cells(grid)))

    def places(self, grid: Grid, among: Iterable[Shape] | None = None) -> Iterator[Place]:
        """Its pixels cell by cell, the last axis fastest; cells that hold none are left out.

        among: some of the cells that hold pixels, instead of all.
        """
        cells = self.cells(grid)
        # Along each axis: many cells of the grid have one index along it.
        found: list[dict[int, tuple[slice, slice]]] = [{} for _ in cells]
        for at in itertools.product(*cells) if among is None else among:
            slices = []
            for axis, known, index in zip(cells, found, at, strict=True):
                if (pair := known.get(index)) is None:
                    pair = known[index] = axis.slices(index)
                slices.append(pair)
            inside_cell, inside = zip(*slices, strict=True)
            yield Place(at, inside_cell, inside)
