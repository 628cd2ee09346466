"""Which shards do workers get, and how many at a time, while clients write or do not?"""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
from ziggurat_engine.cache import Budget, DirtyDirectory, DirtyShard, ShardKey
from ziggurat_engine.pyramid import Pyramid
from ziggurat_engine.settling.schedule import Schedule

from tests.support.waiting import SECONDS, until

LEVEL = Pyramid.build((8, 8), (1, 1), (4, 4), (4, 4), []).levels[0]
TOTAL_BYTES = 1000


class World:
    """Four dirty shards, and a schedule whose rounds are counted."""

    def __init__(self) -> None:
        self.directory = DirtyDirectory()
        self.budget = Budget(TOTAL_BYTES)
        self.schedule = Schedule(
            self.directory, self.budget, spare=lambda: False, idle_seconds=1000, busy_seconds=1000
        )
        self.schedule.hurry = self._round
        # Clients write, for as long as the test takes.
        self.schedule.last_write = math.inf
        self.rounds = 0
        self.shards = [self._dirty(at) for at in ((0, 0), (0, 1), (1, 0), (1, 1))]

    def _round(self) -> bool:
        self.rounds += 1
        return False

    def _dirty(self, at: tuple[int, int]) -> DirtyShard:
        with self.directory.pin(ShardKey(1, 0, at), LEVEL, np.uint16(0)) as shard, shard.lock:
            box = LEVEL.shards.region(at)
            shard.write(box, np.ones(box.shape, np.uint16), self.directory.next_tick(), 0.0)
        return shard

    def held_back(self) -> tuple[threading.Thread, list[DirtyShard | None]]:
        """A worker that asks for a shard, and was told to wait; what it will get."""
        got: list[DirtyShard | None] = []
        worker = threading.Thread(target=lambda: got.append(self.schedule.next()), daemon=True)
        before = self.rounds
        worker.start()
        until(lambda: self.rounds > before, "a worker to ask")
        # It waits, or else has its shard by now or soon: one more round tells.
        self.schedule.rouse()
        until(lambda: self.rounds > before + 1 or got, "a worker to ask again")
        assert not got
        return worker, got

    def settled(self, shard: DirtyShard | None) -> None:
        assert shard is not None
        self.directory.disown(shard)
        self.schedule.done()


@pytest.fixture
def world() -> World:
    return World()


def test_while_clients_write_whole_shards_come_one_at_a_time(world):
    first, second = world.shards[:2]
    world.schedule.offer(first)
    world.schedule.offer(second)
    assert world.schedule.next() is first
    worker, got = world.held_back()
    world.settled(first)
    world.schedule.rouse()
    worker.join(SECONDS)
    assert got == [second]


def test_what_somebody_waits_for_comes_all_at_once_and_first(world):
    world.schedule.offer(world.shards[0])
    assert world.schedule.next() is world.shards[0]
    world.schedule.offer(world.shards[1])
    world.schedule.demand(world.shards[2:])
    assert [world.schedule.next(), world.schedule.next()] == world.shards[2:]


def test_where_nobody_writes_all_come_at_once(world):
    world.schedule.last_write = -math.inf
    for shard in world.shards:
        world.schedule.offer(shard)
    assert [world.schedule.next() for _ in world.shards] == world.shards


@pytest.mark.parametrize("share", [0.4, 0.9])
def test_where_memory_fills_all_come_at_once(world, share):
    for shard in world.shards:
        world.schedule.offer(shard)
    assert world.schedule.next() is world.shards[0]
    worker, got = world.held_back()
    world.budget.reserve(int(share * TOTAL_BYTES), force=True)
    world.schedule.rouse()
    worker.join(SECONDS)
    assert got == [world.shards[1]]
    assert world.schedule.next() is world.shards[2]


def test_a_shard_that_can_not_be_owned_keeps_no_place(world):
    first, second = world.shards[:2]
    world.schedule.offer(first)
    assert world.directory.try_own(first)
    world.schedule.offer(second)
    assert world.schedule.next() is second


def test_workers_that_are_held_back_end(world):
    world.schedule.offer(world.shards[0])
    assert world.schedule.next() is world.shards[0]
    worker, got = world.held_back()
    world.schedule.stop()
    worker.join(SECONDS)
    assert got == [None]
