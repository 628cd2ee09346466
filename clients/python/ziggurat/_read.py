"""How does a box come from the server into one array?

The array is allocated once (or is the caller's); each part is pasted into it straight
from the received message. The server promises that the parts cover the box once; a
part that does not fit, or pixels that are missing at the end, are errors here, never
an array with holes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ziggurat_proto.v1 import read_pb2

from ziggurat._answers import dtype_of, method_name
from ziggurat._errors import InvalidArgument, ServerError
from ziggurat._index import Selection
from ziggurat._rpc import Connection, messages
from ziggurat._values import Shape
from ziggurat._wire import Part, decode_response


@dataclass(frozen=True, slots=True)
class ReadResult:
    """Pixels and what the server said about them.

    array: the box, axes in the image's order. offset: its first pixel in `level`.
    scale, translation: of the level, in axis units.
    stale: acknowledged writes had not reached this box when the read began (never at
    level 0). revision: the image's when the read began.
    downsampling: the method that made the level; "" from a server that does not say.
    """

    array: NDArray[Any]
    level: int
    offset: Shape
    scale: tuple[float, ...]
    translation: tuple[float, ...]
    stale: bool
    revision: int
    downsampling: str = ""


def read_box(
    connection: Connection,
    image: str,
    level: int,
    box: Selection,
    dtype: np.dtype[Any],
    *,
    exact: bool = False,
    out: NDArray[Any] | None = None,
    timeout_seconds: float | None = None,
) -> ReadResult:
    """Reads `box` (its steps are not looked at); returns once all of it is there.

    out: of the box's shape and `dtype`, written in place; any strides and byte order.
    Raises InvalidArgument for an `out` that does not fit, ServerError for an answer
    that does not fit, and the errors of ReadRegion. After an error `out` holds part
    of the box.
    """
    array = _destination(out, box.shape, dtype)
    request = read_pb2.ReadRequest(
        image=image, level=level, offset=box.offset, shape=box.shape, exact=exact
    )
    call = connection.read(request, timeout_seconds)
    answers = messages(call, decode_response, connection.server)
    try:
        header = _header(answers, box, level, dtype)
        left = math.prod(box.shape)
        wire = dtype.newbyteorder("<")
        for answer in answers:
            if not isinstance(answer, Part):
                raise _wrong("a second header")
            left -= _paste(answer, array, wire)
    finally:
        answers.close()
    if left:
        raise _wrong(f"parts that leave {left} pixels of the box uncovered")
    return ReadResult(
        array,
        header.level,
        tuple(header.offset),
        tuple(header.scale),
        tuple(header.translation),
        header.stale,
        header.revision,
        method_name(header.downsampling) if header.downsampling else "",
    )


def _destination(out: NDArray[Any] | None, shape: Shape, dtype: np.dtype[Any]) -> NDArray[Any]:
    if out is None:
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray):
        raise InvalidArgument(f"out must be a NumPy array, got {type(out).__name__}", field="out")
    if out.shape != shape or out.dtype.newbyteorder("=") != dtype:
        raise InvalidArgument(
            f"out is {out.dtype.name} {out.shape}, the box {dtype.name} {shape}", field="out"
        )
    if not out.flags.writeable:
        raise InvalidArgument("out is read-only", field="out")
    return out


def _header(
    answers: Iterator[read_pb2.ReadHeader | Part],
    box: Selection,
    level: int,
    dtype: np.dtype[Any],
) -> read_pb2.ReadHeader:
    header = next(answers, None)
    if header is None or isinstance(header, Part):
        raise _wrong("no header")
    if tuple(header.offset) != box.offset or tuple(header.shape) != box.shape:
        raise _wrong(f"the box {list(header.offset)} + {list(header.shape)}, not what was asked")
    if header.level != level or dtype_of(header.data_type) != dtype:
        # An image of the same name was deleted and made anew.
        raise _wrong(f"level {header.level} of another data type: refresh the image")
    return header


def _paste(part: Part, array: NDArray[Any], wire: np.dtype[Any]) -> int:
    size = math.prod(part.shape)
    if len(part.offset) != array.ndim or len(part.shape) != array.ndim:
        raise _wrong(f"a part {part.offset} + {part.shape} for {array.ndim} axes")
    if any(o + n > limit for o, n, limit in zip(part.offset, part.shape, array.shape, strict=True)):
        raise _wrong(f"a part {part.offset} + {part.shape} outside the box {array.shape}")
    if len(part.payload) != size * wire.itemsize:
        raise _wrong(f"a part of {len(part.payload)} bytes for {size} pixels")
    pixels = np.frombuffer(part.payload, wire).reshape(part.shape)
    array[tuple(slice(o, o + n) for o, n in zip(part.offset, part.shape, strict=True))] = pixels
    return size


def _wrong(what: str) -> ServerError:
    return ServerError(f"the server answered a read with {what}", reason="MALFORMED_ANSWER")
