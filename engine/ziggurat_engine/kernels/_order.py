"""How are minimum, maximum, median and mode of windows computed fast? Without a branch.

The minimum and the maximum go along the input rows as the mean does, with an output row
for accumulator.

Median and mode sort. Some hundred neighbouring windows are sorted at a time, each in a
lane of its own: member k of all of them lies in row k of a small buffer, and each step
of a sorting network (Batcher's merge exchange; Knuth, The Art of Computer Programming,
volume 3, 5.2.2, algorithm M) puts two rows in order, lane by lane. The steps depend on
the number of members alone, so they are vector instructions, for windows of any size.

Floats are sorted as integers of the same order: -0.0 below 0.0, all NaNs as one value
above all numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from ziggurat_engine.kernels._windows import Windows, cut, next_rows
from ziggurat_engine.loops import Vector, compiled, once, run
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Array

# A buffer has about so many pixels, or one window.
_BUFFER = 4096
_MAX_LANES = 256
# How often a value occurs is counted in integers as wide as the pixels: lanes stay as they are.
_COUNTS: Mapping[int, np.dtype[np.signedinteger]] = {
    1: np.dtype(np.int8),
    2: np.dtype(np.int16),
    4: np.dtype(np.int32),
}
_WIDE: np.dtype[np.signedinteger] = np.dtype(np.int64)


class _Bits(NamedTuple):
    """The bits of a float without the sign, and of two floats, as signed integers."""

    magnitude: np.signedinteger
    infinity: np.signedinteger
    nan: np.signedinteger


_FLOATS = {
    np.dtype(np.float32): _Bits(np.int32(0x7FFFFFFF), np.int32(0x7F800000), np.int32(0x7FC00000)),
    np.dtype(np.float64): _Bits(
        np.int64(2**63 - 1), np.int64(0x7FF0000000000000), np.int64(0x7FF8000000000000)
    ),
}


@compiled
def _smallest(pixels: Vector, factor: int, out: Vector) -> None:
    """Puts the smallest of out[i] and pixels [i * factor, (i + 1) * factor) into out[i].

    Of equal ones the first stays, and no NaN is smaller than anything.
    """
    whole = pixels.size // factor
    if factor == 2:
        for i in range(whole):
            first, second = pixels[2 * i], pixels[2 * i + 1]
            best = first if first < out[i] else out[i]
            out[i] = second if second < best else best
    else:
        for k in range(factor):
            for i in range(whole):
                value = pixels[i * factor + k]
                out[i] = value if value < out[i] else out[i]
    for j in range(whole * factor, pixels.size):
        out[whole] = pixels[j] if pixels[j] < out[whole] else out[whole]


@compiled
def _largest(pixels: Vector, factor: int, out: Vector) -> None:
    """As `_smallest`, the other way round."""
    whole = pixels.size // factor
    if factor == 2:
        for i in range(whole):
            first, second = pixels[2 * i], pixels[2 * i + 1]
            best = first if first > out[i] else out[i]
            out[i] = second if second > best else best
    else:
        for k in range(factor):
            for i in range(whole):
                value = pixels[i * factor + k]
                out[i] = value if value > out[i] else out[i]
    for j in range(whole * factor, pixels.size):
        out[whole] = pixels[j] if pixels[j] > out[whole] else out[whole]


@compiled
def _extremes(
    chunk: Vector, windows: Windows, rows: Vector, smallest: bool, start: np.generic, out: Vector
) -> None:
    last, factor = windows.valid[4], windows.factors[4]
    corner = np.zeros(4, np.int64)
    for row in range(out.shape[0]):
        out[row, :] = start
        for k in range(next_rows(corner, windows, rows)):
            if smallest:
                _smallest(chunk[rows[k], :last], factor, out[row])
            else:
                _largest(chunk[rows[k], :last], factor, out[row])


@compiled
def _gather(pixels: Vector, factor: int, members: Vector) -> None:
    """Puts pixel k of window i into members[k, i]."""
    lanes = members.shape[1]
    if factor == 2:
        even, odd = members[0], members[1]
        for i in range(lanes):
            even[i] = pixels[2 * i]
            odd[i] = pixels[2 * i + 1]
    else:
        for k in range(factor):
            line = members[k]
            for i in range(lanes):
                line[i] = pixels[i * factor + k]


@compiled
def _exchange(low: Vector, high: Vector) -> None:
    """Puts the smaller of low[i] and high[i] into low[i], the larger into high[i]."""
    for i in range(low.size):
        a, b = low[i], high[i]
        low[i] = min(a, b)
        high[i] = max(a, b)


@compiled
def _sort(members: Vector) -> None:
    """Sorts each column."""
    count = members.shape[0]
    top = 1
    while 2 * top < count:
        top *= 2
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while True:
            for i in range(count - d):
                if i & p == r:
                    _exchange(members[i], members[i + d])
            if q == p:
                break
            d = q - p
            q //= 2
            r = p
        p //= 2


@compiled
def _to_keys(members: Vector, bits: _Bits) -> None:
    """The bits of floats become integers of the same order, and all NaNs one of them."""
    for k in range(members.shape[0]):
        line = members[k]
        for i in range(line.size):
            value = bits.nan if line[i] & bits.magnitude > bits.infinity else line[i]
            line[i] = value ^ bits.magnitude if value < 0 else value


@compiled
def _to_bits(keys: Vector, bits: _Bits) -> None:
    """The way back."""
    for i in range(keys.size):
        keys[i] = keys[i] ^ bits.magnitude if keys[i] < 0 else keys[i]


@compiled
def _scan(members: Vector, counts: Vector, bits: _Bits | None, out: Vector) -> None:
    """out[i] = the most frequent of the sorted column i, the smallest where there are several.

    counts: room for 2 lines. -0.0 and 0.0 are one value, for which the first of them stands.
    """
    lanes = out.size
    run, longest = counts[:lanes], counts[lanes : 2 * lanes]
    number = counts.dtype.type
    # `first` begins a run; it takes the place of the sorted member, which nobody needs again.
    first = members[0]
    for i in range(lanes):
        run[i] = number(1)
        longest[i] = number(1)
        out[i] = first[i]
    for k in range(1, members.shape[0]):
        before, line = members[k - 1], members[k]
        for i in range(lanes):
            same = line[i] == before[i]
            if bits is not None:
                same = same or (line[i] == 0 and before[i] == -1)
            value = before[i] if same else line[i]
            length = number(run[i] + 1) if same else number(1)
            better = length > longest[i]
            longest[i] = length if better else longest[i]
            out[i] = value if better else out[i]
            run[i] = length
            line[i] = value


@compiled
def _finish(members: Vector, bits: _Bits | None, mode: bool, counts: Vector, out: Vector) -> None:
    """out[i] = the lower median of column i, or its mode."""
    if bits is not None:
        _to_keys(members, bits)
    _sort(members)
    if mode:
        _scan(members, counts, bits, out)
    else:
        out[:] = members[(members.shape[0] - 1) // 2]
    if bits is not None:
        _to_bits(out, bits)


@compiled
def _sorted_windows(
    chunk: Vector,
    windows: Windows,
    rows: Vector,
    buffer: Vector,
    lanes: int,
    bits: _Bits | None,
    mode: bool,
    counts: Vector,
    out: Vector,
) -> None:
    last, factor = windows.valid[4], windows.factors[4]
    whole = last // factor
    rest = last - whole * factor
    corner = np.zeros(4, np.int64)
    for row in range(out.shape[0]):
        count = next_rows(corner, windows, rows)
        for start in range(0, whole, lanes):
            stop = min(start + lanes, whole)
            members = buffer[: count * factor * (stop - start)].reshape(
                count * factor, stop - start
            )
            for k in range(count):
                pixels = chunk[rows[k], start * factor : stop * factor]
                _gather(pixels, factor, members[k * factor : (k + 1) * factor])
            _finish(members, bits, mode, counts, out[row, start:stop])
        if rest:
            members = buffer[: count * rest].reshape(count * rest, 1)
            for k in range(count):
                pixels = chunk[rows[k], whole * factor : last]
                _gather(pixels, rest, members[k * rest : (k + 1) * rest])
            _finish(members, bits, mode, counts, out[row, whole:])


def minimum(chunk: Array, valid: Shape, factors: Shape) -> Array:
    """The smallest pixel of each window; reference.minimum says which. As `_mean.mean`."""
    return _method("extremes", _extreme, chunk, valid, factors, True)


def maximum(chunk: Array, valid: Shape, factors: Shape) -> Array:
    """The largest pixel of each window; reference.maximum says which. As `_mean.mean`."""
    return _method("extremes", _extreme, chunk, valid, factors, False)


def median(chunk: Array, valid: Shape, factors: Shape) -> Array:
    """The lower median of each window; see reference.median. As `_mean.mean`."""
    return _method("sorted", _select, chunk, valid, factors, False)


def mode(chunk: Array, valid: Shape, factors: Shape) -> Array:
    """The most frequent pixel of each window; see reference.mode. As `_mean.mean`."""
    return _method("sorted", _select, chunk, valid, factors, True)


def _method(
    what: str,
    made: Callable[[Array, Shape, Shape, bool], Array],
    chunk: Array,
    valid: Shape,
    factors: Shape,
    which: bool,
) -> Array:
    if all(f == 1 for f in factors):
        return chunk[tuple(map(slice, valid))].copy()
    once(what, chunk.dtype, lambda: made(np.zeros((2, 2), chunk.dtype), (2, 2), (2, 2), which))
    return made(chunk, valid, factors, which)


def _extreme(chunk: Array, valid: Shape, factors: Shape, smallest: bool) -> Array:
    start: float
    if chunk.dtype.kind == "f":
        start = math.inf if smallest else -math.inf
    else:
        bounds = np.iinfo(chunk.dtype.name)
        start = bounds.max if smallest else bounds.min
    pixels, windows, rows, out, lines = cut(chunk, valid, factors)
    run(_extremes, pixels, windows, rows, smallest, chunk.dtype.type(start), lines)
    return out


def _select(chunk: Array, valid: Shape, factors: Shape, mode: bool) -> Array:
    pixels, windows, rows, out, lines = cut(chunk, valid, factors)
    members = math.prod(windows.factors)
    lanes = max(1, min(_MAX_LANES, _BUFFER // members, out.shape[-1]))
    bits = _FLOATS.get(chunk.dtype)
    if bits is not None:
        kind = np.dtype(type(bits.nan))
        pixels, lines = pixels.view(kind), lines.view(kind)
    narrow = _COUNTS.get(chunk.itemsize, _WIDE)
    counts = np.empty(2 * lanes, narrow if members <= np.iinfo(narrow).max else _WIDE)
    buffer = np.empty(members * lanes, pixels.dtype)
    run(_sorted_windows, pixels, windows, rows, buffer, lanes, bits, mode, counts, lines)
    return out
