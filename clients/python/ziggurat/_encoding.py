"""In which form do pixels travel: as they are, or as the server has stored them?

A stored chunk is smaller by its compression, and the server need not decode it. That pays
where the network is slower than decoding here. "auto" goes by the address: a server on this
machine is asked for pixels, any other for Blosc frames, if numcodecs is installed.
"""

from __future__ import annotations

import functools
import importlib.util
import ipaddress
import math
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ziggurat_proto.v1 import read_pb2

from ziggurat._errors import InvalidArgument, ServerError
from ziggurat._extras import extra

ENCODINGS = ("auto", "raw", "blosc")

# version, codec version, flags, typesize, then nbytes (raw), blocksize, cbytes (whole frame)
_HEADER = struct.Struct("<BBBBIII")


def checked_encoding(encoding: str) -> str:
    """`encoding`, if there is such a one; else InvalidArgument."""
    if encoding not in ENCODINGS:
        raise InvalidArgument(
            f"encoding must be one of {', '.join(ENCODINGS)}, got {encoding!r}", field="encoding"
        )
    return encoding


def put_encoding(message: read_pb2.ReadRequest, encoding: str, server: str) -> None:
    """Says in a request what its answer may be encoded with.

    Raises ImportError for "blosc" where numcodecs is missing.
    """
    if encoding == "blosc":
        extra("numcodecs", "_blosc", 'encoding="blosc"')
    elif encoding == "raw" or is_local(server) or not _can_decode():
        return
    message.encoding = read_pb2.ENCODING_BLOSC


@functools.lru_cache
def is_local(server: str) -> bool:
    """Whether an address, "host:port", says that the server is on this machine."""
    if server.startswith(("unix:", "unix-abstract:")):
        return True
    host = server.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def decoded(frame: memoryview, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The pixels of a Blosc frame. Raises ServerError where it does not hold just these."""
    pixels = np.empty(shape, dtype)
    # c-blosc trusts what the header says of lengths.
    if len(frame) < _HEADER.size:
        raise _wrong(f"of {len(frame)} bytes")
    *_, nbytes, _, cbytes = _HEADER.unpack_from(frame)
    if (nbytes, cbytes) != (math.prod(shape) * dtype.itemsize, len(frame)):
        raise _wrong(f"of {cbytes} bytes that holds {nbytes}, in {len(frame)} for {pixels.nbytes}")
    try:
        extra("numcodecs", "_blosc", "an encoded chunk").decompress(frame, pixels)
    except (RuntimeError, ValueError) as error:
        raise _wrong(f"that does not decode: {error}") from error
    return pixels


@functools.lru_cache
def _can_decode() -> bool:
    return importlib.util.find_spec("numcodecs") is not None


def _wrong(what: str) -> ServerError:
    return ServerError(
        f"the server answered a read with a Blosc frame {what}", reason="MALFORMED_ANSWER"
    )
