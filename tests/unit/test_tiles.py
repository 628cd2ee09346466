"""Do the parts of a read cover its box once, along the chunks, in messages of the right size?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ziggurat_engine.grid import Grid
from ziggurat_engine.indices import distinct
from ziggurat_engine.region import Region
from ziggurat_engine.tiles import cut, whole_cells


@st.composite
def cases(draw: st.DrawFn) -> tuple[Grid, Region, int]:
    rank = draw(st.integers(2, 4))
    shape = tuple(draw(st.integers(1, 20)) for _ in range(rank))
    cell = tuple(draw(st.integers(1, 24)) for _ in range(rank))
    offset = tuple(draw(st.integers(0, n - 1)) for n in shape)
    extent = tuple(draw(st.integers(0, n - o)) for n, o in zip(shape, offset, strict=True))
    return Grid(shape, cell), Region(offset, extent), draw(st.integers(1, 5000))


@given(cases())
def test_each_pixel_is_in_one_part(case: tuple[Grid, Region, int]) -> None:
    grid, box, pixels = case
    covered = np.zeros(grid.shape, int)
    for part in cut(grid, box, pixels):
        assert part.size > 0
        assert box.contains(part)
        covered[part.slices()] += 1
    assert (covered[box.slices()] == 1).all()
    assert covered.sum() == box.size


@given(cases())
def test_parts_are_whole_chunks_or_lie_in_one(case: tuple[Grid, Region, int]) -> None:
    """Along each axis, so that no chunk is decoded for more parts than needed."""
    grid, box, pixels = case
    for part in cut(grid, box, pixels):
        for axis, cell in enumerate(grid.cell):
            start, stop = part.offset[axis], part.stop[axis]
            inside = start // cell == (stop - 1) // cell
            aligned = (start % cell == 0 or start == box.offset[axis]) and (
                stop % cell == 0 or stop == box.stop[axis]
            )
            assert inside or aligned


@given(cases())
def test_parts_are_not_much_larger_than_asked(case: tuple[Grid, Region, int]) -> None:
    grid, box, pixels = case
    assert all(part.size <= max(pixels, 1) for part in cut(grid, box, pixels))


@pytest.mark.parametrize(
    ("cell", "count"),
    [((1, 64, 64), 1), ((1, 1024, 1024), 1), ((64, 256, 256), 1), ((1, 16, 16), 1)],
)
def test_a_plane_of_half_a_mebipixel_is_one_part(cell: tuple[int, ...], count: int) -> None:
    grid = Grid((64, 512, 1024), cell)
    assert len(list(cut(grid, Region((3, 0, 0), (1, 512, 1024)), 2**19))) == count


@given(cases())
def test_whole_cells(case: tuple[Grid, Region, int]) -> None:
    grid, box, _ = case
    wanted = {at for at in grid.indices() if box.contains(grid.region(at))} if box.size else set()
    whole = whole_cells(grid, box)
    assert set(grid.indices(whole)) == wanted
    covered = np.zeros(grid.shape, int)
    for part in (*map(grid.region, wanted), *box.subtract(whole)):
        covered[part.slices()] += 1
    assert (covered[box.slices()] == 1).all()
    assert covered.sum() == box.size


def test_one_huge_chunk_is_cut() -> None:
    grid = Grid((256, 256, 256), (256, 256, 256))
    parts = list(cut(grid, Region.whole(grid.shape), 2**19))
    assert {part.size for part in parts} == {2**19}


@pytest.mark.parametrize("far", [20, 2**40], ids=["near", "farther than an integer counts"])
def test_rows_are_found_once(far: int) -> None:
    rows = np.random.default_rng(1).integers(0, far, (50, 3))
    twice = np.concatenate([rows, rows[::-1]])
    assert np.array_equal(distinct(twice), np.unique(rows, axis=0))
    assert distinct(rows[:0]).shape == (0, 3)
