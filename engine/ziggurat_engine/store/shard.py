"""Where in a shard lies each chunk?

The index of Zarr's sharding_indexed codec as plain bytes (Zarr v3, codecs/
sharding-indexed, with index_codecs bytes(little) + crc32c and index_location "end"):

    ┌──────────────────────────────┬────────────────────────────────────┬────────────┐
    │ frames of chunks, any order, │ index: for each of n chunks, C     │ CRC-32C of │
    │ gaps are legal               │ order over the full shard shape,   │ the index  │
    │                              │ also past the array's end:         │            │
    │                              │ uint64 offset │ uint64 nbytes      │ uint32     │
    └──────────────────────────────┴────────────────────────────────────┴────────────┘
    0                              payload            16 n bytes           4 bytes

All numbers little-endian; offsets count from the first byte of the object. A chunk
that is absent has 2^64 - 1 in both.
"""

from __future__ import annotations

from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from ziggurat_engine.errors import Corrupt

ABSENT = 2**64 - 1
_CRC_BYTES = 4


def index_size(chunks: int) -> int:
    """Bytes of the index of a shard of `chunks` chunks, the checksum included."""
    return 16 * chunks + _CRC_BYTES


class ShardIndex:
    """Offset and length of each chunk of one shard, by its position in C order.

    Not to be changed once several threads see it.
    """

    __slots__ = ("_end", "_entries")

    def __init__(self, entries: NDArray[np.unsignedinteger[Any]], end: int) -> None:
        self._entries = entries
        self._end = end

    @classmethod
    def empty(cls, chunks: int) -> ShardIndex:
        """All of `chunks` absent."""
        return cls(np.full((chunks, 2), ABSENT, "<u8"), 0)

    @classmethod
    def unpack(cls, data: bytes, chunks: int, payload: int, *, what: str) -> ShardIndex:
        """The index that `data` holds, the last `index_size(chunks)` bytes of an object.

        payload: bytes of the object before the index; `what` names it in errors.
        Raises Corrupt for a wrong size or checksum, and for a chunk that is not
        within the payload.
        """
        if len(data) != index_size(chunks):
            raise Corrupt(f"{what}: its index has {len(data)} bytes, not {index_size(chunks)}")
        body, stored = data[:-_CRC_BYTES], int.from_bytes(data[-_CRC_BYTES:], "little")
        if google_crc32c.value(body) != stored:
            raise Corrupt(f"{what}: the checksum of its index does not match")
        entries = np.frombuffer(body, "<u8").reshape(chunks, 2)
        offset, nbytes = entries[:, 0], entries[:, 1]
        absent = (offset == ABSENT) & (nbytes == ABSENT)
        # offset + nbytes could wrap around; their difference from the payload can't.
        end = np.uint64(payload)
        outside = ~absent & ((offset > end) | (nbytes > end - np.minimum(offset, end)))
        if outside.any():
            position = int(outside.argmax())
            raise Corrupt(
                f"{what}: chunk {position} at {int(offset[position])},"
                f" {int(nbytes[position])} bytes, does not lie in the first {payload}"
            )
        return cls(entries, payload)

    def pack(self) -> bytes:
        """The bytes of the index as they end the object."""
        body = self._entries.tobytes()
        return body + int(google_crc32c.value(body)).to_bytes(_CRC_BYTES, "little")

    def get(self, position: int) -> tuple[int, int] | None:
        """(offset, bytes) of the chunk at `position`; None where it is absent."""
        offset, nbytes = self._entries[position].tolist()
        return None if offset == ABSENT else (offset, nbytes)

    def append(self, position: int, nbytes: int) -> None:
        """The chunk at `position` follows the ones appended before, without a gap."""
        self._entries[position] = self._end, nbytes
        self._end += nbytes

    def put(self, position: int, offset: int, nbytes: int) -> None:
        """The chunk at `position` lies at `offset`; who calls keeps spans apart."""
        self._entries[position] = offset, nbytes

    @property
    def present(self) -> int:
        """Chunks that are not absent."""
        return int(np.count_nonzero(self._entries[:, 0] != ABSENT))

    @property
    def positions(self) -> NDArray[np.int64]:
        """Which chunks are not absent, ascending."""
        return np.flatnonzero(self._entries[:, 0] != ABSENT)

    @property
    def lengths(self) -> NDArray[np.unsignedinteger[Any]]:
        """Bytes of the chunks at `positions`."""
        lengths: NDArray[np.unsignedinteger[Any]] = self._entries[self.positions, 1]
        return lengths

    @property
    def nbytes(self) -> int:
        """Memory it takes."""
        return int(self._entries.nbytes)
