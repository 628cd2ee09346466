"""How does zarr-python read an image as if its OME-Zarr lay here?

Zarr asks its stores from an event loop; the calls to the server block, and are made on
the loop's threads. Which key holds what is _zarrkeys.py's to know.

Only `zarr_store` imports this module: it needs zarr.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, Protocol

from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype


class Keys(Protocol):
    """What a store is made of: see ZarrKeys. Its methods may block."""

    def get(self, key: str) -> bytes | memoryview | None:
        """What lies under a key, None where nothing does."""

    def size(self, key: str) -> int | None:
        """Its bytes."""

    def keys(self, prefix: str = "") -> Iterator[str]:
        """All keys that begin with `prefix`."""

    def children(self, prefix: str) -> Iterator[str]:
        """What lies in the directory `prefix`."""


class ImageStore(Store):
    """A store of Zarr that only reads; made by `zarr_store`. May be pickled.

    read_only: False is refused with ValueError, as is whatever would write.
    """

    supports_writes = False
    supports_deletes = False
    supports_listing = True
    # It would be out of date as soon as the image grows.
    supports_consolidated_metadata = False

    def __init__(self, keys: Keys, *, read_only: bool = True) -> None:
        if not read_only:
            raise ValueError(f"{keys} is read-only: write to an image with image.writer()")
        super().__init__(read_only=True)
        self._keys = keys

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ImageStore) and self._keys == other._keys

    def __hash__(self) -> int:
        return hash(self._keys)

    def __str__(self) -> str:
        return str(self._keys)

    def __repr__(self) -> str:
        return f"<ziggurat.ImageStore {self}>"

    def with_read_only(self, read_only: bool = False) -> Store:
        """Another store of the same image; NotImplementedError for one that writes."""
        return type(self)(self._keys) if read_only else super().with_read_only(read_only)

    def get_sync(
        self,
        key: str,
        *,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """As `get`, on this thread."""
        value = self._keys.get(key)
        if value is None:
            return None
        part = memoryview(value)[_span(byte_range, len(value))]
        return (prototype or default_buffer_prototype()).buffer.from_bytes(part)

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """The bytes under a key; a chunk is read from the server, all of it."""
        await self._ensure_open()
        return await asyncio.to_thread(
            self.get_sync, key, prototype=prototype, byte_range=byte_range
        )

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """As `get` of each, side by side."""
        return await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges))

    async def exists(self, key: str) -> bool:
        """Whether there is such a key; of a chunk, whether it is within the level."""
        return await asyncio.to_thread(self._keys.size, key) is not None

    async def getsize(self, key: str) -> int:
        """Bytes under a key, without reading pixels. Raises FileNotFoundError."""
        size = await asyncio.to_thread(self._keys.size, key)
        if size is None:
            raise FileNotFoundError(key)
        return size

    async def list(self) -> AsyncIterator[str]:
        """All keys."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """All keys that begin with `prefix`."""
        for key in await asyncio.to_thread(self._keys.keys, prefix):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """What lies in the directory `prefix`."""
        for name in await asyncio.to_thread(self._keys.children, prefix):
            yield name

    async def set(self, key: str, value: Buffer) -> None:  # noqa: ARG002
        """Raises ValueError."""
        self._check_writable()

    async def delete(self, key: str) -> None:  # noqa: ARG002
        """Raises ValueError."""
        self._check_writable()


def _span(byte_range: Any, size: int) -> slice:
    match byte_range:
        case None:
            return slice(None)
        case RangeByteRequest(start, end):
            return slice(start, end)
        case OffsetByteRequest(offset):
            return slice(offset, None)
        case SuffixByteRequest(suffix):
            return slice(max(0, size - suffix), None)
    raise ValueError(f"Unexpected byte_range, got {byte_range}.")
