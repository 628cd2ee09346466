"""Which chunks are loaded before anybody asks, so that a scan finds them there?

Behind a box of a scan the next one is loaded, and at least the next layer of chunks: planes
that are thinner than a chunk meet a new layer seldom, and then all of it. Chunks are loaded one
by one when no read has anything to do, into the part of the cache that goes first; so they
drive out no chunk that is protected. No more than `nbytes` are on their way, nor an eighth of
what the cache may hold, nor a few hundred; where memory is short nothing is begun.
"""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future

from ziggurat_engine.cache import Budget
from ziggurat_engine.chunks import Chunks
from ziggurat_engine.errors import ZigguratError
from ziggurat_engine.images import OpenImage
from ziggurat_engine.reads.scans import Scans
from ziggurat_engine.reads.turns import Turns
from ziggurat_engine.region import Region, Shape

SHARE = 8
# However small they are.
MOST_COMING = 256

_Name = tuple[int, int, Shape]


class ReadAhead:
    """Of all images. Methods may be called from any thread.

    nbytes: of chunks that are on their way; 0: nothing is read ahead.
    """

    def __init__(self, chunks: Chunks, budget: Budget, turns: Turns, nbytes: int) -> None:
        self._chunks = chunks
        self._budget = budget
        self._turns = turns
        self._nbytes = nbytes
        self._scans = Scans()
        self._lock = threading.Lock()
        self._coming: dict[_Name, int] = {}

    def follow(self, image: OpenImage, level: int, region: Region) -> None:
        """A box is being read: loads what comes behind it, if it is one of a scan."""
        if not self._nbytes or region.size == 0:
            return
        number = image.pixels_number(level)
        following = self._scans.following((number, level), region)
        if following is None or self._budget.pressed:
            return
        room = min(self._nbytes, self._budget.clean_allowance_bytes // SHARE)
        grid = image.pyramid.levels[level].chunks
        whole = Region.whole(image.shape(level))
        for at in grid.indices(_layer(following, region, grid.cell).intersect(whole)):
            name = (number, level, at)
            with self._lock:
                coming = sum(self._coming.values()) + image.chunk_bytes
                if coming > room or len(self._coming) == MOST_COMING:
                    return
                if name in self._coming or self._chunks.at_hand(image, level, at):
                    continue
                self._coming[name] = image.chunk_bytes
            # Not under the lock: what is cancelled at once calls back at once.
            self._load(image, level, at, name)

    def _load(self, image: OpenImage, level: int, at: Shape, name: _Name) -> None:
        def load() -> None:
            if not self._budget.pressed:
                # Who reads it will be told what is wrong with it.
                with contextlib.suppress(ZigguratError, OSError):
                    self._chunks.load_ahead(image, level, at)

        def came(_: Future[None]) -> None:
            with self._lock:
                self._coming.pop(name, None)

        self._turns.later(load).add_done_callback(came)


def _layer(following: Region, region: Region, cell: Shape) -> Region:
    """`following`, as thick as a chunk at least, and from where `region` ends."""
    offset, shape = list(following.offset), list(following.shape)
    for axis, (start, before) in enumerate(zip(following.offset, region.offset, strict=True)):
        if start != before:
            more = max(0, cell[axis] - shape[axis])
            if start < before:
                offset[axis] -= more
            shape[axis] += more
            # The first pixel of the level may lie behind its border.
            if offset[axis] < 0:
                shape[axis] = max(0, shape[axis] + offset[axis])
                offset[axis] = 0
    return Region(tuple(offset), tuple(shape))
