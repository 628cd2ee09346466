"""Is a scan noticed, whoever else reads, and nothing taken for one that is none?"""

from __future__ import annotations

import numpy as np
import pytest
from ziggurat_engine.reads.scans import MOST_EXPECTED, Scans
from ziggurat_engine.region import Region


def slab(axis: int, start: int, size: int) -> Region:
    offset, shape = [5, 6, 7], [40, 30, 20]
    offset[axis], shape[axis] = start, size
    return Region(tuple(offset), tuple(shape))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("size", [1, 16])
@pytest.mark.parametrize("sign", [1, -1])
def test_boxes_that_follow_each_other(axis: int, size: int, sign: int) -> None:
    scans, start = Scans(), 400
    found = [scans.following("a", slab(axis, start + sign * k * size, size)) for k in range(5)]
    wanted = [slab(axis, start + sign * (k + 1) * size, size) for k in range(5)]
    assert found == [None, None, *wanted[2:]]


def test_scans_beside_each_other() -> None:
    scans = Scans()
    for k in range(4):
        seen = [
            scans.following("a", slab(0, k, 1)),
            scans.following("b", slab(0, k, 1)),
            scans.following("a", slab(1, 100 - 8 * k, 8)),
        ]
        assert [each is not None for each in seen] == [k >= 2] * 3


def test_what_is_no_scan() -> None:
    """Boxes anywhere, the same again, with gaps, of other cross-sections or levels."""
    scans, dice = Scans(), np.random.default_rng(1)
    for k in range(50):
        corner = tuple(int(n) for n in dice.integers(0, 1000, 3))
        assert scans.following("a", Region(corner, (8, 8, 8))) is None
        assert scans.following("b", slab(0, 3, 4)) is None
        assert scans.following("c", slab(0, 5 * k, 4)) is None
        assert scans.following(k, slab(0, 4 * k, 4)) is None
        assert scans.following("d", Region((4 * k, 0), (4, 9 + k))) is None


def test_little_is_remembered() -> None:
    scans = Scans()
    for k in range(10 * MOST_EXPECTED):
        scans.following("a", Region((7 * k, 0), (1, 1)))
    assert len(scans._expected) == MOST_EXPECTED
