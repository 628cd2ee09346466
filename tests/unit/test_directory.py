"""Is a shard in the directory as long as it is dirty or in use, with one owner at a time?"""

from __future__ import annotations

import threading

import numpy as np
import pytest
from ziggurat_engine.cache import DirtyDirectory, ShardKey
from ziggurat_engine.pyramid import Pyramid
from ziggurat_engine.region import Region

from tests.support.waiting import SECONDS, until

PYRAMID = Pyramid.build((16, 16), (1, 1), (4, 4), (8, 8), [(2, 2)])
LEVEL = PYRAMID.levels[0]
FILL = np.uint8(0)
KEY = ShardKey(1, 0, (0, 0))


def dirty(directory: DirtyDirectory, key: ShardKey, offset: tuple[int, int]) -> int:
    """One pixel; returns the write's tick."""
    with directory.pin(key, PYRAMID.levels[key.level], FILL) as shard, shard.lock:
        tick = directory.next_tick()
        shard.write(Region(offset, (1, 1)), np.ones((1, 1), "uint8"), tick, 0.0)
    return tick


def clean(directory: DirtyDirectory, key: ShardKey) -> None:
    with directory.own(key, PYRAMID.levels[key.level], FILL) as shard:
        shard.clear()


def test_a_clean_shard_is_forgotten_when_the_last_user_leaves() -> None:
    directory = DirtyDirectory()
    with directory.pin(KEY, LEVEL, FILL) as shard:
        with directory.pin(KEY, LEVEL, FILL) as again:
            assert again is shard
        assert directory.find(KEY) is shard
    assert directory.find(KEY) is None
    assert directory.shards() == []


def test_a_dirty_shard_stays_until_it_is_clean() -> None:
    directory = DirtyDirectory()
    dirty(directory, KEY, (0, 0))
    shard = directory.find(KEY)
    assert shard is not None
    clean(directory, KEY)
    assert directory.find(KEY) is None
    assert not directory.try_own(shard), "nothing is left to settle"


def test_one_owner_but_many_users() -> None:
    directory = DirtyDirectory()
    dirty(directory, KEY, (0, 0))
    shard = directory.find(KEY)
    assert shard is not None
    assert directory.try_own(shard)
    assert not directory.try_own(shard)
    with directory.pin(KEY, LEVEL, FILL) as pinned:
        assert pinned is shard
    owners: list[bool] = []

    def own() -> None:
        with directory.own(KEY, LEVEL, FILL):
            owners.append(shard.owned)

    second = threading.Thread(target=own)
    second.start()
    until(lambda: shard.users == 2, "the second owner to wait")
    assert owners == []
    seen = directory.changes
    directory.disown(shard)
    second.join(SECONDS)
    assert owners == [True]
    assert directory.changes > seen
    directory.wait_for_change(seen, 0.0)


def test_snapshots_by_image_and_level() -> None:
    directory = DirtyDirectory()
    keys = [KEY, ShardKey(1, 0, (1, 0)), ShardKey(1, 1, (0, 0)), ShardKey(2, 0, (0, 0))]
    ticks = {key: dirty(directory, key, (key.shard[0] * 8, 0)) for key in keys}
    assert {s.key for s in directory.shards()} == set(keys)
    assert {s.key for s in directory.shards(1)} == set(keys[:3])
    assert {s.key for s in directory.shards(1, 0)} == set(keys[:2])
    assert directory.oldest_tick(1, 0) == ticks[keys[0]]
    assert directory.oldest_tick(1, 1) == ticks[keys[2]]
    assert directory.oldest_tick(3, 0) is None
    assert list(ticks.values()) == sorted(ticks.values())
    assert directory.oldest_tick(None, 0) == ticks[keys[0]]
    clean(directory, keys[0])
    assert directory.oldest_tick(1, 0) == ticks[keys[1]]
    clean(directory, keys[1])
    assert directory.oldest_tick(1, 0) is None
    assert directory.oldest_tick(None, 0) == ticks[keys[3]]


def test_a_write_that_failed_before_it_made_a_chunk_holds_nothing_back() -> None:
    directory = DirtyDirectory()
    outside = Region((0, 0), (1, 1))
    with directory.pin(KEY, LEVEL, FILL) as shard, shard.lock:
        with pytest.raises(TypeError):
            shard.write(outside, None, directory.next_tick(), 0.0)  # type: ignore[arg-type]
        shard.chunks.clear()
        assert directory.oldest_tick(1, 0) is not None
    assert directory.oldest_tick(1, 0) is None


def test_touches() -> None:
    directory = DirtyDirectory()
    dirty(directory, ShardKey(1, 0, (1, 1)), (12, 8))
    assert directory.touches(1, 0, Region((3, 2), (1, 1)))
    assert directory.touches(1, 0, Region((0, 0), (4, 4)))
    assert not directory.touches(1, 0, Region((2, 2), (1, 2)))
    assert not directory.touches(1, 1, Region((0, 0), (4, 4)))
    assert not directory.touches(2, 0, Region((0, 0), (4, 4)))
