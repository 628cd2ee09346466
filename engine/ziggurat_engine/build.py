"""How does a caller make a whole pyramid exact, and watch it?

What is stale is dirty somewhere below, so that draining the levels, lowest first, makes
all of them exact. `force` also computes what is not stale: each shard of a level is
owned while its chunks are downsampled, so that no settle of a newer version can come
between reading a chunk and merging its block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from ziggurat_engine.cache import DirtyDirectory, ShardKey
from ziggurat_engine.chunks import Chunks
from ziggurat_engine.errors import Cancelled
from ziggurat_engine.images import OpenImage
from ziggurat_engine.kernels.protocol import Kernels
from ziggurat_engine.region import Shape
from ziggurat_engine.settle import Settler, never, parent_write

BATCH_CHUNKS = 16


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

    def __init__(
        self, chunks: Chunks, dirty: DirtyDirectory, settler: Settler, kernels: Kernels
    ) -> None:
        self._chunks = chunks
        self._dirty = dirty
        self._settler = settler
        self._kernels = kernels

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
        """Merges the blocks of all chunks of `level` into the next one."""
        grid = image.pyramid.levels[level]
        done = 0
        for shard in grid.shards.indices():
            key = ShardKey(image.number, level, shard)
            indices = list(grid.chunks_of(shard).indices())
            with self._dirty.own(key, grid, image.fill_value):
                for start in range(0, len(indices), BATCH_CHUNKS):
                    if cancelled():
                        raise Cancelled("the caller gave up")
                    batch = indices[start : start + BATCH_CHUNKS]
                    self._downsample(image, level, batch)
                    done += len(batch)
            yield done, grid.chunks.size

    def _downsample(self, image: OpenImage, level: int, batch: list[Shape]) -> None:
        arrays, indices = [], []
        for index in batch:
            array = self._chunks.whole(image, level, index)
            if array is None:
                parent, _ = image.pyramid.parent_of(level, index)
                if self._chunks.whole(image, level + 1, parent) is None:
                    # Fill value stays fill value: nothing to write, nothing to overwrite.
                    continue
                array = np.full(image.image.layout.chunk_shape, image.fill_value)
            arrays.append(array)
            indices.append(index)
        grid = image.pyramid.levels[level].chunks
        valid = [grid.region(index).shape for index in indices]
        recipe = replace(image.recipes[level], codec=None)
        for index, result in zip(indices, self._kernels.settle(arrays, valid, recipe), strict=True):
            assert result.parent is not None
            self._settler.merge(image, level + 1, *parent_write(image, level, index, result.parent))
