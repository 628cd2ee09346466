"""How is the mean of windows computed at the speed of memory? By rows, compiled.

An output row is the sum of the input rows of its windows, taken in lexicographic
order: along a row, the pixels of each window are added one after the other to the
window's accumulator. Accumulators are one output row long and stay in the nearest
cache; each input row is read once, from its first pixel to its last. Every window
sees its pixels in the order that the reference adds them, so floats agree to the bit,
while neighbouring windows are independent and fill the lanes of a vector.

Sums of integers do not depend on the order. Where windows are two pixels wide, which is
nearly always, two neighbours are loaded as one number of twice their size, so that no lane
has to change its place; and the rows of 1 x 2 and of 2 x 2 windows are added at once, with no
accumulator between.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ziggurat_engine.kernels._windows import Windows, cut, next_rows, next_run
from ziggurat_engine.loops import Vector, compiled, once, run
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
    corner = np.zeros(4, np.int64)
    for row in range(out.shape[0]):
        count = next_rows(corner, windows, rows)
        total[:] = 0
        for k in range(count):
            _add(chunk[rows[k], :last], factor, total)
        divide_narrow(total[:whole], count * factor, out[row, :whole])
        if whole < out.shape[1]:
            divide_narrow(total[whole:], count * (last - whole * factor), out[row, whole:])


@compiled
def _mean_four(pairs: Vector, rows: Vector, whole: int, total: Vector, means: Vector) -> None:
    """Means of windows of four rows and one pair each."""
    number, half, pixel = total.dtype.type, pairs.dtype.type, means.dtype.type
    bits = half(4 * pairs.itemsize)
    row0, row1, row2, row3 = pairs[rows[0]], pairs[rows[1]], pairs[rows[2]], pairs[rows[3]]
    for i in range(whole):
        a, b, c, d = row0[i], row1[i], row2[i], row3[i]
        # The lower pixel of a pair, with its sign, and the upper one.
        sum_ = number(number(half(a << bits) >> bits) + number(a >> bits))
        sum_ = number(sum_ + number(number(half(b << bits) >> bits) + number(b >> bits)))
        sum_ = number(sum_ + number(number(half(c << bits) >> bits) + number(c >> bits)))
        sum_ = number(sum_ + number(number(half(d << bits) >> bits) + number(d >> bits)))
        odd = number(number(sum_ >> number(3)) & number(1))
        means[i] = pixel(number(sum_ + number(3) + odd) >> number(3))


@compiled
def _mean_two(pairs: Vector, rows: Vector, whole: int, total: Vector, means: Vector) -> None:
    """Means of windows of two rows and one pair each."""
    number, half, pixel = total.dtype.type, pairs.dtype.type, means.dtype.type
    bits = half(4 * pairs.itemsize)
    row0, row1 = pairs[rows[0]], pairs[rows[1]]
    for i in range(whole):
        a, b = row0[i], row1[i]
        sum_ = number(number(half(a << bits) >> bits) + number(a >> bits))
        sum_ = number(sum_ + number(number(half(b << bits) >> bits) + number(b >> bits)))
        odd = number(number(sum_ >> number(2)) & number(1))
        means[i] = pixel(number(sum_ + number(1) + odd) >> number(2))


@compiled
def _mean_pairs(
    chunk: Vector, pairs: Vector, windows: Windows, rows: Vector, total: Vector, out: Vector
) -> None:
    """As `_mean_narrow`, for windows two pixels wide; `pairs` is `chunk` by twos."""
    last, step = windows.valid[4], windows.factors[3]
    whole = last // 2
    corner = np.zeros(4, np.int64)
    row = 0
    while row < out.shape[0]:
        # To find the rows of each window anew would take twice as long as to add them up.
        count, alike = next_run(corner, windows, rows)
        for _ in range(alike):
            means = out[row]
            if count == 4:
                _mean_four(pairs, rows, whole, total, means)
            elif count == 2:
                _mean_two(pairs, rows, whole, total, means)
            else:
                total[:whole] = 0
                for k in range(count):
                    _add(chunk[rows[k], : 2 * whole], 2, total)
                divide_narrow(total[:whole], count * 2, means[:whole])
            if whole < means.size:
                total[whole] = 0
                for k in range(count):
                    _add(chunk[rows[k], last - 1 : last], 1, total[whole:])
                divide_narrow(total[whole:], count, means[whole:])
            for k in range(count):
                rows[k] += step
            row += 1


@compiled
def _mean_float(chunk: Vector, windows: Windows, rows: Vector, total: Vector, out: Vector) -> None:
    """Floats, added in their own type."""
    number = total.dtype.type
    last, factor = windows.valid[4], windows.factors[4]
    whole = last // factor
    corner = np.zeros(4, np.int64)
    for row in range(out.shape[0]):
        count = next_rows(corner, windows, rows)
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
    corner = np.zeros(4, np.int64)
    for row in range(out.shape[0]):
        count = next_rows(corner, windows, rows)
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
    width = 2 if _by_pairs(chunk, factors) else 3
    like: Array = np.zeros((2, width), chunk.dtype)
    once(f"mean of {width}", chunk.dtype, lambda: _mean(like, (2, width), (2, width)))
    return _mean(chunk, valid, factors)


def _by_pairs(chunk: Array, factors: Shape) -> bool:
    whole = chunk.dtype.kind in "iu" and chunk.itemsize < 8
    return whole and factors[-1] == 2 and chunk.shape[-1] % 2 == 0


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
        if _by_pairs(pixels, windows.factors):
            pairs = pixels.view(f"{chunk.dtype.kind}{2 * chunk.itemsize}")
            run(_mean_pairs, pixels, pairs, windows, rows, total, lines)
            return out
    run(kernel, pixels, windows, rows, total, lines)
    return out
