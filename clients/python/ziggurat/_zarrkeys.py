"""What lies under each key where an image is read as if it were a directory of Zarr?

    zarr.json         the group: multiscales, axes, scales, channels
    0/zarr.json       the array of level 0
    0/c/0/3/1         one of its chunks: chunk (0, 3, 1), raw pixels

Nothing is kept but the last description of the image. Documents are asked for anew each
time. A chunk is one read of its box; what of it lies beyond the level is fill value, as
Zarr wants it. Every chunk of a level is there, written or not.

An image that grows along t is as long as its last document said, or longer: a chunk that
reaches beyond what is known here is looked up again. One that was deleted has no
documents, and reading its chunks is an error: an absent chunk would be fill value. One
that was made anew under its name counts as deleted once a document is asked for.

Zarr itself is not needed for this; _zarrstore.py makes a store of it.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from ziggurat._errors import NotFound
from ziggurat._image import Image
from ziggurat._ngff import array_document, group_document
from ziggurat._values import Shape

_DOCUMENT = "zarr.json"
_NUMBER = r"(?:0|[1-9]\d*)"
_KEY = re.compile(
    rf"(?:(?P<level>{_NUMBER})/)?(?:{re.escape(_DOCUMENT)}|c(?P<index>(?:/{_NUMBER})+))"
)


class ZarrKeys:
    """The keys of one image; any thread may call any method.

    exact: chunks above level 0 are made exact before they are read; else they may be
        behind writes that were just acknowledged.

    Each method may ask the server, and raises what a read or a look at the image raises;
    NotFound only for chunks.
    """

    def __init__(self, image: Image, *, exact: bool = False) -> None:
        # Never refreshed in place: a method works with one look at the image.
        self._image = copy.copy(image)
        self._exact = exact

    def get(self, key: str) -> bytes | memoryview | None:
        """What lies there; None where there is no such key."""
        found = _KEY.fullmatch(key)
        if found is None:
            return None
        level = None if found["level"] is None else int(found["level"])
        if found["index"] is None:
            return self._document(level)
        return None if level is None else self._chunk(level, _numbers(found["index"]))

    def size(self, key: str) -> int | None:
        """How many bytes `get` would give, without reading pixels."""
        found = _KEY.fullmatch(key)
        if found is None or found["index"] is None:
            document = self.get(key)
            return None if document is None else len(document)
        if found["level"] is None:
            return None
        there = self._place(int(found["level"]), _numbers(found["index"]))
        if there is None:
            return None
        image, _ = there
        return math.prod(image.chunks) * image.dtype.itemsize

    def keys(self, prefix: str = "") -> Iterator[str]:
        """All keys that begin with `prefix`: documents, then chunks, level by level.

        The server is asked before it returns, not while the result is drawn.
        """
        image = self._look()
        if image is None:
            return iter(())
        found = itertools.chain((_DOCUMENT,), *(_level_keys(image, k, prefix) for k in _all(image)))
        return (key for key in found if key.startswith(prefix))

    def children(self, prefix: str) -> Iterator[str]:
        """The next part of every key below the directory `prefix`, each once."""
        image = self._look()
        parts = [part for part in prefix.split("/") if part]
        if image is None:
            return iter(())
        if not parts:
            return iter((_DOCUMENT, *map(str, _all(image))))
        if parts[0] not in map(str, _all(image)) or parts[1:2] not in ([], ["c"]):
            return iter(())
        if len(parts) == 1:
            return iter((_DOCUMENT, "c"))
        grid, index = _grid(image, int(parts[0])), parts[2:]
        inside = len(index) < len(grid) and all(
            re.fullmatch(_NUMBER, part) and int(part) < size
            for part, size in zip(index, grid, strict=False)
        )
        return map(str, range(grid[len(index)])) if inside else iter(())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ZarrKeys) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __str__(self) -> str:
        return f"ziggurat://{self._image.server}/{self._image.name}"

    def _identity(self) -> tuple[object, ...]:
        return self._image.server, self._image.name, self._image.created, self._exact

    def _look(self) -> Image | None:
        """The image as it is now; None where it is gone, or another is in its place."""
        try:
            now = copy.copy(self._image).refresh()
        except NotFound:
            return None
        if _same_grid(now) != _same_grid(self._image):
            return None
        self._image = now
        return now

    def _document(self, level: int | None) -> bytes | None:
        image = self._look()
        if image is None or (level is not None and level not in _all(image)):
            return None
        document = group_document(image) if level is None else array_document(image, level)
        return json.dumps(document).encode()

    def _chunk(self, level: int, index: Shape) -> memoryview | None:
        there = self._place(level, index)
        if there is None:
            return None
        image, offset = there
        sizes = image.levels[level].shape
        inside = tuple(min(c, n - o) for o, c, n in zip(offset, image.chunks, sizes, strict=True))
        pixels: Any = np.full(image.chunks, image.fill_value, image.dtype.newbyteorder("<"))
        box = pixels[tuple(slice(n) for n in inside)]
        image.read(offset=offset, shape=inside, level=level, exact=self._exact, out=box)
        return memoryview(pixels.reshape(-1).view(np.uint8))

    def _place(self, level: int, index: Shape) -> tuple[Image, Shape] | None:
        """The image and the chunk's first pixel; None where the grid has no such chunk."""
        image = self._image
        if level not in _all(image) or len(index) != image.ndim:
            return None
        offset = tuple(i * c for i, c in zip(index, image.chunks, strict=True))
        if image.unbounded and offset[0] + image.chunks[0] > image.shape[0]:
            look = self._look()
            if look is None:
                raise NotFound(f"{self} is gone", details={"image": image.name})
            image = look
        if any(o >= n for o, n in zip(offset, image.levels[level].shape, strict=True)):
            return None
        return image, offset


def _all(image: Image) -> range:
    return range(len(image.levels))


def _grid(image: Image, level: int) -> Shape:
    """Chunks along each axis."""
    return tuple(-(-n // c) for n, c in zip(image.levels[level].shape, image.chunks, strict=True))


def _level_keys(image: Image, level: int, prefix: str) -> Iterator[str]:
    # Level 0 alone may have millions: none are made that can't begin with the prefix.
    if not prefix.startswith(f"{level}/") and not f"{level}/".startswith(prefix):
        return
    yield f"{level}/{_DOCUMENT}"
    for index in itertools.product(*map(range, _grid(image, level))):
        yield f"{level}/c/{'/'.join(map(str, index))}"


def _numbers(index: str) -> Shape:
    """(0, 3) of "/0/3"."""
    return tuple(map(int, index.split("/")[1:]))


def _same_grid(image: Image) -> tuple[object, ...]:
    """What never changes of an image."""
    grown = 1 if image.unbounded else 0
    return image.created, image.axes, image.dtype, image.layout, image.shape[grown:]
