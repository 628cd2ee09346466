"""Does a coverage know which pixels were never written, however they were cut?"""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from ziggurat_engine.cache.coverage import MAX_BOXES, Coverage, cover
from ziggurat_engine.grid import Grid
from ziggurat_engine.region import Region


@st.composite
def histories(draw: st.DrawFn) -> tuple[Region, list[Region]]:
    """A box and what is written to it; many single pixels shatter it into a mask."""
    rank = draw(st.integers(1, 3))
    shape = tuple(draw(st.integers(1, 8)) for _ in range(rank))

    def box() -> Region:
        offset = tuple(draw(st.integers(0, n - 1)) for n in shape)
        extent = (draw(st.integers(1, n - o)) for n, o in zip(shape, offset, strict=True))
        return Region(offset, tuple(extent))

    pixels = [Region(p, (1,) * rank) for p in np.ndindex(shape) if sum(p) % 2]
    scattered = draw(st.permutations(pixels)) if pixels and draw(st.booleans()) else []
    boxes = [box() for _ in range(draw(st.integers(0, 12)))]
    return Region.whole(shape), [*scattered[: draw(st.integers(0, 64))], *boxes]


@given(histories())
def test_against_a_bool_array(history: tuple[Region, list[Region]]) -> None:
    whole, writes = history
    coverage, covered = Coverage(whole), np.zeros(whole.shape, bool)
    for box in writes:
        covered[box.slices()] = True
        assert coverage.add(box) == covered.all()
        assert coverage.full == covered.all()
    scalar, array = np.full(whole.shape, 7), np.full(whole.shape, 7)
    source = np.arange(covered.size).reshape(whole.shape) + 100
    coverage.fill(scalar, np.int64(3))
    coverage.fill(array, source)
    assert (scalar == np.where(covered, 7, 3)).all()
    assert (array == np.where(covered, 7, source)).all()


def test_a_box_written_twice_covers_nothing_new() -> None:
    coverage = Coverage(Region.whole((4, 4)))
    for _ in range(3):
        assert not coverage.add(Region((0, 0), (2, 4)))
    assert coverage.add(Region((1, 0), (3, 4)))


def test_rows_in_order_need_no_mask() -> None:
    coverage = Coverage(Region.whole((1000, 1000)))
    for row in range(1000):
        assert coverage.add(Region((row, 0), (1, 1000))) == (row == 999)
        assert coverage.nbytes == 0


def test_shattering_makes_a_mask_of_what_is_left() -> None:
    side = 16
    coverage = Coverage(Region.whole((2 * side, side)))
    coverage.add(Region((0, 0), (side, side)))
    for k in range(MAX_BOXES):
        coverage.add(Region((side + k, k), (1, 1)))
    assert 0 < coverage.nbytes <= side * side
    assert not coverage.full
    assert not coverage.add(Region((side, 0), (side - 1, side)))
    assert coverage.add(Region((2 * side - 1, 0), (1, side)))
    assert coverage.full


@given(data=st.data())
def test_boxes_in_many_chunks(data: st.DataObject) -> None:
    """What the loops take of each chunk is what a mask would lose, also once there is one."""
    rank = data.draw(st.integers(1, 5))
    most = (64, 24, 9, 5, 4)[rank - 1]
    shape = tuple(data.draw(st.integers(1, most)) for _ in range(rank))
    grid = Grid(shape, tuple(data.draw(st.integers(1, n)) for n in shape))
    coverages = {at: Coverage(Region.whole(grid.region(at).shape)) for at in grid.indices()}
    covered = np.zeros(shape, bool)
    for _ in range(data.draw(st.integers(1, 24))):
        offset = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
        extent = (data.draw(st.integers(1, n - o)) for n, o in zip(shape, offset, strict=True))
        box = Region(offset, tuple(extent))
        before = covered.copy()
        covered[box.slices()] = True
        touched = list(grid.indices(box))
        held = sum(coverage.nbytes for coverage in coverages.values())
        first = tuple(o % c for o, c in zip(offset, grid.cell, strict=True))
        full, grown = cover([coverages[at] for at in touched], first, box.shape, grid.cell)
        assert grown == sum(coverage.nbytes for coverage in coverages.values()) - held
        inside = {at: grid.region(at).slices() for at in touched}
        new = [at for at in touched if covered[inside[at]].all() and not before[inside[at]].all()]
        assert [touched[number] for number in full] == new
    for at, coverage in coverages.items():
        seen = np.zeros(grid.region(at).shape, bool)
        coverage.fill(seen, np.bool_(True))
        assert (seen == ~covered[grid.region(at).slices()]).all()
        assert coverage.full == (not seen.any())


def test_a_mask_is_found_among_many_chunks() -> None:
    """The number of a chunk says where it lies, also behind the first along each axis."""
    grid = Grid((40, 40), (20, 20))
    coverages = {at: Coverage(Region.whole((20, 20))) for at in grid.indices()}
    for k in range(MAX_BOXES + 2):
        coverages[1, 1].add(Region((k, k), (1, 1)))
    assert coverages[1, 1].nbytes
    full, grown = cover(list(coverages.values()), (0, 0), (40, 40), (20, 20))
    assert (full, grown) == ([0, 1, 2, 3], 0)


def test_an_axis_of_billions() -> None:
    whole = Region.whole((1, 3 * 2**31))
    coverage = Coverage(whole)
    assert cover([coverage], (0, 2**31), (1, 5), whole.shape) == ([], 0)
    assert cover([coverage], (0, 0), (1, 2**31), whole.shape) == ([], 0)
    assert cover([coverage], (0, 2**31 + 5), (1, 2**32 - 5), whole.shape) == ([0], 0)
