"""Are boxes what NumPy's slices are?"""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from ziggurat_engine.region import Region

SIDE = 9


@st.composite
def boxes(draw: st.DrawFn, rank: int) -> Region:
    """Boxes within SIDE pixels along each axis, empty ones too."""
    offset = tuple(draw(st.integers(0, SIDE)) for _ in range(rank))
    return Region(offset, tuple(draw(st.integers(0, SIDE - o)) for o in offset))


pairs = st.integers(1, 3).flatmap(lambda rank: st.tuples(boxes(rank), boxes(rank)))


def mask(box: Region) -> np.ndarray:
    found = np.zeros((SIDE,) * len(box.shape), int)
    found[box.slices()] = 1
    return found


@given(pairs)
def test_size_pixels_and_membership(pair: tuple[Region, Region]) -> None:
    box, _ = pair
    pixels = list(box.indices())
    assert box.size == mask(box).sum() == len(pixels)
    assert pixels == [tuple(p) for p in np.argwhere(mask(box)).tolist()]
    assert {p for p in np.ndindex(mask(box).shape) if box.holds(p)} == set(pixels)


@given(pairs)
def test_intersection(pair: tuple[Region, Region]) -> None:
    one, other = pair
    both = one.intersect(other)
    assert (mask(one) & mask(other)).sum() == both.size
    if both.size:
        assert (mask(both) == mask(one) & mask(other)).all()
        assert one.contains(both)
        assert other.contains(both)


@given(pairs)
def test_subtraction(pair: tuple[Region, Region]) -> None:
    """Disjoint pieces that are together what is left, at most two an axis."""
    one, other = pair
    pieces = one.subtract(other)
    assert len(pieces) <= 2 * len(one.shape)
    assert all(piece.size for piece in pieces)
    total = sum((mask(piece) for piece in pieces), start=np.zeros_like(mask(one)))
    assert (total == (mask(one) & ~mask(other) & 1)).all()


@given(pairs)
def test_containment(pair: tuple[Region, Region]) -> None:
    one, other = pair
    if other.size:
        assert one.contains(other) == bool((mask(one) >= mask(other)).all())


def test_a_box_counted_from_elsewhere() -> None:
    box = Region((5, 7), (2, 3))
    assert box.relative_to((4, 7)) == Region((1, 0), (2, 3))
    assert box.stop == (7, 10)
    assert Region.whole((4, 5)) == Region((0, 0), (4, 5))
    assert str(box) == "[5:7, 7:10]"


def test_sizes_that_int64_does_not_hold() -> None:
    box = Region((2**63, 0), (2**63, 2**63))
    assert box.stop == (2**64, 2**63)
    assert box.size == 2**126
    assert not Region.whole((2**64 - 1, 2**63)).contains(box)
