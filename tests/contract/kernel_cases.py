"""What do the suites of the kernels share?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import numpy as np
import pytest
from ziggurat_engine.kernels.cuda.cupy_device import find
from ziggurat_engine.kernels.protocol import Kernels, Recipe
from ziggurat_engine.kernels.select import select
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Array, Blosc, Codec, DTypeName

from tests.support import shim

# The CUDA kernels on the CPU, see tests/support/card.py, and on a real device.
CARDS = (
    pytest.param("card", marks=pytest.mark.skipif(not shim.available(), reason="needs g++")),
    pytest.param("cuda", marks=pytest.mark.gpu),
)
IMPLEMENTATIONS = ("reference", "cpu", *CARDS)
DTYPES = [np.dtype(name) for name in get_args(DTypeName)]
THREADS = 2


CASES: list[tuple[Shape, Shape, Shape]] = [  # chunk, valid, factors
    ((8, 8), (8, 8), (2, 2)),
    ((8, 16, 32), (8, 16, 32), (2, 2, 2)),
    ((8, 16, 32), (7, 15, 31), (2, 2, 2)),
    ((8, 16, 32), (1, 1, 1), (2, 2, 2)),
    ((8, 16, 32), (8, 3, 5), (1, 2, 2)),
    ((8, 16, 32), (5, 16, 31), (1, 1, 2)),
    ((8, 16, 32), (8, 16, 32), (2, 1, 1)),
    ((1, 1, 33), (1, 1, 33), (2, 2, 2)),
    ((9, 9, 1), (9, 9, 1), (2, 2, 2)),
    ((9, 10, 11), (9, 10, 11), (3, 4, 5)),
    ((9, 10, 11), (8, 7, 10), (4, 3, 3)),
    ((5, 6, 7), (4, 5, 6), (1, 1, 1)),
    ((3, 4, 5), (3, 4, 5), (100, 100, 100)),
    ((2, 3, 5, 6), (2, 3, 5, 6), (1, 2, 2, 2)),
    ((2, 2, 4, 5, 6), (2, 2, 3, 5, 5), (1, 1, 2, 2, 2)),
    ((3, 2, 4, 5, 6), (3, 2, 4, 5, 6), (3, 2, 2, 2, 2)),
]

# A window of so many pixels that narrow sums overflow.
HUGE: tuple[Shape, Shape, Shape] = ((300, 300), (300, 299), (250, 200))


def made(name: str) -> Kernels:
    """One of IMPLEMENTATIONS, which the caller closes."""
    if name == "card":
        from tests.support.card import kernels_on

        # One chunk wanted is enough for the card to decode it.
        return kernels_on(decode_together=1)
    if name == "cuda":
        from tests.support.card import kernels_on

        # nvCOMP wants half a GiB of scratch.
        return kernels_on(*find(), decode_together=1, device_memory_bytes=2**32)
    return select(name, THREADS)


@contextmanager
def implementation(name: str) -> Iterator[Kernels]:
    """One of IMPLEMENTATIONS. Fails where a card did not do what it was given, or did it wrongly:
    the CPU behind it would hide that from every test."""
    kernels = made(name)
    yield kernels
    kernels.close()
    assert [device.last_failure for device in kernels.devices] == [""] * len(kernels.devices)


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
    method: str = "mean",
) -> Recipe:
    return Recipe(codec or Blosc(), dtype.type(fill), factors, method)


def same_bits(left: Array, right: Array) -> bool:
    return (
        left.dtype == right.dtype
        and left.shape == right.shape
        and left.tobytes() == right.tobytes()
    )
