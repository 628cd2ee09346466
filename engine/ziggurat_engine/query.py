"""Which chunks answer a read, and in which parts does the answer leave?

A box is cut into parts of about `part_bytes` that follow the chunk grid: small
chunks are joined, large ones cut, so that neither a plane through many chunks nor one
huge chunk makes messages that are slow to send. A few parts are assembled ahead of
the one that is being sent, on a pool, each in its final memory.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ziggurat_engine.cache import Deferred, DirtyDirectory
from ziggurat_engine.chunks import Chunks
from ziggurat_engine.errors import LimitExceeded, OutOfRange
from ziggurat_engine.grid import Grid
from ziggurat_engine.images import OpenImage
from ziggurat_engine.region import Region, Shape
from ziggurat_engine.spec import Array


@dataclass(frozen=True, slots=True)
class Answer:
    """What a read will bring: `region` of `level`; stale and revision as it began."""

    image: OpenImage
    level: int
    region: Region
    stale: bool
    revision: int


class Query:
    """All reads. Methods may be called from any thread.

    threads: parts that are assembled at a time, for all reads together.
    part_bytes: about how large a part is. max_read_bytes: of one read.
    """

    def __init__(
        self,
        chunks: Chunks,
        dirty: DirtyDirectory,
        deferred: Deferred,
        *,
        threads: int,
        part_bytes: int,
        max_read_bytes: int,
    ) -> None:
        self._chunks = chunks
        self._dirty = dirty
        self._deferred = deferred
        self._part_bytes = part_bytes
        self._max_read_bytes = max_read_bytes
        self._ahead = 2 * threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="read")

    def plan(self, image: OpenImage, level: int, offset: Shape, shape: Shape) -> Answer:
        """Checks a read; both `offset` and `shape` empty: the whole level.

        Raises OutOfRange for a level or box that is not there, InvalidArgument for one
        that makes no sense, LimitExceeded for one above max_read_bytes.
        """
        levels = image.pyramid.levels
        if level >= len(levels):
            raise OutOfRange(
                f"level {level} is not there: {image.image.name!r} has levels 0 to"
                f" {len(levels) - 1}",
                field="level",
            )
        whole = Region.whole(image.shape(level))
        region = Region(offset, shape) if offset or shape else whole
        image.check_box(level, region)
        nbytes = region.size * image.image.dtype.itemsize
        if nbytes > self._max_read_bytes:
            raise LimitExceeded(
                f"{nbytes} bytes are more than max_read_bytes = {self._max_read_bytes}",
                field="shape",
                limit="max_read_bytes",
                limit_bytes=self._max_read_bytes,
            )
        revision = image.base.revision
        return Answer(image, level, region, self.stale(image, level, region), revision)

    @contextmanager
    def reading(
        self, image: OpenImage, level: int, offset: Shape, shape: Shape
    ) -> Iterator[Answer]:
        """As `plan`; while the block runs the levels that answer stay, though they be replaced."""
        while True:
            image = image.now
            with image.reading.shared():
                answer = self.plan(image, level, offset, shape)
                # Else they were replaced before: perhaps they are being removed, and
                # what was found of stale is that of others.
                if image.now is image:
                    yield answer
                    return

    def stale(self, image: OpenImage, level: int, region: Region | None = None) -> bool:
        """True where a write below has not reached `region` of `level` (or any of it) yet."""
        if image.image.read_only:
            # Nothing is ever written, and factors need not lead from level to level.
            return False
        pyramid = image.pyramid
        region = region or Region.whole(image.shape(level))
        for below in range(level):
            grid, number = pyramid.levels[below], image.number_of(below)
            chunks = grid.chunks.touched(image.below(region, level, below))
            while True:
                seen = self._deferred.changes
                # In this order: what is deferred goes from there once it is touched.
                if self._deferred.touches(number, below, chunks, grid.shard_of):
                    return True
                if self._dirty.touches(number, below, chunks):
                    return True
                # The other way about, what was dirty may have been deferred meanwhile.
                if seen == self._deferred.changes:
                    break
        return False

    def stale_chunks(self, image: OpenImage) -> list[int]:
        """How many chunks of each level a write below has not reached yet."""
        rank = len(image.image.axes)
        counts: list[int] = []
        stale: NDArray[np.int64] = np.empty((0, rank), np.int64)
        for below, level in enumerate(image.pyramid.levels):
            if below:
                stale = distinct(stale // level.factors)
            counts.append(len(stale))
            # In this order: what is deferred goes from there once it is touched.
            found = self._deferred.sets(image.number_of(below), below)
            dirty = self._dirty.indices(image.number_of(below), below)
            found.append(frozenset(image.neighbours(below, dirty)))
            # Perhaps a million: no array is made of each.
            numbers = itertools.chain.from_iterable(itertools.chain.from_iterable(found))
            more = np.fromiter(numbers, np.int64).reshape(-1, rank)
            stale = np.concatenate([stale, more])
        return counts

    def parts(self, answer: Answer) -> Iterator[tuple[Region, Array]]:
        """The pixels, part by part: (box relative to the answer's region, C-order array).

        Closing the iterator stops the work.
        """
        boxes = cut(
            answer.image.pyramid.levels[answer.level].chunks,
            answer.region,
            max(1, self._part_bytes // answer.image.image.dtype.itemsize),
        )
        going: deque[tuple[Region, Future[Array]]] = deque()
        try:
            for box in boxes:
                if len(going) == self._ahead:
                    done, future = going.popleft()
                    yield done, future.result()
                going.append(
                    (
                        box.relative_to(answer.region.offset),
                        self._pool.submit(self._assemble, answer, box),
                    )
                )
            while going:
                done, future = going.popleft()
                yield done, future.result()
        finally:
            for _, future in going:
                future.cancel()
            wait([future for _, future in going])

    def close(self) -> None:
        """Ends the pool; no read may be running."""
        self._pool.shutdown()

    def _assemble(self, answer: Answer, box: Region) -> Array:
        image = answer.image
        out: Array = np.empty(box.shape, dtype=image.image.dtype)
        for part in image.pyramid.levels[answer.level].chunks.plan(box):
            self._chunks.paste(image, answer.level, part, out)
        return out


def distinct(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows of `indices`, each once."""
    if len(indices) == 0:
        return indices
    low, high = indices.min(axis=0), indices.max(axis=0)
    spans = tuple(map(int, high - low + 1))
    if math.prod(spans) >= 2**63:
        return np.unique(indices, axis=0)
    # Numbers are sorted many times faster than rows.
    numbers = np.unique(np.ravel_multi_index(tuple((indices - low).T), spans))
    rows: NDArray[np.int64] = np.stack(np.unravel_index(numbers, spans), axis=1) + low
    return rows


def cut(grid: Grid, region: Region, pixels: int) -> Iterator[Region]:
    """Cuts `region` into boxes of at most about `pixels`, chunk-aligned where possible.

    Each pixel of `region` is in one box. A box is a run of whole chunks (as far as
    they lie in the region), or a slab of one chunk where a chunk is larger.
    """
    if region.size == 0:
        return
    rank = len(region.shape)
    step = [min(c, n) for c, n in zip(grid.cell, region.shape, strict=True)]
    # Join chunks along the fastest axes first, so that parts are long runs of the result;
    # if one chunk is too large, cut it along the slowest axes.
    for axis in reversed(range(rank)):
        others = math.prod(step) // step[axis]
        fit = pixels // (others * grid.cell[axis])
        if fit > 1:
            step[axis] = min(fit * grid.cell[axis], region.shape[axis])
    for axis in range(rank):
        others = math.prod(step) // step[axis]
        if others * step[axis] > pixels:
            step[axis] = max(1, pixels // others)
    spans = []
    for axis in range(rank):
        start, stop, cell = region.offset[axis], region.stop[axis], grid.cell[axis]
        edges = [start]
        while edges[-1] < stop:
            here = edges[-1]
            if step[axis] < cell:
                # Stay within the chunk.
                end = min(here + step[axis], (here // cell + 1) * cell)
            else:
                end = (here // cell) * cell + max(step[axis] // cell, 1) * cell
            edges.append(min(end, stop))
        spans.append(list(itertools.pairwise(edges)))
    for bounds in itertools.product(*spans):
        yield Region(tuple(a for a, _ in bounds), tuple(b - a for a, b in bounds))
