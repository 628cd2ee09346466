"""Does a plan copy exactly the pixels that NumPy indexing would?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ziggurat_engine.grid import Grid
from ziggurat_engine.region import Region


@st.composite
def cases(draw: st.DrawFn) -> tuple[Grid, Region]:
    rank = draw(st.integers(1, 4))
    shape = tuple(draw(st.integers(1, 12)) for _ in range(rank))
    cell = tuple(draw(st.integers(1, 14)) for _ in range(rank))
    offset = tuple(draw(st.integers(0, n - 1)) for n in shape)
    extent = tuple(draw(st.integers(0, n - o)) for n, o in zip(shape, offset, strict=True))
    return Grid(shape, cell), Region(offset, extent)


@given(cases())
def test_cells_cover_the_grid_once(case: tuple[Grid, Region]) -> None:
    grid, _ = case
    covered = np.zeros(grid.shape, int)
    for index in grid.indices():
        covered[grid.region(index).slices()] += 1
    assert (covered == 1).all()
    assert grid.size == len(list(grid.indices())) == np.prod(grid.counts)


@given(cases())
def test_a_plan_reads_what_numpy_reads(case: tuple[Grid, Region]) -> None:
    grid, box = case
    pixels = np.arange(np.prod(grid.shape)).reshape(grid.shape)
    cells = {index: pixels[grid.region(index).slices()] for index in grid.indices()}
    found = np.full(box.shape, -1)
    parts = list(grid.plan(box))
    for part in parts:
        assert (found[part.inside_region.slices()] == -1).all(), "a pixel is planned twice"
        found[part.inside_region.slices()] = cells[part.at][part.inside_cell.slices()]
    assert (found == pixels[box.slices()]).all()
    if box.size:
        assert [part.at for part in parts] == list(grid.indices(box))
    else:
        assert parts == []


@given(cases())
def test_touched_cells(case: tuple[Grid, Region]) -> None:
    grid, box = case
    wanted = [i for i in grid.indices() if grid.region(i).intersect(box).size]
    assert list(grid.indices(box)) == wanted
    assert grid.touched(box).size == len(wanted)


@pytest.mark.parametrize(
    ("shape", "cell", "counts"),
    [((10,), (3,), (4,)), ((9,), (3,), (3,)), ((1, 5), (8, 8), (1, 1)), ((2**40,), (1,), (2**40,))],
    ids=["odd-edge", "even", "one-cell", "large"],
)
def test_counts(shape: tuple[int, ...], cell: tuple[int, ...], counts: tuple[int, ...]) -> None:
    assert Grid(shape, cell).counts == counts
