"""Which box does a NumPy index ask for, and how is the index's result cut from it?

    image[3, -1, 10:20, ::4]   on shape (9, 2, 64, 64)
    box      offset (3, 1, 10, 0)   shape (1, 1, 10, 61)
    then     [0, 0, :, ::4]         result (10, 16)

A step is taken on this side: the covering box is read whole. The box ends at the last
pixel the step reaches, so that nothing beyond it is read. A negative step reads the same
box and turns it round.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ziggurat._errors import InvalidArgument, OutOfRange
from ziggurat._values import Shape


@dataclass(frozen=True, slots=True)
class Selection:
    """A box of a level and what of it is wanted.

    offset, shape: the half-open box in pixels, one number an axis; sizes may be 0.
    steps: along each axis; negative ones go from the box's end, 0 drops the axis.
    """

    offset: Shape
    shape: Shape
    steps: Shape

    @property
    def empty(self) -> bool:
        """True where there is nothing to read."""
        return 0 in self.shape

    @property
    def result_shape(self) -> Shape:
        """The shape of the result."""
        return tuple(
            -(-n // abs(step)) for n, step in zip(self.shape, self.steps, strict=True) if step
        )

    def cut(self, box: NDArray[Any]) -> NDArray[Any]:
        """The result, of `box` with shape `shape`; a NumPy scalar where no axis is left."""
        chosen = box[tuple(slice(None, None, step) if step else 0 for step in self.steps)]
        if any(step not in (0, 1) for step in self.steps):
            # A view would keep the whole covering box alive, and readers want C order.
            return np.ascontiguousarray(chosen)
        return chosen


def select(index: object, shape: Shape) -> Selection:
    """The selection for `index` on a level of `shape`.

    index: an int, a slice, an Ellipsis, or a tuple of them: NumPy's basic indexing
    without newaxis. Negative numbers count from the end, axes that are left out are taken
    whole. Raises OutOfRange for an int outside its axis and for too many numbers, and
    InvalidArgument for everything else.
    """
    items = _expanded(index if isinstance(index, tuple) else (index,), len(shape))
    offset, sizes, steps = [], [], []
    for axis, (item, size) in enumerate(zip(items, shape, strict=True)):
        if isinstance(item, slice):
            start, count, step = _span(item, size, axis)
        else:
            start, count, step = _position(item, size, axis), 1, 0
        offset.append(start)
        sizes.append(count)
        steps.append(step)
    return Selection(tuple(offset), tuple(sizes), tuple(steps))


def box_of(
    box: object, offset: Sequence[int] | None, extent: Sequence[int] | None, shape: Shape
) -> Selection:
    """The selection for the arguments of `Image.read`: every axis stays.

    box: None (all), a slice or a tuple of slices with step 1. Or offset and extent, one
    number an axis. Raises InvalidArgument, and OutOfRange for an offset and extent that
    reach outside `shape`.
    """
    if offset is not None or extent is not None:
        if box is not None:
            raise InvalidArgument("box is given together with offset or shape", field="box")
        return _given(offset, extent, shape)
    chosen = select(... if box is None else box, shape)
    if any(step != 1 for step in chosen.steps):
        raise InvalidArgument(
            "box takes slices without a step; index the image for numbers and steps", field="box"
        )
    return chosen


def _given(offset: Sequence[int] | None, extent: Sequence[int] | None, shape: Shape) -> Selection:
    start = (0,) * len(shape) if offset is None else whole_numbers("offset", offset, len(shape))
    if extent is None:
        size = tuple(n - o for n, o in zip(shape, start, strict=True))
    else:
        size = whole_numbers("shape", extent, len(shape))
    for axis, (o, n, limit) in enumerate(zip(start, size, shape, strict=True)):
        if o < 0 or n < 0 or o + n > limit:
            raise OutOfRange(
                f"pixels {o} to {o + n} of axis {axis} are not within its {limit}",
                field=f"offset[{axis}]",
            )
    return Selection(start, size, (1,) * len(shape))


def whole_numbers(field: str, values: Sequence[int], count: int) -> Shape:
    """`values` as `count` ints. Raises InvalidArgument, naming `field`."""
    try:
        numbers = tuple(operator.index(value) for value in values)
    except TypeError:
        raise InvalidArgument(
            f"{field} must be whole numbers, got {values!r}", field=field
        ) from None
    if len(numbers) != count:
        raise InvalidArgument(f"{field} has {len(numbers)} numbers for {count} axes", field=field)
    return numbers


def _expanded(items: tuple[object, ...], ndim: int) -> list[object]:
    ellipses = [k for k, item in enumerate(items) if item is Ellipsis]
    if len(ellipses) > 1:
        raise InvalidArgument("an index can only have a single '...'", field="index")
    missing = ndim - (len(items) - len(ellipses))
    if missing < 0:
        raise OutOfRange(f"the index has {ndim - missing} entries for {ndim} axes", field="index")
    at = ellipses[0] if ellipses else len(items)
    return [*items[:at], *[slice(None)] * missing, *items[at + len(ellipses) :]]


def _span(item: slice, size: int, axis: int) -> tuple[int, int, int]:
    try:
        start, stop, step = item.indices(size)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"index[{axis}]: {error}", field=f"index[{axis}]") from None
    chosen = range(start, stop, step)
    if not chosen:
        return 0, 0, 1
    first, last = sorted((chosen[0], chosen[-1]))
    return first, last - first + 1, step


def _position(item: object, size: int, axis: int) -> int:
    if item is None:
        raise InvalidArgument(
            f"index[{axis}] is None (newaxis): add axes to the array that is read",
            field=f"index[{axis}]",
        )
    try:
        if isinstance(item, (bool, np.bool_)):
            raise TypeError
        position = operator.index(item)  # type: ignore[arg-type]
    except TypeError:
        raise InvalidArgument(
            f"index[{axis}] must be a whole number, a slice or '...', got {item!r}",
            field=f"index[{axis}]",
        ) from None
    if not -size <= position < size:
        raise OutOfRange(
            f"index {position} is out of bounds for axis {axis} with size {size}",
            field=f"index[{axis}]",
        )
    return position % size
