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
import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

import numba
import numpy as np

from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Array

_F = TypeVar("_F", bound=Callable[..., Any])
_Vector: TypeAlias = np.ndarray[Any, Any]
_Five: TypeAlias = tuple[int, int, int, int, int]

_AXES = 5
_FILL_BLOCK = 1024
# For integers of that many bytes: the narrowest type of a sum, and how many pixels a window may
# have so that neither their sum nor the half added to round it overflows. int64 serves the rest.
_NARROW = {1: (np.dtype(np.int16), 2**7 - 1), 2: (np.dtype(np.int32), 2**15 - 1)}
_WIDE = np.dtype(np.int64)


class _Windows(NamedTuple):
    """How a chunk of `shape` is cut into windows; axes of one pixel fill up to five in front."""

    shape: _Five
    valid: _Five
    factors: _Five


def _compiled(function: _F) -> _F:
    """Compiled on first use for the types it meets; runs without the GIL.

    Division by zero is not looked for (no window is empty), which lets loops become vectors.
    """
    try:
        decorated = numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # there is no folder to keep compiled code in: a read-only install
        decorated = numba.njit(nogil=True, error_model="numpy")(function)
    return cast(_F, decorated)


@_compiled
def _window_rows(row: int, windows: _Windows, rows: _Vector) -> int:
    """Puts the input rows of output row `row` into `rows`, in order; returns their number."""
    valid, factors, shape = windows.valid, windows.factors, windows.shape
    n3 = -(-valid[3] // factors[3])
    n2 = -(-valid[2] // factors[2])
    n1 = -(-valid[1] // factors[1])
    start3 = row % n3 * factors[3]
    row //= n3
    start2 = row % n2 * factors[2]
    row //= n2
    start1 = row % n1 * factors[1]
    start0 = row // n1 * factors[0]
    count = 0
    for i0 in range(start0, min(start0 + factors[0], valid[0])):
        for i1 in range(start1, min(start1 + factors[1], valid[1])):
            for i2 in range(start2, min(start2 + factors[2], valid[2])):
                first = ((i0 * shape[1] + i1) * shape[2] + i2) * shape[3]
                for i3 in range(start3, min(start3 + factors[3], valid[3])):
                    rows[count] = first + i3
                    count += 1
    return count


@_compiled
def _add(pixels: _Vector, factor: int, total: _Vector) -> None:
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


@_compiled
def _divide_narrow(total: _Vector, count: int, out: _Vector) -> None:
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


@_compiled
def _mean_narrow(
    chunk: _Vector, windows: _Windows, rows: _Vector, total: _Vector, out: _Vector
) -> None:
    """Integers of up to 32 bits; `total` has a type that no window overflows."""
    last, factor = windows.valid[4], windows.factors[4]
    whole = last // factor
    for row in range(out.shape[0]):
        count = _window_rows(row, windows, rows)
        total[:] = 0
        for k in range(count):
            _add(chunk[rows[k], :last], factor, total)
        _divide_narrow(total[:whole], count * factor, out[row, :whole])
        if whole < out.shape[1]:
            _divide_narrow(total[whole:], count * (last - whole * factor), out[row, whole:])


@_compiled
def _mean_float(
    chunk: _Vector, windows: _Windows, rows: _Vector, total: _Vector, out: _Vector
) -> None:
    """Floats, added in their own type."""
    number = total.dtype.type
    last, factor = windows.valid[4], windows.factors[4]
    whole = last // factor
    for row in range(out.shape[0]):
        count = _window_rows(row, windows, rows)
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


@_compiled
def _mean_wide(
    chunk: _Vector, windows: _Windows, rows: _Vector, total: _Vector, out: _Vector
) -> None:
    """Integers of 64 bits: upper and lower halves are summed apart, as int64 in total[0], [1].

    sum = upper * 2^32 + lower. With upper = quotient * n + rest, the mean is
    quotient * 2^32 + (rest * 2^32 + lower) / n, and the bracket stays below n * 2^33.
    """
    pixel = chunk.dtype.type
    half, mask = pixel(32), pixel(0xFFFFFFFF)
    upper, lower = total[0], total[1]
    last, factor = windows.valid[4], windows.factors[4]
    for row in range(out.shape[0]):
        count = _window_rows(row, windows, rows)
        total[:] = 0
        for k in range(count):
            pixels = chunk[rows[k], :last]
            for place in range(factor):
                for i in range((last - place + factor - 1) // factor):
                    value = pixels[i * factor + place]
                    upper[i] += np.int64(value >> half)
                    lower[i] += np.int64(value & mask)
        for i in range(out.shape[1]):
            divisor = count * min(factor, last - i * factor)
            above = upper[i] // divisor
            rest = ((upper[i] - above * divisor) << 32) + lower[i]
            below = rest // divisor
            twice = 2 * (rest - below * divisor)
            quotient = (above << 32) + below
            up = twice > divisor or (twice == divisor and quotient & 1 == 1)
            # For uint64 the quotient wraps into int64's sign, and back.
            out[row, i] = pixel(quotient + np.int64(up))


@_compiled
def _all_equal(words: _Vector, value: np.uint64) -> bool:
    """True where all of `words` equal `value`; reads a block beyond a difference at most."""
    for start in range(0, words.size, _FILL_BLOCK):
        difference = np.uint64(0)
        for i in range(start, min(start + _FILL_BLOCK, words.size)):
            difference |= words[i] ^ value
        if difference != 0:
            return False
    return True


def mean(chunk: Array, valid: Shape, factors: Shape) -> Array:
    """The mean of each window of `factors` pixels; reference.mean says what that is.

    chunk: at most 5 axes. Works without the GIL on the caller's thread; may be called
    from many at once.
    """
    if all(f == 1 for f in factors):
        return chunk[tuple(map(slice, valid))].copy()
    _compile_once(chunk.dtype)
    return _mean(chunk, valid, factors)


def is_filled(chunk: Array, fill_value: np.generic) -> bool:
    """True where every pixel has the bits of the fill value; see reference.is_filled."""
    _compile_once(chunk.dtype)
    return _is_filled(chunk, fill_value)


def warm(dtypes: Iterable[np.dtype[np.generic]]) -> None:
    """Compiles what chunks of `dtypes` need, or loads it where an earlier process did."""
    for dtype in dtypes:
        _compile_once(dtype)


_compiling = threading.Lock()
_ready: set[np.dtype[np.generic]] = set()


def _compile_once(dtype: np.dtype[np.generic]) -> None:
    if dtype in _ready:
        return
    with _compiling:
        if dtype in _ready:
            return
        pixel: Array = np.zeros((2, 2), dtype)
        _mean(pixel, (2, 2), (2, 2))
        _is_filled(pixel, pixel[0, 0])
        _ready.add(dtype)


def _mean(chunk: Array, valid: Shape, factors: Shape) -> Array:
    out: Array = np.empty([-(-n // f) for n, f in zip(valid, factors, strict=True)], chunk.dtype)
    if out.size == 0:
        return out
    factors = tuple(map(min, factors, valid))
    pad = (1,) * (_AXES - chunk.ndim)
    windows = _Windows(
        cast(_Five, pad + chunk.shape), cast(_Five, pad + valid), cast(_Five, pad + factors)
    )
    rows = np.empty(math.prod(factors[:-1]), np.int64)
    width = out.shape[-1]
    kernel: Callable[..., None]
    total: _Vector
    if chunk.dtype.kind == "f":
        kernel, total = _mean_float, np.empty(width, chunk.dtype)
    elif chunk.itemsize == 8:
        kernel, total = _mean_wide, np.empty((2, width), _WIDE)
    else:
        narrow, most = _NARROW.get(chunk.itemsize, (_WIDE, 0))
        fits = math.prod(factors) <= most
        kernel, total = _mean_narrow, np.empty(width, narrow if fits else _WIDE)
    _run(kernel, _rows_of(chunk), windows, rows, total, out.reshape(-1, width))
    return out


def _is_filled(chunk: Array, fill_value: np.generic) -> bool:
    pixels = _rows_of(chunk).reshape(-1)
    per_word = 8 // pixels.itemsize
    rest = pixels.size % per_word
    words = pixels[: pixels.size - rest].view(np.uint64)
    filled = np.full(per_word, fill_value, pixels.dtype)
    return bool(
        pixels[pixels.size - rest :].tobytes() == filled[:rest].tobytes()
        and _run(_all_equal, words, filled.view(np.uint64)[0])
    )


def _run(kernel: Callable[..., Any], *arguments: object) -> Any:
    try:
        return kernel(*arguments)
    except OSError:  # compiled just now, but a full disk could not keep that for later
        return kernel(*arguments)


def _rows_of(chunk: Array) -> Array:
    """The chunk as (rows, pixels): aligned and read-only, so that one compiled type serves all."""
    rows = np.require(chunk, chunk.dtype, ["C", "A"]).reshape(-1, chunk.shape[-1])
    rows.flags.writeable = False
    return rows
