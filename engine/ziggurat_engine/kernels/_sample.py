"""How are points of a plane interpolated at the speed of memory? One after the other, compiled.

Each step rounds as in the reference, so that both agree to the bit.
"""

from __future__ import annotations

import math

import numpy as np

from ziggurat_engine.kernels.protocol import Points
from ziggurat_engine.loops import Vector, compiled, once, run
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Array


@compiled
def _sample(  # noqa: C901, PLR0912 - one loop: what is called from it is slower
    pixels: Vector,
    offset: Vector,
    limits: Vector,
    start: Vector,
    row: Vector,
    column: Vector,
    first_row: int,
    first_column: int,
    linear: bool,
    integer: bool,
    ends: Vector,
    out: Vector,
) -> None:
    """Fills `out` where points are inside. ends: the least and the largest value of a pixel."""
    pixel = out.dtype.type
    lowest, highest = np.float64(ends[0]), np.float64(ends[1])
    for i in range(out.shape[0]):
        z0 = start[0] + np.float64(first_row + i) * row[0]
        y0 = start[1] + np.float64(first_row + i) * row[1]
        x0 = start[2] + np.float64(first_row + i) * row[2]
        for j in range(out.shape[1]):
            at = np.float64(first_column + j)
            z, y, x = z0 + at * column[0], y0 + at * column[1], x0 + at * column[2]
            if not (
                -0.5 <= z < limits[0] - 0.5
                and -0.5 <= y < limits[1] - 0.5
                and -0.5 <= x < limits[2] - 0.5
            ):
                continue
            if not linear:
                k0 = min(math.floor(z + 0.5), limits[0] - 1) - offset[0]
                k1 = min(math.floor(y + 0.5), limits[1] - 1) - offset[1]
                k2 = min(math.floor(x + 0.5), limits[2] - 1) - offset[2]
                out[i, j] = pixels[k0, k1, k2]
                continue
            z = min(max(z, 0.0), np.float64(limits[0] - 1))
            y = min(max(y, 0.0), np.float64(limits[1] - 1))
            x = min(max(x, 0.0), np.float64(limits[2] - 1))
            k0, k1, k2 = math.floor(z), math.floor(y), math.floor(x)
            s0, s1, s2 = z - k0, y - k1, x - k2
            k0, k1, k2 = k0 - offset[0], k1 - offset[1], k2 - offset[2]
            if s0 == 0.0 and s1 == 0.0 and s2 == 0.0:
                out[i, j] = pixels[k0, k1, k2]
                continue
            total = 0.0
            for up0 in range(2):
                w0 = s0 if up0 else 1.0 - s0
                for up1 in range(2):
                    w1 = w0 * (s1 if up1 else 1.0 - s1)
                    for up2 in range(2):
                        weight = w1 * (s2 if up2 else 1.0 - s2)
                        if weight != 0.0:
                            value = pixels[k0 + up0, k1 + up1, k2 + up2]
                            total += weight * np.float64(value)
            if not integer:
                # A NaN has no payload.
                out[i, j] = pixel(np.nan) if np.isnan(total) else pixel(total)
            elif np.rint(total) >= highest:
                out[i, j] = ends[1]
            elif np.rint(total) <= lowest:
                out[i, j] = ends[0]
            else:
                out[i, j] = pixel(np.rint(total))


def sample(
    pixels: Array,
    offset: Shape,
    limits: Shape,
    points: Points,
    interpolation: str,
    fill_value: np.generic,
) -> Array:
    """See Kernels.sample."""
    once("sample", pixels.dtype, lambda: _run(_nothing(pixels.dtype), (0, 0, 0), (1, 1, 1), _ONE))
    return _run(pixels, offset, limits, points, interpolation, fill_value)


_ONE = Points((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0, 0), (1, 1))


def _nothing(dtype: np.dtype[np.generic]) -> Array:
    return np.zeros((1, 1, 1), dtype)


def _run(
    pixels: Array,
    offset: Shape,
    limits: Shape,
    points: Points,
    interpolation: str = "linear",
    fill_value: np.generic | int = 0,
) -> Array:
    out: Array = np.full(points.shape, fill_value, pixels.dtype)
    integer = pixels.dtype.kind != "f"
    block = np.require(pixels, pixels.dtype, ["C", "A"]).view()
    # So that one compiled type serves all.
    block.flags.writeable = False
    bounds = np.iinfo(pixels.dtype.name) if integer else np.finfo(pixels.dtype.name)
    run(
        _sample,
        block,
        np.array(offset, np.int64),
        np.array(limits, np.int64),
        np.array(points.start, np.float64),
        np.array(points.row, np.float64),
        np.array(points.column, np.float64),
        *points.first,
        interpolation == "linear",
        integer,
        np.array([bounds.min, bounds.max], pixels.dtype),
        out,
    )
    return out
