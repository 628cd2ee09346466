"""Is a chunk nothing but fill value? Compared by words of 8 bytes, as far as they agree."""

from __future__ import annotations

import numpy as np

from ziggurat_engine.kernels._windows import rows_of
from ziggurat_engine.loops import Vector, compiled, once, run
from ziggurat_engine.spec import Array

_BLOCK = 1024


@compiled
def _all_equal(words: Vector, value: np.uint64) -> bool:
    """True where all of `words` equal `value`; reads a block beyond a difference at most."""
    for start in range(0, words.size, _BLOCK):
        difference = np.uint64(0)
        for i in range(start, min(start + _BLOCK, words.size)):
            difference |= words[i] ^ value
        if difference != 0:
            return False
    return True


def is_filled(chunk: Array, fill_value: np.generic) -> bool:
    """True where every pixel has the bits of the fill value; see reference.is_filled."""
    # It sees words, whatever the pixels are.
    words = np.dtype(np.uint64)
    once("is_filled", words, lambda: _is_filled(np.zeros(8, words), words.type(0)))
    return _is_filled(chunk, fill_value)


def _is_filled(chunk: Array, fill_value: np.generic) -> bool:
    pixels = rows_of(chunk).reshape(-1)
    per_word = 8 // pixels.itemsize
    rest = pixels.size % per_word
    words = pixels[: pixels.size - rest].view(np.uint64)
    filled = np.full(per_word, fill_value, pixels.dtype)
    return bool(
        pixels[pixels.size - rest :].tobytes() == filled[:rest].tobytes()
        and run(_all_equal, words, filled.view(np.uint64)[0])
    )
