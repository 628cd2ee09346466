"""How do the pixels of a box get into the chunks that it touches, without the interpreter's lock?

A row of 128 pixels is copied in less time than Python takes to say which: so all rows of a
box, in all its chunks, are copied by one compiled loop, which is told where each chunk lies.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
from numba import types

from ziggurat_engine.loops import Five, Vector, compiled, external, five, once, run
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Array

_word = types.uintp
_memcpy = external("memcpy", ctypes.CDLL(None).memcpy, _word, _word, _word, _word)


def address_of(array: Array) -> int:
    """Where the first pixel of `array` lies, for `scatter`. It has to stay."""
    return int(array.ctypes.data)


def scatter(pixels: Array, first: Shape, cell: Shape, chunks: Sequence[int]) -> None:
    """Copies `pixels`, a box of at most 5 axes, into all chunks that it touches.

    first: where the box begins in the first of them. cell: the shape of a chunk. chunks:
    their addresses, the last axis fastest; each is C-contiguous and has pixels' dtype. Nobody
    else may use them meanwhile. Runs without the interpreter's lock.
    """
    if pixels.strides[-1] != pixels.itemsize and pixels.shape[-1] > 1:
        pixels = np.ascontiguousarray(pixels)
    warm()
    addresses = np.fromiter(chunks, np.int64, len(chunks))
    shape, starts, cells = five(pixels.shape), five(first, 0), five(cell)
    strides = five(pixels.strides, 0)
    run(_scatter, pixels.ctypes.data, strides, shape, starts, cells, pixels.itemsize, addresses)


def warm() -> None:
    """Compiles it, or loads what was compiled before; else the first call waits for that."""
    once("scatter", np.dtype(np.uint8), _compile)


def _compile() -> None:
    one = five((1,))
    run(_scatter, 0, one, five((0,), 0), five((0,), 0), one, 1, np.zeros(1, np.int64))


@compiled
def _scatter(
    source: int,
    strides: Five,
    shape: Five,
    first: Five,
    cell: Five,
    itemsize: int,
    chunks: Vector,
) -> None:
    # Of a box without pixels nothing is done.
    counts = (
        (first[0] + shape[0] + cell[0] - 1) // cell[0],
        (first[1] + shape[1] + cell[1] - 1) // cell[1],
        (first[2] + shape[2] + cell[2] - 1) // cell[2],
        (first[3] + shape[3] + cell[3] - 1) // cell[3],
        (first[4] + shape[4] + cell[4] - 1) // cell[4],
    )
    # Row by row of the source, so that it is read as it lies.
    row0 = cell[4] * itemsize
    for i0 in range(shape[0]):
        p0 = first[0] + i0
        for i1 in range(shape[1]):
            p1 = first[1] + i1
            for i2 in range(shape[2]):
                p2 = first[2] + i2
                for i3 in range(shape[3]):
                    p3 = first[3] + i3
                    row = (
                        source
                        + i0 * strides[0]
                        + i1 * strides[1]
                        + i2 * strides[2]
                        + i3 * strides[3]
                    )
                    at = (
                        (p0 // cell[0] * counts[1] + p1 // cell[1]) * counts[2] + p2 // cell[2]
                    ) * counts[3] + p3 // cell[3]
                    inside = (
                        ((p0 % cell[0] * cell[1] + p1 % cell[1]) * cell[2] + p2 % cell[2]) * cell[3]
                        + p3 % cell[3]
                    ) * row0
                    done, skip = 0, first[4]
                    for k in range(counts[4]):
                        here = min(cell[4] - skip, shape[4] - done)
                        target = chunks[at * counts[4] + k] + inside + skip * itemsize
                        _memcpy(target, row + done * itemsize, here * itemsize)
                        done += here
                        skip = 0
