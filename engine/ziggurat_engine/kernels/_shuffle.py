"""How are the bytes or bits of a block's elements brought together, and apart again?

As c-blosc 1 does it, for elements of 1, 2, 4 or 8 bytes (n elements in a block):

    bytes: plane j holds byte j of every element: n bytes
    bits: plane 8 j + i holds bit i of byte j of every element: n / 8 bytes,
          bit k of byte g is that of element 8 g + k; so n is a multiple of 8

Bits are turned in words of 8 elements: the 8 bytes of a word are the rows of a matrix of 8 by 8
bits, which is transposed (H. S. Warren, Hacker's Delight, 7-3). All is done in short stretches
that stay in the nearest cache, each in loops over neighbours, so that they become vectors. What a
processor has instructions for is done by them (_bits), and the rest of a block here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ziggurat_engine.kernels import _bits
from ziggurat_engine.loops import Vector, compiled

# Words of a stretch; 8 elements each.
STRETCH = 128

ITEMSIZES = (1, 2, 4, 8)


def scratch() -> Vector:
    """What the functions below work in, for one thread at a time."""
    return np.empty((8, STRETCH), np.uint64)


@compiled
def _transposed(x: Any) -> Any:
    """Bit k of byte i becomes bit i of byte k."""
    t = (x ^ (x >> np.uint64(7))) & np.uint64(0x00AA00AA00AA00AA)
    x = x ^ t ^ (t << np.uint64(7))
    t = (x ^ (x >> np.uint64(14))) & np.uint64(0x0000CCCC0000CCCC)
    x = x ^ t ^ (t << np.uint64(14))
    t = (x ^ (x >> np.uint64(28))) & np.uint64(0x00000000F0F0F0F0)
    return x ^ t ^ (t << np.uint64(28))


@compiled
def _join(bytes_: Vector, itemsize: int, out: Vector) -> None:
    """Elements out of their bytes: byte j of element k is bytes_[j, k]."""
    n = out.size // itemsize
    if itemsize == 1:
        one = bytes_[0]
        for k in range(n):
            out[k] = one[k]
    elif itemsize == 2:
        two = out.view(np.uint16)
        a, b = bytes_[0], bytes_[1]
        for k in range(n):
            two[k] = np.uint16(a[k]) | (np.uint16(b[k]) << np.uint16(8))
    elif itemsize == 4:
        four = out.view(np.uint32)
        a, b, c, d = bytes_[0], bytes_[1], bytes_[2], bytes_[3]
        for k in range(n):
            low = np.uint32(a[k]) | (np.uint32(b[k]) << np.uint32(8))
            high = np.uint32(c[k]) | (np.uint32(d[k]) << np.uint32(8))
            four[k] = low | (high << np.uint32(16))
    else:
        eight = out.view(np.uint64)
        first = bytes_[0]
        for k in range(n):
            eight[k] = np.uint64(first[k])
        for j in range(1, 8):
            row, shift = bytes_[j], np.uint64(8 * j)
            for k in range(n):
                eight[k] |= np.uint64(row[k]) << shift


@compiled
def _part(pixels: Vector, itemsize: int, bytes_: Vector) -> None:
    """The inverse of `_join`."""
    if itemsize == 1:
        _part_elements(pixels, bytes_)
    elif itemsize == 2:
        _part_elements(pixels.view(np.uint16), bytes_)
    elif itemsize == 4:
        _part_elements(pixels.view(np.uint32), bytes_)
    else:
        _part_elements(pixels.view(np.uint64), bytes_)


@compiled
def _part_elements(elements: Vector, bytes_: Vector) -> None:
    for j in range(elements.itemsize):
        row, shift = bytes_[j], elements.dtype.type(8 * j)
        for k in range(elements.size):
            row[k] = np.uint8(elements[k] >> shift)


@compiled
def shuffle_bits(pixels: Vector, itemsize: int, planes: Vector, words: Vector) -> None:
    """pixels, planes: bytes, as many, a multiple of 8 * itemsize, aligned to the itemsize."""
    m = pixels.size // (8 * itemsize)
    bytes_ = words.view(np.uint8)
    for start in range(_bits.to_planes(pixels, itemsize, planes), m, STRETCH):
        n = min(STRETCH, m - start)
        _part(pixels[start * 8 * itemsize : (start + n) * 8 * itemsize], itemsize, bytes_)
        for j in range(itemsize):
            row = words[j]
            for g in range(n):
                row[g] = _transposed(row[g])
            for i in range(8):
                at = (8 * j + i) * m + start
                plane, shift = planes[at : at + n], np.uint64(8 * i)
                for g in range(n):
                    plane[g] = np.uint8(row[g] >> shift)


@compiled
def unshuffle_bits(planes: Vector, itemsize: int, pixels: Vector, words: Vector) -> None:
    """The inverse of `shuffle_bits`."""
    m = pixels.size // (8 * itemsize)
    bytes_ = words.view(np.uint8)
    for start in range(_bits.from_planes(planes, itemsize, pixels), m, STRETCH):
        n = min(STRETCH, m - start)
        for j in range(itemsize):
            row, at = words[j], 8 * j * m + start
            plane = planes[at : at + n]
            for g in range(n):
                row[g] = np.uint64(plane[g])
            for i in range(1, 8):
                at += m
                plane, shift = planes[at : at + n], np.uint64(8 * i)
                for g in range(n):
                    row[g] |= np.uint64(plane[g]) << shift
            for g in range(n):
                row[g] = _transposed(row[g])
        _join(bytes_, itemsize, pixels[start * 8 * itemsize : (start + n) * 8 * itemsize])


@compiled
def shuffle_bytes(pixels: Vector, itemsize: int, planes: Vector) -> None:
    """pixels, planes: bytes, as many, a multiple of itemsize, aligned to it."""
    _part(pixels, itemsize, planes.reshape(itemsize, planes.size // itemsize))


@compiled
def unshuffle_bytes(planes: Vector, itemsize: int, pixels: Vector) -> None:
    """The inverse of `shuffle_bytes`."""
    _join(planes.reshape(itemsize, planes.size // itemsize), itemsize, pixels)
