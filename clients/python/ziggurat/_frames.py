"""How is a frame cut into messages?

Into boxes of whole rows, planes or volumes, so that each is one run of the frame's
memory: axes before the cut are taken one index at a time, the axis of the cut in runs
of a power of two, the axes after it whole.

    frame (2304, 2304) uint16, strips of about 2 MiB: 5 boxes of up to 512 rows

A power of two gives messages of 0.75 to 1.5 times the size asked for, and strips that
do not straddle chunks, whose sides are powers of two as well.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ziggurat._errors import InvalidArgument, OutOfRange
from ziggurat._values import Shape


def place_frame(
    frame: ArrayLike,
    position: Mapping[str, int | None],
    axes: str,
    shape: Shape,
    dtype: np.dtype[Any],
) -> tuple[NDArray[Any], Shape]:
    """`frame` with one axis for each of `axes`, and its offset in the image.

    The frame's axes are the image's last ones; before them it is one pixel thick.
    position: the offset along each named axis; None is 0.
    Raises InvalidArgument and OutOfRange, naming the argument.
    """
    array = as_pixels("frame", frame, dtype)
    if not 1 <= array.ndim <= len(axes):
        raise InvalidArgument(
            f"frame has {array.ndim} axes; an image {axes} takes 1 to {len(axes)}", field="frame"
        )
    for name, at in position.items():
        if at is not None and name not in axes:
            raise InvalidArgument(f"{name}: the image ({axes}) has no such axis", field=name)
    offset = tuple(_offset(name, position.get(name)) for name in axes)
    whole = array[(np.newaxis,) * (len(axes) - array.ndim)]
    check_inside(whole.shape, offset, axes, shape)
    return whole, offset


def as_pixels(field: str, pixels: ArrayLike, dtype: np.dtype[Any]) -> NDArray[Any]:
    """`pixels` as an array of `dtype` in either byte order. Raises InvalidArgument."""
    array = np.asarray(pixels)
    if array.dtype.newbyteorder("=") != dtype:
        raise InvalidArgument(
            f"{field} holds {array.dtype.name}, the image {dtype.name}:"
            f" convert it with .astype({dtype.name!r})",
            field=field,
        )
    return array


def check_inside(extent: Shape, offset: Shape, axes: str, shape: Shape) -> None:
    """Raises OutOfRange, naming the axis, for a box that reaches outside the image."""
    for name, o, n, limit in zip(axes, offset, extent, shape, strict=True):
        if o < 0 or o + n > limit:
            raise OutOfRange(
                f"{name}: pixels {o} to {o + n} are not within the image's {limit}", field=name
            )


def strips(shape: Shape, itemsize: int, strip_bytes: int) -> Iterator[tuple[Shape, Shape]]:
    """(offset, shape) of the boxes that an array is cut into, in memory order.

    Each box holds `strip_bytes` to within a factor of 0.75 to 1.5, where the array's
    axes allow it; together they cover the array once.
    """
    if 0 in shape:
        return
    limit = max(strip_bytes + strip_bytes // 2, 1)
    cut = 0
    while cut < len(shape) - 1 and math.prod(shape[cut + 1 :]) * itemsize > limit:
        cut += 1
    inner = math.prod(shape[cut + 1 :]) * itemsize
    rows = shape[cut]
    if rows * inner > limit:
        rows = 1 << (max(1, limit // inner).bit_length() - 1)
    ones, rest = (1,) * cut, shape[cut + 1 :]
    zeros = (0,) * len(rest)
    for before in itertools.product(*map(range, shape[:cut])):
        for start in range(0, shape[cut], rows):
            yield (*before, start, *zeros), (*ones, min(rows, shape[cut] - start), *rest)


def payload_of(array: NDArray[Any], offset: Shape, shape: Shape) -> memoryview:
    """The pixels of a box of `array` as the wire has them: little-endian, C order.

    A view of the array's memory where that is as the wire wants it, else a copy.
    """
    box = array[tuple(slice(o, o + n) for o, n in zip(offset, shape, strict=True))]
    wire = np.ascontiguousarray(box, dtype=box.dtype.newbyteorder("<"))
    return wire.reshape(-1).view(np.uint8).data


def _offset(name: str, at: int | None) -> int:
    if at is None:
        return 0
    try:
        return operator.index(at)
    except TypeError:
        raise InvalidArgument(f"{name} must be a whole number, got {at!r}", field=name) from None
