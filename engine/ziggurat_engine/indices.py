"""How are many chunk indices held and compared at once? As rows of an array."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ziggurat_engine.region import Shape

# Where indices lie this dense, a table of all there could be is faster than sorting.
_SPARSE = 16


def rows_of(indices: Iterable[Shape], rank: int) -> NDArray[np.int64]:
    """One row an index; no array is made of each, of perhaps a million."""
    return np.fromiter(itertools.chain.from_iterable(indices), np.int64).reshape(-1, rank)


def distinct(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows of `indices`, each once, sorted."""
    if len(indices) == 0:
        return indices
    low, high = indices.min(axis=0), indices.max(axis=0)
    spans = tuple(map(int, high - low + 1))
    if math.prod(spans) >= 2**63:
        return np.unique(indices, axis=0)
    # Numbers are sorted many times faster than rows.
    numbers = np.ravel_multi_index(tuple((indices - low).T), spans)
    if math.prod(spans) <= _SPARSE * len(indices):
        there = np.zeros(math.prod(spans), np.bool_)
        there[numbers] = True
        numbers = np.flatnonzero(there)
    else:
        numbers = np.unique(numbers)
    rows: NDArray[np.int64] = np.stack(np.unravel_index(numbers, spans), axis=1) + low
    return rows
