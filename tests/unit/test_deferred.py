"""Is what is deferred found by box, whatever its shards are?"""

from __future__ import annotations

import random

import pytest
from ziggurat_engine.cache import Deferred, ShardKey
from ziggurat_engine.region import Region, Shape

CELL = (2, 3)


def shard_of(chunk: Shape) -> Shape:
    return tuple(n // c for n, c in zip(chunk, CELL, strict=True))


@pytest.mark.parametrize("seed", range(40))
def test_boxes(seed: int) -> None:
    rng = random.Random(seed)
    deferred, held = Deferred(), set()
    for _ in range(rng.randrange(30)):
        chunk = (rng.randrange(12), rng.randrange(12))
        deferred.add(ShardKey(1, 0, shard_of(chunk)), [chunk], lazy=rng.random() < 0.5)
        held.add(chunk)
    for chunk in [chunk for chunk in sorted(held) if rng.random() < 0.3]:
        deferred.remove(ShardKey(1, 0, shard_of(chunk)), [chunk])
        held.discard(chunk)
    for _ in range(40):
        offset = (rng.randrange(12), rng.randrange(12))
        box = Region(offset, (rng.randrange(13 - offset[0]), rng.randrange(13 - offset[1])))
        inside = {chunk for chunk in held if box.holds(chunk)}
        assert deferred.touches(1, 0, box, shard_of) == bool(inside)
        keys = deferred.keys(1, 0, box, shard_of)
        assert {key.shard for key in keys} == set(map(shard_of, inside))
        assert not deferred.touches(2, 0, box, shard_of)
    assert {key.shard for key in deferred.keys(1, 0, None, shard_of)} == set(map(shard_of, held))


def test_what_is_looked_at_does_not_change() -> None:
    deferred, key = Deferred(), ShardKey(1, 0, (0, 0))
    deferred.add(key, [(0, 0), (0, 1)])
    seen, one = deferred.sets(1, 0), deferred.get(key)
    deferred.add(key, [(1, 1)])
    deferred.remove(key, [(0, 0)])
    assert seen == [one] == [{(0, 0), (0, 1)}]
    assert deferred.sets(1, 0) == [{(0, 1), (1, 1)}]
    deferred.remove(key, [(0, 1), (1, 1)])
    assert deferred.sets(1, 0) == []
