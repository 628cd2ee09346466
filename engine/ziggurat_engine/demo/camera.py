"""What would a camera on a microscope deliver?

Frames of uint16: an offset of 100, the photons of a background and of gaussian blobs
that drift from frame to frame, and read noise. The noise is what decides how well and
how fast pixels compress, so it is real Poisson noise, made cheaply: a sum of Poisson
numbers is a Poisson number, so each frame adds two stretches of noise that was drawn
once, each from a place of its own, and draws anew only where blobs are (as a normal
distribution there: the photons are many). No two frames are alike, and a frame depends
on nothing but the seed and its number.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

OFFSET = 100
BACKGROUND_PHOTONS = 900
READ_NOISE = 2.0
# Noise drawn per pixel of a frame: frames begin anywhere in what is left over.
_SPARE = 0.5
_PIXELS_PER_BLOB = 80_000
# A blob ends where it is too dim to matter.
_REACH = 3.0


class Camera:
    """Frames of `shape` (Y, X), of a sample that is `depth` frames deep.

    Each frame is made anew when it is asked for. Not for several threads at once.
    """

    def __init__(self, shape: tuple[int, int], depth: int, *, seed: int = 20260101) -> None:
        self.shape = shape
        self._seed = seed
        height, width = shape
        rng = np.random.default_rng(seed)
        size = height * width + max(1, int(height * width * _SPARE))
        half = BACKGROUND_PHOTONS / 2
        self._noise = rng.poisson(half, size).astype(np.uint16)
        # Read noise is part of the second stretch; its mean is the camera's offset.
        electronics = np.rint(rng.standard_normal(size, np.float32) * READ_NOISE + OFFSET)
        self._offset_noise = rng.poisson(half, size).astype(np.uint16)
        self._offset_noise += electronics.astype(np.uint16)
        count = max(3, height * width // _PIXELS_PER_BLOB)
        shorter = min(shape)
        self._sigma = rng.uniform(shorter / 256, shorter / 64, count) + 1.0
        self._start = rng.uniform(0, 1, (count, 2)) * shape
        self._drift = rng.normal(0, 1.5, (count, 2))
        self._middle = rng.uniform(-0.1, 1.1, count) * depth
        self._thickness = np.maximum(rng.uniform(0.05, 0.25, count) * depth, 2.0)
        self._photons = rng.uniform(1_500, 12_000, count)

    def frame(self, number: int) -> NDArray[np.uint16]:
        """Frame `number`, a new array (Y, X)."""
        height, width = self.shape
        pixels = height * width
        rng = np.random.default_rng((self._seed, number))
        first, second = rng.integers(0, len(self._noise) - pixels, 2, endpoint=True)
        flat = self._noise[first : first + pixels] + self._offset_noise[second : second + pixels]
        frame: NDArray[np.uint16] = flat.reshape(height, width)
        for blob in range(len(self._sigma)):
            self._expose(frame, blob, number, rng)
        return frame

    def _expose(
        self, frame: NDArray[np.uint16], blob: int, number: int, rng: np.random.Generator
    ) -> None:
        """Adds the photons of one blob to `frame`."""
        away = (number - self._middle[blob]) / self._thickness[blob]
        if abs(away) > _REACH:
            return
        sigma = self._sigma[blob]
        centre = (self._start[blob] + number * self._drift[blob]) % self.shape
        low = np.maximum(np.floor(centre - _REACH * sigma), 0).astype(int)
        high = np.minimum(np.ceil(centre + _REACH * sigma) + 1, self.shape).astype(int)
        profiles = [
            np.exp(-0.5 * ((np.arange(low[axis], high[axis]) - centre[axis]) / sigma) ** 2)
            for axis in (0, 1)
        ]
        peak = self._photons[blob] * np.exp(-0.5 * away * away)
        light = np.outer(*profiles).astype(np.float32) * np.float32(peak)
        light += np.sqrt(light) * rng.standard_normal(light.shape, np.float32)
        # Added as signed numbers: where there is next to no light the noise may be negative.
        box = frame.view(np.int16)[low[0] : high[0], low[1] : high[1]]
        box += np.rint(light).astype(np.int16)
