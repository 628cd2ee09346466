"""Which chunks of the new levels come of anything that is stored, and in which order?

All new levels have chunks of one shape, so that chunk i of level k has its parent at
i // factors, whatever the factors. A chunk is active where anything below it is stored:
only active ones are visited, so that an image of a million chunks with ten of them on
disk costs ten. Depth first: the leaves below a chunk come one after the other, so that
few chunks are ever open.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ziggurat_engine.grid import Grid
from ziggurat_engine.region import Shape

Numbers = NDArray[np.int64]


@dataclass(eq=False)
class Nodes:
    """The active chunks of one new level.

    numbers: linear indices in the level's grid of chunks, ascending. parent: of each, its
    place among the next level's. children: how many active ones each has, below. done:
    stored, by this run or an earlier one.
    """

    grid: Grid
    numbers: Numbers
    parent: Numbers
    children: NDArray[np.int64]
    done: NDArray[np.bool_]

    def index(self, place: int) -> Shape:
        """The chunk at `place`, one number an axis."""
        return tuple(int(i) for i in np.unravel_index(int(self.numbers[place]), self.grid.counts))

    def place(self, index: Shape) -> int:
        """Where chunk `index` is among the active ones; -1 where it is not."""
        number = 0
        for i, n in zip(index, self.grid.counts, strict=True):
            number = number * n + i
        return self.place_of(number)

    def place_of(self, number: int) -> int:
        """The same, of a linear index."""
        place = int(np.searchsorted(self.numbers, number))
        return place if place < len(self.numbers) and self.numbers[place] == number else -1


def grow(grids: Sequence[Grid], factors: Sequence[Shape], leaves: Numbers) -> list[Nodes]:
    """The active chunks of all levels; `leaves` are those of the first one of `grids`.

    factors[k] leads from the chunks of grids[k] to those of grids[k + 1].
    """
    levels: list[Nodes] = []
    numbers, children = leaves, np.zeros(len(leaves), np.int64)
    for k, grid in enumerate(grids):
        parent, above = np.zeros(0, np.int64), np.zeros(0, np.int64)
        if k + 1 < len(grids):
            index = np.unravel_index(numbers, grid.counts)
            limits = grids[k + 1].counts
            up = tuple(i // f for i, f in zip(index, factors[k], strict=True))
            above, parent = np.unique(np.ravel_multi_index(up, limits), return_inverse=True)
            parent = parent.astype(np.int64)
        levels.append(Nodes(grid, numbers, parent, children, np.zeros(len(numbers), np.bool_)))
        if k + 1 < len(grids):
            numbers, children = above, np.bincount(parent, minlength=len(above))
    return levels


def touched(objects: Numbers, cell: Shape, shape: Shape, step: Shape, grid: Grid) -> Numbers:
    """The chunks of `grid` that `step` x their shape pixels of the level below put into them.

    objects: (n, axes) indices of what is stored below, `cell` pixels each, of `shape`.
    """
    if not len(objects):
        return np.zeros(0, np.int64)
    spans = [f * c for f, c in zip(step, grid.cell, strict=True)]
    first = objects * np.array(cell) // np.array(spans)
    stop = np.minimum((objects + 1) * np.array(cell), np.array(shape)) - 1
    last = stop // np.array(spans)
    found = np.zeros(0, np.int64)
    for offset in itertools.product(*(range(int(n) + 1) for n in (last - first).max(axis=0))):
        index = first + np.array(offset)
        inside = (index <= last).all(axis=1)
        numbers = np.ravel_multi_index(tuple(index[inside].T), grid.counts)
        found = np.union1d(found, numbers)
    return found


@dataclass(frozen=True, slots=True)
class Task:
    """level 0: make the unit of the chunk at `place`. Else: the stored chunk at `place` of

    `level` - 1 is wanted above.
    """

    level: int
    place: int


def order(levels: Sequence[Nodes], wanted: Sequence[tuple[int, Numbers]]) -> Tasks:
    """Tasks depth first. wanted: (level of the task, places); see Task."""
    top = len(levels) - 1
    keys: list[list[Numbers]] = [[] for _ in levels]
    for level, places in wanted:
        at = places
        for k in range(len(levels)):
            if k < level - 1:
                keys[k].append(np.full(len(places), -1, np.int64))
                continue
            keys[k].append(at)
            if k < top:
                at = levels[k].parent[at]
    which = np.concatenate([np.full(len(p), level, np.int64) for level, p in wanted])
    where = np.concatenate([p for _, p in wanted])
    # lexsort's last key is its first: the place of the top-most ancestor.
    sequence = np.lexsort([np.concatenate(k) for k in keys])
    return Tasks(which[sequence], where[sequence])


class Tasks:
    """A run of tasks, 16 bytes each."""

    def __init__(self, levels: Numbers, places: Numbers) -> None:
        self.levels = levels
        self.places = places

    def __len__(self) -> int:
        return len(self.levels)

    def __getitem__(self, i: int) -> Task:
        if not 0 <= i < len(self.levels):
            raise IndexError(i)
        return Task(int(self.levels[i]), int(self.places[i]))
