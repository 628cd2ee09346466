"""How is a part of a chunk read from its stored frame without the rest?

A Blosc frame (see _blosc.py) is blocks that decode alone, and says where each begins. A run of
them, with a header and a table of its own, is again a Blosc frame, which whoever decodes frames
decodes. An uncompressed frame is the pixels. What cannot be cut, or is not what it should be,
is read whole: who decodes it will say what is wrong with it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from ziggurat_engine.kernels.codec import BLOSC_HEADER
from ziggurat_engine.spec import Blosc, Codec, Uncompressed

_RAW, _UNKNOWN = 2, 8
_VERSIONS = (2, 1)
# Read first: with the table of most frames.
HEAD_BYTES = 1024

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


def cuttable(codec: Codec) -> bool:
    """Whether frames of a codec may have excerpts that are shorter than they are."""
    return isinstance(codec, Blosc | Uncompressed)


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
    if isinstance(codec, Blosc):
        head = read(0, min(size, HEAD_BYTES))
        header = _header(head, size, nbytes, unit)
        found = header and _blocks(read, head, size, header, nbytes, start, stop)
        if found:
            return found
    return Excerpt(0, nbytes, read(0, size))


def _header(head: bytes, size: int, nbytes: int, unit: int) -> _Header | None:
    """What a frame begins with, where it says that it is what it should be."""
    if len(head) < BLOSC_HEADER.size:
        return None
    *versions, flags, itemsize, raw, length, stored = BLOSC_HEADER.unpack_from(head)
    if tuple(versions) != _VERSIONS or (raw, stored) != (nbytes, size) or flags & _UNKNOWN:
        return None
    return (
        None
        if length == 0 or length % unit
        else _Header(flags, itemsize, length, -(-raw // length))
    )


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
    if header.flags & _RAW:
        # Without a table.
        if BLOSC_HEADER.size + nbytes != size:
            return None
        table, data = b"", read(BLOSC_HEADER.size + start, stop - start)
    else:
        offsets, end = _offsets(read, head, size, header.blocks, first, behind)
        if not offsets:
            return None
        moved = BLOSC_HEADER.size + 4 * len(offsets) - offsets[0]
        table = struct.pack(f"<{len(offsets)}I", *(offset + moved for offset in offsets))
        data = read(offsets[0], end - offsets[0])
    cut = BLOSC_HEADER.pack(
        *_VERSIONS,
        header.flags,
        header.itemsize,
        stop - start,
        header.length,
        BLOSC_HEADER.size + len(table) + len(data),
    )
    return Excerpt(start, stop, cut + table + data)


def _offsets(
    read: Read, head: bytes, size: int, blocks: int, first: int, behind: int
) -> tuple[tuple[int, ...], int]:
    """Where some blocks begin and the last of them ends; none where they are not in order.

    Whoever compressed with several threads may have laid them in any order.
    """
    end = BLOSC_HEADER.size + 4 * blocks
    if end > size:
        return (), 0
    if end > len(head):
        head += read(len(head), end - len(head))
    starts = struct.unpack_from(f"<{blocks}I", head, BLOSC_HEADER.size)
    offsets = starts[first:behind]
    after = min((start for start in starts if start > offsets[-1]), default=size)
    ordered = all(map(int.__lt__, offsets, offsets[1:]))
    return (offsets, after) if ordered and offsets[0] >= end and after <= size else ((), 0)
