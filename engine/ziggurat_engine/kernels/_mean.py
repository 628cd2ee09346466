"""How is the mean of windows computed at the speed of memory? By rows, compiled.

An output row is the sum of the input rows of its windows, taken in lexicographic
order: along a row, the pixels of each window are added one after the other to the
window's accumulator. Accumulators are one output row long and stay in the nearest
cache; each input row is read once, from its first pixel to its last. Every window
sees its pixels in the order that the reference adds them, so floats agree to the bit,
while neighbouring windows are independent and fill the lanes of a vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ziggurat_engine.kernels._windows import Vector, Windows, compiled, cut, once, run, window_rows
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Array

# For integers of that many bytes: the narrowest type of a sum, and how many pixels a window may
# have so that neither their sum nor the half added to round it overflows. int64 serves the rest.
_NARROW = {1: (np.dtype(np.int16), 2**7 - 1), 2: (np.dtype(np.int32), 2**15 - 1)}
_WIDE = np.dtype(np.int64)


@compiled
def _add(pixels: Vector, factor: int, total: Vector) -> None:
    """Adds to total[i] the pixels [i * factor, (i + 1) * factor), one after the other."""
    number = total.dtype.type
    whole = pixels.size // factor
    if factor == 1:
        for i in range(whole):
            total[i] += number(pixels[i])
    elif factor == 2:
        for i in range(whole):
            total[i] = number(total[i] + number(pixels[2 * i])) + number(pixels[2 * i + 1])
    else:
        for k in range(factor):
            for i in range(whole):
                total[i] += number(pixels[i * factor + k])
    for j in range(whole * factor, pixels.size):
        total[whole] += number(pixels[j])


@compiled
def divide_narrow(total: Vector, count: int, out: Vector) -> None:
    """Computes out = total / count, half to even, where twice a total fits its type."""
    number = total.dtype.type
    pixel = out.dtype.type
    if count & (count - 1) == 0:
        shift = 0
        while 1 << shift < count:
            shift += 1
        if shift == 0:
            for i in range(out.size):
                out[i] = pixel(total[i])
            return
        narrow = number(shift)
        below_half = number((1 << (shift - 1)) - 1)
        for i in range(out.size):
            odd = number(number(total[i] >> narrow) & number(1))
            out[i] = pixel(number(number(total[i] + below_half) + odd) >> narrow)
    else:
        divisor = number(count)
        for i in range(out.size):
            quotient = number(total[i] // divisor)
            twice = number(2 * (total[i] - quotient * divisor))
            up = twice > divisor or (twice == divisor and quotient & 1 == 1)
            out[i] = pixel(quotient + up)


@compiled
def divide_wide(upper: Vector, lower: Vector, count: int, out: Vector) -> None:
    """Computes out = (upper * 2^32 + lower) / count, half to even, for 64 bits.

    With upper = quotient * n + rest, the mean is quotient * 2^32 + (rest * 2^32 + lower) / n,
    and the bracket stays below n * 2^33.
    """
    pixel = out.dtype.type
    for i in range(out.size):
        above = upper[i] // count
        rest = ((upper[i] - above * count) << 32) + lower[i]
        below = rest // count
        twice = 2 * (rest - below * count)
        quotient = (above << 32) + below
        up = twice > count or (twice == count and quotient & 1 == 1)
        # For uint64 the quotient wraps into int64's sign, and back.
        out[i] = pixel(quotient + np.int64(up))


@compiled
def _mean_narrow(chunk: Vector, windows: Windows, rows: Vector, total: Vector, out: Vector) -> None:
    """Integers of up to 32 bits; `total` has a type that no window overflows."""
    last, factor = windows.valid[4], windows.factors[4]
    whole = last // factor
    for row in range(out.shape[0]):
        count = window_rows(row, windows, rows)
        total[:] = 0
        for k in range(count):
            _add(chunk[rows[k], :last], factor, total)
        divide_narrow(total[:whole], count * factor, out[row, :whole])
        if whole < out.shape[1]:
            divide_narrow(total[whole:], count * (last - whole * factor), out[row, whole:])


@compiled
def _mean_float(chunk: Vector, windows: Windows, rows: Vector, total: Vector, out: Vector) -> None:
    """Floats, added in their own type."""
    number = total.dtype.type
    last, factor = windows.valid[4], windows.factors[4]
    whole = last // factor
    for row in range(out.shape[0]):
        count = window_rows(row, windows, rows)
        total[:] = 0
        for k in range(count):
            _add(chunk[rows[k], :last], factor, total)
        divisor = number(count * factor)
        for i in range(whole):
            value = total[i] / divisor
            # Which payload a sum of NaNs has differs between processors: it gets none.
            out[row, i] = number(np.nan) if np.isnan(value) else value
        if whole < out.shape[1]:
            value = total[whole] / number(count * (last - whole * factor))
            out[row, whole] = number(np.nan) if np.isnan(value) else value


@compiled
def _mean_wide(chunk: Vector, windows: Windows, rows: Vector, total: Vector, out: Vector) -> None:
    """Integers of 64 bits: upper and lower halves are summed apart, as int64 in total[0], [1]."""
    pixel = chunk.dtype.type
    half, mask = pixel(32), pixel(0xFFFFFFFF)
    upper, lower = total[0], total[1]
    last, factor = windows.valid[4], windows.factors[4]
    whole = last // factor
    for row in range(out.shape[0]):
        count = window_rows(row, windows, rows)
        total[:] = 0
        for k in range(count):
            pixels = chunk[rows[k], :last]
            for place in range(factor):
                for i in range((last - place + factor - 1) // factor):
                    value = pixels[i * factor + place]
                    upper[i] += np.int64(value >> half)
                    lower[i] += np.int64(value & mask)
        divide_wide(upper[:whole], lower[:whole], count * factor, out[row, :whole])
        if whole < out.shape[1]:
            rest = count * (last - whole * factor)
            divide_wide(upper[whole:], lower[whole:], rest, out[row, whole:])


def mean(chunk: Array, valid: Shape, factors: Shape) -> Array:
    """The mean of each window of `factors` pixels; reference.mean says what that is.

    chunk: at most 5 axes. Works without the GIL on the caller's thread; may be called
    from many at once.
    """
    if all(f == 1 for f in factors):
        return chunk[tuple(map(slice, valid))].copy()
    once("mean", chunk.dtype, lambda: _mean(np.zeros((2, 2), chunk.dtype), (2, 2), (2, 2)))
    return _mean(chunk, valid, factors)


def _mean(chunk: Array, valid: Shape, factors: Shape) -> Array:
    pixels, windows, rows, out, lines = cut(chunk, valid, factors)
    width = out.shape[-1]
    kernel: Callable[..., None]
    total: Vector
    if chunk.dtype.kind == "f":
        kernel, total = _mean_float, np.empty(width, chunk.dtype)
    elif chunk.itemsize == 8:
        kernel, total = _mean_wide, np.empty((2, width), _WIDE)
    else:
        narrow, most = _NARROW.get(chunk.itemsize, (_WIDE, 0))
        fits = math.prod(windows.factors) <= most
        kernel, total = _mean_narrow, np.empty(width, narrow if fits else _WIDE)
    run(kernel, pixels, windows, rows, total, lines)
    return out
