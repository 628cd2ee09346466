"""What does a chunk hold right now, whatever state it is in?

The only part that knows all the places a pixel may be: dirty in the cache, settling,
clean in the cache, encoded in the store, or nowhere yet and thus the fill value. The
newest wins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from ziggurat_engine.cache import (
    ChunkKey,
    CleanChunks,
    DirtyChunk,
    DirtyDirectory,
    DirtyShard,
    Extent,
    Extents,
    Pixels,
    ShardKey,
    Stretch,
)
from ziggurat_engine.errors import Corrupt, DataError
from ziggurat_engine.images import OpenImage
from ziggurat_engine.kernels import codec
from ziggurat_engine.kernels.excerpt import Excerpt, excerpt
from ziggurat_engine.kernels.protocol import Kernels
from ziggurat_engine.measures import Measures
from ziggurat_engine.region import Region, Shape
from ziggurat_engine.scatter import address_of, dense_rows, gather
from ziggurat_engine.spans import span
from ziggurat_engine.spec import Array
from ziggurat_engine.store.array import StoredFrame

# Fewer chunks are looked at one by one.
WORTH_ASKING = 16
# A bound on memory: of more that are there, each is looked at as any other.
MOST_AMONG = 2**16


@dataclass(frozen=True, slots=True)
class Fetched:
    """Frames of a level that were read together; of use while `changes` is what it was."""

    frames: dict[Shape, memoryview]
    changes: int


class Chunks:
    """Sees chunks through the cache. All methods may be called from any thread."""

    def __init__(
        self, clean: CleanChunks, dirty: DirtyDirectory, kernels: Kernels, measures: Measures
    ) -> None:
        self._clean = clean
        self._dirty = dirty
        self._kernels = kernels
        self._measures = measures

    def stored(
        self, image: OpenImage, level: int, chunk: Shape, fetched: Fetched | None = None
    ) -> Array | None:
        """The chunk as the store has it; None where it is absent. Not to be written to."""
        key = ChunkKey(image.pixels_number(level), level, chunk)
        return self._clean.get_or_load(key, lambda: self._counted(image, level, chunk, fetched))

    def fetch(
        self, image: OpenImage, level: int, chunks: Iterable[Shape], extents: Extents | None = None
    ) -> Fetched | None:
        """Reads frames of those of `chunks` that lie beside each other, but decodes none.

        For `paste` by the same call soon after, with the same `extents`: who else wants one of
        them does not wait.
        """
        if image.reader is not None:
            return None
        changes = self._clean.changes(image.pixels_number(level), level)
        away = [
            at
            for at in chunks
            if _thin(image, at, extents) is None and not self.at_hand(image, level, at)
        ]
        if len(away) < 2:
            return None
        with self._counting_errors():
            return Fetched(image.arrays[level].read_joined(away), changes)

    def among(
        self,
        image: OpenImage,
        level: int,
        cells: Sequence[Collection[int]],
        check: Callable[[], None],
    ) -> list[Shape] | None:
        """Of many chunks those that may hold anything but fill value; None: all may.

        cells: their indices along each axis, each with each. What `paste` would see of a write
        that was acknowledged before the call is in them. check: as of ChunkArray.among.
        """
        total = math.prod(map(len, cells))
        if total < WORTH_ASKING or image.reader is not None:
            return None
        most = min(total // 2, MOST_AMONG)
        shards = image.pyramid.levels[level].shards_of(cells)
        # In this order: what is dirty goes from there once it is stored.
        found = {
            at
            for shard in self._dirty.among(image.number_of(level), level, shards)
            for at in shard.indices()
            if all(i in axis for i, axis in zip(at, cells, strict=True))
        }
        with self._counting_errors():
            stored = image.arrays[level].among(cells, most, check)
        if stored is None or len(found | stored) > most:
            return None
        return sorted(found | stored)

    def load_ahead(self, image: OpenImage, level: int, at: Shape) -> None:
        """Loads a chunk for whoever may ask for it; nothing where memory has newer pixels."""
        if not self.held(image, level, at):
            key = ChunkKey(image.pixels_number(level), level, at)
            self._clean.load_ahead(key, lambda: self._counted(image, level, at))

    def at_hand(self, image: OpenImage, level: int, at: Shape) -> bool:
        """Whether `paste` would, as of now, wait neither for the disk nor for a codec."""
        shard = self._shard(image, level, at)
        if shard is not None:
            with shard.lock:
                chunk, older = shard.chunks.get(at), shard.settling.get(at)
                if chunk is not None or older is not None:
                    return older is not None or (chunk is not None and chunk.complete)
        return ChunkKey(image.pixels_number(level), level, at) in self._clean

    def view(
        self,
        image: OpenImage,
        level: int,
        at: Shape,
        source: tuple[slice, ...],
        extents: Extents | None = None,
    ) -> Array | None:
        """The pixels `source` of a chunk as `paste` would copy them, not to be written to.

        None where nobody may hold them without a copy: those of memory change, and absent
        ones are nowhere.
        """
        if self.held(image, level, at):
            return None
        return self._part(image, level, at, source, extents)

    def paste(
        self,
        image: OpenImage,
        level: int,
        at: Shape,
        source: tuple[slice, ...],
        target: Array,
        fetched: Fetched | None = None,
        extents: Extents | None = None,
    ) -> None:
        """Copies the pixels `source` of the chunk `at` to `target`, an array of their shape.

        extents: what the caller wants of chunks; of this one at least `source`. The rest of it
        need not be decoded now; None: it may be wanted soon.

        Sees all of a region whose write was acknowledged before the call; of one that
        is being written it may see some.
        """
        shard = self._shard(image, level, at)
        base: tuple[object, Array | None] | None = None
        while shard is not None:
            with shard.lock:
                chunk = shard.chunks.get(at)
                older = shard.settling.get(at)
                if chunk is None:
                    break
                if not chunk.complete and older is not None:
                    chunk.finish(older.data)
                if not chunk.complete and base is not None and base[0] is chunk:
                    chunk.finish(image.fill_value if base[1] is None else base[1])
                if chunk.complete:
                    target[...] = chunk.data[source]
                    return
            # Its base is loaded without the lock: others may go on writing. While the
            # chunk stays dirty nobody replaces what is stored below it.
            base = (chunk, self.stored(image, level, at, fetched))
        else:
            older = None
        if older is not None:
            found: Array | None = older.data[source]
        else:
            found = self._part(image, level, at, source, extents, fetched)
        target[...] = image.fill_value if found is None else found

    def gather(self, image: OpenImage, level: int, region: Region, target: Array) -> list[Shape]:
        """Copies all of a box that decoded chunks hold to `target`; the chunks that it left out.

        Of the others `paste` would copy the same. One loop for all of them, without the
        interpreter's lock.
        """
        grid, number = image.pyramid.levels[level].chunks, image.pixels_number(level)
        wanted = list(grid.indices(region))
        if not dense_rows(target) or target.dtype != image.image.dtype:
            return wanted
        # First: what is dirty goes from there once it is stored.
        held: Collection[Shape] = ()
        if self.writes(image, level):
            held = {at for at in wanted if self._shard(image, level, at) is not None}
        clean = [at for at in wanted if at not in held]
        keys = [ChunkKey(number, level, at) for at in clean]
        kept = self._clean.use_all(keys, Extents(grid.cell, region))
        # As long as its pixels are copied: who holds them.
        found = {
            at: (address, pixels)
            for at, pixels in zip(clean, kept, strict=True)
            if (address := _address(pixels, grid.cell, target.dtype))
        }
        if not found:
            return wanted
        addresses = [found[at][0] if at in found else 0 for at in wanted]
        first = tuple(o % c for o, c in zip(region.offset, grid.cell, strict=True))
        gather(addresses, first, grid.cell, target)
        return [at for at in wanted if at not in found]

    def paste_at_hand(
        self, image: OpenImage, level: int, at: Shape, source: tuple[slice, ...], target: Array
    ) -> bool:
        """As `paste` where that would wait for nothing (see `at_hand`); else False."""
        if self._shard(image, level, at) is not None:
            at_hand = self.at_hand(image, level, at)
            if at_hand:
                self.paste(image, level, at, source, target)
            return at_hand
        cell = image.image.layout.chunk_shape
        offset = tuple(part.start for part in source)
        box = Region(offset, tuple(p.stop - o for p, o in zip(source, offset, strict=True)))
        extent = Extents(cell, box).of((0,) * len(cell))
        found = self._clean.use(ChunkKey(image.pixels_number(level), level, at), extent)
        if found is not None:
            target[...] = _taken(found, cell, source)
        return found is not None

    def decoded_bytes(self, image: OpenImage, at: Shape, extents: Extents) -> int:
        """About how many `paste` decodes of a chunk that is not at hand."""
        extent = _thin(image, at, extents)
        return image.chunk_bytes if extent is None else extent.size * image.image.dtype.itemsize

    def writes(self, image: OpenImage, level: int) -> bool:
        """Whether memory may have newer pixels of a level than the store."""
        return self._dirty.holds(image.number_of(level), level)

    def frame(self, image: OpenImage, level: int, at: Shape) -> bytes | None:
        """A whole chunk as a Blosc frame, of what `paste` would copy; None where memory is newer.

        For images with that codec, of our own layout. Of an absent chunk a frame of fill value.
        """
        if self.held(image, level, at):
            return None
        with self._counting_errors():
            frame = image.arrays[level].read(at)
        if frame is None:
            shape = image.image.layout.chunk_shape
            return codec.blosc_frame(np.full(shape, image.fill_value))
        try:
            with self._counting_errors():
                codec.check_blosc(frame, image.chunk_bytes)
        except Corrupt as error:
            raise _named(error, image, level, at) from error
        return frame

    def whole(self, image: OpenImage, level: int, chunk: Shape) -> Array | None:
        """A chunk as a read would see it; None where all of it is fill value.

        The array is not to be written to.
        """
        if self.held(image, level, chunk):
            grid = image.pyramid.levels[level].chunks
            out = np.full(grid.cell, image.fill_value)
            inside = Region.whole(grid.region(chunk).shape).slices()
            self.paste(image, level, chunk, inside, out[inside])
            return out
        return self.stored(image, level, chunk)

    def freeze(
        self, image: OpenImage, shard: DirtyShard
    ) -> tuple[dict[Shape, DirtyChunk], set[Shape]]:
        """Completes all chunks that are dirty, and makes them settling. For the shard's owner.

        Returns as DirtyShard.freeze does.
        """
        with shard.lock:
            bare = [index for index, chunk in shard.chunks.items() if not chunk.complete]
        # One base at a time: all of them could be as large as the shard.
        for index in bare:
            base = self.stored(image, shard.key.level, index)
            with shard.lock:
                shard.chunks[index].finish(image.fill_value if base is None else base)
        with shard.lock:
            for index, chunk in shard.chunks.items():
                if not chunk.complete:
                    # Made dirty since: rare, so that loading it under the lock is cheaper than
                    # going round again, which a busy writer could keep up forever.
                    base = self.stored(image, shard.key.level, index)
                    chunk.finish(image.fill_value if base is None else base)
            return shard.freeze()

    def held(self, image: OpenImage, level: int, chunk: Shape) -> bool:
        """Whether pixels of it are dirty or settling."""
        shard = self._shard(image, level, chunk)
        if shard is None:
            return False
        with shard.lock:
            return chunk in shard.chunks or chunk in shard.settling

    def _part(
        self,
        image: OpenImage,
        level: int,
        at: Shape,
        source: tuple[slice, ...],
        extents: Extents | None,
        fetched: Fetched | None = None,
    ) -> Array | None:
        """The pixels `source` of a chunk as the store has it; see `stored`, and `paste`."""
        extent = _thin(image, at, extents)
        if extent is None:
            array = self.stored(image, level, at, fetched)
            return None if array is None else array[source]
        found = self._clean.get_or_load_part(
            ChunkKey(image.pixels_number(level), level, at),
            extent,
            image.part_pixels,
            lambda: self._load_part(image, level, at, extent),
            lambda: self._counted(image, level, at, fetched),
        )
        return None if found is None else _taken(found, image.image.layout.chunk_shape, source)

    def _load_part(self, image: OpenImage, level: int, at: Shape, extent: Extent) -> Pixels | None:
        """A stretch of a stored chunk that holds `extent`, or all of it; None: it is absent."""
        description, unit = image.image, image.image.dtype.itemsize
        codec_ = description.layout.codec

        def part(frame: StoredFrame) -> Excerpt:
            start, stop = extent.first * unit, extent.stop * unit
            return excerpt(frame.read, frame.nbytes, codec_, image.chunk_bytes, start, stop, unit)

        with (
            self._counting_errors(),
            span("cache.load", image=description.name, level=level, chunk=at),
        ):
            found = image.arrays[level].read_part(at, part)
            if found is None:
                return None
            shape = ((found.stop - found.start) // unit,)
            try:
                pixels = self._kernels.decode(found.frame, codec_, description.dtype, shape)
            except Corrupt as error:
                raise _named(error, image, level, at) from error
        if pixels.nbytes == image.chunk_bytes:
            return pixels.reshape(description.layout.chunk_shape)
        return Stretch(found.start // unit, pixels)

    def _shard(self, image: OpenImage, level: int, chunk: Shape) -> DirtyShard | None:
        shard = image.pyramid.levels[level].shard_of(chunk)
        return self._dirty.find(ShardKey(image.number_of(level), level, shard))

    def _counted(
        self, image: OpenImage, level: int, chunk: Shape, fetched: Fetched | None = None
    ) -> Array | None:
        with (
            self._counting_errors(),
            span("cache.load", image=image.image.name, level=level, chunk=chunk),
        ):
            return self._load(image, level, chunk, fetched)

    @contextmanager
    def _counting_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, DataError):
            self._measures.errors.add("read")
            raise

    def _load(
        self, image: OpenImage, level: int, chunk: Shape, fetched: Fetched | None = None
    ) -> Array | None:
        if image.reader is not None:
            return image.reader.read(level, chunk)
        frame = self._frame(image, level, chunk, fetched)
        if frame is None:
            return None
        description = image.image
        try:
            return self._kernels.decode(
                frame,
                description.layout.codec,
                description.dtype,
                description.layout.chunk_shape,
            )
        except Corrupt as error:
            raise _named(error, image, level, chunk) from error

    def _frame(
        self, image: OpenImage, level: int, chunk: Shape, fetched: Fetched | None
    ) -> bytes | None:
        found = None if fetched is None else fetched.frames.pop(chunk, None)
        # Looked at while the load is known to the cache, so that a chunk that is replaced from
        # here on supersedes it.
        changes = self._clean.changes(image.pixels_number(level), level)
        if found is not None and fetched is not None and changes == fetched.changes:
            image.arrays[level].check()
            return bytes(found)
        return image.arrays[level].read(chunk)


def _thin(image: OpenImage, at: Shape, extents: Extents | None) -> Extent | None:
    """What is wanted of a chunk, where no more of it is decoded; else None."""
    if extents is None or not image.part_pixels:
        return None
    extent = extents.of(at)
    return extent if extent.size <= image.part_pixels else None


def _taken(found: Pixels, cell: Shape, source: tuple[slice, ...]) -> Array:
    return found.take(cell, source) if isinstance(found, Stretch) else found[source]


def _address(pixels: Pixels | None, cell: Shape, dtype: np.dtype[np.generic]) -> int:
    """Where the first pixel of a chunk lies, or would, as `gather` is told; 0: it can't be."""
    if isinstance(pixels, Stretch):
        return address_of(pixels.pixels) - pixels.first * dtype.itemsize
    if pixels is None or (pixels.shape, pixels.dtype) != (cell, dtype):
        return 0
    return address_of(pixels) if pixels.flags.c_contiguous else 0


def _named(error: Corrupt, image: OpenImage, level: int, chunk: Shape) -> Corrupt:
    name = image.image.name
    return Corrupt(f"{name}, level {level}, chunk {chunk}: {error.message}", image=name)
