"""How does a caller make a pyramid exact, all of it or some, and watch it?

What is stale is dirty, touched or deferred somewhere below, so that completing the
levels, lowest first, makes all of them exact. `force` first defers all of level 0: what
is not stale is then computed anew as well, and what a restart interrupts goes on after it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ziggurat_engine.errors import OutOfRange
from ziggurat_engine.images import OpenImage
from ziggurat_engine.region import Region
from ziggurat_engine.settle import Settler, never
from ziggurat_engine.state import State

# Shards noted in one transaction.
BATCH_SHARDS = 256


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a build is: the level it reads from, and chunks and raw bytes done so far.

    The totals grow as the chunks of the next levels become known.
    """

    level: int
    chunks_done: int
    chunks_total: int
    bytes_done: int
    bytes_total: int
    elapsed_seconds: float


class Builder:
    """Builds pyramids. All methods may be called from any thread."""

    def __init__(self, settler: Settler, state: State) -> None:
        self._settler = settler
        self._state = state

    def build(
        self,
        image: OpenImage,
        *,
        region: Region | None = None,
        top: int | None = None,
        force: bool = False,
        cancelled: Callable[[], bool] = never,
    ) -> Iterator[Progress]:
        """Makes levels exact and stored, as of the call; yields as the work goes on.

        region: only above this box of level 0. top: enough if the levels up to this one
        are; None: all. force: computes them anew from level 0, though they are not stale; that is
        remembered, and goes on in the background if the call or the server ends before.
        Raises FailedPrecondition for an image that is adopted read-only, OutOfRange for a box
        or level that is not there, Unavailable where a shard
        can't be stored, Cancelled where told to, NotFound where the image is deleted
        meanwhile; what is done stays done.
        """
        image.stored.gate.check()
        image.check_writable()
        started = time.monotonic()
        levels = len(image.pyramid.levels)
        top = levels - 1 if top is None else top
        if top >= levels:
            raise OutOfRange(
                f"level {top} is not there: levels 0 to {levels - 1}", field="up_to_level"
            )
        if region is not None:
            image.check_box(0, region)
        if force and top > 0:
            self._defer(image, region or Region.whole(image.shape()))
        done = total = 0
        for level in range(top + 1):
            within = None
            if region is not None:
                # And what depends on it.
                below = image.around(image.pyramid.project(region, 0, level), level)
                within = image.pyramid.levels[level].chunks.touched(below)
            # The last one only has to be stored.
            step = self._settler.drain if level == top else self._settler.complete
            step_done = step_total = 0
            for step_done, step_total in step(image, level, cancelled, within):
                chunks, known = done + step_done, total + step_total
                yield Progress(
                    level,
                    chunks,
                    known,
                    chunks * image.chunk_bytes,
                    known * image.chunk_bytes,
                    time.monotonic() - started,
                )
            image.stored.gate.check()
            done, total = done + step_done, total + step_total

    def exact(
        self,
        image: OpenImage,
        level: int,
        region: Region,
        cancelled: Callable[[], bool] = never,
    ) -> None:
        """Returns once reads of this box of `level` are exact, as of the call.

        Computes just the parents that it needs. Raises as `build` does.
        """
        for below in range(level):
            box = image.below(region, level, below)
            within = image.pyramid.levels[below].chunks.touched(box)
            for _ in self._settler.complete(image, below, cancelled, within):
                pass

    def _defer(self, image: OpenImage, region: Region) -> None:
        """Has the blocks of all chunks of level 0 that `region` touches made anew."""
        grid = image.pyramid.levels[0]
        lazy = image.lazy(0)
        chunks = grid.chunks.touched(region)
        shards = iter(grid.shards.indices(region))
        while batch := list(itertools.islice(shards, BATCH_SHARDS)):
            some = {
                shard: list(grid.chunks_of(shard).intersect(chunks).indices()) for shard in batch
            }
            # A deletion waits for what is inside, and then forgets it.
            with image.stored.gate.inside():
                # First here: were it noted first, what was made before it came here would leave
                # a place without a note.
                for shard, indices in some.items():
                    self._settler.defer(image, 0, shard, indices, lazy=lazy)
                self._state.mark_all_stale(image.image.uid, 0, some)
