"""zarr-python's own suite for stores, over the store that images are read by.

The suite writes what it then reads. An image can't hold arbitrary bytes under arbitrary
keys, so the store stands over a dictionary here, which is filled behind its back.
test_zarr_store.py reads real images.
"""

from __future__ import annotations

from typing import Any

import pytest

zarr = pytest.importorskip("zarr", reason="the extra 'zarr' is not installed")

from zarr.core.buffer import Buffer  # noqa: E402
from zarr.core.buffer.cpu import Buffer as CpuBuffer  # noqa: E402
from zarr.testing.store import StoreTests  # noqa: E402
from ziggurat._zarrkeys import ZarrKeys  # noqa: E402
from ziggurat._zarrstore import ImageStore  # noqa: E402


class DictKeys:
    """Keys and what lies under them, in the place of an image's."""

    def __init__(self, content: dict[str, bytes]) -> None:
        self.content = content

    def get(self, key):
        return self.content.get(key)

    def size(self, key):
        return len(self.content[key]) if key in self.content else None

    def keys(self, prefix=""):
        return (key for key in sorted(self.content) if key.startswith(prefix))

    def children(self, prefix):
        base = f"{prefix.rstrip('/')}/" if prefix else ""
        return iter({key[len(base) :].split("/")[0] for key in self.keys(base)})

    def __eq__(self, other):
        return isinstance(other, DictKeys) and self.content == other.content

    def __hash__(self):
        return 0


class Filled(ImageStore):
    """What the suite's `store` is: where it insists on writing by `set`, the dictionary is."""

    async def set(self, key, value):
        self._keys.content[key] = value.to_bytes()


class TestReading(StoreTests[ImageStore, CpuBuffer]):
    """All of the suite but the tests of writing."""

    store_cls = ImageStore
    buffer_cls = CpuBuffer

    @pytest.fixture
    def store_kwargs(self) -> dict[str, Any]:
        return {"keys": DictKeys({})}

    @pytest.fixture
    async def store(self, open_kwargs: dict[str, Any]) -> ImageStore:
        return await Filled.open(**open_kwargs)

    async def set(self, store: ImageStore, key: str, value: Buffer) -> None:
        store._keys.content[key] = value.to_bytes()

    async def get(self, store: ImageStore, key: str) -> Buffer:
        return self.buffer_cls.from_bytes(store._keys.content[key])

    def test_store_repr(self, store: ImageStore) -> None:
        assert "ImageStore" in repr(store)

    def test_store_supports_writes(self, store: ImageStore) -> None:
        assert not store.supports_writes
        assert not store.supports_deletes

    def test_store_supports_listing(self, store: ImageStore) -> None:
        assert store.supports_listing

    def test_store_read_only(self, store: ImageStore) -> None:
        assert store.read_only
        with pytest.raises(AttributeError):
            store.read_only = False

    @pytest.mark.parametrize("read_only", [True])
    async def test_store_open_read_only(self, open_kwargs, read_only) -> None:
        await super().test_store_open_read_only(open_kwargs, read_only)
        with pytest.raises(ValueError, match="read-only"):
            await ImageStore.open(**{**open_kwargs, "read_only": False})

    async def test_clear(self, store: ImageStore) -> None:
        with pytest.raises(NotImplementedError):
            await store.clear()

    async def test_set(self):
        """Not of a store that only reads; test_read_only_store_raises stays."""

    test_set_many = test_set_not_open = test_set_if_not_exists = test_set


class TestAnImage:
    """What of the suite needs no bytes of its own, over the store of a real image."""

    store_cls = ImageStore
    buffer_cls = CpuBuffer

    @pytest.fixture
    def store_kwargs(self, make) -> dict[str, Any]:
        image, _ = make()
        return {"keys": ZarrKeys(image)}

    open_kwargs = StoreTests.open_kwargs
    store = StoreTests.store
    test_store_type = StoreTests.test_store_type
    test_store_eq = StoreTests.test_store_eq
    test_store_context_manager = StoreTests.test_store_context_manager
    test_store_supports_partial_writes = StoreTests.test_store_supports_partial_writes
    test_read_only_store_raises = StoreTests.test_read_only_store_raises
    test_with_read_only_store = StoreTests.test_with_read_only_store
    test_getsize_raises = StoreTests.test_getsize_raises
