"""How do many boxes come from the server in one call?

Pieces of several boxes share a message. A box is complete once its pieces cover it; until
then it is held here, so that what waits is what the server sends between.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ziggurat_proto.v1 import read_pb2

from ziggurat._encoding import put_encoding
from ziggurat._errors import InvalidArgument, ServerError
from ziggurat._read import ReadResult, check_header, paste, result_of
from ziggurat._request import Asked
from ziggurat._rpc import Connection, messages
from ziggurat._wire import decode_pieces


@dataclass(slots=True)
class _Open:
    """A box of which more pieces are to come."""

    header: read_pb2.ReadHeader
    array: NDArray[Any]
    left: int


def read_each(
    connection: Connection,
    asked: Sequence[Asked],
    out: NDArray[Any] | None,
    as_completed: bool,
    timeout_seconds: float | None,
) -> Generator[tuple[int, ReadResult], None, None]:
    """(which one, result) of each read; out: room for all of them, one after the other.

    Raises ServerError for an answer that does not fit, and the errors of ReadRegions.
    """
    if not asked:
        return
    call = connection.read_many(_request(connection, asked, as_completed), timeout_seconds)
    going: dict[int, _Open] = {}
    missing = set(range(len(asked)))
    answers = messages(call, decode_pieces, connection.server)
    try:
        for piece in itertools.chain.from_iterable(answers):
            if piece.number not in missing:
                raise _wrong(f"box {piece.number}, which it was not asked for, or again")
            read = asked[piece.number]
            if piece.header is not None:
                going[piece.number] = _opened(piece.number, piece.header, read, out)
            found = going.get(piece.number)
            if found is None:
                raise _wrong("a piece without a header")
            if piece.part is not None:
                found.left -= paste(piece.part, found.array, read.dtype.newbyteorder("<"))
            if found.left <= 0:
                if found.left:
                    raise _wrong(f"{-found.left} pixels too many")
                del going[piece.number]
                missing.discard(piece.number)
                yield piece.number, result_of(found.header, found.array)
    finally:
        answers.close()
    if missing:
        raise _wrong(f"{len(missing)} boxes missing")


def read_stack(
    connection: Connection,
    asked: Sequence[Asked],
    out: NDArray[Any] | None,
    timeout_seconds: float | None,
) -> NDArray[Any]:
    """All results in one array, in the order of `asked`; raises as `read_each` does."""
    if not asked:
        raise InvalidArgument("offsets names no box", field="offsets")
    first = asked[0]
    if first.shape is None:
        raise InvalidArgument(
            "boxes whose level or shape the server chooses do not stack: use read_each",
            field="level",
        )
    shape = (len(asked), *first.shape)
    if out is None:
        out = np.empty(shape, first.dtype)
    elif out.shape != shape or out.dtype.newbyteorder("=") != first.dtype:
        raise InvalidArgument(
            f"out is {out.dtype.name} {out.shape}, the stack {first.dtype.name} {shape}",
            field="out",
        )
    for _ in read_each(connection, asked, out, True, timeout_seconds):
        pass
    return out


def _request(
    connection: Connection, asked: Sequence[Asked], as_completed: bool
) -> read_pb2.ReadRegionsRequest:
    for read in asked:
        put_encoding(read.message, read.encoding, connection.server)
    return read_pb2.ReadRegionsRequest(
        reads=[read.message for read in asked], as_completed=as_completed
    )


def _opened(
    number: int, header: read_pb2.ReadHeader, read: Asked, out: NDArray[Any] | None
) -> _Open:
    check_header(header, read)
    shape = tuple(header.result_shape or header.shape)
    array = np.empty(shape, read.dtype) if out is None else out[number]
    return _Open(header, array, math.prod(shape))


def _wrong(what: str) -> ServerError:
    return ServerError(f"the server answered a batch with {what}", reason="MALFORMED_ANSWER")
