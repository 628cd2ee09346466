"""Which images are open, and what does the engine keep of each while it is?

An OpenImage joins what is stored (its description and its arrays) with what is derived
from it once: the recipe of each level, and the numbers that name it in the cache. A
number is never used again, so that nothing of a deleted image can be found under an
image of the same name, and nothing of a level under one that replaced it.

It never changes: an image of which the levels are replaced is another OpenImage from then
on. What they share is their Base: level 0, and who writes to it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from ziggurat_engine.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    ZigguratError,
)
from ziggurat_engine.kernels.excerpt import block_bytes
from ziggurat_engine.kernels.protocol import Recipe, halo
from ziggurat_engine.locks import SharedLock
from ziggurat_engine.pyramid import Pyramid
from ziggurat_engine.region import Region, Shape
from ziggurat_engine.spec import Image
from ziggurat_engine.store.adopted import check_there
from ziggurat_engine.store.array import ChunkArray, StoredSize
from ziggurat_engine.store.catalog import Catalog, StoredImage
from ziggurat_engine.store.handles import ShardHandles

if TYPE_CHECKING:
    from ziggurat_engine.foreign.levels import ForeignLevels

# Of a chunk of at least so many bytes only what is wanted is decoded, up to this share of it. So
# that share is the most that is decoded twice.
PART = 1 / 2
LEAST_CUT_BYTES = 2**16


@dataclass(eq=False)
class Base:
    """What an image is whichever method makes its levels: level 0, and who writes to it.

    number: names level 0 in the cache.
    extent: pixels along the first axis; grows where the image is unbounded, under write_order.
    foreign: what reads and measures its levels where it is adopted.
    revision: tick of the last write that may have changed a pixel, or of when it was opened.
    observers: called, from any thread, after a shard of level 0 was stored; they must not
    block. write_order: held while a write is logged and merged, so that both happen in the
    same order.

    deleted: it takes no more writes, since it is being deleted or is. gone: it is. deleting:
    held by whoever deletes it.

    now: with the levels that readers see. next: with those that another method is making
    (remake.py), None where none is. storing: shared while a shard of level 0 is stored and
    its blocks are merged; whoever is alone may change `now` and `next`. changing: held by
    whoever changes the method, to `method`. removing: removes levels that were replaced, once
    nobody reads them; no other change begins before. unmerged: the log holds writes to it
    that reads do not see, until the next start.
    """

    number: int
    extent: int
    revision: int
    foreign: ForeignLevels | None = None
    write_order: threading.Lock = field(default_factory=threading.Lock)
    deleted: bool = False
    gone: bool = False
    deleting: threading.Lock = field(default_factory=threading.Lock)
    observers: set[Callable[[], None]] = field(default_factory=set)
    storing: SharedLock = field(default_factory=SharedLock)
    changing: threading.Lock = field(default_factory=threading.Lock)
    method: str | None = None
    removing: threading.Thread | None = None
    unmerged: bool = False
    now: OpenImage = field(init=False)
    next: OpenImage | None = None
    _renewing: threading.Lock = field(default_factory=threading.Lock)

    def renew(self, tick: int) -> None:
        """The revision is at least `tick`; it never falls."""
        with self._renewing:
            self.revision = max(self.revision, tick)

    @property
    def numbers(self) -> set[int]:
        """All that name something of the image in the cache."""
        return {n for image in (self.now, self.next) if image for n in (image.lower, image.upper)}


@dataclass(frozen=True, eq=False)
class OpenImage:
    """An image in use, with the levels that one method makes.

    lower, upper: name what is dirty, touched and deferred of level 0, and of the levels above.
    Levels that replace others have an `upper` of their own, and before that a `lower`, since
    what is to be made of level 0 for them differs.
    fill_value: one pixel of its dtype. chunk_bytes: of one decoded chunk. recipes: how each
    level's chunks are settled. reading: shared by who reads the levels.
    """

    base: Base
    lower: int
    upper: int
    stored: StoredImage
    fill_value: np.generic
    chunk_bytes: int
    recipes: tuple[Recipe, ...]
    reading: SharedLock = field(default_factory=SharedLock)

    @functools.cached_property
    def part_pixels(self) -> int:
        """So many of a chunk are decoded without the rest of it, if no more are wanted."""
        if self.reader is not None or self.chunk_bytes < LEAST_CUT_BYTES:
            return 0
        return int(PART * self.chunk_bytes) // self.image.dtype.itemsize

    @functools.cached_property
    def block_pixels(self) -> int:
        """So many pixels of a chunk decode without the rest; all of them: it decodes whole."""
        codec, itemsize = self.image.layout.codec, self.image.dtype.itemsize
        pixels = self.chunk_bytes // itemsize
        if not self.part_pixels:
            return pixels
        return block_bytes(codec, self.chunk_bytes, itemsize) // itemsize or pixels

    @property
    def number(self) -> int:
        """Names the image: the same whatever makes its levels."""
        return self.base.number

    @property
    def foreign(self) -> ForeignLevels | None:
        """What reads and measures its levels where it is adopted."""
        return self.base.foreign

    @property
    def reader(self) -> ForeignLevels | None:
        """What reads its chunks as others wrote them; None: they are read as our own."""
        return self.foreign if self.image.read_only else None

    @property
    def now(self) -> OpenImage:
        """The image with the levels that readers see."""
        return self.base.now

    def steady(self) -> Iterator[OpenImage]:
        """The image as it is now; again where its levels were replaced while that was used."""
        while True:
            now = self.base.now
            yield now
            if self.base.now is now:
                return

    def number_of(self, level: int) -> int:
        """Names what is dirty, touched or deferred of `level`."""
        return self.upper if level else self.lower

    def pixels_number(self, level: int) -> int:
        """Names the stored pixels of `level`."""
        return self.upper if level else self.base.number

    def noted(self, level: int) -> int:
        """How the state database counts `level` in its notes: by the array they make stale."""
        return self.image.first_array - 1 + level

    @property
    def noted_levels(self) -> range:
        """All that `noted` may be."""
        return range(self.noted(0), self.noted(len(self.recipes) - 1))

    @property
    def image(self) -> Image:
        """Its description."""
        return self.stored.image

    @property
    def pyramid(self) -> Pyramid:
        """Its levels; of an unbounded image as large as they can become: see `shape`."""
        return self.stored.pyramid

    def check_there(self) -> None:
        """OSError, with the path, where the image is adopted and not where it was."""
        if self.image.adopted is None:
            return
        check_there(self.image.adopted)
        if self.base.unmerged:
            raise OSError(
                errno.EAGAIN,
                "the log holds writes to it that memory does not: start the server again",
                self.image.adopted.path,
            )

    def check_writable(self) -> None:
        """FailedPrecondition where the image is adopted read-only."""
        if self.image.adopted is not None and self.image.read_only:
            raise FailedPrecondition(
                f"image {self.image.name!r} is adopted read-only, from {self.image.adopted.path}"
            )

    def check_taken(self) -> None:
        """NotFound where the image is deleted, or about to be."""
        if self.base.deleted:
            raise NotFound(f"image {self.image.name!r} was deleted", field="open.image")

    def measure(self, level: int) -> StoredSize:
        """What is stored of a level; raises as ChunkArray.measure and ForeignLevels do."""
        return self.arrays[level].measure() if self.foreign is None else self.foreign.measure(level)

    def shape(self, level: int = 0) -> Shape:
        """Pixels of a level along each axis, as of now."""
        return (
            (self.base.extent, *self.pyramid.levels[level].shape[1:])
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
            self.base.extent = max(self.base.extent, region.stop[0])

    def lazy(self, level: int) -> bool:
        """True where the parents of what is written to `level` are made when asked for."""
        deferred = self.image.pyramid == "deferred" or self.lower != self.base.number
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
        """The encoded chunks of each level; none where the image is read-only."""
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
            if found is None or found.stored.gate is not stored.gate:
                # It may have been deleted since it was loaded.
                stored.gate.check()
                base = Base(next(self._numbers), stored.image.shape[0], self._next_tick())
                base.foreign = _foreign(stored, self._catalog.handles)
                found = _open(base, base.number, next(self._numbers), stored)
                self._publish(found)
            return found

    def numbered(self, number: int) -> OpenImage | None:
        """The open image that `number` names; None once it, or its levels, are deleted."""
        with self._lock:
            return self._by_number.get(number)

    def add_next(self, image: OpenImage, stored: StoredImage) -> OpenImage:
        """Gives `image` levels that another method is to make: from now on they follow writes.

        NotFound where it is deleted. Waits for what is being stored of level 0.
        """
        number = next(self._numbers)
        found = _open(image.base, number, number, stored)
        with image.base.storing.alone(), self._lock:
            stored.gate.check()
            image.base.next = self._by_number[number] = found
        return found

    def publish_next(self, image: OpenImage) -> OpenImage:
        """Makes what is `next` of `image` its levels; to be called alone in `storing`."""
        waiting = image.base.next
        assert waiting is not None
        with self._lock:
            found = replace(waiting, lower=image.number)
            # Also where it is being deleted: that may fail, and the document names them.
            if not image.base.gone:
                image.base.next = None
                self._publish(found)
            return found

    def renew(self, image: OpenImage) -> None:
        """Pixels of `image` changed, or are to, though nobody wrote: it has a new revision."""
        # Beside a write one of the two numbers may win: both are above all that were told.
        image.base.renew(self._next_tick())

    def drop_levels(self, image: OpenImage) -> None:
        """The levels above level 0 of `image`, which nobody looks for any more, are forgotten."""
        with self._lock:
            if image.base.next is image:
                image.base.next = None
            self._by_number.pop(image.upper, None)

    def _publish(self, image: OpenImage) -> None:
        image.base.now = self._open[image.image.name] = image
        self._by_number[image.lower] = self._by_number[image.upper] = image

    def with_uid(self, uid: str) -> OpenImage | None:
        """The image with this uid; None where there is none, or it can't be used."""
        name = self._catalog.name_of(uid)
        if name is not None:
            with contextlib.suppress(ZigguratError):
                found = self.open(name)
                return found if found.image.uid == uid else None
        return None

    def opened(self) -> list[OpenImage]:
        """The images that are open now, with all levels that they have."""
        with self._lock:
            return list(dict.fromkeys(self._by_number.values()))

    def names(self, prefix: str = "") -> list[str]:
        """All images at or below the path `prefix`, sorted."""
        return self._catalog.names(prefix)

    def refused(self) -> list[str]:
        """Images that lie in the data directory and can't be used, sorted."""
        return self._catalog.refused()

    def delete(self, image: OpenImage) -> None:
        """Deletes the image; durable when it returns. After an error it is `gone` or whole."""
        try:
            self._catalog.delete(image.image.name)
        finally:
            if not image.stored.gate.is_open:
                self._drop(image)

    def _drop(self, image: OpenImage) -> None:
        base = image.base
        with self._lock:
            base.gone = True
            for number in [n for n, found in self._by_number.items() if found.base is base]:
                del self._by_number[number]
            if self._open.get(image.image.name) is base.now:
                del self._open[image.image.name]
        if image.foreign is not None:
            image.foreign.close()


def _open(base: Base, lower: int, upper: int, stored: StoredImage) -> OpenImage:
    image = stored.image
    fill_value: np.generic = image.dtype.type(image.fill_value)
    steps = (*image.layout.factors, None)
    recipes = tuple(
        Recipe(image.layout.codec, fill_value, factors, image.downsampling) for factors in steps
    )
    chunk_bytes = image.dtype.itemsize * math.prod(image.layout.chunk_shape)
    return OpenImage(base, lower, upper, stored, fill_value, chunk_bytes, recipes)


def _foreign(stored: StoredImage, handles: ShardHandles) -> ForeignLevels | None:
    image = stored.image
    if image.adopted is None:
        return None
    # Half a second of imports that only adopted images need.
    from ziggurat_engine.foreign.levels import ForeignLevels

    return ForeignLevels(image, image.adopted, handles, stored.gate.check)
