"""Which pixels of a chunk were never written since it became dirty?

Kept as disjoint boxes: frames that arrive in order leave one or two. Writes that
shatter a chunk into more than MAX_BOXES turn them into a mask of one byte a pixel.
What is counted is pixels, not writes: a frame that is sent twice covers nothing new.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from ziggurat_engine.region import Region
from ziggurat_engine.spec import Array

MAX_BOXES = 16


class Coverage:
    """The uncovered pixels of one box, `whole` at first. Not thread-safe."""

    __slots__ = ("_box", "_boxes", "_left", "_mask")

    def __init__(self, whole: Region) -> None:
        self._boxes: tuple[Region, ...] = (whole,)
        # With a mask: the box that it stands for, and the pixels set in it.
        self._mask: NDArray[np.bool_] | None = None
        self._box = whole
        self._left = 0

    @property
    def full(self) -> bool:
        """True where every pixel was covered."""
        return self._left == 0 if self._mask is not None else not self._boxes

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the mask holds, 0 where there is none."""
        return 0 if self._mask is None else self._mask.nbytes

    def add(self, region: Region) -> bool:
        """Covers the pixels of `region`, which lies within the whole; True where that was all."""
        if self._mask is None:
            boxes = _without(self._boxes, region)
            if len(boxes) <= MAX_BOXES:
                self._boxes = boxes
                return not boxes
            self._shatter()
        assert self._mask is not None
        window = self._mask[region.intersect(self._box).relative_to(self._box.offset).slices()]
        self._left -= int(np.count_nonzero(window))
        window[...] = False
        return not self._left

    def fill(self, target: Array, source: Array | np.generic) -> None:
        """Copies the uncovered pixels from `source`, an array of target's shape or a scalar."""
        if self._mask is None:
            for box in self._boxes:
                at = box.slices()
                target[at] = source[at] if isinstance(source, np.ndarray) else source
        else:
            at = self._box.slices()
            pixels = source[at] if isinstance(source, np.ndarray) else source
            np.copyto(target[at], pixels, where=self._mask)

    def _shatter(self) -> None:
        starts = zip(*(box.offset for box in self._boxes), strict=True)
        stops = zip(*(box.stop for box in self._boxes), strict=True)
        offset, stop = tuple(map(min, starts)), tuple(map(max, stops))
        self._box = Region(offset, tuple(map(int.__sub__, stop, offset)))
        self._mask = np.zeros(self._box.shape, dtype=np.bool_)
        for box in self._boxes:
            self._mask[box.relative_to(offset).slices()] = True
        self._left = int(np.count_nonzero(self._mask))
        self._boxes = ()


@functools.lru_cache(maxsize=4096)
def _without(boxes: tuple[Region, ...], region: Region) -> tuple[Region, ...]:
    # Cached: the chunks beside each other that one strip crosses all ask the same.
    return tuple(piece for box in boxes for piece in box.subtract(region))
