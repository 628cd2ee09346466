"""Where is a level behind the writes below it?

Derived from what is dirty, settling, touched and deferred, whenever somebody asks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ziggurat_engine.cache import Deferred, DirtyDirectory
from ziggurat_engine.images import OpenImage
from ziggurat_engine.indices import distinct, rows_of
from ziggurat_engine.region import Region


class Staleness:
    """Of all images. Methods may be called from any thread."""

    def __init__(self, dirty: DirtyDirectory, deferred: Deferred) -> None:
        self._dirty = dirty
        self._deferred = deferred

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
        rank, levels = len(image.image.axes), image.pyramid.levels
        counts: list[int] = []
        stale: NDArray[np.int64] = np.empty((0, rank), np.int64)
        found: list[NDArray[np.int64]] = []
        for below, (level, above) in enumerate(zip(levels, [*levels[1:], None], strict=True)):
            if below:
                stale = distinct(np.concatenate([stale // level.factors, *found]))
            counts.append(len(stale))
            if above is not None:
                # In this order: what is deferred goes from there once it is touched.
                found = self._deferred.parents(image.number_of(below), below, above.factors)
                dirty = self._dirty.indices(image.number_of(below), below)
                beside = rows_of(image.neighbours(below, dirty), rank)
                found.append(distinct(beside // above.factors))
        return counts
