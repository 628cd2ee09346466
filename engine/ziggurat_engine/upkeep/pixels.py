"""Is a level, byte for byte, what its method makes of the level below?

A chunk is compared block by block, each made of one chunk of the level below as it is
stored. A block of a chunk that is noted may differ: the server knows, and makes it.

Beside a server both may be replaced while they are read. Invariant 14 of the design (a
note is there before a chunk is replaced, and goes after its parents are) makes this sure:
where no object changed from before the notes were read until the pixels were, and the chunk
is not noted, the block is right, or never will be.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np

from ziggurat_engine.errors import Corrupt, NotFound
from ziggurat_engine.kernels import codec
from ziggurat_engine.kernels.protocol import Kernels, Recipe, Surrounded
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Array
from ziggurat_engine.upkeep.database import Notes
from ziggurat_engine.upkeep.findings import Finding
from ziggurat_engine.upkeep.holding import Found, Holding, around, children, shards

# How often what changes while it is compared is looked at again.
TRIES = 5


class Cascade:
    """What the chunks of an image's levels should be. For any thread."""

    def __init__(self, found: Found, kernels: Kernels) -> None:
        self.found = found
        self.kernels = kernels
        image = found.stored.image
        self.fill: np.generic = image.dtype.type(image.fill_value)
        self._levels = found.stored.pyramid.levels

    def recipe(self, level: int) -> Recipe:
        """How chunks of `level` are settled."""
        image = self.found.stored.image
        steps = (*image.layout.factors, None)
        return Recipe(image.layout.codec, self.fill, steps[level], image.downsampling)

    def chunk(self, level: int, chunk: Shape) -> Array | None:
        """A chunk as it is stored; None where it is absent. Corrupt, OSError."""
        image = self.found.stored.image
        frame = self.found.arrays[level].read(chunk)
        if frame is None:
            return None
        return codec.decode(frame, image.layout.codec, image.dtype, image.layout.chunk_shape)

    def block(self, level: int, chunk: Shape) -> Array:
        """What a chunk of `level` makes in the level above. Corrupt, OSError."""
        grid = self._levels[level].chunks
        box = grid.region(chunk)
        outer = around(self.found, level, box)
        pixels: Array | None = None
        for part in grid.plan(outer):
            array = self.chunk(level, part.at)
            if array is not None:
                if pixels is None:
                    pixels = np.full(outer.shape, self.fill)
                pixels[part.inside_region.slices()] = array[part.inside_cell.slices()]
        if pixels is None:
            shape = self.found.stored.pyramid.parent_of(level, chunk)[1].shape
            return np.full(shape, self.fill)
        before = tuple(b - o for b, o in zip(box.offset, outer.offset, strict=True))
        recipe = replace(self.recipe(level), codec=None)
        with closing(self.kernels.downsample([Surrounded(pixels, before, box.shape)], recipe)) as r:
            return next(r)

    def made(self, level: int, chunk: Shape) -> Array:
        """The chunk of a level above 0 as the level below makes it. Corrupt, OSError."""
        pixels = np.full(self._levels[level].chunks.cell, self.fill)
        for child in children(self.found, level, chunk):
            box = self.found.stored.pyramid.parent_of(level - 1, child)[1]
            pixels[box.slices()] = self.block(level - 1, child)
        return pixels

    def compare(self, level: int, chunk: Shape, noted: Iterable[Shape]) -> list[Finding]:
        """What differs in a chunk of a level above 0, but for blocks of `noted` chunks.

        Corrupt, OSError where it can't be compared. A finding's path is the key.
        """
        stored = self.chunk(level, chunk)
        differ, first, absent = 0, None, []
        known = set(noted)
        for child in children(self.found, level, chunk):
            if child in known:
                continue
            box = self.found.stored.pyramid.parent_of(level - 1, child)[1]
            wanted = self.block(level - 1, child)
            have = np.full(box.shape, self.fill) if stored is None else stored[box.slices()]
            have = np.ascontiguousarray(have)
            if have.tobytes() == wanted.tobytes():
                continue
            size = wanted.dtype.itemsize
            bad = have.view(f"V{size}") != np.ascontiguousarray(wanted).view(f"V{size}")
            differ += int(np.count_nonzero(bad))
            place = np.argwhere(bad)[0] + np.array(box.offset)
            cell = self._levels[level].chunks.cell
            first = first or tuple(
                int(i * c + p) for i, c, p in zip(chunk, cell, place, strict=True)
            )
            if not self.found.arrays[level - 1].holds(child):
                absent.append(child)
        if first is None:
            return []
        name = self.found.name
        if absent:
            below = self.found.arrays[level - 1]
            what = f"it is not there, though chunk {chunk} of level {level} has pixels made of it"
            return [
                Finding(
                    "missing",
                    below.key(below.level.shard_of(child)),
                    f"chunk {child}: {what}",
                    name,
                    level - 1,
                    child,
                )
                for child in absent
            ]
        array = self.found.arrays[level]
        what = f"chunk {chunk}: {differ} pixels are not made of level {level - 1}, first {first}"
        return [Finding("level", array.key(array.level.shard_of(chunk)), what, name, level, chunk)]


class Comparison:
    """Compares shards of levels above 0; beside a server, where `fresh` gives its notes now."""

    def __init__(
        self, holding: Holding, cascade: Cascade, notes: Notes, fresh: Callable[[], Notes] | None
    ) -> None:
        self._holding = holding
        self._cascade = cascade
        self._notes = notes
        self._fresh = fresh

    def shards(self, level: int) -> Iterator[Shape]:
        """Those of a level that are there, and those that should be."""
        found, pyramid = self._cascade.found, self._cascade.found.stored.pyramid
        objects = self._holding.objects
        for shard in shards(found, level, objects):
            if not isinstance(shard, str):
                yield shard
        above: set[Shape] = set()
        cell = pyramid.levels[level].shards
        for shard in shards(found, level - 1, objects):
            if isinstance(shard, str):
                continue
            box = pyramid.project(pyramid.levels[level - 1].shards.region(shard), level - 1, level)
            for parent in cell.indices(box):
                if parent not in above and not self._there(level, parent):
                    above.add(parent)
                    yield parent

    def check(self, level: int, shard: Shape) -> list[Finding]:
        """What differs in a shard."""
        array = self._cascade.found.arrays[level]
        findings: list[Finding] = []
        for chunk in array.level.chunks_of(shard).indices():
            findings += self._check(level, chunk)
        return [replace(each, path=self._holding.where(each.path)) for each in findings]

    def _there(self, level: int, shard: Shape) -> bool:
        reader = self._holding.objects.open(self._cascade.found.arrays[level].key(shard))
        if reader is not None:
            reader.close()
        return reader is not None

    def _check(self, level: int, chunk: Shape) -> list[Finding]:
        try:
            if not self._any(level, chunk):
                return []
            findings = self._compare(level, chunk, self._notes)
            if not findings or self._fresh is None:
                return findings
            for _ in range(TRIES):
                before = self._versions(level, chunk)
                findings = self._compare(level, chunk, self._fresh())
                if not findings or before == self._versions(level, chunk):
                    return findings
        except (Corrupt, NotFound, OSError):
            # Said of the object that is at fault.
            return []
        array = self._cascade.found.arrays[level]
        key = array.key(array.level.shard_of(chunk))
        name = self._cascade.found.name
        return [Finding("busy", key, f"chunk {chunk}", name, level, chunk)]

    def _any(self, level: int, chunk: Shape) -> bool:
        found = self._cascade.found
        if found.arrays[level].holds(chunk):
            return True
        grid = found.stored.pyramid.levels[level - 1].chunks
        return any(
            found.arrays[level - 1].holds(near)
            for child in children(found, level, chunk)
            for near in grid.indices(around(found, level - 1, grid.region(child)))
        )

    def _compare(self, level: int, chunk: Shape, notes: Notes) -> list[Finding]:
        noted = notes.get(self._cascade.found.noted(level - 1), set())
        return self._cascade.compare(level, chunk, noted)

    def _versions(self, level: int, chunk: Shape) -> list[tuple[int, int, int] | None]:
        """What tells the objects that a chunk is compared with from those that replace them."""
        found = self._cascade.found
        below, array = found.arrays[level - 1], found.arrays[level]
        grid = below.level.chunks
        keys = {array.key(array.level.shard_of(chunk))}
        for child in children(found, level, chunk):
            for near in grid.indices(around(found, level - 1, grid.region(child))):
                keys.add(below.key(below.level.shard_of(near)))
        versions: list[tuple[int, int, int] | None] = []
        for key in sorted(keys):
            self._holding.handles.drop(key)
            try:
                status = os.stat(self._holding.where(key))
                versions.append((status.st_ino, status.st_size, status.st_mtime_ns))
            except FileNotFoundError:
                versions.append(None)
        return versions
