"""Does a power cut after any sync lose, double, reorder or damage what the log promised?

A run of several appenders, with rollovers, releases and reused segments, on a disk of
which the power fails after sync point k, for every k that the run has; then the log is
opened on what may be left of it.
"""

import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from ziggurat_engine.log import Log, Region, Skip
from ziggurat_engine.region import Region as Box
from ziggurat_engine.testing.faulty import FaultyFs, PowerCut

D = Path("/data/log")
UID = bytes(range(16))
SETTINGS = {"segment_bytes": 4096, "max_spare_segments": 2, "retry_seconds": 0.001}
STREAMS = 3
FRAMES = 16
MODES = ["drop", "keep", *range(10)]


class Run:
    """The workload, and what it was promised until the power failed."""

    def __init__(self, fs: FaultyFs, *, failing: bool = False) -> None:
        self.fs = fs
        self.failing = failing
        self.appended: dict[int, tuple[str, int]] = {}
        self.promised: set[int] = set()
        self.gone: set[int] = set()  # a sync failed for them
        self.released = 0
        self._lock = threading.Lock()
        self.unexpected: list[BaseException] = []

    def go(self) -> None:
        try:
            log = Log.open(self.fs, D, **SETTINGS)
            assert list(log.replay()) == []
        except PowerCut:
            return
        threads = [threading.Thread(target=self._append, args=(log, n)) for n in range(STREAMS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        try:
            log.close()
        except (RuntimeError, PowerCut):
            assert self.fs.is_cut
        except OSError:
            assert self.failing
        assert self.unexpected == []

    def _append(self, log: Log, number: int) -> None:
        stream = f"stream-{number}"
        try:
            for sequence in range(FRAMES):
                self._frame(log, stream, sequence)
        except (PowerCut, RuntimeError) as error:
            if not self.fs.is_cut:
                self.unexpected.append(error)
        except BaseException as error:
            self.unexpected.append(error)

    def _frame(self, log: Log, stream: str, sequence: int) -> None:
        if self.failing and sequence == 5:
            self.fs.fail_next("sync", path=".log")
        if sequence % 7 == 6:
            given, payload = Skip(UID, stream, sequence, 1), b""
        else:
            given = Region(UID, stream, sequence, Box((sequence,), (1,)))
            payload = pixels(stream, sequence)
        appended = self._append_once(log, given, payload)
        try:
            assert log.wait(appended.position, 30)
        except OSError:
            assert self.failing
            with self._lock:
                self.gone.add(appended.position)
            return
        # Reported by a sync that returned: a promise, also if the power failed since.
        with self._lock:
            self.promised.add(appended.position)
        if sequence % 4 == 3:
            with self._lock:
                self.released = max(self.released, appended.segment - 2)
                log.release(appended.segment - 2)

    def _append_once(self, log, given, payload):
        while True:
            with self._lock:
                try:
                    appended = log.append(given, payload)
                except OSError:
                    # The sync that failed was the one of the next segment.
                    assert self.failing
                else:
                    self.appended[appended.position] = (given.stream, given.sequence)
                    return appended
            time.sleep(0.001)


def pixels(stream, sequence):
    return bytes([hash_of(stream, sequence)]) * (100 + 70 * (sequence % 5))


def hash_of(stream, sequence):
    return (sum(stream.encode()) * 31 + sequence) % 256


def check(run: Run, disk: FaultyFs) -> None:
    log = Log.open(disk, D, **SETTINGS)
    replayed = list(log.replay())
    positions = [each.position for each in replayed]
    assert positions == sorted(set(positions)), "in order, none twice"
    for each in replayed:
        assert run.appended[each.position] == (each.record.stream, each.record.sequence)
        if isinstance(each.record, Region):
            assert each.payload == pixels(each.record.stream, each.record.sequence)
    kept = {p for p in run.promised if p >> 32 > run.released}
    assert kept <= set(positions), "nothing that was promised is lost"
    if positions:
        # What is replayed is a run of the log without holes, but for failed syncs.
        inside = {p for p in run.appended if positions[0] <= p <= positions[-1]}
        assert inside - run.gone <= set(positions)
    live = {each.segment for each in replayed}
    assert log.durable >= max(positions, default=0)
    again = [log.append(Skip(UID, "after", n, 1)) for n in range(40)]
    assert log.wait(again[-1].position, 30)
    assert not live & {each.segment for each in again}
    after = Log.open(disk.crash("drop"), D, **SETTINGS)
    assert [each.position for each in after.replay()] == [
        *positions,
        *(each.position for each in again),
    ]
    after.close()
    end(log, disk)


def end(log: Log, disk: FaultyFs) -> None:
    """Cuts the power, and ends the threads, which live on behind it."""
    disk.cut()
    with suppress(PowerCut, RuntimeError):
        log.close()


@pytest.mark.parametrize("failing", [False, True], ids=["honest", "failing-syncs"])
def test_a_cut_after_each_sync(failing):
    whole = Run(FaultyFs(), failing=failing)
    whole.go()
    assert len(whole.promised) + len(whole.gone) == STREAMS * FRAMES
    assert whole.released > 2
    points = whole.fs.sync_points
    assert points > 20
    reached = 0
    for k in range(points + 1):
        fs = FaultyFs()
        fs.stop_after(k)
        run = Run(fs, failing=failing)
        run.go()
        reached += bool(run.promised)
        for mode in MODES:
            check(run, fs.crash(mode))
    assert reached > points // 2


@pytest.mark.parametrize("mode", MODES)
def test_a_cut_during_recovery(mode):
    """Cut after each sync of a recovery from a cut: the log is as it was before it."""
    first = Run(FaultyFs())
    first.fs.stop_after(30)
    first.go()
    log = Log.open(first.fs.crash(mode), D, **SETTINGS)
    survived = {each.position for each in log.replay()}
    log.close()
    for k in range(12):
        disk = first.fs.crash(mode)
        disk.stop_after(k)
        run = Run(disk)
        run.appended, run.released = dict(first.appended), first.released
        run.promised, run.gone = set(first.promised), set(first.appended) - survived
        log = None
        try:
            log = Log.open(disk, D, **SETTINGS)
            assert {each.position for each in log.replay()} == survived
            run.promised |= survived
            for n in range(20):
                appended = log.append(Skip(UID, "recovering", n, 1))
                run.appended[appended.position] = ("recovering", n)
                if log.wait(appended.position, 30):
                    run.promised.add(appended.position)
        except (PowerCut, RuntimeError):
            assert disk.is_cut
        finally:
            if log is not None:
                end(log, disk)
        for second in MODES:
            check(run, disk.crash(second))
