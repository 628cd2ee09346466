"""Which images are open, and what does the engine keep of each while it is?

An OpenImage joins what is stored (its description and its arrays) with what is derived
from it once: the recipe of each level, and a number that names the image in the
cache. A deleted image's number is never used again, so that nothing of it can be
found under an image of the same name.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from ziggurat_engine.errors import InvalidArgument, OutOfRange, ZigguratError
from ziggurat_engine.kernels.protocol import Recipe, halo
from ziggurat_engine.pyramid import Pyramid
from ziggurat_engine.region import Region, Shape
from ziggurat_engine.spec import Image
from ziggurat_engine.store.array import ChunkArray
from ziggurat_engine.store.catalog import Catalog, StoredImage


@dataclass(eq=False)
class OpenImage:
    """An image in use.

    number: names the image in the cache. fill_value: one pixel of its dtype.
    chunk_bytes: of one decoded chunk. recipes: how each level's chunks are settled.
    extent: pixels along the first axis; grows where the image is unbounded, under write_order.
    revision: tick of the last write that may have changed a pixel, or of when it was opened.
    observers: called, from any thread, after a shard of level 0 was stored; they must not
    block. write_order: held while a write is logged and merged, so that both happen in the
    same order.
    """

    number: int
    stored: StoredImage
    fill_value: np.generic
    chunk_bytes: int
    recipes: tuple[Recipe, ...]
    extent: int
    revision: int
    write_order: threading.Lock = field(default_factory=threading.Lock)
    deleted: bool = False
    observers: set[Callable[[], None]] = field(default_factory=set)

    @property
    def image(self) -> Image:
        """Its description."""
        return self.stored.image

    @property
    def pyramid(self) -> Pyramid:
        """Its levels; of an unbounded image as large as they can become: see `shape`."""
        return self.stored.pyramid

    def shape(self, level: int = 0) -> Shape:
        """Pixels of a level along each axis, as of now."""
        return (
            (self.extent, *self.pyramid.levels[level].shape[1:])
            if self.image.unbounded
            else self.pyramid.levels[level].shape
        )

    def check_box(self, level: int, region: Region) -> None:
        """InvalidArgument, OutOfRange for what is no box of `level`."""
        whole = Region.whole(self.shape(level))
        for name, numbers in (("offset", region.offset), ("shape", region.shape)):
            if len(numbers) != len(whole.shape):
                raise InvalidArgument(
                    f"{name} has {len(numbers)} numbers for {len(whole.shape)} axes", field=name
                )
        if not whole.contains(region):
            raise OutOfRange(f"box {region} reaches outside level {level}, {whole}", field="shape")

    def grow(self, region: Region) -> None:
        """Reaches from now on to the end of `region`, a region of level 0; with write_order."""
        if self.image.unbounded:
            self.extent = max(self.extent, region.stop[0])

    def lazy(self, level: int) -> bool:
        """True where the parents of what is written to `level` are made when asked for."""
        deferred = self.image.pyramid == "deferred"
        return deferred and level == 0 and self.recipes[0].factors is not None

    def halo(self, level: int) -> Shape:
        """Pixels around a block of `level` that its parents depend on, along each axis."""
        recipe = self.recipes[level]
        return halo(recipe.downsampling, recipe.factors or (1,) * len(self.image.axes))

    def around(self, region: Region, level: int) -> Region:
        """`region` of `level` with the halo that there is."""
        reach, limits = self.halo(level), self.pyramid.levels[level].shape
        if region.size == 0 or not any(reach):
            return region
        offset = tuple(max(0, o - h) for o, h in zip(region.offset, reach, strict=True))
        stop = (min(s + h, n) for s, h, n in zip(region.stop, reach, limits, strict=True))
        return Region(offset, tuple(b - a for a, b in zip(offset, stop, strict=True)))

    def below(self, region: Region, level: int, target: int) -> Region:
        """The pixels of `target` that `region` of a level above it is made from."""
        for step in range(level, target, -1):
            region = self.around(self.pyramid.project(region, step, step - 1), step - 1)
        return region

    def neighbours(self, level: int, chunks: Iterable[Shape]) -> set[Shape]:
        """The chunks of which the blocks depend on pixels of these; these among them."""
        grid = self.pyramid.levels[level].chunks
        if not any(self.halo(level)):
            return set(chunks)
        return {
            index
            for chunk in chunks
            for index in grid.indices(self.around(grid.region(chunk), level))
        }

    @property
    def arrays(self) -> tuple[ChunkArray, ...]:
        """The encoded chunks of each level."""
        return self.stored.arrays


class Images:
    """The images of one data directory. All methods may be called from any thread.

    next_tick: gives the revision of an image that is opened, above those of all images that
    had its name before.
    """

    def __init__(self, catalog: Catalog, next_tick: Callable[[], int]) -> None:
        self._catalog = catalog
        self._next_tick = next_tick
        self._lock = threading.Lock()
        self._open: dict[str, OpenImage] = {}
        self._by_number: dict[int, OpenImage] = {}
        self._numbers = itertools.count(1)

    def create(self, image: Image) -> OpenImage:
        """Makes the image; durable when it returns. AlreadyExists where the name is taken."""
        self._catalog.create(image)
        return self.open(image.name)

    def open(self, name: str) -> OpenImage:
        """The image called `name`, always the same object until it is deleted; else NotFound."""
        with self._lock:
            found = self._open.get(name)
        if found is not None:
            return found
        stored = self._catalog.load(name)
        with self._lock:
            found = self._open.get(name)
            if found is None or found.stored is not stored:
                # It may have been deleted since it was loaded.
                stored.gate.check()
                found = self._open[name] = _open(next(self._numbers), stored, self._next_tick())
                self._by_number[found.number] = found
            return found

    def numbered(self, number: int) -> OpenImage | None:
        """The open image that `number` names; None once it is deleted."""
        with self._lock:
            return self._by_number.get(number)

    def all(self) -> Iterator[OpenImage]:
        """All images, each opened if it can be."""
        for name in self.names():
            with contextlib.suppress(ZigguratError):
                yield self.open(name)

    def opened(self) -> list[OpenImage]:
        """The images that are open now."""
        with self._lock:
            return list(self._open.values())

    def names(self, prefix: str = "") -> list[str]:
        """All images at or below the path `prefix`, sorted."""
        return self._catalog.names(prefix)

    def refused(self) -> list[str]:
        """Images that lie in the data directory and can't be used, sorted."""
        return self._catalog.refused()

    def delete(self, image: OpenImage) -> None:
        """Deletes the image; durable when it returns."""
        image.deleted = True
        try:
            self._catalog.delete(image.image.name)
        except BaseException:
            image.deleted = False
            raise
        with self._lock:
            self._by_number.pop(image.number, None)
            if self._open.get(image.image.name) is image:
                del self._open[image.image.name]


def _open(number: int, stored: StoredImage, revision: int) -> OpenImage:
    image = stored.image
    fill_value: np.generic = image.dtype.type(image.fill_value)
    steps = (*image.layout.factors, None)
    recipes = tuple(
        Recipe(image.layout.codec, fill_value, factors, image.downsampling) for factors in steps
    )
    chunk_bytes = image.dtype.itemsize * math.prod(image.layout.chunk_shape)
    return OpenImage(number, stored, fill_value, chunk_bytes, recipes, image.shape[0], revision)
