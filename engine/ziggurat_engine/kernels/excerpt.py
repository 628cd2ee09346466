"""How is a part of a chunk read from its stored frame without the rest?

A Blosc frame (see _blosc.py) is blocks that decode alone, and says where each begins. A run of
them, with a header and a table of its own, is again a Blosc frame, which whoever decodes frames
decodes. An uncompressed frame is the pixels. What cannot be cut, or is not what it should be,
is read whole: who decodes it will say what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ziggurat_engine.kernels._blosc import RAW, UNKNOWN, VERSIONS, block_of
from ziggurat_engine.kernels.codec import BLOSC_HEADER
from ziggurat_engine.spec import Blosc, Codec, Uncompressed

# Read first: with the table of most frames, and all of some.
HEAD_BYTES = 2**12
# Frames of shorter blocks are read whole: who looks for some in a long table has gained little.
LEAST_BLOCK_BYTES = 2**12
# What an uncompressed frame is taken to consist of.
PLAIN_BLOCK_BYTES = 2**15

Read: TypeAlias = Callable[[int, int], bytes]
"""(offset, how many) of stored bytes"""


class Excerpt(NamedTuple):
    """The decoded bytes start <= n < stop of a frame, as a frame of the same codec."""

    start: int
    stop: int
    frame: bytes


class _Header(NamedTuple):
    """Of a Blosc frame. length: of a block, decoded; the last one may be shorter."""

    flags: int
    itemsize: int
    length: int
    blocks: int


def block_bytes(codec: Codec, nbytes: int, itemsize: int) -> int:
    """Of what decodes alone in a frame of so many decoded bytes that we encode."""
    match codec:
        case Blosc():
            return block_of(nbytes, itemsize, codec)
        case Uncompressed():
            return PLAIN_BLOCK_BYTES
    return nbytes


def excerpt(
    read: Read, size: int, codec: Codec, nbytes: int, start: int, stop: int, unit: int
) -> Excerpt:
    """An excerpt that holds the decoded bytes start <= n < stop of a frame, and perhaps more.

    read: so many of the stored bytes, at an offset; size: how many there are. nbytes: of the
    decoded frame. unit: an excerpt begins and ends with multiples of it, as nbytes does.
    Raises what `read` raises.
    """
    if isinstance(codec, Uncompressed) and size == nbytes:
        start, stop = start // unit * unit, -(-stop // unit) * unit
        return Excerpt(start, stop, read(start, stop - start))
    head = b""
    if isinstance(codec, Blosc):
        head = read(0, min(size, HEAD_BYTES))
        header = _header(head, size, nbytes, unit)
        found = header and _blocks(read, head, size, header, nbytes, start, stop)
        if found:
            return found
    rest = size - len(head)
    return Excerpt(0, nbytes, head + read(len(head), rest) if rest else head)


def _header(head: bytes, size: int, nbytes: int, unit: int) -> _Header | None:
    """What a frame begins with, where it says that it is what it should be."""
    if len(head) < BLOSC_HEADER.size:
        return None
    *versions, flags, itemsize, raw, length, stored = BLOSC_HEADER.unpack_from(head)
    if tuple(versions) != VERSIONS or (raw, stored) != (nbytes, size) or flags & UNKNOWN:
        return None
    if length < LEAST_BLOCK_BYTES or length % unit:
        return None
    return _Header(flags, itemsize, length, -(-raw // length))


def _blocks(
    read: Read, head: bytes, size: int, header: _Header, nbytes: int, start: int, stop: int
) -> Excerpt | None:
    """A frame of the blocks that hold some decoded bytes, where it can be had without the rest."""
    # What is short is no block of its own: never a short last one alone.
    alone = header.blocks - 1 - bool(nbytes % header.length)
    first = max(0, min(start // header.length, alone))
    behind = -(-stop // header.length)
    if behind - first == header.blocks:
        return None
    start, stop = first * header.length, min(nbytes, behind * header.length)
    if header.flags & RAW:
        # Without a table.
        if BLOSC_HEADER.size + nbytes != size:
            return None
        table, data = b"", read(BLOSC_HEADER.size + start, stop - start)
    else:
        offsets = _offsets(read, head, size, header.blocks)
        wanted = offsets[first : behind + 1]
        # Whoever compressed with several threads may have laid them in any order.
        if wanted.size == 0 or np.any(wanted[1:] <= wanted[:-1]):
            return None
        begin, end = int(wanted[0]), int(wanted[-1])
        places = wanted[:-1] - begin + BLOSC_HEADER.size + 4 * (behind - first)
        table, data = places.astype("<u4").tobytes(), _piece(read, head, begin, end - begin)
    cut = BLOSC_HEADER.pack(
        *VERSIONS,
        header.flags,
        header.itemsize,
        stop - start,
        header.length,
        BLOSC_HEADER.size + len(table) + len(data),
    )
    return Excerpt(start, stop, cut + table + data)


def _offsets(read: Read, head: bytes, size: int, blocks: int) -> NDArray[np.int64]:
    """Where the blocks begin, and the last one ends if they are in order; none: nowhere."""
    table = BLOSC_HEADER.size + 4 * blocks
    if table > size:
        return np.empty(0, np.int64)
    data = _piece(read, head, BLOSC_HEADER.size, 4 * blocks)
    offsets = np.append(np.frombuffer(data, "<u4").astype(np.int64), size)
    inside = offsets.min() >= table and offsets.max() <= size
    return offsets if inside else np.empty(0, np.int64)


def _piece(read: Read, head: bytes, offset: int, nbytes: int) -> bytes:
    """Stored bytes, of which `head` was read already."""
    stop = offset + nbytes
    return head[offset:stop] if stop <= len(head) else read(offset, nbytes)
