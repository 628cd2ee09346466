"""Which pixels do tests write, and what should every level then hold?

Pixels tell where they belong: a misplaced one differs from the one that should be there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import tensorstore
from ziggurat_engine.kernels import reference

DTYPES = (
    *("uint8", "uint16", "uint32", "uint64"),
    *("int8", "int16", "int32", "int64"),
    *("float32", "float64"),
)


def marked(shape: Sequence[int], dtype: str, offset: Sequence[int] = (), seed: int = 0):
    """Pixels made of their place in the image and `seed`, never 0, in every byte of `dtype`.

    The low bits of a product with a large odd number change from place to place, so that
    8 bits tell neighbours apart too.
    """
    offset = tuple(offset) or (0,) * len(shape)
    number = np.full(tuple(shape), seed * 0x9E3779B97F4A7C15 % 2**64, np.uint64)
    for axis, (start, size) in enumerate(zip(offset, shape, strict=True)):
        place = (np.arange(start, start + size, dtype=np.uint64) + np.uint64(1)) * np.uint64(
            (0xD1342543DE82EF95, 0xAF251AF3B0F025B5, 0xB564EF22EC7AECE5)[axis % 3] >> axis
        )
        number ^= place.reshape((-1,) + (1,) * (len(shape) - axis - 1))
        number ^= number >> np.uint64(29)
        number *= np.uint64(0xBF58476D1CE4E5B9)
    number ^= number >> np.uint64(32)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        # Many magnitudes, all finite; sums round, so the order of additions shows.
        whole = (number >> np.uint64(40)).astype(np.float64) + 1
        return (whole / np.float64(3)).astype(kind)
    values = np.frombuffer(number.tobytes(), f"<u{8}").astype(f"u{kind.itemsize}")
    values[values == 0] = 1
    return values.view(kind).reshape(tuple(shape))


def cascade(
    level0: np.ndarray, factors: Iterable[Sequence[int]], method: str = "mean"
) -> list[np.ndarray]:
    """All levels as tensorstore.downsample makes them, each from the one before."""
    levels = [level0]
    for step in factors:
        source = tensorstore.array(np.ascontiguousarray(levels[-1]))
        levels.append(tensorstore.downsample(source, list(step), method).read().result())
    return levels


def reference_cascade(
    level0: np.ndarray, factors: Iterable[Sequence[int]], method: str = "mean"
) -> list[np.ndarray]:
    """All levels by plain NumPy; equals `cascade` but for -0.0 and NaN (kernels/reference.py)."""
    levels = [level0]
    for step in factors:
        below = levels[-1]
        if method in reference.HALO_METHODS:
            nothing = (0,) * below.ndim
            above = reference.HALO_METHODS[method](below, nothing, below.shape, tuple(step))
        else:
            above = reference.METHODS[method](below, below.shape, tuple(step))
        levels.append(above)
    return levels


def same_bytes(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Shape, type and every byte."""
    return (
        found.shape == wanted.shape
        and found.dtype.newbyteorder("=") == wanted.dtype.newbyteorder("=")
        and np.ascontiguousarray(found).tobytes() == np.ascontiguousarray(wanted).tobytes()
    )


def difference(found: np.ndarray, wanted: np.ndarray) -> str:
    """Where two arrays differ, for a failing test's message."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return f"{found.dtype} {found.shape}, not {wanted.dtype} {wanted.shape}"
    places = np.argwhere(found != wanted)
    if not len(places):
        return "no value differs"
    first = tuple(int(i) for i in places[0])
    last = tuple(int(i) for i in places.max(axis=0))
    return (
        f"{len(places)} of {found.size} pixels, from {first} to {last};"
        f" at the first {found[first]!r}, not {wanted[first]!r}"
    )
