"""What do the suites of the kernels share?"""

from __future__ import annotations

from typing import get_args

import numpy as np
from ziggurat_engine.kernels.protocol import Recipe
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Array, Blosc, Codec, DTypeName

IMPLEMENTATIONS = ("reference", "cpu")
DTYPES = [np.dtype(name) for name in get_args(DTypeName)]
THREADS = 2


def noise(shape: Shape, dtype: np.dtype[np.generic], seed: int = 0) -> Array:
    """All bit patterns for integers; for floats finite values of many magnitudes."""
    rng = np.random.default_rng(seed)
    if dtype.kind == "f":
        return (rng.standard_normal(shape) * 10.0 ** rng.integers(-9, 9, shape)).astype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(rng.bytes(size), dtype).reshape(shape).copy()


def recipe(
    dtype: np.dtype[np.generic],
    factors: Shape | None = None,
    *,
    codec: Codec | None = None,
    fill: float = 0,
) -> Recipe:
    return Recipe(codec or Blosc(), dtype.type(fill), factors)


def same_bits(left: Array, right: Array) -> bool:
    return (
        left.dtype == right.dtype
        and left.shape == right.shape
        and left.tobytes() == right.tobytes()
    )
