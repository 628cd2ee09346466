"""How does a chunk become a frame, and a frame a chunk, at the speed of this machine?

As codec does it, with the same results: Blosc frames of most chunks by compiled loops, all
others by numcodecs.
"""

from __future__ import annotations

import math

import numpy as np

from ziggurat_engine.kernels import _blosc, codec
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Array, Blosc, Codec


def encode(array: Array, codec_: Codec) -> bytes | memoryview:
    """See codec.encode."""
    if isinstance(codec_, Blosc):
        frame = _blosc.encode(np.ascontiguousarray(array, array.dtype.newbyteorder("<")), codec_)
        if frame is not None:
            return frame
    return codec.encode(array, codec_)


def decode(frame: bytes, codec_: Codec, dtype: np.dtype[np.generic], shape: Shape) -> Array:
    """See codec.decode."""
    if isinstance(codec_, Blosc):
        codec.check_blosc(frame, math.prod(shape) * dtype.itemsize)
        pixels: Array = np.empty(shape, dtype.newbyteorder("<"))
        if _blosc.decode(frame, pixels):
            return pixels.astype(dtype, copy=False)
    return codec.decode(frame, codec_, dtype, shape)


def warm() -> None:
    """Compiles what the first Blosc frame would else wait for."""
    _blosc.warm()
