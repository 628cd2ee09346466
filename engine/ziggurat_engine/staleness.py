"""Where is a level behind the writes below it?

Derived from what is dirty, settling, touched and deferred, whenever somebody asks.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from ziggurat_engine.cache import Deferred, DirtyDirectory
from ziggurat_engine.images import OpenImage
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
