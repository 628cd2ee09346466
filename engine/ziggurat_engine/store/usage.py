"""How many bytes do the files of each image take?

A store that tells of every change: before and after it the object's size is looked at, and
what differs is told, so that a write which fails half way counts as what it left. One object
has one writer at a time. Nothing is kept here, and nothing is looked at twice: the sum of what
was told since `count` is what a walk would find.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from ziggurat_engine.store.objects import ObjectInfo, ObjectReader, ObjectStore
from ziggurat_engine.vfs import Buffer

SUFFIX = ".ome.zarr"


def image_of(key: str) -> str:
    """The image that an object belongs to; labels belong to the image that they lie in."""
    segments: list[str] = []
    for segment in key.split("/"):
        segments.append(segment.removesuffix(SUFFIX))
        if segment.endswith(SUFFIX):
            break
    return "/".join(segments)


class MeteredStore:
    """An ObjectStore that tells `changed(image, bytes more)` of each change of another one."""

    def __init__(self, store: ObjectStore, changed: Callable[[str, int], None]) -> None:
        self._store = store
        self._changed = changed

    def count(self) -> None:
        """Tells of all that is there; to be called once, before anything changes."""
        for entry in self._store.walk(""):
            self._changed(image_of(entry.key), entry.size)

    def get(self, key: str) -> bytes | None:
        """See ObjectStore."""
        return self._store.get(key)

    def open(self, key: str) -> ObjectReader | None:
        """See ObjectStore."""
        return self._store.open(key)

    def put(self, key: str, parts: Iterable[Buffer]) -> int:
        """See ObjectStore."""
        with self._told(key):
            return self._store.put(key, parts)

    def delete(self, key: str) -> None:
        """See ObjectStore."""
        with self._told(key):
            self._store.delete(key)

    def walk(self, prefix: str) -> Iterator[ObjectInfo]:
        """See ObjectStore."""
        return self._store.walk(prefix)

    def names(self, prefix: str, most: int) -> set[str] | None:
        """See ObjectStore."""
        return self._store.names(prefix, most)

    def list(self, prefix: str) -> tuple[list[str], list[str]]:
        """See ObjectStore."""
        return self._store.list(prefix)

    def create_tree(self, prefix: str, objects: Mapping[str, bytes]) -> None:
        """See ObjectStore."""
        self._store.create_tree(prefix, objects)
        self._changed(image_of(prefix), sum(map(len, objects.values())))

    def delete_tree(self, prefix: str) -> None:
        """See ObjectStore."""
        before = self._tree_size(prefix)
        try:
            self._store.delete_tree(prefix)
        finally:
            self._changed(image_of(prefix), self._tree_size(prefix) - before)

    @contextmanager
    def _told(self, key: str) -> Iterator[None]:
        before = self._size(key)
        try:
            yield
        finally:
            self._changed(image_of(key), self._size(key) - before)

    def _size(self, key: str) -> int:
        reader = self._store.open(key)
        if reader is None:
            return 0
        with reader:
            return reader.size

    def _tree_size(self, prefix: str) -> int:
        return sum(entry.size for entry in self._store.walk(prefix))
