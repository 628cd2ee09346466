"""How does a box come from the server into one array?

The array is allocated once (or is the caller's); each part is pasted into it straight
from the received message. The server promises that the parts cover the box once; a
part that does not fit, or pixels that are missing at the end, are errors here, never
an array with holes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from ziggurat_proto.v1 import read_pb2

from ziggurat._answers import dtype_of, method_name
from ziggurat._encoding import decoded, put_encoding
from ziggurat._errors import InvalidArgument, ServerError
from ziggurat._index import Selection
from ziggurat._request import Asked
from ziggurat._rpc import Connection, messages
from ziggurat._shared_memory import HEADER_BYTES, LEAST_RESULT_BYTES, Memory
from ziggurat._values import Shape
from ziggurat._wire import Part, decode_response

_Answers: TypeAlias = Generator[tuple[read_pb2.ReadHeader | None, Part | None], None, None]


@dataclass(frozen=True, slots=True)
class ReadResult:
    """Pixels and what the server said about them.

    array: the result, axes in the image's order. level: which one was read. offset, shape:
    the box in its pixels. scale, translation: of the level, in axis units. steps: along
    each axis; all 1 where none were asked for.
    stale: acknowledged writes had not reached this box when the read began (never at
    level 0). revision: what to give as `if_newer_than` when the same is asked again.
    downsampling: the method that made the level; "" from a server that does not say.
    encoding: "blosc" where whole chunks may have come as they are stored, else "raw".
    transport: "shared_memory" where pixels came so (see `Writer.transport`), else "grpc".
    """

    array: NDArray[Any]
    level: int
    offset: Shape
    scale: tuple[float, ...]
    translation: tuple[float, ...]
    stale: bool
    revision: int
    shape: Shape
    steps: Shape
    downsampling: str = ""
    encoding: str = "raw"
    transport: str = "grpc"

    @property
    def spacing(self) -> tuple[float, ...]:
        """The distance of neighbouring pixels of `array`, in axis units.

        Along a projected axis the extent of what became one pixel.
        """
        axes = zip(self.scale, self.steps, self._taken, self.array.shape, strict=True)
        return tuple(scale * step * (n / max(1, left)) for scale, step, n, left in axes)

    @property
    def origin(self) -> tuple[float, ...]:
        """The centre of pixel 0 of `array`, in axis units; the centre of pixel 0 of level 0 is 0.

        Along a projected axis the middle of what became one pixel.
        """
        axes = zip(
            self.translation,
            self.offset,
            self.scale,
            self.steps,
            self._taken,
            self.array.shape,
            strict=True,
        )
        return tuple(
            translation + (offset + (n - left) / 2 * step) * scale
            for translation, offset, scale, step, n, left in axes
        )

    @property
    def _taken(self) -> Shape:
        """Pixels along each axis before projection."""
        return tuple(-(-n // step) for n, step in zip(self.shape, self.steps, strict=True))


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
    Raises as `read` does.
    """
    message = read_pb2.ReadRequest(
        image=image, level=level, offset=box.offset, shape=box.shape, exact=exact
    )
    found = read(connection, Asked(message, dtype, box.shape), out, timeout_seconds)
    assert found is not None
    return found


def read(
    connection: Connection,
    asked: Asked,
    out: NDArray[Any] | None = None,
    timeout_seconds: float | None = None,
) -> ReadResult | None:
    """Reads what is asked; returns once all of it is there, None where nothing is newer.

    out: of the result's shape and type, written in place; any strides and byte order.
    Raises InvalidArgument for an `out` that does not fit, ServerError for an answer
    that does not fit, and the errors of ReadRegion. After an error `out` holds part
    of the result.
    """
    if asked.shape is not None:
        _check_out(out, asked.shape, asked.dtype)
    put_encoding(asked.message, asked.encoding, connection.server)
    answers = _answers(connection, asked, timeout_seconds)
    found = _received(answers, asked.dtype, out, lambda header: check_header(header, asked))
    return None if found is None else result_of(*found)


def _answers(connection: Connection, asked: Asked, timeout_seconds: float | None) -> _Answers:
    """The messages of an answer: one, where the server can do that; else as they come."""
    nbytes = _known_bytes(asked)
    if nbytes is not None and nbytes >= LEAST_RESULT_BYTES and connection.shares_results:
        room = connection.kept.take(nbytes)
        if room is not None and (yield from _shared(room, connection, asked, timeout_seconds)):
            return
    if nbytes is not None and nbytes <= connection.small_bytes:
        whole = connection.read_small(asked.message, timeout_seconds)
        if whole is not None:
            yield decode_response(whole)
            return
    call = connection.read(asked.message, timeout_seconds)
    yield from messages(call, decode_response, connection.server)


def _shared(
    room: Memory, connection: Connection, asked: Asked, timeout_seconds: float | None
) -> Generator[tuple[read_pb2.ReadHeader | None, Part | None], None, bool]:
    """The one message of an answer, with pixels out of the memory if the server put them there.

    False: the server does not answer so.
    """
    asked.message.shared_memory.CopyFrom(room.offer)
    over = False
    try:
        whole = connection.read_small(asked.message, timeout_seconds)
        over = True
        if whole is None:
            connection.shares_results = False
            asked.message.ClearField("shared_memory")
            return False
        header, part = decode_response(whole)
        found = header is not None and header.shared
        if part is not None:
            # One that does not take it is not asked again.
            connection.shares_results = found
        if found and part is not None:
            nbytes = math.prod(part.shape) * asked.dtype.itemsize
            part = part._replace(payload=room.view(HEADER_BYTES, nbytes).data)
        yield header, part
        return True
    finally:
        if over:
            connection.kept.give(room)
        else:
            # The server may not have heard that nobody wants it.
            room.close()


def _known_bytes(asked: Asked) -> int | None:
    """How large the result will be at most; None where that is not known.

    Nor where chunks may come as they are stored: a message of pixels has none.
    """
    request = asked.message
    if request.encoding == read_pb2.ENCODING_BLOSC:
        return None
    if asked.shape is not None:
        return math.prod(asked.shape) * asked.dtype.itemsize
    return request.max_voxels * asked.dtype.itemsize if request.HasField("max_voxels") else None


def read_plane(
    connection: Connection,
    message: read_pb2.ReadPlaneRequest,
    dtype: np.dtype[Any],
    shape: Shape,
    out: NDArray[Any] | None,
    timeout_seconds: float | None,
) -> NDArray[Any]:
    """Reads a plane of `shape`; raises as `read` does."""
    _check_out(out, shape, dtype)

    def check(header: read_pb2.ReadHeader) -> None:
        if tuple(header.result_shape) != shape or dtype_of(header.data_type) != dtype:
            raise _wrong("another shape or data type: refresh the image")

    call = connection.plane(message, timeout_seconds)
    answers = messages(call, decode_response, connection.server)
    found = _received(answers, dtype, out, check)
    assert found is not None
    return found[1]


def _received(
    answers: _Answers,
    dtype: np.dtype[Any],
    out: NDArray[Any] | None,
    check: Callable[[read_pb2.ReadHeader], None],
) -> tuple[read_pb2.ReadHeader, NDArray[Any]] | None:
    """The header and the pixels of an answer; None where it says that nothing is newer."""
    try:
        header, part = _first(answers)
        check(header)
        if header.not_modified:
            return None
        shape = tuple(header.result_shape or header.shape)
        _check_out(out, shape, dtype)
        # Not before: what the server refuses takes no memory here.
        array = np.empty(shape, dtype) if out is None else out
        left = math.prod(shape)
        wire = dtype.newbyteorder("<")
        if part is not None:
            left -= paste(part, array, wire)
        for again, part in answers:
            if again is not None:
                raise _wrong("a second header")
            assert part is not None
            left -= paste(part, array, wire)
    finally:
        answers.close()
    if left:
        raise _wrong(f"parts that leave {left} pixels of the box uncovered")
    return header, array


def result_of(header: read_pb2.ReadHeader, array: NDArray[Any]) -> ReadResult:
    """An array and what its header says."""
    return ReadResult(
        array,
        header.level,
        tuple(header.offset),
        tuple(header.scale),
        tuple(header.translation),
        header.stale,
        header.revision,
        tuple(header.shape),
        tuple(header.steps) or (1,) * len(header.shape),
        method_name(header.downsampling) if header.downsampling else "",
        "blosc" if header.encoding == read_pb2.ENCODING_BLOSC else "raw",
        "shared_memory" if header.shared else "grpc",
    )


def _check_out(out: NDArray[Any] | None, shape: Shape, dtype: np.dtype[Any]) -> None:
    if out is None:
        return
    if not isinstance(out, np.ndarray):
        raise InvalidArgument(f"out must be a NumPy array, got {type(out).__name__}", field="out")
    if out.shape != shape or out.dtype.newbyteorder("=") != dtype:
        raise InvalidArgument(
            f"out is {out.dtype.name} {out.shape}, the result {dtype.name} {shape}", field="out"
        )
    if not out.flags.writeable:
        raise InvalidArgument("out is read-only", field="out")


def _first(
    answers: Iterator[tuple[read_pb2.ReadHeader | None, Part | None]],
) -> tuple[read_pb2.ReadHeader, Part | None]:
    header, part = next(answers, (None, None))
    if header is None:
        raise _wrong("no header")
    return header, part


def check_header(header: read_pb2.ReadHeader, asked: Asked) -> None:
    """Raises ServerError where the answer is not what was asked for."""
    request = asked.message
    if request.HasField("level"):
        if header.level != request.level:
            raise _wrong(f"level {header.level}, not {request.level}: refresh the image")
        if asked.shape is not None:
            found = list(header.offset), list(header.shape)
            if found != (list(request.offset), list(request.shape)):
                raise _wrong(f"the box {found[0]} + {found[1]}, not what was asked")
            if tuple(header.result_shape or header.shape) != asked.shape:
                raise _wrong(f"a result {list(header.result_shape)}, not {asked.shape}")
    if dtype_of(header.data_type) != asked.dtype:
        # An image of the same name was deleted and made anew.
        raise _wrong("another data type: refresh the image")


def paste(part: Part, array: NDArray[Any], wire: np.dtype[Any]) -> int:
    """Puts a part into the array; returns its pixels. Raises ServerError."""
    size = math.prod(part.shape)
    if len(part.offset) != array.ndim or len(part.shape) != array.ndim:
        raise _wrong(f"a part {part.offset} + {part.shape} for {array.ndim} axes")
    if any(o + n > limit for o, n, limit in zip(part.offset, part.shape, array.shape, strict=True)):
        raise _wrong(f"a part {part.offset} + {part.shape} outside the result {array.shape}")
    if part.frame_shape:
        pixels = _chunk(part, wire)
    elif len(part.payload) != size * wire.itemsize:
        raise _wrong(f"a part of {len(part.payload)} bytes for {size} pixels")
    else:
        pixels = np.frombuffer(part.payload, wire).reshape(part.shape)
    array[tuple(slice(o, o + n) for o, n in zip(part.offset, part.shape, strict=True))] = pixels
    return size


def _chunk(part: Part, wire: np.dtype[Any]) -> NDArray[Any]:
    """The first pixels of an encoded chunk."""
    if len(part.frame_shape) != len(part.shape) or any(
        n > most for n, most in zip(part.shape, part.frame_shape, strict=True)
    ):
        raise _wrong(f"a part of {part.shape} out of a chunk of {part.frame_shape}")
    chunk = decoded(part.payload, part.frame_shape, wire)
    return chunk[tuple(map(slice, part.shape))]


def _wrong(what: str) -> ServerError:
    return ServerError(f"the server answered a read with {what}", reason="MALFORMED_ANSWER")
