"""What does the next life of a data directory know of the one before?

Each test ends an engine, by a power cut or a clean stop, and opens another on what is
left: perhaps with another log directory, or without an image's metadata.
"""

from __future__ import annotations

import contextlib
import errno
import sqlite3
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from ziggurat_engine.cache import DirtyShard
from ziggurat_engine.errors import Corrupt, DataLoss, NotFound, Unavailable
from ziggurat_engine.region import Region
from ziggurat_engine.settling.settle import Settler
from ziggurat_engine.writes.streams import Outcome

from tests.crash.world import DATA, NAME, SHAPE, World, Write, check_levels
from tests.support.waiting import SECONDS, until

# A shard of level 0, which goes past the log, and parts of it and of another.
WHOLE = Region((0, 0, 0), (2, 16, 16))
PART = Region((0, 1, 1), (1, 3, 3))
OTHER = Region((2, 1, 1), (1, 3, 3))
QUIET = {"settle_idle_seconds": 1000.0, "settle_busy_seconds": 1000.0}


@pytest.fixture
def live(request):
    """Opens worlds; what still runs at the end is cut off."""
    worlds: list[World] = []

    def open_(world: World | None = None, **settings: object) -> World:
        world = world or World()
        worlds.append(world)
        world.open(**{**QUIET, **settings})
        return world

    yield open_
    for world in worlds:
        world.fs.cut()
        world.abandon()


def cut(world: World, mode: object = "drop") -> World:
    """The power fails."""
    world.fs.cut()
    world.abandon()
    return world.after(mode)


def stop(world: World) -> World:
    """A clean stop."""
    release(world)
    world.engine.close()
    world.abandoned = True
    return World(world.fs, world.database.content, dict(world.durable))


def release(world: World) -> None:
    for stream in world.held:
        world.engine.streams.release(stream)


def painted(*writes: Write) -> np.ndarray:
    pixels = np.zeros(SHAPE, "<u2")
    for write in writes:
        pixels[write.region.slices()] = write.value
    return pixels


def shard_0() -> Path:
    return DATA / "images" / f"{NAME}.ome.zarr"


class TestLog:
    def test_another_directory_after_a_clean_stop_starts_above_all_positions(self, live):
        world = live(log=Path("/one"))
        world.create()
        stream = world.streams()["left"]
        for n in range(1, 41):
            world.write(stream, Write("left", n, PART, n))
        world.write(stream, Write("left", 41, WHOLE, 41))
        world.engine.ingest.finish(stream)
        # So that the image's records count up to a high position only.
        assert world.engine._state.applied()
        world = live(stop(world), log=Path("/two"))
        stream = world.streams()["left"]
        world.write(stream, Write("left", 42, PART, 42))
        world.engine.ingest.flush(stream)
        world = live(cut(world), log=Path("/two"))
        assert np.array_equal(
            world.pixels(), painted(Write("left", 41, WHOLE, 41), Write("left", 42, PART, 42))
        )

    def test_another_directory_after_a_crash_is_refused_unless_loss_is_accepted(self, live):
        world = live(log=Path("/one"))
        world.create()
        stream = world.streams()["left"]
        world.write(stream, Write("left", 1, PART, 1))
        world.engine.ingest.flush(stream)
        after = cut(world)
        with pytest.raises(DataLoss, match="write-ahead log is not the one"):
            live(after, log=Path("/two"))
        again = cut(after)
        # The right one is still good, whatever was tried meanwhile.
        kept = live(again, log=Path("/one"))
        assert np.array_equal(kept.pixels(), painted(Write("left", 1, PART, 1)))
        after = cut(kept)
        lossy = live(after, log=Path("/two"), accept_loss=True)
        assert not lossy.pixels().any()
        # From now on it is the one that goes with the data.
        assert not live(cut(lossy), log=Path("/two")).pixels().any()

    def test_one_of_before_that_could_not_be_freed_brings_nothing_old_back(self, live):
        world = live(log=Path("/one"))
        world.create()
        stream = world.streams()["left"]
        world.write(stream, Write("left", 1, PART, 7))
        world.engine.ingest.flush(stream)
        world.fs.fail_next("write", path="/one", times=1000)
        after = stop(world)
        after.fs.heal()
        world = live(after, log=Path("/two"))
        world.write(world.streams()["left"], Write("left", 2, PART, 9))
        after = stop(world)
        for _ in range(2):
            with pytest.raises(DataLoss, match="last used with another log"):
                live(after, log=Path("/one"))
            after = cut(after)
        world = live(after, log=Path("/one"), accept_loss=True)
        assert np.array_equal(world.pixels(), painted(Write("left", 2, PART, 9)))
        assert world.streams()["left"].received == 2

    def test_nothing_of_what_was_stored_comes_back(self, live):
        world = live()
        world.create()
        stream = world.streams()["left"]
        world.write(stream, Write("left", 1, PART, 1))
        world.engine.ingest.finish(stream)
        world = live(stop(world))
        assert world.engine._state.log() == (world.engine._log.identity, True)
        assert world.engine.status().replayed_bytes == 0

    def test_what_a_stream_writes_while_the_engine_closes_keeps_its_log_needed(
        self, live, monkeypatch
    ):
        monkeypatch.setattr("ziggurat_engine.engine.LINGER_SECONDS", 0.05)
        world = live(log=Path("/one"))
        world.create()
        stream = world.streams()["left"]
        world.write(stream, Write("left", 1, PART, 7))
        streams = world.engine.streams
        remember = streams.remember_all

        def write_late() -> None:
            remember()
            world.put(stream, Write("left", 2, OTHER, 9))
            world.engine.ingest.flush(stream)

        monkeypatch.setattr(streams, "remember_all", write_late)
        world.engine.close()
        world.abandoned = True
        after = World(world.fs, world.database.content, dict(world.durable))
        with pytest.raises(DataLoss, match="write-ahead log is not the one"):
            live(after, log=Path("/two"))
        world = live(cut(after), log=Path("/one"))
        painted_by = Write("left", 1, PART, 7), Write("left", 2, OTHER, 9)
        assert np.array_equal(world.pixels(), painted(*painted_by))


class TestStreamsThatAreOver:
    def test_a_few_numbers_are_kept(self, live):
        world = live(stream_lease_seconds=1000)
        world.create()
        image, streams = world.engine.image(NAME), world.engine.streams
        for n in range(9):
            stream = streams.open(image, f"stream-{n}", expected_frames=n)
            for _ in range(2):
                world.put(stream, Write(f"stream-{n}", 1, PART, 7))
            world.engine.ingest.finish(stream)
            if n != 4:
                world.engine.ingest.close(stream, Outcome.ABORTED)
            streams.release(stream)
        before = streams.of(image)
        last = streams.open(image, "last")
        assert {key[1] for key in streams._streams} == {"stream-4", "last"}
        streams.release(last)
        assert [info for info in streams.of(image) if info.stream_id != "last"] == before
        again = streams.open(image, "stream-3")
        assert (again.received, again.durable, again.expected_frames) == (1, 1, 3)
        assert again.counters.duplicates == 1
        world.put(again, Write("stream-3", 2, PART, 8))
        world.engine.ingest.finish(again)
        assert np.array_equal(world.pixels(), painted(Write("stream-3", 2, PART, 8)))
        streams.release(again)
        world.engine.delete(image)
        assert not streams._streams
        assert not streams._known
        assert not streams._expected

    def test_so_are_those_that_nobody_holds_any_more(self, live):
        world = live()
        world.create()
        image, streams = world.engine.image(NAME), world.engine.streams
        streams._lease_seconds = 0.0
        stream = streams.open(image, "left")
        world.put(stream, Write("left", 1, PART, 7))
        # Not known to be durable.
        assert stream.pending
        streams.release(stream)
        world.engine._journal.sync(stream.pending[-1].position)
        held = streams.open(image, "right")
        assert {key[1] for key in streams._streams} == {"right"}
        streams.release(held)
        found = {info.stream_id: info for info in streams.of(image)}
        assert found["left"].outcome is Outcome.ABANDONED
        assert (found["left"].received, found["left"].durable) == (1, 1)
        world = live(cut(world))
        assert world.streams()["left"].received == 1


class TestImage:
    def test_frames_of_one_that_can_not_be_opened_keep_the_server_from_starting(self, live):
        world = live()
        world.create()
        stream = world.streams()["left"]
        world.write(stream, Write("left", 1, PART, 7))
        world.engine.ingest.flush(stream)
        after = cut(world)
        document, hidden = shard_0() / "zarr.json", DATA / "elsewhere.json"
        after.fs.rename(document, hidden)
        after.fs.sync_dir(document.parent)
        after.fs.sync_dir(DATA)
        with pytest.raises(DataLoss, match=NAME):
            live(after)
        again = cut(after)
        again.fs.rename(hidden, document)
        world = live(again)
        assert np.array_equal(world.pixels(), painted(Write("left", 1, PART, 7)))
        assert world.streams()["left"].received == 1

    def test_frames_of_one_that_is_gone_are_dropped_where_that_is_accepted(self, live):
        world = live()
        world.create()
        stream = world.streams()["left"]
        world.write(stream, Write("left", 1, PART, 7))
        world.engine.ingest.flush(stream)
        after = cut(world)
        after.fs.remove_tree(shard_0())
        after.fs.sync_dir(shard_0().parent)
        world = live(after, accept_loss=True)
        assert world.engine.names() == []
        world.create()
        assert not world.pixels().any()

    @pytest.mark.parametrize("when", range(12))
    def test_a_deleted_one_is_gone_or_there_and_never_a_reason_to_refuse(self, live, when):
        world = live()
        world.create()
        stream = world.streams()["left"]
        world.write(stream, Write("left", 1, PART, 7))
        world.engine.ingest.flush(stream)
        release(world)
        world.fs.stop_after(world.fs.sync_points + 1 + when)
        image = world.engine.image(NAME)
        try:
            world.engine.delete(image)
        except Exception:
            assert world.fs.is_cut
        world = live(cut(world, when))
        if NAME in world.engine.names():
            assert np.array_equal(world.pixels(), painted(Write("left", 1, PART, 7)))

    def test_nothing_is_remembered_of_a_deleted_one(self, live):
        world = live()
        for _ in range(3):
            world.create()
            stream = world.streams()["left"]
            world.write(stream, Write("left", 1, PART, 7))
            world.engine.ingest.flush(stream)
            release(world)
            world.engine.delete(world.engine.image(NAME))
        world = live(stop(world))
        assert world.engine._state.streams() == []
        assert world.engine._state.deleted() == set()

    def test_a_deleted_one_in_a_log_that_could_not_be_freed_is_no_loss(self, live):
        world = live()
        world.create()
        stream = world.streams()["left"]
        world.write(stream, Write("left", 1, PART, 7))
        world.engine.ingest.flush(stream)
        release(world)
        world.engine.delete(world.engine.image(NAME))
        world.fs.fail_next("write", path="/data/log", times=1000)
        after = stop(world)
        after.fs.heal()
        world = live(after)
        assert world.engine.names() == []
        world = live(stop(world))
        assert world.engine._state.deleted() == set()

    def test_one_deleted_before_that_was_written_down_is_no_loss(self, live):
        """The state database is of version 2, which knew of no deleted images."""
        world = live()
        world.create()
        stream = world.streams()["left"]
        world.write(stream, Write("left", 1, PART, 7))
        world.engine.ingest.flush(stream)
        after = cut(world)
        after.fs.remove_tree(shard_0())
        after.fs.sync_dir(shard_0().parent)
        with sqlite3.connect(":memory:") as old:
            old.deserialize(after.content)
            old.executescript(
                "DROP TABLE log; DROP TABLE deleted; DROP TABLE changes; DROP TABLE epoch;"
                " PRAGMA user_version = 2"
            )
            after.content = old.serialize()
        world = live(after)
        assert world.engine.names() == []
        world = live(cut(world))
        world = live(stop(world))
        assert world.engine._state.deleted() == set()


class TestDeletionThatFails:
    WRITES = tuple(Write("left", n, PART, n, said=f'{{"n": {n}}}') for n in range(1, 4))

    def begun(self, world: World):
        world.create()
        stream = world.streams()["left"]
        for write in self.WRITES:
            world.write(stream, write)
        world.engine.ingest.flush(stream)
        release(world)
        return world.engine.image(NAME)

    @pytest.mark.parametrize("what", ["rename", "commit"])
    def test_leaves_all_as_it_was(self, live, what):
        world = live()
        image = self.begun(world)
        if what == "rename":
            world.fs.fail_next("rename", path=str(shard_0()))
        else:
            world.database.fail_next()
        with pytest.raises(OSError, match="error"):
            world.engine.delete(image)
        assert world.engine._state.deleted() == set()
        stream = world.streams()["left"]
        assert stream.received == 3
        write = Write("left", 4, OTHER, 9, said='{"n": 4}')
        world.write(stream, write)
        world.engine.ingest.flush(stream)
        rows = [row.metadata for row in world.engine.frames(image)]
        assert rows == [write.said for write in (*self.WRITES, write)]
        after = cut(world)
        # Once more, where the image can't be opened: what the log has of it is no image's that
        # was deleted.
        document, hidden = shard_0() / "zarr.json", DATA / "elsewhere.json"
        after.fs.rename(document, hidden)
        after.fs.sync_dir(document.parent)
        after.fs.sync_dir(DATA)
        with pytest.raises(DataLoss, match=NAME):
            live(after)
        again = cut(after)
        again.fs.rename(hidden, document)
        world = live(again)
        assert np.array_equal(world.pixels(), painted(self.WRITES[-1], write))
        assert world.streams()["left"].received == 4

    def test_takes_no_writes_while_it_is_noted_as_deleted(self, live):
        world = live()
        image = self.begun(world)
        world.fs.fail_next("rename", path=str(shard_0()))
        not_deleted = world.engine._state.not_deleted

        def fail(images):
            world.database.fail_next()
            not_deleted(images)

        world.engine._state.not_deleted = fail
        with pytest.raises(OSError, match="error"):
            world.engine.delete(image)
        with pytest.raises(NotFound):
            world.streams()
        assert np.array_equal(world.pixels(), painted(self.WRITES[-1]))
        world.engine._state.not_deleted = not_deleted
        world.engine.delete(image)
        assert world.engine.names() == []

    def test_no_stream_is_opened_meanwhile(self, live):
        world = live()
        image = self.begun(world)
        delete = world.engine._catalog.delete
        refused: list[NotFound] = []

        def open_before(name):
            with pytest.raises(NotFound) as raised:
                world.engine.streams.open(image, "left")
            refused.append(raised.value)
            delete(name)

        world.engine._catalog.delete = open_before
        world.engine.delete(image)
        with pytest.raises(NotFound):
            world.engine.streams.open(image, "left", expected_frames=3)
        assert refused
        assert not world.engine._state.expected()

    def test_a_second_call_waits_for_the_first(self, live):
        world = live()
        image = self.begun(world)
        delete = world.engine._catalog.delete
        inside, go, found = threading.Event(), threading.Event(), []

        def fail(_name):
            inside.set()
            go.wait(SECONDS)
            raise OSError(errno.EIO, "first")

        def call() -> None:
            try:
                world.engine.delete(image)
            except (OSError, NotFound) as error:
                found.append(error)

        world.engine._catalog.delete = fail
        first = threading.Thread(target=call)
        first.start()
        assert inside.wait(SECONDS)
        world.engine._catalog.delete = delete
        others = [threading.Thread(target=call) for _ in range(2)]
        for thread in others:
            thread.start()
        go.set()
        for thread in (first, *others):
            thread.join(SECONDS)
        assert sorted(type(error).__name__ for error in found) == ["NotFound", "OSError"]
        assert world.engine.names() == []

    def test_one_that_is_gone_makes_room_for_another_of_its_name(self, live):
        world = live()
        image = self.begun(world)
        world.fs.fail_next("sync_dir", path=str(shard_0().parent))
        with pytest.raises(OSError, match="error"):
            world.engine.delete(image)
        assert world.engine.names() == []
        world.create()
        assert world.engine.image(NAME) is not image
        assert world.streams()["left"].received == 0
        assert not world.pixels().any()


class TestStreams:
    def test_a_skip_that_the_log_does_not_hold_hides_no_older_write(self, live):
        world = live()
        world.create()
        left = world.streams()["left"]
        world.write(left, Write("left", 1, PART, 7))
        world.engine.ingest.flush(left)
        image = world.engine.image(NAME)
        bare = world.engine.streams.open(image, "bare", logged=False)
        world.held.append(bare)
        world.engine.ingest.skip(bare, 1, 1)
        world.engine.durability.refresh(bare, stirred=True)
        world = live(cut(world))
        assert np.array_equal(world.pixels(), painted(Write("left", 1, PART, 7)))

    def test_a_broken_table_of_frames_is_no_affair_of_other_streams(self, live):
        world = live(stream_lease_seconds=0.01)
        world.create()
        image, table = world.engine.image(NAME), world.engine.streams
        streams = {name: table.open(image, name, logged=False) for name in ("left", "right")}
        left, right = streams.values()
        world.put(left, Write("left", 1, PART, 7, said='{"n": 1}'))
        world.engine.ingest.finish(left)
        world.put(left, Write("left", 2, PART, 8, said='{"n": 2}'))
        world.put(right, Write("right", 1, OTHER, 9))
        for stream in (left, right):
            table.release(stream)
        for _ in world.engine._settler.drain(image, 0):
            pass
        world.fs.remove(shard_0() / "frames" / "sequence" / "c" / "0")
        until(lambda: left.info(0.01).outcome is Outcome.ABANDONED, "the lease", SECONDS)
        table.release(table.open(image, "last"))
        assert {key[1] for key in table._streams} == {"left", "last"}
        world = live(stop(world))
        known = {i.stream_id: i.durable for i in world.engine.streams.of(world.engine.image(NAME))}
        assert known == {"left": 1, "right": 1}

    def test_a_logged_skip_makes_no_unlogged_write_before_it_durable(self, live):
        world = live()
        world.create()
        image = world.engine.image(NAME)
        stream = world.engine.streams.open(image, "left", logged=False)
        world.held.append(stream)
        world.put(stream, Write("left", 1, PART, 7))
        world.engine.streams.release(stream)
        stream = world.engine.streams.open(image, "left")
        world.engine.ingest.skip(stream, 2, 1)
        world.engine._journal.wait(world.engine._journal.position, SECONDS)
        assert world.engine.durability.refresh(stream, stirred=True) == (2, 0)

    def test_unlogged_ones_are_remembered_at_a_clean_stop(self, live):
        world = live()
        world.create()
        image = world.engine.image(NAME)
        left = world.streams()["left"]
        world.put(left, Write("left", 1, OTHER, 1))
        bare = world.engine.streams.open(image, "bare", logged=False)
        world.held.append(bare)
        for n in range(1, 6):
            world.put(bare, Write("bare", n, PART, n))
        world = live(stop(world))
        image = world.engine.image(NAME)
        known = {info.stream_id: info.durable for info in world.engine.streams.of(image)}
        assert known["bare"] == 5

    def test_numbers_behind_a_gap_are_counted_once(self, live):
        world = live()
        world.create()
        stream = world.streams()["left"]
        schedule = world.engine._settler.schedule
        demand, schedule.demand = schedule.demand, lambda shards: None
        offer, schedule.offer = schedule.offer, lambda shard: None
        # The second is not in the log, and is not stored when the power fails.
        regions = [PART, WHOLE, OTHER]
        for n, region in enumerate(regions, 1):
            world.put(stream, Write("left", n, region, n))
        world.engine._journal.wait(world.engine._journal.position, SECONDS)
        world.fs.cut()
        schedule.offer, schedule.demand = offer, demand
        world = live(cut(world))
        stream = world.streams()["left"]
        assert stream.received == 1
        for n, region in enumerate(regions[1:], 2):
            world.write(stream, Write("left", n, region, n))
        assert stream.counters.regions == 3
        world.engine.ingest.finish(stream)
        check_levels(world, painted(*(Write("left", n, r, n) for n, r in enumerate(regions, 1))))


class TestSettling:
    def test_a_shard_that_is_never_left_alone_is_stored_all_the_same(self, live):
        world = live(settle_busy_seconds=0.05)
        world.create()
        image = world.engine.image(NAME)
        bare = world.engine.streams.open(image, "bare", logged=False)
        world.held.append(bare)
        count = 0

        def once_more() -> bool:
            nonlocal count
            count += 1
            world.put(bare, Write("bare", count, PART, count))
            return world.engine.durability.refresh(bare)[1] > 0

        until(once_more, "a write to be stored while others go on", SECONDS)

    def test_a_note_goes_with_the_last_parent(self, live):
        """Also where the parents' shard is stored between two merges of one child."""
        world = live(settle_workers=2)
        world.create()
        settler = world.engine._settler
        merge, image = settler.merge, world.engine.image(NAME)
        merged = 0

        def settle_at_once(of, level, box, pixels, **options):
            nonlocal merged
            result = merge(of, level, box, pixels, **options)
            if level == 1:
                merged += 1
                if merged == 1:
                    for _ in settler.drain(image, 1):
                        pass
                elif merged == 2:
                    # The note has to be there: not all parents are stored.
                    assert world.engine._state.stale()
            return result

        settler.merge = settle_at_once
        stream = world.streams()["left"]
        write = Write("left", 1, WHOLE, 7)
        world.write(stream, write)
        world.engine.ingest.flush(stream)
        world = live(cut(world), settle_idle_seconds=0.02)
        until(lambda: not world.engine.status().shards_waiting, "the stale parents", SECONDS)
        check_levels(world, painted(write))

    def test_a_note_stays_while_a_chunk_of_it_is_deferred(self, live, monkeypatch):
        """Frames come to a shard before what a crash left of it is made."""
        world = live()
        world.create()
        stream = world.streams()["left"]
        writes = Write("left", 1, PART, 7), Write("left", 2, Region((0, 9, 9), (1, 3, 3)), 9)
        world.write(stream, writes[0])
        for _ in world.engine._settler.drain(world.engine.image(NAME), 0):
            pass
        # Stored, and its parent is not. In the next life the workers have better to do.
        after = cut(world)
        with monkeypatch.context() as patch:
            patch.setattr(Settler, "_begin_deferred", lambda _: False)
            world = live(after)
            # Else what the log brings is stored again.
            for shard in world.engine._dirty.shards():
                world.engine._budget.release(shard.clear())
            image = world.engine.image(NAME)
            assert world.engine.staleness.stale(image, 1)
            stream = world.streams()["left"]
            world.write(stream, writes[1])
            for level in range(3):
                for _ in world.engine._settler.drain(image, level):
                    pass
            after = cut(world)
        # Nothing that the log brings may make it.
        monkeypatch.setattr("ziggurat_engine.recover.Recovery._replay", lambda *_: False)
        world = live(after, settle_idle_seconds=0.02)
        until(lambda: not world.engine.status().shards_waiting, "the stale parents", SECONDS)
        check_levels(world, painted(*writes))

    def test_memory_full_of_what_is_broken_is_an_error_and_no_wait(self, live, monkeypatch):
        world = live(settle_idle_seconds=0.02)
        world.create()
        budget = world.engine._budget
        budget.dirty_limit_bytes, budget.pressure_bytes = 1024, 512
        stream = world.streams()["left"]

        def broken(_taken):
            raise Corrupt("broken")

        def fill() -> None:
            for n in range(1, 20):
                where = (2 * (n % 3), 8 * (n % 2), 8 * (n // 6 % 2))
                world.put(stream, Write("left", n, Region(where, (1, 3, 3)), n))

        with monkeypatch.context() as patch:
            patch.setattr(world.engine._storing, "store", broken)
            with pytest.raises(Unavailable, match="memory is full of what can't be stored: broken"):
                fill()
        until(lambda: not world.engine.status().shards_waiting, "what was broken", SECONDS)

    @pytest.mark.parametrize("region", [WHOLE, PART])
    def test_what_can_not_be_stored_is_tried_with_pauses(self, live, monkeypatch, region):
        world = live()
        world.create()
        tries = 0

        def full(_taken):
            nonlocal tries
            tries += 1
            raise OSError(errno.ENOSPC, "full", "x")

        stream = world.streams()["left"]
        with monkeypatch.context() as patch:
            patch.setattr(world.engine._storing, "store", full)
            for n in range(1, 6):
                world.put(stream, Write("left", n, region, n))
            world.engine._settler.schedule.rouse()
            time.sleep(0.3)
            assert tries < 10
        world.engine.ingest.finish(stream)
        check_levels(world, painted(Write("left", 5, region, 5)))

    @pytest.mark.parametrize("commit", [True, False])
    def test_chunks_beside_one_that_fails_behind_its_rename_stay_noted(
        self, live, monkeypatch, commit
    ):
        world = live(World(downsampling="gaussian"))
        world.create()
        image, stream = world.engine.image(NAME), world.streams()["left"]
        writes = (
            Write("left", 1, Region.whole(SHAPE), 1),
            Write("left", 2, Region((0, 1, 15), (1, 3, 1)), 9),
        )
        world.write(stream, writes[0])
        world.engine.ingest.finish(stream)
        world.write(stream, writes[1])
        storing, state = world.engine._storing, world.engine._state
        store, beside, notes = storing._store, (0, 0, 2), []

        def fail(taken):
            store(taken)
            # The shard beside it is stored meanwhile, and has seen the old pixels.
            notes.append(state.mark_stale(image.image.uid, image.noted(0), (0, 0, 1), [beside]))
            if not commit:
                world.database.fail_next()
            raise OSError(errno.EIO, "behind the rename")

        with monkeypatch.context() as patch:
            patch.setattr(storing, "_store", fail)
            with pytest.raises((Unavailable, OSError)):
                for _ in world.engine._settler.drain(image, 0):
                    pass
        storing.clear(notes)
        assert any(beside in note.chunks for note in state.stale())

        def finished() -> bool:
            # Another try may have begun before, and fail yet.
            with contextlib.suppress(Unavailable, OSError):
                world.engine.ingest.finish(stream)
                return True
            return False

        until(finished, "all to be stored")
        check_levels(world, painted(*writes))
        assert not storing._beside
        assert not storing._unnoted

    def test_memory_is_counted_right_when_a_write_can_not_be_made(self, live, monkeypatch):
        world = live()
        world.create()
        stream = world.streams()["left"]
        world.put(stream, Write("left", 1, PART, 1))
        before = world.engine.status().dirty_bytes

        def no_memory(*_arguments):
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr("ziggurat_engine.cache.dirty.DirtyShard._new", no_memory)
            with pytest.raises(MemoryError):
                world.put(stream, Write("left", 2, OTHER, 2))
        assert world.engine.status().dirty_bytes == before
        world.put(stream, Write("left", 2, OTHER, 2))
        world.engine.ingest.finish(stream)
        assert world.engine.status().dirty_bytes == 0


class TestRevision:
    def test_it_never_falls(self, live, monkeypatch):
        world = live()
        world.create()
        image, stream = world.engine.image(NAME), world.streams()["left"]
        next_tick = world.engine._images._next_tick

        def beside() -> int:
            tick = next_tick()
            world.write(stream, Write("left", 1, PART, 7))
            told.append(image.base.revision)
            return tick

        told: list[int] = []
        monkeypatch.setattr(world.engine._images, "_next_tick", beside)
        world.engine._images.renew(image)
        assert image.base.revision >= told[0]


class TestDeferred:
    """An image whose pyramid is made when it is asked for."""

    WRITES = (Write("left", 1, Region.whole(SHAPE), 3), Write("left", 2, PART, 9))

    def begun(self, world: World) -> World:
        world.create(pyramid="deferred")
        stream = world.streams()["left"]
        for write in self.WRITES:
            world.write(stream, write)
        world.engine.ingest.finish(stream)
        return world

    def build(self, world: World) -> None:
        image = world.engine.image(NAME)
        for _ in world.engine.builder.build(image):
            pass
        for _ in world.engine.builder.build(image, force=True):
            pass

    def test_a_power_cut_after_every_sync_point_leaves_stale_what_is(self, live):
        world = self.begun(live())
        left = world.cuts(lambda k: ("drop", "keep", k), self.build)
        level0 = painted(*self.WRITES)
        check_levels(world, level0)
        assert len(left) > 10
        for after in left.values():
            live(after)
            image = after.engine.image(NAME)
            assert np.array_equal(after.pixels(), level0)
            for level in range(1, len(image.pyramid.levels)):
                region = Region.whole(image.shape(level))
                # What does not say that it is stale is right.
                if not after.engine.staleness.stale(image, level):
                    break
                after.engine.builder.exact(image, level, region)
            check_levels(after, level0)
            cut(after)

    @pytest.mark.parametrize("stored", [False, True])
    def test_what_is_dirty_is_built_as_well(self, live, stored):
        world = live()
        world.create(pyramid="deferred")
        image, stream = world.engine.image(NAME), world.streams()["left"]
        writes = [Write("left", 1, PART, 3)]
        world.write(stream, writes[0])
        if stored:
            for _ in world.engine._settler.drain(image, 0):
                pass
            writes.append(Write("left", 2, PART, 9))
            world.write(stream, writes[1])
        for level in (1, 2):
            world.engine.builder.exact(image, level, Region.whole(image.shape(level)))
            assert not world.engine.staleness.stale(image, level)
        check_levels(world, painted(*writes))
        world.write(stream, Write("left", len(writes) + 1, WHOLE, 11))
        for _ in world.engine.builder.build(image):
            pass
        assert not world.engine._state.stale()
        check_levels(world, painted(Write("left", 1, WHOLE, 11)))

    @pytest.mark.parametrize("pyramid", ["live", "deferred"])
    def test_two_forced_builds_at_once_both_end(self, live, monkeypatch, pyramid):
        """The second touches what the first is storing."""
        world = live()
        world.create(pyramid=pyramid)
        image, stream = world.engine.image(NAME), world.streams()["left"]
        write = Write("left", 1, PART, 3)
        world.write(stream, write)
        world.engine.ingest.finish(stream)
        store, inside, go = world.engine._storing.store, threading.Event(), threading.Event()

        def hold(taken):
            if taken.touched and not held:
                held.append(taken.shard)
                inside.set()
                go.wait(SECONDS)
            return store(taken)

        monkeypatch.setattr(world.engine._storing, "store", hold)
        done: list[int] = []
        held: list[DirtyShard] = []

        def build() -> None:
            for _ in world.engine.builder.build(image, force=True, cancelled=stopped.is_set):
                pass
            done.append(1)

        stopped = threading.Event()
        threads = [threading.Thread(target=build) for _ in range(2)]
        threads[0].start()
        assert inside.wait(SECONDS)
        threads[1].start()
        try:
            (shard,) = held
            until(lambda: world.engine._deferred.get(shard.key), "the second to defer it", SECONDS)
            world.engine._settler._touch(image, shard.key)
            assert shard.tick is not None
            go.set()
            until(lambda: len(done) == 2, "both to end", SECONDS)
        finally:
            go.set()
            stopped.set()
            for thread in threads:
                thread.join()
        check_levels(world, painted(write))

    def test_what_is_written_while_it_is_touched_stays_deferred(self, live):
        world = live()
        world.create(pyramid="deferred")
        image, stream = world.engine.image(NAME), world.streams()["left"]
        settler, deferred = world.engine._settler, world.engine._deferred

        def write(number: int) -> None:
            world.write(stream, Write("left", number, PART, number))
            for _ in settler.drain(image, 0):
                pass

        write(1)
        remove, mine = deferred.remove, threading.get_ident()

        def late(key, taken):
            if threading.get_ident() == mine and stream.received == 1:
                (shard,) = world.engine._dirty.shards(image.lower, 0)
                settler.schedule.demand([shard])
                until(lambda: shard.idle and not shard.owned, "the block to be made", SECONDS)
                write(2)
            remove(key, taken)

        deferred.remove = late
        world.engine.builder.exact(image, 1, Region.whole(image.shape(1)))
        assert stream.received == 2
        assert world.engine.staleness.stale(image, 1)
        for level in (1, 2):
            world.engine.builder.exact(image, level, Region.whole(image.shape(level)))
            assert not world.engine.staleness.stale(image, level)
        check_levels(world, painted(Write("left", 2, PART, 2)))

    def test_a_build_of_what_is_deleted_ends_with_not_found(self, live):
        world = live()
        world.create(pyramid="deferred")
        image, stream = world.engine.image(NAME), world.streams()["left"]
        world.write(stream, Write("left", 1, Region.whole(SHAPE), 3))
        world.engine.ingest.finish(stream)
        release(world)
        steps = world.engine.builder.build(image, force=True)
        next(steps)
        world.engine.delete(image)
        with pytest.raises(NotFound):
            list(steps)
        with pytest.raises(NotFound):
            list(world.engine.builder.build(image, force=True))
        assert not world.engine._state.stale()

    def test_a_deletion_amid_a_forced_build_leaves_no_note(self, live, monkeypatch):
        monkeypatch.setattr("ziggurat_engine.remake.BATCH_SHARDS", 1)
        world = live()
        world.create(pyramid="deferred")
        image, stream = world.engine.image(NAME), world.streams()["left"]
        world.write(stream, Write("left", 1, Region.whole(SHAPE), 3))
        world.engine.ingest.finish(stream)
        release(world)
        state = world.engine._state
        note = state.mark_all_stale
        deleting = threading.Thread(target=world.engine.delete, args=(image,))

        def noted(*shards) -> None:
            if deleting.ident is None:
                deleting.start()
                until(lambda: not image.stored.gate.is_open, "the deletion to begin")
            else:
                deleting.join(SECONDS)
            note(*shards)

        monkeypatch.setattr(state, "mark_all_stale", noted)
        with pytest.raises(NotFound):
            for _ in world.engine.builder.build(image, force=True):
                pass
        deleting.join(SECONDS)
        assert not deleting.is_alive()
        assert not state.stale()
        assert not world.engine._deferred.holds(image.number, 0)
