"""How does a caller make a whole pyramid exact, and watch it?

What is stale is dirty or touched somewhere below, so that draining the levels, lowest
first, makes all of them exact. `force` also touches all of each level: what is not
stale is then computed anew as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ziggurat_engine.images import OpenImage
from ziggurat_engine.region import Region
from ziggurat_engine.settle import Settler, never

# Few enough that what is touched takes little memory, enough to keep the workers busy.
BATCH_SHARDS = 64


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a build is: the level it reads from, and chunks and raw bytes done so far.

    chunks_total grows as the chunks of the next levels become known.
    """

    level: int
    chunks_done: int
    chunks_total: int
    bytes_done: int


class Builder:
    """Builds pyramids. All methods may be called from any thread."""

    def __init__(self, settler: Settler) -> None:
        self._settler = settler

    def build(
        self, image: OpenImage, *, force: bool = False, cancelled: Callable[[], bool] = never
    ) -> Iterator[Progress]:
        """Makes every level exact and stored, as of the call; yields as the work goes on.

        force: computes every level anew from level 0. Raises Unavailable where a shard
        can't be stored, Cancelled where told to; what is done stays done.
        """
        done = total = 0
        levels = len(image.pyramid.levels)
        for level in range(levels):
            steps = [self._settler.drain(image, level, cancelled)]
            if force and level + 1 < levels:
                steps.append(self._recompute(image, level, cancelled))
            for step in steps:
                step_done = step_total = 0
                for step_done, step_total in step:
                    chunks = done + step_done
                    yield Progress(level, chunks, total + step_total, chunks * image.chunk_bytes)
                done, total = done + step_done, total + step_total

    def _recompute(
        self, image: OpenImage, level: int, cancelled: Callable[[], bool]
    ) -> Iterator[tuple[int, int]]:
        """Makes the parents of all chunks of `level` anew."""
        grid = image.pyramid.levels[level]
        done = 0
        whole = Region.whole(image.shape(level))
        shards = grid.shards.indices(whole)
        last = grid.shards.touched(whole).stop
        end = tuple(
            min(n * s, limit)
            for n, s, limit in zip(last, grid.shards.cell, grid.shape, strict=True)
        )
        total = grid.chunks.touched(Region.whole(end)).size
        while batch := list(itertools.islice(shards, BATCH_SHARDS)):
            for shard in batch:
                self._settler.touch(image, level, shard, grid.chunks_of(shard).indices())
            for _ in self._settler.drain(image, level, cancelled):
                pass
            done += sum(grid.chunks_of(shard).size for shard in batch)
            yield done, total
