"""Which pixels of a chunk were never written since it became dirty?

Kept as disjoint boxes: frames that arrive in order leave one or two. Writes that
shatter a chunk into more than MAX_BOXES turn them into a mask of one byte a pixel.
What is counted is pixels, not writes: a frame that is sent twice covers nothing new.

A strip of a frame touches tens of chunks, and takes a box of each: one compiled loop does
that for all of them (`cover`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ziggurat_engine.loops import Five, Vector, compiled, five, once, run
from ziggurat_engine.region import Region, Shape
from ziggurat_engine.scatter import address_of, memcpy
from ziggurat_engine.spec import Array

MAX_BOXES = 16

# Boxes that there is room for at first: most chunks never have more.
_ROOM = 2
# Of a coverage with a mask: its boxes are not looked at.
_MASK = -1
# What `_cover` says of a chunk: no more than before, all of it is covered now, not for loops.
_SAME, _FULL, _LEFT_OUT = range(3)
_ROW = 2 * 5
_ROW_BYTES = 8 * _ROW


class Coverage:
    """The uncovered pixels of one box, `whole` at first. Not thread-safe."""

    __slots__ = ("_box", "_left", "_mask", "_rank", "_rows", "address")

    def __init__(self, whole: Region) -> None:
        self._rank = len(whole.shape)
        # What the loops see of it, at `address`. In the first row how many boxes are left, and
        # how many there is room for; then of each its start and its stop along five axes.
        self._rows: NDArray[np.int64] = _NO_ROWS
        self._keep([whole])
        # With a mask: the box that it stands for, and the pixels set in it.
        self._mask: NDArray[np.bool_] | None = None
        self._box = whole
        self._left = 0

    @property
    def full(self) -> bool:
        """True where every pixel was covered."""
        return self._left == 0 if self._mask is not None else not self._rows[0, 0]

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the mask holds, 0 where there is none."""
        return 0 if self._mask is None else self._mask.nbytes

    def add(self, region: Region) -> bool:
        """Covers the pixels of `region`, which lies within the whole; True where that was all."""
        if self._mask is None:
            boxes = [piece for box in self._boxes() for piece in box.subtract(region)]
            if len(boxes) <= MAX_BOXES:
                self._keep(boxes)
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
            for box in self._boxes():
                at = box.slices()
                target[at] = source[at] if isinstance(source, np.ndarray) else source
        else:
            at = self._box.slices()
            pixels = source[at] if isinstance(source, np.ndarray) else source
            np.copyto(target[at], pixels, where=self._mask)

    def _boxes(self) -> list[Region]:
        """Those that are left, where there is no mask."""
        found = []
        for row in self._rows[1 : 1 + self._rows[0, 0]].tolist():
            start, stop = row[5 - self._rank : 5], row[_ROW - self._rank :]
            found.append(Region(tuple(start), tuple(map(int.__sub__, stop, start))))
        return found

    def _keep(self, boxes: Sequence[Region]) -> None:
        if len(boxes) >= len(self._rows):
            room = min(MAX_BOXES, max(_ROOM, 2 * len(boxes)))
            self._rows = np.empty((1 + room, _ROW), np.int64)
            self._rows[0, 1] = room
            self.address = address_of(self._rows)
        self._rows[0, 0] = len(boxes)
        for row, box in zip(self._rows[1:], boxes, strict=False):
            row[:] = (*five(box.offset, 0), *five(box.stop))

    def _shatter(self) -> None:
        boxes = self._boxes()
        starts = zip(*(box.offset for box in boxes), strict=True)
        stops = zip(*(box.stop for box in boxes), strict=True)
        offset, stop = tuple(map(min, starts)), tuple(map(max, stops))
        self._box = Region(offset, tuple(map(int.__sub__, stop, offset)))
        self._mask = np.zeros(self._box.shape, dtype=np.bool_)
        for box in boxes:
            self._mask[box.relative_to(offset).slices()] = True
        self._left = int(np.count_nonzero(self._mask))
        self._rows[0, 0] = _MASK


_NO_ROWS = np.zeros((0, _ROW), np.int64)


def cover(
    coverages: Sequence[Coverage], first: Shape, shape: Shape, cell: Shape
) -> tuple[list[int], int]:
    """Covers a box of `shape` pixels, of at most 5 axes, in all chunks that it touches.

    coverages: of these, the last axis fastest. first: where the box begins in the first of
    them. cell: the shape of a chunk. Returns the numbers of those that are full by this, and
    the bytes that masks have grown by. Nobody else may use them meanwhile.
    """
    warm()
    addresses = np.fromiter([c.address for c in coverages], np.int64, len(coverages))
    found = np.empty(len(coverages), np.int8)
    run(_cover, addresses, five(first, 0), five(shape), five(cell), found)
    if not found.any():
        return [], 0
    grown, covered = 0, []
    for k in np.flatnonzero(found).tolist():
        if found[k] == _FULL:
            covered.append(k)
            continue
        coverage = coverages[k]
        if not coverage.full:
            before = coverage.nbytes
            if coverage.add(_inside(k, first, shape, cell)):
                covered.append(k)
            grown += coverage.nbytes - before
    return covered, grown


def _inside(number: int, first: Shape, shape: Shape, cell: Shape) -> Region:
    """Of a box as of `cover` the pixels in the chunk of that number, counted from its first."""
    stop = tuple(map(int.__add__, first, shape))
    counts = [-(-end // length) for end, length in zip(stop, cell, strict=True)]
    at = tuple(map(int, np.unravel_index(number, counts)))
    low = tuple(max(o - i * n, 0) for o, i, n in zip(first, at, cell, strict=True))
    high = tuple(min(s - i * n, n) for s, i, n in zip(stop, at, cell, strict=True))
    return Region(low, tuple(map(int.__sub__, high, low)))


def warm() -> None:
    """Compiles the loop, or loads what was compiled before; else the first write waits for that."""
    once("cover", np.dtype(np.int64), _compile)


def _compile() -> None:
    one = Coverage(Region.whole((1,)))
    addresses, found = np.array([one.address], np.int64), np.empty(1, np.int8)
    run(_cover, addresses, five((0,), 0), five((1,)), five((1,)), found)


@compiled
def _cover(addresses: Vector, first: Five, shape: Five, cell: Five, found: Vector) -> None:
    rows = np.empty((1 + MAX_BOXES, _ROW), np.int64)
    made = np.empty((1 + MAX_BOXES, _ROW), np.int64)
    index, taken = np.zeros(5, np.int64), np.empty(_ROW, np.int64)
    for k in range(addresses.size):
        for a in range(5):
            taken[a] = max(first[a] - index[a] * cell[a], 0)
            taken[5 + a] = min(first[a] + shape[a] - index[a] * cell[a], cell[a])
        found[k] = _SAME
        memcpy(rows.ctypes.data, addresses[k], _ROW_BYTES)
        count = rows[0, 0]
        if count == _MASK:
            found[k] = _LEFT_OUT
        elif count:
            memcpy(rows.ctypes.data, addresses[k], _ROW_BYTES * (1 + count))
            left = _subtract(rows, taken, made)
            if left == _MASK:
                found[k] = _LEFT_OUT
            else:
                found[k] = _SAME if left else _FULL
                made[0, 0], made[0, 1] = left, rows[0, 1]
                memcpy(addresses[k], made.ctypes.data, _ROW_BYTES * (1 + left))
        for a in range(4, -1, -1):
            index[a] += 1
            if index[a] * cell[a] < first[a] + shape[a]:
                break
            index[a] = 0


@compiled
def _subtract(rows: Vector, taken: Vector, made: Vector) -> int:  # noqa: C901 - one loop
    """Puts what is left of the boxes behind the first of `made`.

    Returns their number; _MASK: there is no room for all.
    """
    count = 0
    low, high = np.empty(5, np.int64), np.empty(5, np.int64)
    for b in range(1, 1 + rows[0, 0]):
        box = rows[b]
        apart = False
        for a in range(5):
            low[a], high[a] = max(box[a], taken[a]), min(box[5 + a], taken[5 + a])
            apart |= low[a] >= high[a]
        for a in range(5):
            # The whole box, once; or what lies before and behind along each axis.
            for behind in range(2):
                there = a + behind == 0
                if not apart:
                    there = high[a] < box[5 + a] if behind else box[a] < low[a]
                if there:
                    if count == rows[0, 1]:
                        return _MASK
                    count += 1
                    made[count] = box
                    if not apart:
                        if behind:
                            made[count, a] = high[a]
                        else:
                            made[count, 5 + a] = low[a]
            if not apart:
                box[a], box[5 + a] = low[a], high[a]
    return count
