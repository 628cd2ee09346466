"""How is a projection added up out of the pixels below it?

Tile by tile: as many pixels of the result as `projection_bytes` hold the sums of. For each
tile the pieces of the box come as parts do; where most of its chunks are absent, only of those
that are not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np

from ziggurat_engine.cache import Budget
from ziggurat_engine.grid import Grid
from ziggurat_engine.reads.ahead import Ahead
from ziggurat_engine.reads.answers import Answer
from ziggurat_engine.reads.assembly import Assembly, IsCancelled, boxes, check
from ziggurat_engine.reads.projection import Projection, accumulator
from ziggurat_engine.reads.readlimits import ReadLimits
from ziggurat_engine.region import Region, Shape
from ziggurat_engine.spec import Array
from ziggurat_engine.tiles import cut

# How often who waits to add up looks whether it is still wanted.
LOOK_SECONDS = 0.1


class Adding:
    """All projections. Methods may be called from any thread; each raises Cancelled where told to.

    ahead: where pieces are assembled. most: projections that are added up at a time.
    """

    def __init__(
        self, assembly: Assembly, budget: Budget, ahead: Ahead, limits: ReadLimits, most: int
    ) -> None:
        self._assembly = assembly
        self._budget = budget
        self._ahead = ahead
        self._limits = limits
        self._adding = threading.BoundedSemaphore(most)

    def parts(
        self, answer: Answer, projection: Projection, cancelled: IsCancelled
    ) -> Iterator[tuple[Region, Array]]:
        """Boxes of the result and their pixels: tile by tile, each cut into parts."""
        room = self._tile_pixels(answer, projection)
        for tile in boxes(answer, Region.whole(answer.shape), room):
            # Not while a part is sent: a client that takes its time holds up nobody.
            with self._turn(cancelled):
                pixels = answer.conversion.apply(self._tile(answer, projection, tile, cancelled))
            grid = Grid(tile.shape, tile.shape)
            for box in cut(grid, Region.whole(tile.shape), self._assembly.pixels(answer.dtype)):
                yield box.moved(tile.offset), np.ascontiguousarray(pixels[box.slices()])

    def pieces(
        self, answer: Answer, projection: Projection, cancelled: IsCancelled
    ) -> Iterator[tuple[Region, Callable[[], Array]]]:
        """As `parts`: boxes of the result, and what makes their pixels, each on one thread."""
        pixels = min(self._assembly.pixels(answer.dtype), self._tile_pixels(answer, projection))
        whole = Region.whole(answer.shape)
        for box in [whole] if whole.size <= pixels else boxes(answer, whole, pixels):
            yield box, partial(self._piece, answer, projection, box, cancelled)

    def _piece(
        self, answer: Answer, projection: Projection, box: Region, cancelled: IsCancelled
    ) -> Array:
        tile = self._tile(answer, projection, box, cancelled, ahead=False)
        return answer.conversion.apply(tile)

    def _tile_pixels(self, answer: Answer, projection: Projection) -> int:
        """Of a result: as many as there is room for the sums of."""
        return self._limits.projection_bytes // projection.bytes_per_pixel(answer.image.image.dtype)

    def _tile(
        self,
        answer: Answer,
        projection: Projection,
        tile: Region,
        cancelled: IsCancelled,
        *,
        ahead: bool = True,
    ) -> Array:
        """What becomes of all pixels below a box of the result.

        ahead: its pieces come from the pool; False on a thread of the pool.
        """
        dtype = answer.image.image.dtype
        shape = tuple(
            answer.lattice.shape[axis] if axis in projection.axes else n
            for axis, n in enumerate(tile.shape)
        )
        region = Region(tile.offset, shape)
        among = self._assembly.among(answer, answer.lattice.part(region), cancelled)
        if among is None:
            below = boxes(answer, region, self._assembly.pixels(dtype))
        else:
            below = self._held(answer, region, among)
        part_bytes = self._limits.part_bytes
        tasks = (
            (box, part_bytes, partial(self._assembly.assemble, answer, box, cancelled))
            for box in below
        )
        pieces = self._ahead.in_order(tasks) if ahead else ((box, task()) for box, _, task in tasks)
        sums_bytes = tile.size * projection.bytes_per_pixel(dtype)
        with self._budget.beside(sums_bytes + self._ahead.most * part_bytes):
            sums = accumulator(projection, region.shape, dtype)
            missing = None if among is None else projection.counts(region.shape)
            for box, pixels in pieces:
                at = box.relative_to(tile.offset)
                sums.add(at, pixels)
                if missing is not None:
                    missing[projection.inside(at)] -= projection.count(at.shape)
            if missing is not None:
                sums.fill(missing, answer.image.fill_value)
            return sums.result()

    def _held(self, answer: Answer, region: Region, among: Iterable[Shape]) -> Iterator[Region]:
        """What lies in some chunks of a box of the lattice, in pieces."""
        whole = Grid(region.shape, region.shape)
        for _, _, slices in answer.lattice.part(region).places(answer.grid, among):
            inside = Region(
                tuple(part.start for part in slices),
                tuple(part.stop - part.start for part in slices),
            )
            for box in cut(whole, inside, self._assembly.pixels(answer.image.image.dtype)):
                yield box.moved(region.offset)

    @contextmanager
    def _turn(self, cancelled: IsCancelled) -> Iterator[None]:
        """Waits until few enough add up; raises Cancelled where told to."""
        while not self._adding.acquire(timeout=LOOK_SECONDS):
            check(cancelled)
        try:
            yield
        finally:
            self._adding.release()
