"""Does a log give back what it was given, and what does it do when the disk does not?"""

import errno
import logging
import threading
import time
from pathlib import Path

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ziggurat_engine.errors import Corrupt, UnsupportedVersion
from ziggurat_engine.log import Close, Log, Region, Skip
from ziggurat_engine.log import record as records
from ziggurat_engine.region import Region as Box
from ziggurat_engine.testing.faulty import FaultyFs
from ziggurat_engine.vfs import OsFileSystem

D = Path("/log")
UID = bytes(range(16))
SEGMENT = 8192


def opened(fs, directory=D, **settings):
    log = Log.open(fs, directory, **{"segment_bytes": SEGMENT, "retry_seconds": 0.01} | settings)
    return log, list(log.replay())


def region(sequence, stream="s"):
    return Region(UID, stream, sequence, Box((sequence,), (1,)), b"")


def put(log, sequence, nbytes=1000, stream="s"):
    return log.append(region(sequence, stream), bytes([sequence % 251]) * nbytes)


def put_durably(log, sequence, nbytes=1000):
    appended = put(log, sequence, nbytes)
    assert log.wait(appended.position, 10)
    return appended


def sequences(replayed):
    return [each.record.sequence for each in replayed]


def eventually(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def overwrite(fs, position, data):
    """Damages the log's bytes at a position, durably."""
    for entry in fs.list_dir(D):
        found = fs.read_file(D / entry.name)[16:24]
        if int.from_bytes(found, "little") == position >> 32:
            file = fs.open_write(D / entry.name)
            file.writev([data], position & 0xFFFFFFFF)
            file.sync()
            return entry.name
    raise AssertionError(position)


def hold_syncs(fs):
    """The log's sync thread waits before its next sync: (it does, let it go on)."""
    started, go = threading.Event(), threading.Event()
    honest = fs._sync

    def sync(path, file):
        if threading.current_thread().name == "log-sync":
            started.set()
            go.wait(10)
        honest(path, file)

    fs._sync = sync
    return started, go


def cut_with_hole(count):
    """Record 0 is durable; 1 was never, but those behind it reached the disk by chance."""
    fs = FaultyFs()
    log, _ = opened(fs)
    durable = put_durably(log, 0)
    started, go = hold_syncs(fs)
    lost = [put(log, 1)]
    started.wait(10)
    lost += [put(log, i) for i in range(2, count)]
    # Written, as the next sync begins; it does not come to its end.
    fs._sync = lambda _path, _file: None
    log._committer.active.sync()
    overwrite(fs, lost[0].position - 500, b"torn")
    after = fs.crash("keep")
    go.set()
    return after, durable


@pytest.mark.parametrize("real", [True, False], ids=["os", "faulty"])
def test_gives_back_what_it_was_given(real, tmp_path):
    fs, d = (OsFileSystem(), tmp_path / "a/log") if real else (FaultyFs(), D)
    log, replayed = opened(fs, d)
    assert replayed == []
    given_records = [
        (Region(UID, "s", 0, Box((0, 1, 2), (3, 4, 5)), b'{"a":1}'), memoryview(b"pixels")),
        (Skip(UID, "s", 1, 7), b""),
        (Close(UID, "tß", 9, 2), b""),
        (region(3), b""),
    ]
    appended = [log.append(record, payload) for record, payload in given_records]
    assert log.position == appended[-1].position
    log.close()
    log.close()
    log, replayed = opened(fs, d)
    assert [(each.record, each.payload) for each in replayed] == given_records
    assert [(each.position, each.segment) for each in replayed] == appended
    assert log.durable == log.position >= appended[-1].position
    log.close()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.one_of(st.integers(0, 3000), st.sampled_from(["reopen", "roll", "release"]))),
)
def test_round_trips(steps):
    fs = FaultyFs()
    log, _ = opened(fs)
    kept = []
    for number, step in enumerate(steps):
        if step == "reopen":
            log.close()
            log, replayed = opened(fs)
            assert [(each.position, each.record, each.payload) for each in replayed] == kept
        elif step == "roll":
            log.roll()
        elif step == "release":
            log.release(log.roll())
            kept.clear()
        else:
            payload = bytes([number % 256]) * step
            kept.append((log.append(region(number), payload).position, region(number), payload))
    log.close()
    log, replayed = opened(fs)
    assert [(each.position, each.record, each.payload) for each in replayed] == kept
    log.close()


def test_use_in_the_wrong_order_is_refused():
    fs = FaultyFs()
    log = Log.open(fs, D, segment_bytes=SEGMENT)
    assert log.state == "closed"
    with pytest.raises(RuntimeError):
        put(log, 0)
    with pytest.raises(BlockingIOError):
        Log.open(fs, D)
    assert list(log.replay()) == []
    with pytest.raises(RuntimeError):
        next(log.replay())
    log.close()
    with pytest.raises(RuntimeError):
        put(log, 0)
    Log.open(fs, D).close()
    with pytest.raises(ValueError, match="multiple of 64"):
        Log.open(fs, D, segment_bytes=5000)


def test_positions_grow_and_name_their_segment():
    log, _ = opened(FaultyFs())
    appended = [put(log, i) for i in range(40)]
    positions = [each.position for each in appended]
    assert positions == sorted(set(positions))
    assert {each.position >> 32 for each in appended} == {each.segment for each in appended}
    assert len({each.segment for each in appended}) == 7
    log.close()


def test_a_record_must_fit_a_segment():
    log, _ = opened(FaultyFs())
    with pytest.raises(ValueError, match="larger than a log segment"):
        put(log, 0, SEGMENT)
    put_durably(log, 0, SEGMENT - 1024 - 128 - 192)
    log.close()


def test_concurrent_appenders_get_their_own_positions_and_one_sync_serves_many():
    fs = FaultyFs()
    log, _ = opened(fs, segment_bytes=1 << 16)
    got = {}
    slow = fs._sync

    def sync(path, file):
        time.sleep(0.002)
        slow(path, file)

    fs._sync = sync

    def work(stream):
        for i in range(25):
            appended = put(log, i, 500, stream)
            assert log.wait(appended.position, 10)
            assert log.durable >= appended.position
            got[appended.position] = (stream, i)

    threads = [threading.Thread(target=work, args=(f"s{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = log.stats()
    assert stats.records == len(got) == 200
    assert stats.syncs < 150
    assert stats.sync_seconds_max >= stats.sync_seconds_last > 0.001
    _, replayed = opened(fs.crash("drop"))
    assert {each.position: (each.record.stream, each.record.sequence) for each in replayed} == got
    assert [each.position for each in replayed] == sorted(got)


def test_observers_are_told_each_advance_in_order():
    log, _ = opened(FaultyFs())
    seen = []
    log.subscribe(durable=seen.append)
    last = [put(log, i) for i in range(20)][-1]
    assert log.wait(last.position, 10)
    log.close()
    assert seen == sorted(seen)
    assert seen[-1] == last.position


def test_wait_ends_at_its_time():
    log, _ = opened(FaultyFs())
    appended = put_durably(log, 0)
    assert not log.wait(appended.position + 1, 0.01)
    log.close()


class TestRelease:
    def test_files_are_reused_up_to_a_cap_and_then_deleted(self):
        fs = FaultyFs()
        log, _ = opened(fs, max_spare_segments=1)
        last = [put_durably(log, i) for i in range(30)][-1]
        assert log.stats().segments == 5
        log.release(last.segment)
        eventually(lambda: log.stats()[-3:] == (1, 2, 3 * SEGMENT))
        names = {entry.name for entry in fs.list_dir(D)}
        assert len([name for name in names if name.endswith(".log")]) == 3
        for i in range(30, 300):
            appended = put_durably(log, i)
            log.release(appended.segment - 1)
        assert len(fs.list_dir(D)) <= 7
        log.close()
        _, replayed = opened(fs)
        assert sequences(replayed) == list(range(300 - len(replayed), 300))
        assert replayed[-1].segment == appended.segment

    def test_the_active_segment_stays_until_it_is_rolled(self):
        fs = FaultyFs()
        log, _ = opened(fs)
        appended = put_durably(log, 0)
        log.release(appended.segment)
        assert log.stats().segments == 1
        assert log.roll() == appended.segment
        assert log.roll() == appended.segment
        log.release(appended.segment)
        assert put(log, 1).segment > appended.segment
        log.close()
        log, replayed = opened(fs)
        assert sequences(replayed) == [1]
        log.release(log.roll())
        log.close()
        log, replayed = opened(fs)
        assert replayed == []
        assert put(log, 2).position > appended.position
        log.close()

    def test_a_segment_that_cannot_be_voided_is_tried_again(self):
        fs = FaultyFs()
        log, _ = opened(fs)
        last = [put_durably(log, i) for i in range(20)][-1]
        # With the reserve made, the count falls to 3 with the last one voided only.
        eventually(lambda: log.stats().spare_segments == 1)
        fs.fail_next("sync", path=".log", times=3)
        log.release(last.segment - 1)
        eventually(lambda: log.stats()[-3] == 1 and log.stats().spare_segments == 3)
        log.close()
        _, replayed = opened(fs.crash("drop"))
        assert {each.segment for each in replayed} == {last.segment}


class TestFailedSync:
    def test_abandons_the_segment_and_goes_on_in_another(self):
        fs = FaultyFs()
        log, _ = opened(fs)
        failures, seen = [], []
        log.subscribe(
            durable=seen.append, failed=lambda *facts: failures.append((*facts, list(seen)))
        )
        first = put_durably(log, 0)
        # Not of the segment that is being made ahead.
        fs.fail_next("sync", errno.EIO, path=f"{first.segment:012d}.log")
        second = put(log, 1)
        with pytest.raises(OSError, match="Input/output") as raised:
            log.wait(second.position, 10)
        assert raised.value.errno == errno.EIO
        assert raised.value.filename.endswith(".log")
        third = put_durably(log, 2)
        assert third.segment > second.segment
        with pytest.raises(OSError, match="Input/output"):
            log.wait(second.position, 10)
        assert log.wait(first.position)
        ((error, after, through, before),) = failures
        assert (error.errno, after, through) == (errno.EIO, first.position, second.position)
        assert before[-1] == first.position
        assert log.stats().failed_syncs == 1
        for mode in ("drop", "keep", *range(20)):
            after_cut, replayed = opened(fs.crash(mode))
            assert sequences(replayed) == [0, 2]
            after_cut.close()

    def test_all_appended_meanwhile_is_abandoned_across_segments(self):
        fs = FaultyFs()
        log, _ = opened(fs)
        put_durably(log, 0)
        started, go = hold_syncs(fs)
        lost = [put(log, 1)]
        started.wait(10)
        lost += [put(log, i) for i in range(2, 20)]
        fs.fail_next("sync", path=f"{lost[0].segment:012d}.log")
        go.set()
        for appended in lost:
            with pytest.raises(OSError, match="Input/output"):
                log.wait(appended.position, 10)
        put_durably(log, 20)
        log.release(lost[-1].segment)
        assert log.stats().segments == 1
        for mode in ("drop", "keep", *range(10)):
            _, replayed = opened(fs.crash(mode))
            assert sequences(replayed)[-1] == 20
            assert set(sequences(replayed)) <= {0, 20}

    def test_a_dead_disk_refuses_and_a_healed_one_is_used_again(self):
        fs = FaultyFs()
        log, _ = opened(fs)
        first = put_durably(log, 0)
        fs.fail_next("sync", path=".log", times=10**6)
        for i in range(1, 50):
            with pytest.raises(OSError, match=r"Input/output error: '/log/"):
                log.wait(put(log, i).position, 10)
        assert log.state == "full"
        assert log.error is not None
        fs.heal()
        eventually(lambda: log.state == "open")
        put_durably(log, 50)
        assert log.durable > first.position
        log.close()
        _, replayed = opened(fs.crash("drop"))
        assert sequences(replayed) == [0, 50]

    def test_close_says_that_it_failed(self):
        fs = FaultyFs()
        log, _ = opened(fs)
        put_durably(log, 0)
        eventually(lambda: log.stats().spare_segments == 1)
        log._keeper.close()
        fs.fail_next("sync", path=".log", times=10)
        put(log, 1)
        with pytest.raises(OSError, match="Input/output"):
            log.close()


class TestFullDisk:
    def test_is_foreseen_refused_at_once_and_recovers(self):
        fs = FaultyFs(capacity_bytes=3 * SEGMENT + 32)  # and the identity
        log, _ = opened(fs)
        appended = []
        with pytest.raises(OSError, match="No space") as raised:  # noqa: PT012 - how many fit is found out
            while True:
                appended.append(put_durably(log, len(appended)))
                eventually(lambda: log.room or log.error)
        assert raised.value.errno == errno.ENOSPC
        assert "/log/" in raised.value.filename
        assert len(appended) == 18
        assert log.state == "full"
        assert log.room < 1200
        log.release(appended[6].segment)
        eventually(lambda: log.state == "open")
        put_durably(log, 99)
        fs.capacity_bytes = None
        eventually(lambda: log.state == "open")
        log.close()
        _, replayed = opened(fs)
        assert sequences(replayed) == [*range(12, 18), 99]

    def test_is_foreseen_while_there_is_room(self):
        fs = FaultyFs(capacity_bytes=SEGMENT + 32)
        log, _ = opened(fs)
        put_durably(log, 0)
        eventually(lambda: log.state == "full")
        assert log.room == SEGMENT - 1024 - 128 - 1152
        put_durably(log, 1)
        log.close()

    def test_a_log_opens_on_a_full_disk(self):
        fs = FaultyFs()
        log, _ = opened(fs)
        put_durably(log, 0)
        log.close()
        fs.capacity_bytes = 0
        for entry in fs.list_dir(D):
            if entry.name.endswith(".log") and fs.read_file(D / entry.name)[16] != 1:
                fs.remove(D / entry.name)
        log, replayed = opened(fs)
        assert sequences(replayed) == [0]
        with pytest.raises(OSError, match="No space"):
            put(log, 1)
        log.release(replayed[-1].segment)
        eventually(lambda: log.state == "open")
        put_durably(log, 1)
        log.close()


class TestFailedWrite:
    """Records are written when they are synced: it is as a sync that fails."""

    @pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
    def test_is_told_to_who_waits_and_the_log_goes_on(self, code):
        fs = FaultyFs()
        log, _ = opened(fs)
        first = put_durably(log, 0)
        # Not of the segment that is being made ahead.
        fs.fail_next("write", code, path=f"{first.segment:012d}.log")
        lost = put(log, 1, 3000)
        with pytest.raises(OSError, match=r"\.log'") as raised:
            log.wait(lost.position, 10)
        assert raised.value.errno == code
        put_durably(log, 2, 10)
        for mode in ("drop", *range(5)):
            _, replayed = opened(fs.crash(mode))
            assert sequences(replayed) == [0, 2]

    def test_in_a_begin_too(self):
        fs = FaultyFs()
        log, _ = opened(fs)
        eventually(lambda: log.room > 0)
        fs.fail_next("write", path="000000000001.log")
        with pytest.raises(OSError, match="Input/output"):
            log.wait(put(log, 0).position, 10)
        put_durably(log, 1)
        log.close()
        _, replayed = opened(fs)
        assert sequences(replayed) == [1]


class TestDamage:
    def build(self, count=12):
        fs = FaultyFs()
        log, _ = opened(fs)
        appended = [put_durably(log, i) for i in range(count)]
        log.close()
        return fs, appended

    @pytest.mark.parametrize("which", range(12))
    def test_damage_to_a_durable_record_is_never_skipped(self, which):
        fs, appended = self.build()
        name = overwrite(fs, appended[which].position - 500, b"damage")
        log = Log.open(fs, D)
        start = appended[which].position - 1152
        with pytest.raises(Corrupt, match=f"{name}.*position {start} ") as raised:
            list(log.replay())
        assert raised.value.details["position"] == str(start)
        log.close()

    def test_a_lost_segment_in_the_middle_is_corrupt(self):
        fs, appended = self.build(20)
        for entry in fs.list_dir(D):
            if fs.read_file(D / entry.name)[16:17] == bytes([appended[7].segment]):
                fs.remove(D / entry.name)
        log = Log.open(fs, D)
        with pytest.raises(Corrupt, match=f"position {appended[5].position} "):
            list(log.replay())

    def test_one_copy_of_a_header_is_enough_and_none_is_corrupt(self):
        fs, appended = self.build()
        overwrite(fs, appended[0].segment << 32, bytes(64))
        log, replayed = opened(fs)
        assert len(replayed) == 12
        log.close()
        file = fs.open_write(D / "000000000001.log")
        file.writev([bytes(1024)], 0)
        with pytest.raises(Corrupt, match=r"000000000001\.log"):
            Log.open(fs, D)

    def test_a_torn_tail_is_cut_with_a_warning(self, caplog):
        fs, durable = cut_with_hole(4)
        with caplog.at_level(logging.WARNING):
            after, replayed = opened(fs)
        assert sequences(replayed) == [0]
        (message,) = [r.getMessage() for r in caplog.records if "cut" in r.getMessage()]
        assert f"position {durable.position}" in message
        assert "2 records behind it" in message
        put_durably(after, 1)
        after.close()

    def test_records_behind_a_cut_never_come_back(self):
        fs, _ = cut_with_hole(15)
        for expected in ([0], [0, 100], [0, 100, 101]):
            log, replayed = opened(fs)
            assert sequences(replayed) == expected
            put_durably(log, 99 + len(expected))
            fs = fs.crash("drop")

    def test_a_newer_record_is_unsupported_not_corrupt(self):
        fs, appended = self.build(2)
        data = fs.read_file(D / "000000000001.log")
        start = (appended[1].position - 1152) & 0xFFFFFFFF
        head = bytearray(data[start : start + 64])
        head[4] = records.VERSION + 1
        head[60:] = google_crc32c.value(bytes(head[:60])).to_bytes(4, "little")
        overwrite(fs, appended[1].position - 1152, bytes(head))
        log = Log.open(fs, D)
        with pytest.raises(UnsupportedVersion, match=r"000000000001\.log"):
            list(log.replay())
        log.close()

    @pytest.mark.parametrize("data", [b"", bytes(100), b"rubbish" * 500, bytes(SEGMENT)])
    def test_files_that_a_crash_left_half_made_are_removed(self, data):
        fs, _ = self.build(3)
        fs.create(D / "000000000077.log").write(data)
        fs.create(D / "notes.txt").write(data)
        log, replayed = opened(fs)
        assert sequences(replayed) == [0, 1, 2]
        assert not fs.exists(D / "000000000077.log")
        assert fs.exists(D / "notes.txt")
        assert put(log, 3).segment >= 78
        log.close()


def test_what_replay_gave_is_durable_even_if_a_sync_had_failed_before():
    fs = FaultyFs()
    log, _ = opened(fs)
    put_durably(log, 0)
    eventually(lambda: log.stats().spare_segments == 1)
    fs.fail_next("sync", path=".log", times=10**6)
    put(log, 1, 5000)
    log._keeper.close()
    with pytest.raises(OSError, match="Input/output"):
        log.close()
    fs.heal()
    # The process ends here, without a power cut: the system still shows the record.
    log, replayed = opened(fs)
    assert sequences(replayed) == [0, 1]
    _, replayed = opened(fs.crash("drop"))
    assert sequences(replayed) == [0, 1]


def test_an_unexpected_error_in_a_thread_is_told_to_callers():
    fs = FaultyFs()
    log, _ = opened(fs)
    put_durably(log, 0)
    log.subscribe(durable=lambda _position: 1 / 0)
    appended = put(log, 1)
    eventually(lambda: log._committer._died is not None)
    assert log.wait(appended.position)
    with pytest.raises(RuntimeError) as raised:
        put(log, 2)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    with pytest.raises(RuntimeError):
        log.wait(log.position + 1)
    with pytest.raises(RuntimeError):
        log.close()
