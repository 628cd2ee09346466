"""How does one dirty shard get into the store, and what does it hand to the level above?

Freeze its dirty chunks, encode and downsample them (kernels), replace the store's
object: what comes back are the blocks for the parents, of the chunks that were stored
and of those that were only touched. Before the store changes, the state database notes
that the parents are not right yet.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ziggurat_engine.cache import (
    ChunkKey,
    CleanChunks,
    Deferred,
    DirtyChunk,
    DirtyShard,
    ShardKey,
)
from ziggurat_engine.chunks import Chunks
from ziggurat_engine.images import OpenImage
from ziggurat_engine.kernels.protocol import Kernels, Surrounded
from ziggurat_engine.measures import Measures
from ziggurat_engine.region import Region, Shape
from ziggurat_engine.spans import span
from ziggurat_engine.spec import Array
from ziggurat_engine.state import StaleShard, State

log = logging.getLogger(__name__)

# Chunks read back at a time to make their parents anew.
BATCH_CHUNKS = 16


class Beside(NamedTuple):
    """Chunks by shard that may not be stored now, though their blocks depend on what is."""

    image: OpenImage
    chunks: dict[Shape, set[Shape]]


class Block(NamedTuple):
    """A downsampled block: which pixels of the level above it is."""

    box: Region
    pixels: Array


@dataclass(slots=True)
class Taken:
    """What is being stored of a shard.

    chunks: dirty until now, settling from now on. touched: stored chunks of which the blocks
    are to be made anew. note: to be cleared once all blocks are stored. later: no blocks are
    made now. own, beside: chunks of which the blocks depend on `chunks`: of this shard, and of
    others; also those of which other levels are to be made, by another method (OpenImage.next).
    """

    image: OpenImage
    shard: DirtyShard
    chunks: dict[Shape, DirtyChunk]
    touched: set[Shape]
    note: StaleShard | None
    later: bool
    own: set[Shape]
    beside: list[Beside]

    @property
    def block_bytes(self) -> int:
        """Of the blocks for the level above."""
        factors = None if self.later else self.image.recipes[self.shard.key.level].factors
        count = len(self.chunks.keys() | self.touched)
        return 0 if factors is None else count * self.image.chunk_bytes // math.prod(factors)


@dataclass(slots=True)
class SettleCounters:
    """Totals since the start. failures: settles that were to be tried again.

    blocks_made: of downsampled chunks, for the level above.
    """

    blocks_made: int = 0
    shards_stored: int = 0
    chunks_encoded: int = 0
    raw_bytes: int = 0
    stored_bytes: int = 0
    failures: int = 0
    last_failure: str = ""


class Storing:
    """Stores shards. All methods may be called from any thread, for shards that it owns."""

    def __init__(
        self,
        chunks: Chunks,
        clean: CleanChunks,
        deferred: Deferred,
        kernels: Kernels,
        state: State,
        measures: Measures,
    ) -> None:
        self._deferred = deferred
        self._chunks = chunks
        self._clean = clean
        self._kernels = kernels
        self._state = state
        self._measures = measures
        self._counting = threading.Lock()
        # Chunks beside shards that are being stored: how often. Their notes stay meanwhile.
        self._beside: Counter[tuple[str, int, Shape]] = Counter()
        # Those of them beside a shard that could not be stored, or not noted behind it: they
        # stay in `_beside` until it is tried again.
        self._unnoted: dict[ShardKey, set[tuple[str, int, Shape]]] = {}
        self.counters = SettleCounters()

    def take(self, image: OpenImage, shard: DirtyShard) -> Taken:
        """Begins to store what is dirty in an owned shard: it is settling now.

        Whatever is raised here or by `store`: the shard is to be thawed then.
        """
        note: StaleShard | None = None
        level = shard.key.level
        start = time.perf_counter()
        with span("settle.freeze"):
            chunks, asked = self._chunks.freeze(image, shard)
        self._measures.stages.add("freeze", time.perf_counter() - start)
        later = image.lazy(level) and not asked
        touched = asked - chunks.keys()
        if not later:
            # All that is deferred of it as well: it is read and stored anyhow.
            waiting = self._deferred.get(shard.key)
            shard.make_more(waiting)
            self._deferred.remove(shard.key, waiting)
            touched |= waiting - chunks.keys()
        found = self._dependent(image, level, chunks)
        own = found.pop(shard.key.shard, set())
        beside = [Beside(image, found)]
        other = image.base.next
        if level == 0 and other is not None and other.recipes[0].factors is not None:
            beside.append(Beside(other, self._dependent(other, 0, chunks)))
        if any(image.halo(level)) and not later:
            touched |= own
        if image.recipes[level].factors is not None and (chunks or touched):
            # Before the store changes: a crash must not leave the level above wrong.
            place = (image.image.uid, image.noted(level), shard.key.shard)
            note = self._state.mark_stale(*place, own | touched)
        beside = [each for each in beside if each.chunks]
        return Taken(image, shard, dict(chunks), touched, note, later, own, beside)

    def store(self, taken: Taken) -> list[Block]:
        """Stores what was taken; returns the blocks for the level above.

        OSError, DataError as of the store, where nothing or all has changed.
        """
        image, shard = taken.image, taken.shard
        with self._noted_beside(taken):
            blocks = self._store(taken) if taken.chunks else []
        if taken.later:
            # Before the shard is clean: the level above is stale all the time.
            self._deferred.add(shard.key, taken.own, lazy=True)
            taken.note = None
        if shard.key.level == 0 and image.image.unbounded and taken.chunks:
            # While the shard is dirty: log and acknowledgements wait for it, so that a crash
            # can't shorten the image.
            stop = image.pyramid.levels[0].shards.region(shard.key.shard).stop[0]
            image.stored.metadata.write_extent(min(image.base.extent, stop))
        blocks += self._blocks(taken)
        with self._counting:
            self.counters.blocks_made += len(blocks)
        return blocks

    def clear(self, notes: list[StaleShard]) -> None:
        """What these notes say is right now."""
        if notes:
            try:
                self._state.clear_stale([self._settled(note) for note in notes])
            except OSError as error:
                # They stay until the next start, which then computes what is right already.
                log.warning("stale notes can't be cleared: %s", error)

    def _settled(self, note: StaleShard) -> StaleShard:
        """The note without chunks that a shard beside theirs is about to change again."""
        with self._counting:
            if not self._beside:
                return note
            place = (note.image, note.level)
            return replace(
                note, chunks=frozenset(c for c in note.chunks if (*place, c) not in self._beside)
            )

    def _dependent(
        self, image: OpenImage, level: int, chunks: Iterable[Shape]
    ) -> dict[Shape, set[Shape]]:
        """By shard, the chunks of which the blocks depend on these."""
        found: dict[Shape, set[Shape]] = {}
        shard_of = image.pyramid.levels[level].shard_of
        for index in image.neighbours(level, chunks):
            found.setdefault(shard_of(index), set()).add(index)
        return found

    @contextmanager
    def _noted_beside(self, taken: Taken) -> Iterator[None]:
        """While the block stores the chunks: the blocks of those beside are stale, noted so.

        Before, for a crash; and again behind it, since what was made of them meanwhile may
        be made of the old pixels. Also where storing fails: the shard may be replaced.
        """
        if not taken.beside and taken.shard.key not in self._unnoted:
            yield
            return
        level = taken.shard.key.level
        chunks = {
            (image.image.uid, image.noted(level), index)
            for image, beside in taken.beside
            for some in beside.values()
            for index in some
        }
        with self._counting:
            before = self._unnoted.pop(taken.shard.key, set())
            self._beside.update(chunks - before)
            chunks |= before
        noted = False
        try:
            self._note_beside(taken)
            try:
                yield
            finally:
                for image, beside in taken.beside:
                    for shard, some in beside.items():
                        key = ShardKey(image.number_of(level), level, shard)
                        self._deferred.add(key, some, lazy=image.lazy(level))
                self._note_beside(taken)
            noted = True
        finally:
            with self._counting:
                if noted:
                    self._beside.subtract(chunks)
                    self._beside = +self._beside
                else:
                    self._unnoted[taken.shard.key] = chunks

    def _note_beside(self, taken: Taken) -> None:
        for image, beside in taken.beside:
            place = (image.image.uid, image.noted(taken.shard.key.level))
            self._state.mark_all_stale(*place, beside)

    def failed(self, error: Exception) -> None:
        """A shard is to be tried again."""
        with self._counting:
            self.counters.failures += 1
            self.counters.last_failure = f"{type(error).__name__}: {error}"

    def _store(self, taken: Taken) -> list[Block]:
        """Puts the chunks taken into the store and the clean cache; returns their parents."""
        image, shard, frozen = taken.image, taken.shard, taken.chunks
        level = shard.key.level
        recipe = image.recipes[level]
        if taken.later or any(image.halo(level)):
            # Blocks that depend on neighbours are made once these chunks are stored.
            recipe = replace(recipe, factors=None)
        grid = image.pyramid.levels[level].chunks
        order = sorted(frozen)
        batch = [frozen[index].data for index in order]
        valid = [grid.region(index).shape for index in order]
        blocks: list[Block] = []
        absent: set[Shape] = set()

        def frames() -> Iterator[tuple[Shape, bytes | memoryview | None]]:
            for index, result in zip(order, results, strict=True):
                if result.parent is not None:
                    blocks.append(block_of(image, level, index, result.parent))
                if result.frame is None:
                    absent.add(index)
                yield index, result.frame

        with closing(self._kernels.settle(batch, valid, recipe)) as results:
            stored = image.arrays[level].replace(shard.key.shard, frames(), frozen.keys())
        for index in order:
            key = ChunkKey(image.pixels_number(level), level, index)
            # Level 0 is seldom read as it comes in: kept, it would drive out what viewers
            # read, and each new chunk would have to touch memory that is not in any cache.
            if level == 0 or index in absent:
                self._clean.drop(key)
            else:
                self._clean.put(key, frozen[index].data)
        with self._counting:
            self.counters.shards_stored += 1
            self.counters.chunks_encoded += len(order)
            self.counters.raw_bytes += len(order) * image.chunk_bytes
            self.counters.stored_bytes += stored.bytes
        return blocks

    def _blocks(self, taken: Taken) -> list[Block]:
        """The parents of chunks that are stored, made anew."""
        image, level = taken.image, taken.shard.key.level
        if not taken.touched or image.recipes[level].factors is None:
            return []
        order = sorted(taken.touched)
        blocks: list[Block] = []
        for start in range(0, len(order), BATCH_CHUNKS):
            blocks += self._batch_blocks(taken, order[start : start + BATCH_CHUNKS])
        return blocks

    def _batch_blocks(self, taken: Taken, batch: list[Shape]) -> list[Block]:
        image, level = taken.image, taken.shard.key.level
        surrounded, order = [], []
        for index in batch:
            found = self._surrounded(taken, index)
            if found is not None:
                surrounded.append(found)
                order.append(index)
        recipe = replace(image.recipes[level], codec=None)
        with closing(self._kernels.downsample(surrounded, recipe)) as results:
            return [
                block_of(image, level, index, block)
                for index, block in zip(order, results, strict=True)
            ]

    def _surrounded(self, taken: Taken, index: Shape) -> Surrounded | None:
        """A chunk as it is stored, with what its parent needs around it.

        As it is stored, also where a neighbour is dirty: the parent may be stored before
        that is, which a crash could then lose. None where there is nothing to be made.
        """
        image, level = taken.image, taken.shard.key.level
        grid = image.pyramid.levels[level].chunks
        box = grid.region(index)
        outer = image.around(box, level)
        if outer == box and box.shape == grid.cell and index not in taken.chunks:
            whole = self._chunks.stored(image, level, index)
            if whole is not None:
                return Surrounded(whole, (0,) * len(box.shape), box.shape)
        pixels: Array | None = None
        for part in grid.plan(outer):
            own = taken.chunks.get(part.at)
            array = self._chunks.stored(image, level, part.at) if own is None else own.data
            if array is not None:
                if pixels is None:
                    pixels = np.full(outer.shape, image.fill_value)
                pixels[part.inside_region.slices()] = array[part.inside_cell.slices()]
        if pixels is None:
            parent, _ = image.pyramid.parent_of(level, index)
            if self._chunks.whole(image, level + 1, parent) is None:
                # Fill value stays fill value: nothing to write, nothing to overwrite.
                return None
            pixels = np.full(outer.shape, image.fill_value)
        before = tuple(b - o for b, o in zip(box.offset, outer.offset, strict=True))
        return Surrounded(pixels, before, box.shape)


def block_of(image: OpenImage, level: int, chunk: Shape, block: Array) -> Block:
    """What the downsampled `block` of a chunk of `level` is in the level above."""
    parent, box = image.pyramid.parent_of(level, chunk)
    return Block(box.moved(image.pyramid.levels[level + 1].chunks.region(parent).offset), block)
