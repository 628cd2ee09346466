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
        key = ShardKey(1, 0, shard_of(chunk))
        taken = deferred.get(key)
        deferred.remove(key, taken)
        held -= taken
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
    one = deferred.get(key)
    deferred.add(key, [(1, 1)])
    assert one == {(0, 0), (0, 1)}
    both = deferred.get(key)
    assert both == {(0, 0), (0, 1), (1, 1)}
    deferred.remove(key, both)
    assert not deferred.holds(1, 0)


@pytest.mark.parametrize("seed", range(20))
def test_parents_follow_what_is_held(seed: int) -> None:
    rng = random.Random(seed)
    deferred, held = Deferred(), dict[Shape, set[Shape]]()
    for _ in range(12):
        shard = (rng.randrange(3), rng.randrange(2))
        key = ShardKey(1, 0, shard)
        if rng.random() < 0.3:
            deferred.remove(key, deferred.get(key))
            held.pop(shard, None)
        else:
            # Some shards hold many, of which more is remembered.
            some = {
                (shard[0] * 20 + rng.randrange(20), shard[1] * 30 + rng.randrange(30))
                for _ in range(rng.choice((1, 400)))
            }
            deferred.add(key, some, lazy=True)
            held[shard] = held.get(shard, set()) | some
        found = deferred.parents(1, 0, (2, 3))
        parents = {(y // 2, x // 3) for chunks in held.values() for y, x in chunks}
        assert {tuple(row) for array in found for row in array.tolist()} == parents
        assert [len(a) for a in deferred.parents(2, 0, (2, 3))] == [0]
    deferred.drop_image(1)
    assert not sum(map(len, deferred.parents(1, 0, (2, 3))))
    assert not deferred._parents


def test_what_was_added_again_is_not_removed() -> None:
    deferred, key = Deferred(), ShardKey(1, 0, (0, 0))
    deferred.add(key, [(0, 0)])
    taken = deferred.get(key)
    deferred.remove(key, taken)
    deferred.add(key, [(0, 0)])
    deferred.remove(key, taken)
    assert deferred.get(key) == {(0, 0)}
    taken = deferred.get(key)
    deferred.add(key, [(0, 0)])
    deferred.remove(key, taken)
    assert deferred.get(key) == {(0, 0)}


def test_what_was_moved_here_is_not_removed() -> None:
    deferred = Deferred()
    old, new = ShardKey(1, 0, (0, 0)), ShardKey(2, 0, (0, 0))
    deferred.add(old, [(0, 0)])
    deferred.add(new, [(0, 0)])
    taken = deferred.get(old)
    deferred.move(2, 1, 0, lazy=True)
    deferred.remove(old, taken)
    assert deferred.get(old) == {(0, 0)}


def test_shared_it_is_held_under_both_numbers() -> None:
    deferred = Deferred()
    old, new, other = ShardKey(1, 0, (0, 0)), ShardKey(2, 0, (0, 0)), ShardKey(2, 0, (0, 1))
    deferred.add(old, [(0, 0)])
    deferred.add(new, [(0, 1)])
    deferred.add(other, [(0, 3)])
    deferred.share(2, 1, 0)
    assert deferred.get(old) == {(0, 0), (0, 1)}
    assert deferred.get(ShardKey(1, 0, (0, 1))) == {(0, 3)}
    assert (deferred.get(new), deferred.get(other)) == ({(0, 1)}, {(0, 3)})
