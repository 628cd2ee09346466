"""Which compressed streams does a Blosc frame consist of? Or is it one for the CPU?

Frames come from files, so that nothing in them is believed: what is taken lies within the
frame, and covers all of the chunk exactly. Whatever is unusual, or damaged, is not taken;
the CPU's decoder then has it, and says what is wrong. See abi.py for the tables, and
c-blosc's README_HEADER for the bytes:

    version[1] codec version[1] flags[1] typesize[1] nbytes[4] blocksize[4] cbytes[4]
    bstarts[4 each]   blocks, each: csize[4] payload, once or once a byte of a pixel (split)
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ziggurat_engine.kernels.cuda import abi

_HEADER = struct.Struct("<BBBBIII")
_BYTE_SHUFFLE, _BIT_SHUFFLE, _UNSPLIT = 0x01, 0x04, 0x10
_BOTH_SHUFFLES = _BYTE_SHUFFLE | _BIT_SHUFFLE
_KNOWN_FLAGS = _BOTH_SHUFFLES | _UNSPLIT | 0xE0
_LZ4 = 1
# c-blosc splits blocks into one stream for each byte of a pixel, unless those get shorter.
_LEAST_STREAM_BYTES = 128


@dataclass(frozen=True, slots=True)
class Streams:
    """An LZ4 frame that a card can decode.

    table: abi.STREAM, with sources counted from the frame's and targets from the chunk's start.
    shuffle: "none", "byte" or "bit".
    """

    table: NDArray[Any]
    nbytes: int
    block_bytes: int
    typesize: int
    shuffle: str


def parse(frame: bytes, expected: int) -> Streams | None:
    """The streams of a frame that holds `expected` bytes; None where it is for the CPU."""
    if len(frame) < _HEADER.size:
        return None
    version, _, flags, typesize, nbytes, block_bytes, cbytes = _HEADER.unpack_from(frame)
    if (
        version != 2
        or flags & ~_KNOWN_FLAGS
        or flags >> 5 != _LZ4
        or flags & _BOTH_SHUFFLES == _BOTH_SHUFFLES
        or typesize not in (1, 2, 4, 8)
        or nbytes != expected
        or cbytes != len(frame)
        or not 0 < block_bytes <= nbytes
        or block_bytes % typesize
    ):
        return None
    blocks = -(-nbytes // block_bytes)
    if _HEADER.size + 4 * blocks > len(frame):
        return None
    data = np.frombuffer(frame, np.uint8)
    places = np.frombuffer(frame, "<i4", blocks, _HEADER.size).astype(np.int64)
    sizes = np.full(blocks, block_bytes, np.int64)
    sizes[-1] = nbytes - (blocks - 1) * block_bytes
    targets = np.arange(blocks, dtype=np.int64) * block_bytes
    split = not flags & _UNSPLIT and block_bytes // typesize >= _LEAST_STREAM_BYTES
    # A leftover block is never split.
    whole = blocks if sizes[-1] == block_bytes else blocks - 1
    groups = [(slice(0, whole), typesize), (slice(whole, blocks), 1)]
    parts = []
    for chosen, count in groups if split else [(slice(0, blocks), 1)]:
        at, to, size = places[chosen], targets[chosen], sizes[chosen] // count
        for part in range(count):
            table = _streams(data, at, to + part * size, size)
            if table is None:
                return None
            at = table["source"] + table["csize"]
            parts.append(table)
    shuffle = "byte" if flags & _BYTE_SHUFFLE else "bit" if flags & _BIT_SHUFFLE else "none"
    return Streams(np.concatenate(parts), nbytes, block_bytes, typesize, shuffle)


def _streams(
    data: NDArray[np.uint8],
    places: NDArray[np.int64],
    targets: NDArray[np.int64],
    sizes: NDArray[np.int64],
) -> NDArray[Any] | None:
    """The streams whose csize lies at `places`; None where one does not lie within the frame."""
    if (places < _HEADER.size).any() or (places > data.size - 4).any():
        return None
    csizes = data[places[:, None] + np.arange(4)].view("<i4")[:, 0].astype(np.int64)
    if (csizes < 1).any() or (csizes > sizes).any() or (places + 4 + csizes > data.size).any():
        return None
    table = np.empty(places.size, abi.STREAM)
    table["source"], table["csize"] = places + 4, csizes
    table["target"], table["size"] = targets, sizes
    return table
