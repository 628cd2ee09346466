"""Which shards do workers get, and how many at a time, while clients write or do not?"""

from __future__ import annotations

import math
import threading
import time

import numpy as np
import pytest
from ziggurat_engine.cache import Budget, DirtyDirectory, DirtyShard, ShardKey
from ziggurat_engine.pyramid import Pyramid
from ziggurat_engine.settling.schedule import Schedule

from tests.support.waiting import SECONDS, until

LEVEL = Pyramid.build((8, 8), (1, 1), (4, 4), (4, 4), []).levels[0]
TOTAL_BYTES = 1000


class World:
    """Four dirty shards, and a schedule whose rounds are counted. Clients write all the time."""

    def __init__(self, idle_seconds: float = 1000) -> None:
        self.directory = DirtyDirectory()
        self.budget = Budget(TOTAL_BYTES)
        self.schedule = Schedule(
            self.directory,
            self.budget,
            spare=lambda: False,
            idle_seconds=idle_seconds,
            busy_seconds=1000,
        )
        self.schedule.hurry = self._round
        self.schedule.last_write = math.inf
        self.rounds = 0
        self.shards = [self._dirty(at) for at in ((0, 0), (0, 1), (1, 0), (1, 1))]

    def _round(self) -> bool:
        self.rounds += 1
        return False

    def _dirty(self, at: tuple[int, int]) -> DirtyShard:
        with self.directory.pin(ShardKey(1, 0, at), LEVEL, np.uint16(0)) as shard, shard.lock:
            box = LEVEL.shards.region(at)
            now = time.monotonic()
            shard.write(box, np.ones(box.shape, np.uint16), self.directory.next_tick(), now)
        return shard

    def held_back(self) -> tuple[threading.Thread, list[DirtyShard | None]]:
        """A worker that asks for a shard, and was told to wait; what it will get."""
        got: list[DirtyShard | None] = []
        worker = threading.Thread(target=lambda: got.append(self.schedule.next()), daemon=True)
        self.rounds = 0
        worker.start()
        # A round begins only when the one before ended without a shard.
        for rounds in (1, 2):
            until(lambda wanted=rounds: self.rounds >= wanted, "a worker to ask")
            self.schedule.rouse()
        until(lambda: self.rounds >= 3, "a worker to ask again")
        assert not got
        return worker, got

    def settled(self, shard: DirtyShard | None) -> None:
        assert shard is not None
        self.directory.disown(shard)
        self.schedule.done()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    # However long a test takes.
    monkeypatch.setattr("ziggurat_engine.settling.schedule.HOLD_SECONDS", math.inf)
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


def test_what_somebody_waits_for_is_not_held_back(world):
    world.schedule.offer(world.shards[0])
    assert world.schedule.next() is world.shards[0]
    world.schedule.offer(world.shards[1])
    world.schedule.demand(world.shards[2:])
    assert [world.schedule.next(), world.schedule.next()] == world.shards[2:]


def test_what_was_stored_since_and_is_written_to_again_waits_until_it_is_whole(world):
    first, second = world.shards[:2]
    world.schedule.offer(first)
    world.schedule.offer(second)
    with first.lock:
        first.covered = 0
    assert world.schedule.next() is second


def test_nor_is_it_ahead_of_what_was_found_before(world):
    world.schedule.offer(world.shards[0])
    world.schedule.demand(world.shards[1:2])
    assert [world.schedule.next(), world.schedule.next()] == world.shards[:2]


def test_where_nobody_writes_all_come_at_once(world):
    world.schedule.last_write = -math.inf
    for shard in world.shards:
        world.schedule.offer(shard)
    assert [world.schedule.next() for _ in world.shards] == world.shards


def test_nothing_is_held_back_for_long(world, monkeypatch):
    for shard in world.shards:
        world.schedule.offer(shard)
    assert world.schedule.next() is world.shards[0]
    worker, got = world.held_back()
    monkeypatch.setattr("ziggurat_engine.settling.schedule.HOLD_SECONDS", 0.0)
    worker.join(SECONDS)
    assert got == [world.shards[1]]
    assert world.schedule.next() is world.shards[2]


def test_where_memory_is_short_all_come_at_once(world):
    for shard in world.shards:
        world.schedule.offer(shard)
    assert world.schedule.next() is world.shards[0]
    worker, got = world.held_back()
    world.budget.reserve(TOTAL_BYTES, force=True)
    world.schedule.rouse()
    worker.join(SECONDS)
    assert got == [world.shards[1]]
    assert world.schedule.next() is world.shards[2]


def test_what_is_due_comes_where_there_are_always_others(monkeypatch):
    monkeypatch.setattr("ziggurat_engine.settling.schedule.LOOK_SECONDS", 0.0)
    world = World(idle_seconds=0.0)
    whole, *_, idle = world.shards
    assert whole.whole
    taken: list[DirtyShard | None] = []
    world.schedule.offer(whole)
    while idle not in taken and len(taken) < 20:
        # Whenever one is settled another one is whole.
        world.schedule.offer(whole)
        taken.append(world.schedule.next())
        world.settled(taken[-1])
    assert idle in taken


def test_a_shard_that_can_not_be_owned_keeps_no_place(world):
    first, second = world.shards[:2]
    world.schedule.offer(first)
    assert world.directory.try_own(first)
    world.schedule.offer(second)
    assert world.schedule.next() is second


def test_workers_that_are_held_back_end(world):
    for shard in world.shards[:2]:
        world.schedule.offer(shard)
    assert world.schedule.next() is world.shards[0]
    worker, got = world.held_back()
    world.schedule.stop()
    worker.join(SECONDS)
    assert got == [None]
