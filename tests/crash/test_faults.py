"""What does a caller see of a disk that refuses, and does work go on when it does not?"""

from __future__ import annotations

import errno
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from ziggurat_engine.errors import Corrupt, DiskError, DiskFull
from ziggurat_engine.log import commit
from ziggurat_engine.region import Region
from ziggurat_engine.server.status import status_of
from ziggurat_engine.settling import settle
from ziggurat_engine.writes.streams import Stream

from tests.crash.world import DATA, NAME, SHAPE, World, Write, check_levels
from tests.support.waiting import until

# Whole shards of level 0, which go past the log, and a part of each of two.
WHOLE = Region((0, 0, 0), (2, 16, 16))
PARTS = (Region((0, 1, 1), (1, 3, 3)), Region((2, 1, 1), (1, 3, 3)))
SECONDS = 20.0


@pytest.fixture
def world(monkeypatch):
    monkeypatch.setattr(settle, "FIRST_RETRY_SECONDS", 0.002)
    monkeypatch.setattr(settle, "LAST_RETRY_SECONDS", 0.02)
    world = World()
    # Nothing settles unless it is asked for.
    world.open(settle_idle_seconds=1000)
    world.create()
    yield world
    world.fs.cut()
    world.abandon()


def waits(seconds=SECONDS):
    """Something to cancel a wait with."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def painted(*writes):
    pixels = np.zeros(SHAPE, "<u2")
    for write in writes:
        pixels[write.region.slices()] = write.value
    return pixels


@pytest.mark.parametrize("failing", [False, True], ids=["honest", "failing-syncs"])
def test_writers_that_wait_for_the_log_hold_up_nobody(world, monkeypatch, failing):
    """Of its memory next to nothing is left, and syncs fail: all writes are taken, and durable."""
    monkeypatch.setattr(commit, "MOST_WAITING_BYTES", 64)
    engine, streams, count = world.engine, world.streams(), 60

    def taken(stream: Stream, one: Write) -> bool:
        try:
            world.write(stream, one)
        except OSError:
            # It was the next segment that could not be made; a client tries again as well.
            assert failing
            return False
        return True

    def write(name: str, part: Region) -> None:
        for n in range(1, count + 1):
            if failing and n % 20 == 10:
                world.fs.fail_next("sync", path=".log")
            until(partial(taken, streams[name], Write(name, n, part, n)), "the write to be taken")
        engine.ingest.flush(streams[name], waits())

    with ThreadPoolExecutor(2) as pool:
        # Beside them, as settle workers do.
        for done in [pool.submit(write, *each) for each in zip(streams, PARTS, strict=True)]:
            while not done.done():
                engine._journal.release()
                time.sleep(0.001)
            done.result()
    assert [engine.durability.refresh(each) for each in streams.values()] == [(count, count)] * 2
    assert np.array_equal(world.pixels(), painted(*(Write("", 1, part, count) for part in PARTS)))


def test_a_whole_shard_is_remembered_though_the_log_is_empty(world):
    stream = world.streams()["left"]
    world.write(stream, Write("left", 1, WHOLE, 1))
    world.engine.ingest.flush(stream, waits())
    world.told(stream)
    assert world.durable["left"] == 1
    world.fs.cut()
    world.abandon()
    after = world.after("drop")
    after.open()
    try:
        assert after.streams()["left"].received == 1
    finally:
        after.abandon()


def test_what_a_failed_sync_lost_is_stored_by_a_flush(world):
    stream = world.streams()["left"]
    world.engine.ingest.skip(stream, 1, 1)
    world.engine.ingest.flush(stream, waits())
    world.fs.fail_next("sync", path="/data/log")
    world.write(stream, Write("left", 2, PARTS[0], 2))
    world.engine.ingest.flush(stream, waits())
    world.told(stream)
    assert world.durable["left"] == 2
    world.fs.cut()
    world.abandon()
    after = world.after("drop")
    after.open()
    try:
        assert np.array_equal(after.pixels(), painted(Write("left", 2, PARTS[0], 2)))
        assert after.streams()["left"].received == 2
    finally:
        after.abandon()


def test_a_state_database_that_failed_is_asked_again(world):
    """What was stored meanwhile is told to the next call, though nothing happens any more."""
    stream = world.streams()["left"]
    world.write(stream, Write("left", 1, WHOLE, 1))
    world.engine._settler.drain_all(world.engine.image(NAME), waits())
    world.database.fail_next(1)
    with pytest.raises(OSError, match="state"):
        world.engine.durability.refresh(stream)
    assert stream.stirred
    world.engine.streams.release(stream)
    again = world.engine.streams.open(world.engine.image(NAME), "left")
    assert world.engine.durability.refresh(again) == (1, 1)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS], ids=errno.errorcode.get)
@pytest.mark.parametrize("op", ["create", "write", "sync", "rename", "sync_dir"])
def test_a_store_that_refuses(world, op, code):
    place = "/data/images" if op == "sync_dir" else "/data/tmp"
    stream = world.streams()["left"]
    write = Write("left", 1, PARTS[0], 7)
    world.write(stream, write)
    world.engine.ingest.flush(stream, waits())
    world.fs.fail_next(op, code, path=place, times=10**6)
    with pytest.raises(DiskError) as failed:
        world.engine.ingest.finish(stream, waits())
    assert isinstance(failed.value, DiskFull) == (code == errno.ENOSPC)
    assert failed.value.details["errno"] == str(code)
    assert failed.value.details["path"].startswith(place)
    assert world.engine.status().shards_failing == 1
    assert place in world.engine.status().settle.last_failure
    assert np.array_equal(world.pixels(), painted(write))
    world.fs.heal()
    # By itself, without anybody asking.
    until(lambda: not world.engine.status().shards_failing, "the shard to be stored", SECONDS)
    world.engine.ingest.finish(stream, waits())
    check_levels(world, painted(write))


@pytest.mark.parametrize("mode", ["drop", "keep", 1, 2])
@pytest.mark.parametrize("op", ["rename", "sync_dir"])
def test_a_power_cut_while_the_store_refuses(world, op, mode):
    """Also where a shard's new name is there, and nobody knows whether on the disk."""
    stream = world.streams()["left"]
    writes = [Write("left", 1, Region.whole(SHAPE), 1), Write("left", 2, PARTS[0], 2)]
    world.write(stream, writes[0])
    world.engine.ingest.finish(stream, waits())
    world.write(stream, writes[1])
    world.engine.ingest.flush(stream, waits())
    world.fs.fail_next(op, path="/data/images" if op == "sync_dir" else "/data/tmp", times=10**6)
    with pytest.raises(DiskError):
        world.engine.ingest.finish(stream, waits())
    world.fs.cut()
    world.abandon()
    after = world.after(mode)
    after.open()
    try:
        assert np.array_equal(after.pixels(), painted(*writes))
        stream = after.streams()["left"]
        assert stream.received == 2
        after.engine.ingest.finish(stream, waits())
        check_levels(after, painted(*writes))
    finally:
        after.abandon()


def test_what_is_corrupt_keeps_only_its_shard_from_being_stored(world):
    stream = world.streams()["left"]
    full = Write("left", 1, Region.whole(SHAPE), 1)
    world.write(stream, full)
    world.engine.ingest.finish(stream, waits())
    for held in world.held:
        world.engine.streams.release(held)
    world.engine.close()
    # Behind the engine's back: the first shard's index is no more what it was.
    shard = DATA / "images" / f"{NAME}.ome.zarr" / "0" / "c" / "0" / "0" / "0"
    file = world.fs.open_write(shard)
    file.writev([b"\xff" * 8], world.fs.size(shard) - 8)
    file.sync()
    again = World(world.fs, world.database.content)
    again.open(settle_idle_seconds=1000)
    try:
        stream = again.streams()["left"]
        parts = [Write("left", 2 + n, part, 2 + n) for n, part in enumerate(PARTS)]
        for part in parts:
            again.write(stream, part)
        with pytest.raises(Corrupt) as failed:
            again.engine.ingest.finish(stream, waits())
        assert status_of(failed.value).code == 15  # DATA_LOSS
        status = again.engine.status()
        assert (status.shards_failing, status.shards_waiting) == (1, 1)
        assert "0/c/0/0/0" in status.settle.last_failure
        # Durable all the same, and what lies beside it is stored.
        again.engine.ingest.flush(stream, waits())
        assert stream.durable == 3
        out = again.pixels(0, Region((2, 0, 0), (4, *SHAPE[1:])))
        assert np.array_equal(out, painted(full, *parts)[2:])
        # What covers all of it does not need what is broken.
        last = Write("left", 4, WHOLE, 9)
        again.write(stream, last)
        until(lambda: not again.engine.status().shards_failing, "the shard to be stored", SECONDS)
        again.engine.ingest.finish(stream, waits())
        check_levels(again, painted(full, *parts, last))
        assert again.engine.status().shards_failing == 0
    finally:
        again.abandon()


def test_no_write_begins_below_the_reserve(world):
    stream = world.streams()["left"]
    first, second = (Write("left", 1 + n, part, 1 + n) for n, part in enumerate(PARTS))
    world.write(stream, first)
    used = world.fs.used_bytes()
    world.fs.capacity_bytes = used + used // 100
    time.sleep(0.11)  # for as long it may not look
    end = world.engine._log.position
    with pytest.raises(DiskFull) as failed:
        world.write(stream, second)
    assert failed.value.details["errno"] == str(errno.ENOSPC)
    assert failed.value.details["path"] == "/data"
    with pytest.raises(DiskFull):
        world.engine.ingest.skip(stream, 2, 1)
    assert world.engine._log.position == end
    assert stream.received == 1
    # What is dirty can still be stored.
    world.engine.ingest.finish(stream, waits())
    world.fs.capacity_bytes = None
    until(lambda: _accepted(world, stream, second), "writes to be taken again", SECONDS)
    world.engine.ingest.finish(stream, waits())
    check_levels(world, painted(first, second))


def test_a_log_without_a_next_segment_refuses_before_it_takes_anything(world):
    """And shards settle though nobody asks, so that the log can be shortened."""
    stream = world.streams()["left"]
    world.fs.fail_next("create", errno.ENOSPC, path="/data/log", times=10**6)
    writes = [Write("left", n, PARTS[n % 2], n) for n in range(1, 2000)]
    taken = 0
    while _accepted(world, stream, writes[taken]):
        taken += 1
    with pytest.raises(OSError, match="No space") as failed:
        world.write(stream, writes[taken])
    info = status_of(failed.value)
    assert info.code == 8  # RESOURCE_EXHAUSTED
    assert "/data/log" in info.message
    assert stream.received == taken > 10
    assert world.engine.status().log_error
    until(lambda: not world.engine.status().shards_waiting, "the shards to be stored", SECONDS)
    world.fs.heal()
    until(lambda: _accepted(world, stream, writes[taken]), "the log to go on", SECONDS)
    world.engine.ingest.finish(stream, waits())
    check_levels(world, painted(*writes[: taken + 1]))


def _accepted(world, stream, write):
    try:
        world.write(stream, write)
    except (OSError, DiskFull):
        return False
    return True
