"""Is a region cut into boxes that touch few chunks, of one shard each, and have all its pixels?"""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from ziggurat_engine.pyramid import Pyramid
from ziggurat_engine.region import Region
from ziggurat_engine.writes.cutting import by_shard


@given(data=st.data())
def test_boxes_touch_no_more_chunks_than_told(data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 3))
    shape = tuple(data.draw(st.integers(1, 24)) for _ in range(rank))
    chunk = tuple(data.draw(st.integers(1, 6)) for _ in range(rank))
    shard = tuple(c * data.draw(st.integers(1, 4)) for c in chunk)
    level = Pyramid.build(shape, (1.0,) * rank, chunk, shard, []).levels[0]
    offset = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    rest = tuple(map(int.__sub__, shape, offset))
    region = Region(offset, tuple(data.draw(st.integers(1, n)) for n in rest))
    limit = data.draw(st.integers(1, 9))

    times = np.zeros(region.shape, int)
    for box in by_shard(level, region, limit):
        touched = list(level.chunks.indices(box))
        assert 1 <= len(touched) <= limit
        assert len({level.shard_of(at) for at in touched}) == 1
        times[box.relative_to(region.offset).slices()] += 1
    assert (times == 1).all()
