"""How is a chunk cut into windows for compiled loops? By rows, five axes always.

An output row is made of the input rows of its windows, in lexicographic order; along
a row each window has `factors[-1]` neighbouring pixels. What is kept beside the input
and the output is about one output row long and stays in the nearest cache.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ziggurat_engine.loops import Five, Vector, compiled, five
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Array


class Windows(NamedTuple):
    """How a chunk of `shape` is cut into windows; axes of one pixel fill up to five in front."""

    shape: Five
    valid: Five
    factors: Five


@compiled
def next_rows(corner: Vector, windows: Windows, rows: Vector) -> int:
    """Puts the input rows of an output row into `rows`, in order; returns their number.

    corner: four numbers, where the windows of that row start along all axes but the last;
    zeros for the first. Is moved on to the next row. (To divide a row's number into
    these costs more than to add up a short row.)
    """
    count = _rows(corner, windows, rows)
    _advance(corner, windows)
    return count


@compiled
def next_run(corner: Vector, windows: Windows, rows: Vector) -> tuple[int, int]:
    """As `next_rows`, for a run of output rows whose windows have as many input rows each.

    Returns the number of these, and that of the output rows: `rows` are those of the first one,
    each next one has them factors[3] rows further on. corner: is moved on behind the run.
    """
    count = _rows(corner, windows, rows)
    alike = max(1, (windows.valid[3] - corner[3]) // windows.factors[3])
    corner[3] += (alike - 1) * windows.factors[3]
    _advance(corner, windows)
    return count, alike


@compiled
def _rows(corner: Vector, windows: Windows, rows: Vector) -> int:
    valid, factors, shape = windows.valid, windows.factors, windows.shape
    start0, start1, start2, start3 = corner[0], corner[1], corner[2], corner[3]
    count = 0
    for i0 in range(start0, min(start0 + factors[0], valid[0])):
        for i1 in range(start1, min(start1 + factors[1], valid[1])):
            for i2 in range(start2, min(start2 + factors[2], valid[2])):
                first = ((i0 * shape[1] + i1) * shape[2] + i2) * shape[3]
                for i3 in range(start3, min(start3 + factors[3], valid[3])):
                    rows[count] = first + i3
                    count += 1
    return count


@compiled
def _advance(corner: Vector, windows: Windows) -> None:
    for axis in range(3, -1, -1):
        corner[axis] += windows.factors[axis]
        if corner[axis] < windows.valid[axis]:
            break
        corner[axis] = 0


class Cut(NamedTuple):
    """A chunk made ready for a kernel.

    pixels: (rows, pixels of a row), read-only. windows: of it. rows: room for `next_rows`.
    out: the parent block, C-contiguous, not filled in. lines: `out` as (rows, pixels).
    """

    pixels: Vector
    windows: Windows
    rows: Vector
    out: Array
    lines: Vector


def cut(chunk: Array, valid: Shape, factors: Shape) -> Cut:
    """chunk: at most 5 axes, of at least one valid pixel each."""
    out: Array = np.empty([-(-n // f) for n, f in zip(valid, factors, strict=True)], chunk.dtype)
    clipped = tuple(max(1, min(f, n)) for f, n in zip(factors, valid, strict=True))
    windows = Windows(five(chunk.shape), five(valid), five(clipped))
    rows = np.empty(math.prod(windows.factors[:-1]), np.int64)
    return Cut(rows_of(chunk), windows, rows, out, out.reshape(-1, out.shape[-1]))


def rows_of(chunk: Array) -> Array:
    """The chunk as (rows, pixels): aligned and read-only, so that one compiled type serves all."""
    rows = np.require(chunk, chunk.dtype, ["C", "A"]).reshape(-1, chunk.shape[-1])
    rows.flags.writeable = False
    return rows
