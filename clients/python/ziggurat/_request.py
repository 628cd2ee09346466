"""What does a read ask the server for?

Turns the arguments of `Image.read` into a ReadRequest, and checks what can be checked
without the server. Every complaint is an InvalidArgument that names the argument.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import DTypeLike
from ziggurat_proto.v1 import read_pb2

from ziggurat._answers import ImageInfo
from ziggurat._encoding import checked_encoding
from ziggurat._errors import InvalidArgument, OutOfRange
from ziggurat._index import Selection, box_of, whole_numbers
from ziggurat._spec import SPATIAL, data_type
from ziggurat._values import Shape

_INTERPOLATIONS = {
    "nearest": read_pb2.ReadPlaneRequest(interpolation="INTERPOLATION_NEAREST"),
    "linear": read_pb2.ReadPlaneRequest(interpolation="INTERPOLATION_LINEAR"),
}
_METHODS = {
    "max": read_pb2.Projection(method="METHOD_MAX"),
    "min": read_pb2.Projection(method="METHOD_MIN"),
    "mean": read_pb2.Projection(method="METHOD_MEAN"),
}


class LevelOptions(TypedDict, total=False):
    """The keyword arguments of `Image.read` that go with a level that is known."""

    level0: bool
    physical: Mapping[str, tuple[float, float]] | None
    steps: Sequence[int] | Mapping[str, int] | None
    projection: str | None
    along: str | Sequence[str]
    dtype: DTypeLike | None
    window: tuple[float, float] | None
    exact: bool
    encoding: str


class ReadOptions(LevelOptions, total=False):
    """The keyword arguments that `Image.read` explains."""

    level: int | None
    resolution: float | Mapping[str, float] | None
    max_voxels: int | None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and what the answer will be like.

    dtype: of the result. shape: of the result, None where the server chooses the level or
    rounds the box. encoding: as of `Image.read`.
    """

    message: read_pb2.ReadRequest
    dtype: np.dtype[Any]
    shape: Shape | None
    encoding: str = "auto"


def asked(
    info: ImageInfo,
    box: object,
    offset: Sequence[int] | None,
    shape: Sequence[int] | None,
    options: ReadOptions,
    if_newer_than: int | None = None,
) -> Asked:
    """The request; the arguments are those of `Image.read`."""
    unknown = set(options) - set(ReadOptions.__annotations__)
    if unknown:
        raise TypeError(f"a read has no argument {sorted(unknown)[0]!r}")
    wanted = options.get("dtype")
    dtype = info.dtype if wanted is None else data_type(wanted)
    message = read_pb2.ReadRequest(image=info.name, exact=options.get("exact", False))
    if if_newer_than is not None:
        message.if_newer_than = _integer("if_newer_than", if_newer_than, 0)
    level = _put_level(message, info, options)
    placed = _put_box(message, info, box, offset, shape, options, level)
    steps = _steps(info, options.get("steps"))
    if max(steps) > 1:
        message.steps[:] = steps
    projected = _put_projection(message, info, options)
    _put_conversion(message, info, dtype, options.get("window"))
    encoding = checked_encoding(options.get("encoding", "auto"))
    if placed is None:
        return Asked(message, dtype, None, encoding)
    result = tuple(
        1 if axis in projected else -(-n // step)
        for axis, n, step in zip(info.axes, placed.shape, steps, strict=True)
    )
    return Asked(message, dtype, result, encoding)


def asked_plane(
    info: ImageInfo,
    origin: Sequence[float],
    down: Sequence[float],
    across: Sequence[float],
    shape: tuple[int, int],
    spacing: float,
    *,
    interpolation: str,
    indices: Mapping[str, int],
    level: int | None,
    dtype: DTypeLike | None,
    window: tuple[float, float] | None,
    exact: bool,
) -> tuple[read_pb2.ReadPlaneRequest, np.dtype[Any], Shape]:
    """The request, and type and shape of its answer; the arguments are those of `Image.plane`."""
    wanted = info.dtype if dtype is None else data_type(dtype)
    rows, columns = whole_numbers("shape", shape, 2)
    for number, size in enumerate((rows, columns)):
        _integer(f"shape[{number}]", size, 1)
    message = read_pb2.ReadPlaneRequest(
        image=info.name,
        rows=rows,
        columns=columns,
        exact=exact,
        spacing=_number("spacing", spacing),
    )
    count = sum(axis in SPATIAL for axis in info.axes)
    for name, vector in (("origin", origin), ("down", down), ("across", across)):
        numbers = [_number(f"{name}[{k}]", number) for k, number in enumerate(vector)]
        if len(numbers) != count:
            raise _bad(name, f"has {len(numbers)} numbers for {count} spatial axes")
        getattr(message, name).extend(numbers)
    if interpolation not in _INTERPOLATIONS:
        known = ", ".join(_INTERPOLATIONS)
        raise _bad("interpolation", f"must be one of {known}, got {interpolation!r}")
    message.MergeFrom(_INTERPOLATIONS[interpolation])
    for axis, index in indices.items():
        _check_axis(info, axis, f"indices[{axis!r}]")
        message.indices[axis] = _integer(f"indices[{axis!r}]", index, 0)
    if level is not None:
        message.level = _integer("level", level, 0)
    _put_conversion(message, info, wanted, window)
    return message, wanted, (rows, columns)


def _put_level(message: read_pb2.ReadRequest, info: ImageInfo, options: ReadOptions) -> int | None:
    """The level where it is known."""
    level, resolution = options.get("level"), options.get("resolution")
    most = options.get("max_voxels")
    given = {"level": level, "resolution": resolution, "max_voxels": most}
    both = [name for name, value in given.items() if value is not None]
    if len(both) > 1:
        raise _bad(both[1], f"is given together with {both[0]}: only one of them may be")
    if resolution is not None:
        if not isinstance(resolution, Mapping):
            resolution = {axis: resolution for axis in info.axes if axis in SPATIAL}
        message.resolution.SetInParent()
        for axis, size in resolution.items():
            field = f"resolution[{axis!r}]"
            _check_axis(info, axis, field)
            number = _number(field, size)
            if not number > 0:
                raise _bad(field, f"must be above 0, got {size!r}")
            message.resolution.sizes[axis] = number
        return None
    if most is not None:
        message.max_voxels = _integer("max_voxels", most, 1)
        return None
    level = 0 if level is None else _integer("level", level, None)
    if not 0 <= level < len(info.levels):
        raise OutOfRange(
            f"level {level} is not there: {info.name} has levels 0 to {len(info.levels) - 1}",
            field="level",
        )
    message.level = level
    return level


def _put_box(
    message: read_pb2.ReadRequest,
    info: ImageInfo,
    box: object,
    offset: Sequence[int] | None,
    shape: Sequence[int] | None,
    options: ReadOptions,
    level: int | None,
) -> Selection | None:
    """The box in pixels of the level where it is known."""
    physical = options.get("physical")
    plain = box is not None or offset is not None or shape is not None
    if physical is not None:
        if plain:
            raise _bad("physical", "is given together with box, offset or shape")
        message.physical_box.SetInParent()
        for axis, interval in physical.items():
            field = f"physical[{axis!r}]"
            _check_axis(info, axis, field)
            start, stop = _pair(field, interval)
            if start > stop:
                raise _bad(field, f"must be (start, stop) in order, got {interval!r}")
            message.physical_box.intervals[axis].start = start
            message.physical_box.intervals[axis].stop = stop
        return None
    if level is None or options.get("level0"):
        if plain:
            chosen = box_of(box, offset, shape, info.shape)
            message.level0_box.offset[:] = chosen.offset
            message.level0_box.shape[:] = chosen.shape
        return None
    chosen = box_of(box, offset, shape, info.levels[level].shape)
    message.offset[:] = chosen.offset
    message.shape[:] = chosen.shape
    return chosen


def _steps(info: ImageInfo, steps: Sequence[int] | Mapping[str, int] | None) -> Shape:
    if steps is None:
        return (1,) * len(info.axes)
    if isinstance(steps, Mapping):
        for axis in steps:
            _check_axis(info, axis, f"steps[{axis!r}]")
        steps = [steps.get(axis, 1) for axis in info.axes]
    found = whole_numbers("steps", steps, len(info.axes))
    for number, step in enumerate(found):
        if step < 1:
            raise _bad(f"steps[{number}]", f"must be at least 1, got {step}")
    return found


def _put_projection(message: read_pb2.ReadRequest, info: ImageInfo, options: ReadOptions) -> str:
    """The axes that are projected."""
    method, along = options.get("projection"), options.get("along")
    if method is None:
        if along is not None:
            raise _bad("along", "is given without projection")
        return ""
    if method not in _METHODS:
        raise _bad("projection", f"must be one of {', '.join(_METHODS)}, got {method!r}")
    if not along:
        raise _bad("along", "must name the axes that are projected")
    for axis in along:
        _check_axis(info, axis, "along")
    message.projection.MergeFrom(_METHODS[method])
    message.projection.axes[:] = along
    return "".join(along)


def _put_conversion(
    message: read_pb2.ReadRequest | read_pb2.ReadPlaneRequest,
    info: ImageInfo,
    dtype: np.dtype[Any],
    window: tuple[float, float] | None,
) -> None:
    if dtype != info.dtype:
        name = f"DATA_TYPE_{dtype.name.upper()}"
        message.conversion.MergeFrom(read_pb2.Conversion(data_type=name))
    if window is not None:
        start, end = _pair("window", window)
        if not start < end:
            raise _bad("window", f"must be (start, end) with start below end, got {window!r}")
        message.conversion.window.start = start
        message.conversion.window.end = end


def _check_axis(info: ImageInfo, axis: object, field: str) -> None:
    if axis not in tuple(info.axes):
        raise _bad(field, f"is for axis {axis!r}, which the image ({info.axes}) does not have")


def _pair(field: str, values: object) -> tuple[float, float]:
    if not isinstance(values, Iterable) or len(found := list(values)) != 2:
        raise _bad(field, f"must be two numbers, got {values!r}")
    return _number(field, found[0]), _number(field, found[1])


def _number(field: str, value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise _bad(field, f"must be a finite number, got {value!r}")
    return number


def _integer(field: str, value: object, least: int | None) -> int:
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise _bad(field, f"must be a whole number, got {value!r}") from None
    if least is not None and not least <= number < 2**64:
        raise _bad(field, f"must be at least {least}, got {number}")
    return number


def _bad(field: str, what: str) -> InvalidArgument:
    return InvalidArgument(f"{field} {what}", field=field)
