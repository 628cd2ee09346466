"""How do the pixels of a box get into the chunks that it touches, or out of them, without the GIL?

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
memcpy = external("memcpy", ctypes.CDLL(None).memcpy, _word, _word, _word, _word)


def address_of(array: Array) -> int:
    """Where the first pixel of `array` lies, for `scatter`. It has to stay."""
    return int(array.ctypes.data)


def scatter(pixels: Array, first: Shape, cell: Shape, chunks: Sequence[int]) -> None:
    """Copies `pixels`, a box of at most 5 axes, into all chunks that it touches.

    first: where the box begins in the first of them. cell: the shape of a chunk. chunks:
    their addresses, the last axis fastest; each is C-contiguous and has pixels' dtype. Nobody
    else may use them meanwhile. Runs without the interpreter's lock.
    """
    if not dense_rows(pixels):
        pixels = np.ascontiguousarray(pixels)
    _run(pixels, first, cell, chunks, outward=False)


def gather(chunks: Sequence[int], first: Shape, cell: Shape, pixels: Array) -> None:
    """Copies a box out of all chunks that it touches: what `scatter` does, the other way.

    pixels: with dense rows. chunks: 0 for one that is left out, whose pixels stay as they are.
    """
    _run(pixels, first, cell, chunks, outward=True)


def dense_rows(pixels: Array) -> bool:
    """Whether pixels that are neighbours along the last axis lie beside each other."""
    return pixels.strides[-1] == pixels.itemsize or pixels.shape[-1] == 1


def warm() -> None:
    """Compiles it, or loads what was compiled before; else the first call waits for that."""
    once("scatter", np.dtype(np.uint8), _compile)


def _run(pixels: Array, first: Shape, cell: Shape, chunks: Sequence[int], *, outward: bool) -> None:
    warm()
    addresses = np.fromiter(chunks, np.int64, len(chunks))
    shape, starts, cells = five(pixels.shape), five(first, 0), five(cell)
    strides = five(pixels.strides, 0)
    address, size = address_of(pixels), pixels.itemsize
    run(_copy, address, strides, shape, starts, cells, size, addresses, outward)


def _compile() -> None:
    one = five((1,))
    none = np.zeros(1, np.int64)
    run(_copy, 0, one, five((0,), 0), five((0,), 0), one, 1, none, False)


@compiled
def _copy(  # noqa: C901 - one pass: a call for each row would double its time
    pixels: int,
    strides: Five,
    shape: Five,
    first: Five,
    cell: Five,
    size: int,
    chunks: Vector,
    outward: bool,
) -> None:
    # Of a box without pixels nothing is done. How many chunks it touches along each axis:
    count1 = (first[1] + shape[1] + cell[1] - 1) // cell[1]
    count2 = (first[2] + shape[2] + cell[2] - 1) // cell[2]
    count3 = (first[3] + shape[3] + cell[3] - 1) // cell[3]
    count4 = (first[4] + shape[4] + cell[4] - 1) // cell[4]
    # Row by row of the box, so that it is read, or written, as it lies. Along each axis
    # at and in_: which chunk a row is in, and where in it, both in C order up to this axis;
    # counted along, for a division takes as long as copying a row of 128 pixels.
    at0, in0 = 0, first[0]
    for i0 in range(shape[0]):
        at1, in1 = at0 * count1, in0 * cell[1] + first[1]
        end1 = (in0 + 1) * cell[1]
        for i1 in range(shape[1]):
            at2, in2 = at1 * count2, in1 * cell[2] + first[2]
            end2 = (in1 + 1) * cell[2]
            for i2 in range(shape[2]):
                at3, in3 = at2 * count3, in2 * cell[3] + first[3]
                end3 = (in2 + 1) * cell[3]
                row = pixels + i0 * strides[0] + i1 * strides[1] + i2 * strides[2]
                for _ in range(shape[3]):
                    done, skip = 0, first[4]
                    for k in range(at3 * count4, (at3 + 1) * count4):
                        here = min(cell[4] - skip, shape[4] - done)
                        inner = chunks[k] + (in3 * cell[4] + skip) * size
                        outer = row + done * size
                        if not outward:
                            memcpy(inner, outer, here * size)
                        elif chunks[k]:
                            memcpy(outer, inner, here * size)
                        done += here
                        skip = 0
                    row += strides[3]
                    in3 += 1
                    if in3 == end3:
                        at3, in3 = at3 + 1, end3 - cell[3]
                in2 += 1
                if in2 == end2:
                    at2, in2 = at2 + 1, end2 - cell[2]
            in1 += 1
            if in1 == end1:
                at1, in1 = at1 + 1, end1 - cell[1]
        in0 += 1
        if in0 == cell[0]:
            at0, in0 = at0 + 1, 0
