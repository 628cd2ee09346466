"""Do levels, their positions and their chunks' parents follow the formulas?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ziggurat_engine.pyramid import Pyramid, found_factor
from ziggurat_engine.region import Region


@st.composite
def pyramids(draw: st.DrawFn) -> Pyramid:
    rank = draw(st.integers(1, 3))
    shape = tuple(draw(st.integers(1, 30)) for _ in range(rank))
    step = st.tuples(*(st.sampled_from([1, 2, 3]) for _ in range(rank)))
    factors = draw(st.lists(step, max_size=4))
    chunk = tuple(6 * draw(st.integers(1, 2)) for _ in range(rank))
    shard = tuple(c * draw(st.integers(1, 3)) for c in chunk)
    scale = tuple(draw(st.floats(1e-3, 1e3)) for _ in range(rank))
    return Pyramid.build(shape, scale, chunk, shard, factors)


@given(pyramids())
def test_shapes_and_positions(pyramid: Pyramid) -> None:
    """scale and translation are those of the mean of the pixels a pixel stands for."""
    first = pyramid.levels[0]
    binned = np.ones(len(first.shape), int)
    for below, level in zip(pyramid.levels, pyramid.levels[1:], strict=False):
        assert level.shape == tuple(
            -(-n // f) for n, f in zip(below.shape, level.factors, strict=True)
        )
        binned *= level.factors
        centres = [np.arange(f) * s for f, s in zip(binned, first.scale, strict=True)]
        assert level.translation == pytest.approx([c.mean() for c in centres])
        assert level.scale == pytest.approx(np.array(first.scale) * binned)
    assert first.translation == (0,) * len(first.shape)
    assert first.factors == (1,) * len(first.shape)


@given(pyramids())
def test_parents_tile_the_level_above(pyramid: Pyramid) -> None:
    """Every pixel of the level above comes from one chunk, which lies in one parent chunk."""
    for k in range(len(pyramid.levels) - 1):
        level, above = pyramid.levels[k], pyramid.levels[k + 1]
        filled = np.zeros(above.shape, int)
        for chunk in level.chunks.indices():
            parent, box = pyramid.parent_of(k, chunk)
            cell = above.chunks.region(parent)
            assert Region.whole(cell.shape).contains(box)
            place = Region(
                tuple(a + b for a, b in zip(cell.offset, box.offset, strict=True)), box.shape
            )
            filled[place.slices()] += 1
        assert (filled == 1).all()


@given(pyramids(), st.data())
def test_projection(pyramid: Pyramid, data: st.DataObject) -> None:
    """Down: the pixels a pixel is the mean of. Up: every pixel that they contribute to."""
    top = len(pyramid.levels) - 1
    level = data.draw(st.integers(0, top))
    shape = pyramid.levels[level].shape
    offset = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    extent = tuple(data.draw(st.integers(1, n - o)) for n, o in zip(shape, offset, strict=True))
    box = Region(offset, extent)
    marks = np.zeros(shape, bool)
    marks[box.slices()] = True
    for target in range(level + 1, top + 1):
        factors = pyramid.levels[target].factors
        wanted = np.zeros(pyramid.levels[target].shape, bool)
        for pixel in np.argwhere(marks):
            wanted[tuple(pixel // factors)] = True
        marks = wanted
        found = pyramid.project(box, level, target)
        assert (np.argwhere(marks) == np.array(list(found.indices()))).all()
    for target in range(level):
        below = pyramid.project(box, level, target)
        assert pyramid.project(below, target, level).contains(box)
        assert Region.whole(pyramid.levels[target].shape).contains(below)
    assert pyramid.project(Region.whole(shape), level, 0) == Region.whole(pyramid.levels[0].shape)


@given(pyramids())
def test_shards_hold_chunks(pyramid: Pyramid) -> None:
    for level in pyramid.levels:
        held = [c for shard in level.shards.indices() for c in level.chunks_of(shard).indices()]
        assert sorted(held) == sorted(level.chunks.indices())
        for shard in level.shards.indices():
            for chunk in level.chunks_of(shard).indices():
                assert level.shard_of(chunk) == shard


def test_factors_that_shapes_tell() -> None:
    # Of an odd edge others leave the last pixel out, or keep it.
    wanted = {(2047, 1023): 2, (2047, 1024): 2, (45, 22): 2, (61, 30): 2, (9, 3): 3, (1, 1): 1}
    assert {sizes: found_factor(*sizes) for sizes in wanted} == wanted
    # None fits: at least as many pixels as are needed.
    assert found_factor(45, 20) == 3
