"""Into which boxes is a box cut, so that each follows the chunks and none is too large?"""

from __future__ import annotations

import math
from collections.abc import Iterator

from ziggurat_engine.grid import Grid
from ziggurat_engine.region import Region


def cut(grid: Grid, region: Region, pixels: int) -> Iterator[Region]:
    """Cuts `region` into boxes of at most about `pixels`, chunk-aligned where possible.

    Each pixel of `region` is in one box. A box is a run of whole chunks (as far as
    they lie in the region), or a slab of one chunk where a chunk is larger.
    """
    if region.size == 0:
        return
    rank = len(region.shape)
    step = [min(c, n) for c, n in zip(grid.cell, region.shape, strict=True)]
    # Join chunks along the fastest axes first, so that parts are long runs of the result;
    # if one chunk is too large, cut it along the slowest axes.
    for axis in reversed(range(rank)):
        others = math.prod(step) // step[axis]
        fit = pixels // (others * grid.cell[axis])
        if fit > 1:
            step[axis] = min(fit * grid.cell[axis], region.shape[axis])
    for axis in range(rank):
        others = math.prod(step) // step[axis]
        if others * step[axis] > pixels:
            step[axis] = max(1, pixels // others)
    for bounds in _bounds(grid, region, step, rank):
        yield Region(tuple(a for a, _ in bounds), tuple(b - a for a, b in bounds))


def whole_cells(grid: Grid, region: Region) -> Region:
    """The box of cells that lie wholly in `region`, as far as they are in the grid; or none."""
    start, stop = [], []
    for first, last, cell, size in zip(
        region.offset, region.stop, grid.cell, grid.shape, strict=True
    ):
        start.append(-(-first // cell) * cell)
        stop.append(last if last == size else last // cell * cell)
    shape = tuple(max(0, b - a) for a, b in zip(start, stop, strict=True))
    return Region(tuple(start), shape)


def _bounds(
    grid: Grid, region: Region, step: list[int], rank: int
) -> Iterator[tuple[tuple[int, int], ...]]:
    """(start, stop) along the first `rank` axes of each box, the last axis fastest.

    Nothing is listed ahead: there may be more boxes than memory holds.
    """
    if rank == 0:
        yield ()
        return
    axis = rank - 1
    first, last, cell = region.offset[axis], region.stop[axis], grid.cell[axis]
    for before in _bounds(grid, region, step, axis):
        here = first
        while here < last:
            if step[axis] < cell:
                # Stay within the chunk.
                end = min(here + step[axis], (here // cell + 1) * cell)
            else:
                end = (here // cell) * cell + max(step[axis] // cell, 1) * cell
            end = min(end, last)
            yield (*before, (here, end))
            here = end
