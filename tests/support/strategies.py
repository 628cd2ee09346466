"""Which images and regions do property tests draw?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st
from ziggurat_engine.region import Region

from tests.support.pixels import DTYPES

AXES = ["yx", "zyx", "cyx", "tyx", "czyx", "tzyx", "tcyx", "tczyx"]
METHODS = ["mean", "median", "mode", "min", "max", "stride"]
CODECS = ["blosc-lz4:1", "blosc-zstd:1", "zstd:1", "gzip:1", "none"]
MOST_PIXELS = 8000
MOST_CHUNK_BYTES = 16 * 2**10


@st.composite
def image_specs(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of Client.create: few pixels, many chunks, odd edges, all layouts."""
    axes = draw(st.sampled_from(AXES))
    dtype = draw(st.sampled_from(DTYPES))
    shape, left = [], MOST_PIXELS
    for axis in reversed(axes):
        most = min(left, 45 if axis in "yx" else 9 if axis == "z" else 3)
        shape.append(draw(st.integers(1, most)))
        left //= shape[-1]
    shape.reverse()
    chunk = [
        draw(st.sampled_from([2, 4, 6, 8, 16]) if axis in "zyx" else st.integers(1, 2))
        for axis in axes
    ]
    while math.prod(chunk) * np.dtype(dtype).itemsize > MOST_CHUNK_BYTES:
        chunk[chunk.index(max(chunk))] //= 2
    spec: dict[str, Any] = {
        "axes": axes,
        "shape": shape,
        "dtype": dtype,
        "chunk_shape": chunk,
        "shard_chunks": draw(
            st.one_of(
                st.just([1] * len(axes)),
                st.lists(st.integers(1, 3), min_size=len(axes), max_size=len(axes)),
            )
        ),
        "codec": draw(st.sampled_from(CODECS)),
        "downsampling": draw(st.sampled_from(METHODS)),
        "voxel_size": {a: draw(st.sampled_from([0.5, 1.0, 3.0])) for a in axes if a in "zyx"},
        "fill_value": draw(st.sampled_from([0, 1, 100])),
    }
    if draw(st.booleans()):
        # Explicit factors, 3 among them; chunks must be divisible by them.
        spec["chunk_shape"] = [c if a in "tc" else 6 for a, c in zip(axes, chunk, strict=True)]
        step = st.tuples(
            *(st.just(1) if a in "tc" else st.sampled_from([1, 2, 3]) for a in axes)
        ).filter(lambda factors: max(factors) > 1)
        spec["factors"] = draw(st.lists(step, min_size=1, max_size=3))
    return spec


@st.composite
def regions(draw: st.DrawFn, shape: tuple[int, ...]) -> Region:
    """A box of at least one pixel within `shape`; whole axes are likely."""
    offset, extent = [], []
    for size in shape:
        if draw(st.booleans()):
            offset.append(0)
            extent.append(size)
        else:
            start = draw(st.integers(0, size - 1))
            offset.append(start)
            extent.append(draw(st.integers(1, size - start)))
    return Region(tuple(offset), tuple(extent))


def level_shape(shape: tuple[int, ...], factors: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape after `factors`, one step after the other."""
    for step in factors:
        shape = tuple(-(-n // f) for n, f in zip(shape, step, strict=True))
    return shape


def fill_like(shape: tuple[int, ...], spec: dict[str, Any]) -> np.ndarray:
    """Pixels that are all fill value: written, they leave chunks absent."""
    return np.full(shape, spec["fill_value"], spec["dtype"])
