"""How is the weighted mean over windows and their neighbours computed? By rows, as the mean.

Each input row that a window reaches is summed along itself, with the last axis' weights,
and added to the output row's accumulator with the product of the other axes'. A row that
several output rows reach is summed for each of them anew: it lies in the cache, and
nothing larger than an output row is kept. reference.gaussian gives the order of additions.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ziggurat_engine.kernels._mean import divide_narrow, divide_wide
from ziggurat_engine.kernels._windows import rows_of
from ziggurat_engine.kernels.reference import binomial, check_gaussian
from ziggurat_engine.loops import Five, Vector, compiled, five, once, run
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Array

# A sum of int32 stays below 2^30, and so does what is added to round it.
_NARROW_BITS = 30


class _Around(NamedTuple):
    """A block with its halo; axes of one pixel fill up to five in front.

    shape: with the halo. out: of the parent. first: where along each axis the first pixel of
    window 0 would be, maybe -1.
    """

    shape: Five
    out: Five
    first: Five
    factors: Five


@compiled
def _rows(row: int, around: _Around, weights: Vector, rows: Vector, row_weights: Vector) -> int:
    """Puts the input rows of output row `row`, and their weights, in order; returns how many."""
    shape, out, factors = around.shape, around.out, around.factors
    n = row
    start3 = around.first[3] + n % out[3] * factors[3]
    n //= out[3]
    start2 = around.first[2] + n % out[2] * factors[2]
    n //= out[2]
    start1 = around.first[1] + n % out[1] * factors[1]
    start0 = around.first[0] + n // out[1] * factors[0]
    count = 0
    for k0 in range(_reach(factors[0])):
        i0 = start0 + k0
        if i0 < 0 or i0 >= shape[0]:
            continue
        for k1 in range(_reach(factors[1])):
            i1 = start1 + k1
            if i1 < 0 or i1 >= shape[1]:
                continue
            for k2 in range(_reach(factors[2])):
                i2 = start2 + k2
                if i2 < 0 or i2 >= shape[2]:
                    continue
                for k3 in range(_reach(factors[3])):
                    i3 = start3 + k3
                    if i3 < 0 or i3 >= shape[3]:
                        continue
                    rows[count] = ((i0 * shape[1] + i1) * shape[2] + i2) * shape[3] + i3
                    row_weights[count] = (
                        weights[0, k0] * weights[1, k1] * weights[2, k2] * weights[3, k3]
                    )
                    count += 1
    return count


@compiled
def _reach(factor: int) -> int:
    return factor + 2 if factor > 1 else 1


@compiled
def _whole(size: int, first: int, factor: int, count: int) -> tuple[int, int]:
    """The windows of a row of which no pixel is missing."""
    start = 1 if first < 0 else 0
    stop = min(count, (size - first - _reach(factor)) // factor + 1)
    return start, max(start, stop)


@compiled
def _weight_at(i: int, size: int, first: int, factor: int, weights: Vector) -> int:
    """The sum of the weights of window i of a row."""
    total = 0
    for k in range(_reach(factor)):
        place = first + i * factor + k
        if 0 <= place < size:
            total += weights[k]
    return total


@compiled
def _add(
    pixels: Vector,
    first: int,
    factor: int,
    weights: Vector,
    weight: int,
    lines: tuple[Vector, Vector],
    total: Vector,
) -> None:
    """Adds to total[i] the weighted sum of window i of this row, times `weight`.

    lines: as many pixels as all windows reach, with zeros where the row has none, so that all
    windows are alike; and an output row.
    """
    number = total.dtype.type
    scale = number(weight)
    if factor == 1:
        for i in range(total.size):
            total[i] += scale * number(pixels[i])
        return
    padded, sums = lines
    source, target = (pixels, padded[1:]) if first < 0 else (pixels[first:], padded)
    for j in range(min(source.size, target.size)):
        target[j] = number(source[j])
    if factor == 2:
        three = number(3)
        for i in range(total.size):
            a, b, c, d = padded[2 * i], padded[2 * i + 1], padded[2 * i + 2], padded[2 * i + 3]
            total[i] += scale * number(number(number(a + three * b) + three * c) + d)
        return
    sums[:] = 0
    for k in range(factor + 2):
        along = number(weights[k])
        for i in range(total.size):
            sums[i] += along * padded[i * factor + k]
    for i in range(total.size):
        total[i] += scale * sums[i]


@compiled
def _narrow(
    block: Vector,
    around: _Around,
    weights: Vector,
    rows: Vector,
    row_weights: Vector,
    sums: Vector,
    out: Vector,
) -> None:
    """Integers; the sums have a type that nothing overflows."""
    width, first, factor = out.shape[1], around.first[4], around.factors[4]
    start, stop = _whole(block.shape[1], first, factor, width)
    inner = weights[4].sum()
    total, lines = sums[:width], (sums[2 * width :], sums[width : 2 * width])
    sums[:] = 0
    for row in range(out.shape[0]):
        count = _rows(row, around, weights, rows, row_weights)
        total[:] = 0
        for k in range(count):
            _add(block[rows[k]], first, factor, weights[4], row_weights[k], lines, total)
        weight = row_weights[:count].sum()
        divide_narrow(total, weight * inner, out[row])
        for i in range(start):
            edge = weight * _weight_at(i, block.shape[1], first, factor, weights[4])
            divide_narrow(total[i : i + 1], edge, out[row, i : i + 1])
        for i in range(stop, width):
            edge = weight * _weight_at(i, block.shape[1], first, factor, weights[4])
            divide_narrow(total[i : i + 1], edge, out[row, i : i + 1])


@compiled
def _wide(
    block: Vector,
    around: _Around,
    weights: Vector,
    rows: Vector,
    row_weights: Vector,
    sums: Vector,
    out: Vector,
) -> None:
    """Integers of 64 bits: upper and lower halves are summed apart, as int64."""
    pixel = block.dtype.type
    half, mask = pixel(32), pixel(0xFFFFFFFF)
    width, size, first, factor = out.shape[1], block.shape[1], around.first[4], around.factors[4]
    upper, lower = sums[:width], sums[width : 2 * width]
    for row in range(out.shape[0]):
        count = _rows(row, around, weights, rows, row_weights)
        upper[:] = 0
        lower[:] = 0
        for n in range(count):
            pixels = block[rows[n]]
            for k in range(_reach(factor)):
                weight = row_weights[n] * weights[4, k]
                for i in range(out.shape[1]):
                    place = first + i * factor + k
                    if 0 <= place < size:
                        value = pixels[place]
                        upper[i] += weight * np.int64(value >> half)
                        lower[i] += weight * np.int64(value & mask)
        total = row_weights[:count].sum()
        for i in range(out.shape[1]):
            here = total * _weight_at(i, size, first, factor, weights[4])
            divide_wide(upper[i : i + 1], lower[i : i + 1], here, out[row, i : i + 1])


@compiled
def _float(
    block: Vector,
    around: _Around,
    weights: Vector,
    rows: Vector,
    row_weights: Vector,
    sums: Vector,
    out: Vector,
) -> None:
    """Floats, added in their own type."""
    number = out.dtype.type
    width, first, factor = out.shape[1], around.first[4], around.factors[4]
    start, stop = _whole(block.shape[1], first, factor, width)
    inner = weights[4].sum()
    total, lines = sums[:width], (sums[2 * width :], sums[width : 2 * width])
    sums[:] = 0
    for row in range(out.shape[0]):
        count = _rows(row, around, weights, rows, row_weights)
        total[:] = 0
        for k in range(count):
            _add(block[rows[k]], first, factor, weights[4], row_weights[k], lines, total)
        weight = row_weights[:count].sum()
        for i in range(width):
            along = inner
            if i < start or i >= stop:
                along = _weight_at(i, block.shape[1], first, factor, weights[4])
            value = total[i] / number(weight * along)
            out[row, i] = number(np.nan) if np.isnan(value) else value


def gaussian(pixels: Array, before: Shape, valid: Shape, factors: Shape) -> Array:
    """The weighted mean of each window and what is around it; see reference.gaussian.

    pixels: at most 5 axes. Works without the GIL on the caller's thread; may be called
    from many at once.
    """
    check_gaussian(factors)
    if all(f == 1 for f in factors):
        return pixels.copy()
    once(
        "gaussian",
        pixels.dtype,
        lambda: _gaussian(np.zeros((2, 2), pixels.dtype), (0, 0), (2, 2), (2, 2)),
    )
    return _gaussian(pixels, before, valid, factors)


def _gaussian(pixels: Array, before: Shape, valid: Shape, factors: Shape) -> Array:
    out: Array = np.empty([-(-n // f) for n, f in zip(valid, factors, strict=True)], pixels.dtype)
    binned = five(factors)
    first = five(tuple(b - (f > 1) for b, f in zip(before, factors, strict=True)), 0)
    around = _Around(five(pixels.shape), five(out.shape), first, binned)
    lists = [binomial(f) for f in binned]
    weights = np.zeros((len(lists), max(map(len, lists))), np.int64)
    for axis, values in enumerate(lists):
        weights[axis, : len(values)] = values
    rows = np.empty(math.prod(map(len, lists[:-1])), np.int64)
    width = out.shape[-1]
    if pixels.dtype.kind == "f":
        kernel, kind = _float, pixels.dtype
    elif pixels.itemsize == 8:
        kernel, kind = _wide, np.dtype(np.int64)
    else:
        fits = math.prod(map(sum, lists)) << (8 * pixels.itemsize) <= 1 << _NARROW_BITS
        kernel, kind = _narrow, np.dtype(np.int32 if fits else np.int64)
    # A total and a sum for each window, and the pixels that all of them reach.
    sums = np.empty(2 * width + factors[-1] * width + 2, kind)
    lines = out.reshape(-1, width)
    run(kernel, rows_of(pixels), around, weights, rows, np.empty_like(rows), sums, lines)
    return out
