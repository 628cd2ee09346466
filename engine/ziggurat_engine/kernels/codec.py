"""How does a chunk become the bytes of a frame, and a frame a chunk again?

The payload of every codec is the pixels in little-endian C order. A call works on
the thread that makes it and lets go of the GIL meanwhile, so that a pool of threads
scales. A frame is looked at before it is decoded: the size that its container
declares has to be the size asked for, so that a damaged header costs neither memory
nor the process.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib

import numpy as np
from numcodecs import blosc, zstd

from ziggurat_engine.errors import Corrupt, InvalidArgument
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Array, Blosc, Codec, Gzip, Uncompressed, Zstd

# c-blosc's own threads share one global context behind a lock: pools of ours would queue on it.
blosc.use_threads = False

SHUFFLES = {"none": blosc.NOSHUFFLE, "byte": blosc.SHUFFLE, "bit": blosc.BITSHUFFLE}

# version, codec version, flags, typesize, then nbytes (raw), blocksize, cbytes (whole frame)
BLOSC_HEADER = struct.Struct("<BBBBIII")
_GZIP_WINDOW = 16 + zlib.MAX_WBITS

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_DICTIONARY_ID_BYTES = (0, 1, 2, 4)


def encode(array: Array, codec: Codec) -> bytes:
    """The frame that holds `array`; shape and dtype are not part of it.

    The array is not written to, and must not change until the call returns.
    Raises InvalidArgument where the array is larger than a frame of the codec can hold.
    """
    pixels = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    match codec:
        case Blosc():
            if pixels.nbytes > blosc.MAX_BUFFERSIZE:
                raise InvalidArgument(
                    f"a chunk of {pixels.nbytes} bytes is more than the {blosc.MAX_BUFFERSIZE} "
                    "that a Blosc frame can hold",
                    field="layout.chunk_shape",
                )
            return bytes(
                blosc.compress(
                    pixels,
                    codec.compressor.encode(),
                    codec.level,
                    SHUFFLES[codec.shuffle],
                    blosc.AUTOBLOCKS,
                    pixels.itemsize,
                )
            )
        case Zstd():
            return bytes(zstd.compress(pixels, codec.level))
        case Gzip():
            # A fixed time stamp: equal pixels make equal frames.
            return gzip.compress(pixels.data, codec.level, mtime=0)
        case Uncompressed():
            return pixels.tobytes()


def blosc_frame(array: Array) -> bytes:
    """A Blosc frame that holds `array`, made quickly."""
    return encode(array, Blosc(compressor="lz4", level=1, shuffle="bit"))


def decode(frame: bytes, codec: Codec, dtype: np.dtype[np.generic], shape: Shape) -> Array:
    """The pixels that `frame` holds: a new, writable C-contiguous array of `shape`.

    dtype: in the machine's byte order, as is the result. What a Blosc frame was
    compressed with is read from the frame; of `codec` only the kind matters.
    Raises Corrupt where the frame does not decode to exactly that many pixels.
    """
    stored = dtype.newbyteorder("<")
    expected = math.prod(shape) * dtype.itemsize
    match codec:
        case Blosc():
            check_blosc(frame, expected)
            pixels = _decompressed(blosc.decompress, frame, stored, shape, "Blosc")
        case Zstd():
            _check_zstd(frame, expected)
            pixels = _decompressed(zstd.decompress, frame, stored, shape, "zstd")
        case Gzip():
            pixels = np.frombuffer(_gunzip(frame, expected), stored).reshape(shape).copy()
        case Uncompressed():
            _check_size("an uncompressed chunk", len(frame), expected)
            pixels = np.frombuffer(frame, stored).reshape(shape).copy()
    return pixels.astype(dtype, copy=False)


def _check_size(what: str, found: int, expected: int) -> None:
    if found != expected:
        raise Corrupt(f"{what} of {found} bytes where {expected} were expected")


def _decompressed(
    decompress: object, frame: bytes, dtype: np.dtype[np.generic], shape: Shape, name: str
) -> Array:
    pixels: Array = np.empty(shape, dtype)
    try:
        decompress(frame, pixels)  # type: ignore[operator]
    except (RuntimeError, ValueError) as error:
        raise Corrupt(f"a {name} frame does not decode: {error}") from error
    return pixels


def check_blosc(frame: bytes, expected: int) -> None:
    """Raises Corrupt where a Blosc frame does not declare its length and `expected` raw bytes."""
    # c-blosc trusts `cbytes` as the length of its input and `nbytes` as that of its output.
    if len(frame) < BLOSC_HEADER.size:
        raise Corrupt(f"a Blosc frame of {len(frame)} bytes is shorter than its header")
    _, _, _, _, nbytes, _, cbytes = BLOSC_HEADER.unpack_from(frame)
    if cbytes != len(frame):
        raise Corrupt(f"a Blosc frame of {len(frame)} bytes says that it has {cbytes}")
    _check_size("a Blosc frame", nbytes, expected)


def _check_zstd(frame: bytes, expected: int) -> None:
    # A frame that declares less than `expected` would leave the rest of the output unset. One
    # that declares nothing is decoded into `expected` bytes, and has to fill them.
    declared = zstd_content_size(frame)
    if declared is not None:
        _check_size("a zstd frame", declared, expected)


def zstd_content_size(frame: bytes) -> int | None:
    """What the header of a zstd frame declares (RFC 8878, 3.1.1.1), None where it does not.

    magic[4] | descriptor[1] | window[0-1] | dictionary id[0-4] | content size[0-8]
    descriptor: bits 7-6 size of the content size, bit 5 single segment (no window byte),
    bits 1-0 size of the dictionary id.
    """
    if len(frame) < 5 or not frame.startswith(_ZSTD_MAGIC):
        raise Corrupt(f"{len(frame)} bytes that do not start like a zstd frame")
    descriptor = frame[4]
    single_segment = bool(descriptor & 0x20)
    start = 5 + (not single_segment) + _ZSTD_DICTIONARY_ID_BYTES[descriptor & 3]
    length = (int(single_segment), 2, 4, 8)[descriptor >> 6]
    if len(frame) < start + length:
        raise Corrupt(f"a zstd frame of {len(frame)} bytes ends within its header")
    if length == 0:
        return None
    # The two-byte form counts from 256, as one byte reaches to 255.
    return int.from_bytes(frame[start : start + length], "little") + (256 if length == 2 else 0)


def _gunzip(frame: bytes, expected: int) -> bytes:
    member = zlib.decompressobj(_GZIP_WINDOW)
    try:
        # One byte more than expected is enough to see that there is too much.
        payload = member.decompress(frame, expected + 1)
    except zlib.error as error:
        raise Corrupt(f"a gzip member does not decode: {error}") from error
    if len(payload) > expected:
        raise Corrupt(f"a gzip member of more than the {expected} bytes that were expected")
    if not member.eof:
        raise Corrupt(f"a gzip member that breaks off behind {len(payload)} bytes")
    if member.unused_data:
        raise Corrupt(f"{len(member.unused_data)} bytes behind the end of a gzip member")
    _check_size("a gzip member", len(payload), expected)
    return payload
