"""Does a read go on where others have left off, and where will the next one be?

A scan is a run of boxes of one cross-section that touch each other along an axis, as of
planes that are looked at one after the other, or of slabs that are exported. Who reads does
not matter: several may scan one image, and each is found by where its next box would begin.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from ziggurat_engine.region import Region, Shape

# This many boxes in a row are a scan.
IN_A_ROW = 3
# Of boxes whose neighbour may come; a scan takes two an axis.
MOST_EXPECTED = 512


class Scans:
    """Boxes that were read lately. Methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Which box is waited for, by its level, axis, direction, cross-section and the border that
        # it shares with the one before; and how many came before it.
        self._expected: OrderedDict[tuple[object, int, int, Shape, Shape, int], int] = OrderedDict()

    def following(self, level: object, region: Region) -> Region | None:
        """Where the box behind `region` will be if that goes on a scan of `level`; else None.

        The box may reach beyond the level. level: whatever names one.
        """
        found: Region | None = None
        with self._lock:
            for axis, (offset, size) in enumerate(zip(region.offset, region.shape, strict=True)):
                across = (
                    region.offset[:axis] + region.offset[axis + 1 :],
                    region.shape[:axis] + region.shape[axis + 1 :],
                )
                for sign, near, far in ((1, offset, offset + size), (-1, offset + size, offset)):
                    count = 1 + self._expected.pop((level, axis, sign, *across, near), 0)
                    self._expected[level, axis, sign, *across, far] = count
                    if count >= IN_A_ROW:
                        start = list(region.offset)
                        start[axis] += sign * size
                        found = Region(tuple(start), region.shape)
            while len(self._expected) > MOST_EXPECTED:
                self._expected.popitem(last=False)
        return found
