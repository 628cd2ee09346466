"""Which chunks hold pixels that points of a plane need?

Each point is looked at, by one compiled loop: a box around them would name chunks that the plane
passes by, and reading those costs more than looking.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from ziggurat_engine.kernels.protocol import Points
from ziggurat_engine.loops import Vector, compiled, once, run
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Array


def crossed(points: Points, interpolation: str, limits: Shape, cell: Shape) -> set[Shape]:
    """The cells that hold pixels which `points` need, all along the spatial axes, at most three.

    limits: pixels of the level. cell: of a cell.
    """
    once("crossed", np.dtype(np.bool_), lambda: _crossed(_ONE, "linear", (1, 1, 1), (1, 1, 1)))
    return _crossed(points, interpolation, limits, cell)


_ONE = Points((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0, 0), (1, 1))


def _crossed(points: Points, interpolation: str, limits: Shape, cell: Shape) -> set[Shape]:
    flat = 3 - len(limits)
    points, limits, cell = points.raised(flat), (1,) * flat + limits, (1,) * flat + cell
    # Places are monotone along rows and columns: all points lie between the corners.
    corners = [points.corner(i, j) for i, j in itertools.product((0, -1), repeat=2)]
    first, counts = [], []
    for places, size, n in zip(zip(*corners, strict=True), limits, cell, strict=True):
        low = min(max(math.floor(min(places)), 0), size - 1)
        high = min(max(math.floor(max(places)) + 1, 0), size - 1)
        first.append(low // n)
        counts.append(high // n - low // n + 1)
    found: Vector = np.zeros(counts, np.bool_)
    run(
        _touch,
        np.array(limits, np.int64),
        np.array(cell, np.int64),
        np.array(first, np.int64),
        np.array(points.start, np.float64),
        np.array(points.row, np.float64),
        np.array(points.column, np.float64),
        *points.first,
        *points.shape,
        interpolation == "linear",
        found,
    )
    marked: Array = np.argwhere(found) + np.array(first)
    return {tuple(at[flat:]) for at in marked.tolist()}


@compiled
def _touch(
    limits: Vector,
    cell: Vector,
    begin: Vector,
    start: Vector,
    row: Vector,
    column: Vector,
    first_row: int,
    first_column: int,
    rows: int,
    columns: int,
    linear: bool,
    found: Vector,
) -> None:
    """Marks in `found` the cells that are needed; begin: the index of its first cell."""
    low, high = np.empty(3, np.int64), np.empty(3, np.int64)
    for i in range(rows):
        for j in range(columns):
            inside = True
            for axis in range(3):
                at = start[axis] + np.float64(first_row + i) * row[axis]
                at += np.float64(first_column + j) * column[axis]
                last = limits[axis] - 1
                if not -0.5 <= at < limits[axis] - 0.5:
                    inside = False
                    break
                if linear:
                    at = min(max(at, 0.0), np.float64(last))
                    below, above = math.floor(at), math.ceil(at)
                else:
                    below = above = min(math.floor(at + 0.5), last)
                low[axis] = below // cell[axis] - begin[axis]
                high[axis] = above // cell[axis] - begin[axis]
            if not inside:
                continue
            for k0 in range(low[0], high[0] + 1):
                for k1 in range(low[1], high[1] + 1):
                    for k2 in range(low[2], high[2] + 1):
                        found[k0, k1, k2] = True
