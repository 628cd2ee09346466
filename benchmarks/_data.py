"""Which pixels does a benchmark write?

Camera frames with the noise that decides how pixels compress (see ziggurat_engine.demo
.camera), made before the clock starts. They lie in one run of memory, the pool. Where
more frames are asked for than fit, a frame is the pool from another row on: a scrolled
sample, so that no plane comes twice, at no cost while the clock runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ziggurat_engine.demo.camera import Camera

POOL_BYTES = 1024 * 2**20


class Frames:
    """`count` frames (Y, X) of `dtype`: frames[k] is a view that must not be written to."""

    def __init__(
        self, shape: tuple[int, int], count: int, dtype: str, *, pool_bytes: int = POOL_BYTES
    ) -> None:
        self.shape = shape
        self.count = count
        self._size = math.prod(shape)
        itemsize = np.dtype(dtype).itemsize
        held = max(1, min(count, pool_bytes // (self._size * itemsize)))
        # One frame more than is shown, so that every row of the pool can begin a frame.
        held += count > held
        camera = Camera(shape, held)
        self._pool: NDArray[Any] = np.empty((held, *shape), dtype)
        for number in range(held):
            self._pool[number] = converted(camera.frame(number), self._pool.dtype)
        self._pool.flags.writeable = False
        self._flat = self._pool.reshape(-1)
        self._starts = held if count <= held else held - 1

    def __getitem__(self, number: int) -> NDArray[Any]:
        if not 0 <= number < self.count:
            raise IndexError(number)
        turn, place = divmod(number, self._starts)
        # A stride that shares no factor with most heights: rows come back late.
        row = turn * 37 % self.shape[0]
        start = place * self._size + row * self.shape[1]
        frame: NDArray[Any] = self._flat[start : start + self._size].reshape(self.shape)
        return frame

    def box(self, offset: Sequence[int], shape: Sequence[int]) -> NDArray[Any]:
        """The pixels of a box (frame, Y, X) of all frames."""
        first, y, x = offset
        count, height, width = shape
        planes = [self[k][y : y + height, x : x + width] for k in range(first, first + count)]
        stacked: NDArray[Any] = np.stack(planes)
        return stacked


def converted(frame: NDArray[np.uint16], dtype: np.dtype[Any]) -> NDArray[Any]:
    """A camera's frame as `dtype`; 8 bits take its upper ones, as cameras do."""
    if dtype.itemsize > 1:
        return frame.astype(dtype)
    upper: NDArray[Any] = np.minimum(frame >> 5, np.iinfo(dtype).max).astype(dtype)
    return upper
