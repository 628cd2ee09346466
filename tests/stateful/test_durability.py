"""Is everything acknowledged kept through any life: faults, full disks, power cuts, restarts?

A state machine drives an engine on a disk in memory (tests/crash/world.py). Each attempt
to write has a value of its own, higher than all before, so that a pixel tells which
attempt it comes from, and of two the later one is the higher.
"""

from __future__ import annotations

import errno
import itertools
import threading
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from ziggurat_engine.errors import DataError, FailedPrecondition, ZigguratError
from ziggurat_engine.region import Region
from ziggurat_engine.settling import settle
from ziggurat_engine.writes.streams import Stream

from tests.crash.world import NAME, SHAPE, STREAMS, World, Write, check_levels
from tests.support.strategies import regions
from tests.support.waiting import until

SECONDS = 30.0
SOME = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
# Half an image: four chunks deep, so that dirty chunks fill it now and then.
CACHE_BYTES = 24 << 10
PLACES = ("/data/log", "/data/images", "/data/tmp")
FAULTS = ("write", "sync", "sync_dir", "rename", "create")
CODES = (errno.EIO, errno.ENOSPC, errno.EROFS)

T = TypeVar("T")


class Durability(RuleBasedStateMachine):
    """One image and two streams.

    floor: what was read after the last start; no pixel may be older after a later one.
    attempts: the writes since, in order, also those that failed; accepted: those of
    them that did not. wanted[stream]: regions by sequence number, as the client has them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.value = 0
        self.faulty = False
        self.wanted: dict[str, list[Region]] = {name: [] for name in STREAMS}
        self.floor = np.zeros(SHAPE, "<u2")
        self.attempts: list[Write] = []
        self.accepted: list[Write] = []
        self.streams: dict[str, Stream] = {}

    @initialize(downsampling=st.sampled_from(["mean", "gaussian"]))
    def start(self, downsampling: str) -> None:
        self.world.downsampling = downsampling
        self.world.open(cache_bytes=CACHE_BYTES)
        self.world.create()
        self.streams = self.world.streams()

    @rule(name=st.sampled_from(STREAMS), box=regions(SHAPE), whole=st.integers(0, 5))
    def write(self, name: str, box: Region, whole: int) -> None:
        self._resend(name)
        if self.streams[name].received == len(self.wanted[name]):
            # Whole shards go past the log.
            box = Region.whole(SHAPE) if not whole else box
            box = Region((0, 0, 0), (2, 16, 16)) if whole == 1 else box
            self.wanted[name].append(box)
            self._resend(name)

    @rule(name=st.sampled_from(STREAMS))
    def flush(self, name: str) -> None:
        stream = self.streams[name]
        if self._try(lambda: self.world.engine.ingest.flush(stream)):
            self.world.told(stream)
            assert self.world.durable[name] == stream.received

    @rule(name=st.sampled_from(STREAMS))
    def finish(self, name: str) -> None:
        if self._try(lambda: self.world.engine.ingest.finish(self.streams[name])):
            check_levels(self.world, self.world.pixels())

    @rule(method=st.sampled_from(["mean", "max", "gaussian"]), steps=st.integers(0, 40))
    def change(self, method: str, steps: int) -> None:
        """Has another method make the levels; few steps leave it half done."""
        engine = self.world.engine
        build = engine.builder.build(engine.image(NAME), method=method)
        self._try(lambda: list(itertools.islice(build, steps)))
        build.close()

    @rule(level=st.integers(1, 2))
    def read(self, level: int) -> None:
        assert within(lambda: self.world.pixels(level)).max() <= self.value

    @rule(
        op=st.sampled_from(FAULTS),
        place=st.sampled_from(PLACES),
        code=st.sampled_from(CODES),
        times=st.integers(1, 4),
    )
    def fail(self, op: str, place: str, code: int, times: int) -> None:
        self.faulty = True
        self.world.fs.fail_next(op, code, path=place, times=times)

    @rule(commits=st.integers(1, 3))
    def fail_commits(self, commits: int) -> None:
        self.faulty = True
        self.world.database.fail_next(commits)

    @rule(room=st.integers(0, 20 << 10))
    def fill(self, room: int) -> None:
        self.faulty = True
        self.world.fs.capacity_bytes = self.world.fs.used_bytes() + room

    @precondition(lambda self: self.faulty)
    @rule()
    def heal(self) -> None:
        """Work goes on by itself, and then everything is exact."""
        self._heal()
        for name in STREAMS:
            self._eventually(lambda: self._resend(name) or self._all_sent(name))  # noqa: B023
        self._finish()
        check_levels(self.world, self._painted())

    @rule(mode=st.sampled_from(["drop", "keep"]) | st.integers(0, 1000))
    def crash(self, mode: str | int) -> None:
        """The power fails; a fault that was announced goes with it."""
        self.world.fs.cut()
        self.world.abandon()
        self._reopen(self.world.after(mode))

    @rule()
    def restart(self) -> None:
        self._heal()
        self._finish()
        for stream in self.streams.values():
            self.world.engine.streams.release(stream)
        within(self.world.engine.close)
        self._reopen(World(self.world.fs, self.world.database.content, self.world.durable))

    @invariant()
    def reads_see_what_was_accepted(self) -> None:
        if not self.streams:
            return
        found, wanted = within(self.world.pixels), self._painted()
        loose = found != wanted
        assert (found[loose] > wanted[loose]).all(), "lost"
        failed = [write for write in self.attempts if write not in self.accepted]
        self._check_origin(found, loose, failed)
        for stream in self.streams.values():
            self._try(lambda: self.world.told(stream))  # noqa: B023

    def teardown(self) -> None:
        if not self.streams:
            return
        try:
            self.heal()
            self.restart()
            check_levels(self.world, self._painted())
        finally:
            self.world.fs.cut()
            self.world.abandon()

    def _finish(self) -> None:
        for stream in self.streams.values():
            self._eventually(
                lambda: self._try(lambda: self.world.engine.ingest.finish(stream))  # noqa: B023
            )
            self.world.told(stream)
            assert stream.durable == stream.received

    def _heal(self) -> None:
        self.world.fs.heal()
        self.world.database.heal()
        self.world.fs.capacity_bytes = None
        self.faulty = False

    def _reopen(self, world: World) -> None:
        sent = {name: stream.received for name, stream in self.streams.items()}
        before, self.world, self.streams = self.world.durable, world, {}
        world.fs.heal()
        world.fs.capacity_bytes, self.faulty = None, False
        within(lambda: world.open(cache_bytes=CACHE_BYTES))
        found = within(world.pixels)
        self.streams = world.streams()
        # A floor for every pixel: the last start's, and of what was received the versions
        # that may be the ones that were kept.
        floor = self.floor.copy()
        received = {name: stream.received for name, stream in self.streams.items()}
        for name in STREAMS:
            assert before[name] <= received[name] <= len(self.wanted[name]), (before, sent)
        first: dict[tuple[str, int], Write] = {}
        for write in self.attempts:
            key = (write.stream, write.sequence)
            if write.sequence <= received[write.stream]:
                kept = first.setdefault(key, write)
                if write.sequence <= before[write.stream] and write in self.accepted:
                    kept = write
                part = floor[write.region.slices()]
                np.maximum(part, kept.value, out=part)
        assert (found >= floor).all(), f"lost: {np.argwhere(found < floor)[:3]}"
        self._check_origin(found, found != self.floor, self.attempts)
        self.floor, self.attempts, self.accepted = found, [], []
        world.durable.update(received)
        for name, stream in self.streams.items():
            gap = Write(name, stream.received + 2, Region((0, 0, 0), (1, 1, 1)), 1)
            with pytest.raises(FailedPrecondition):
                world.write(stream, gap)
            if stream.received:
                world.write(stream, Write(name, stream.received, gap.region, 1))
            assert stream.received == received[name], "a repeat or a gap was taken"
        for name in STREAMS:
            self._resend(name)

    def _resend(self, name: str) -> None:
        """Sends what the server has not received, as the client does, until it refuses."""
        stream = self.streams[name]
        while stream.received < len(self.wanted[name]):
            self.value += 1
            sequence = stream.received + 1
            region = self.wanted[name][sequence - 1]
            write = Write(name, sequence, region, self.value)
            self.attempts.append(write)
            if not self._try(lambda: self.world.put(stream, write)):  # noqa: B023
                return
            assert stream.received == sequence
            self.accepted.append(write)

    def _all_sent(self, name: str) -> bool:
        return self.streams[name].received == len(self.wanted[name])

    def _try(self, work: Callable[[], object]) -> bool:
        """False where the disk refuses, which it may only while it is not healthy."""
        try:
            within(work)
        except DataError:
            raise
        except (OSError, ZigguratError):
            return False
        return True

    def _eventually(self, work: Callable[[], object]) -> None:
        until(work, "work to go on after the disk was healed", SECONDS)

    def _painted(self) -> np.ndarray:
        pixels = self.floor.copy()
        for write in self.accepted:
            pixels[write.region.slices()] = write.value
        return pixels

    @staticmethod
    def _check_origin(found: np.ndarray, where: np.ndarray, writes: list[Write]) -> None:
        """Pixels in `where` come from one of `writes`, and lie where it was to write."""
        values = {write.value: write.region for write in writes}
        for value in np.unique(found[where]):
            assert value in values, f"nobody wrote {value}"
            outside = where & (found == value)
            outside[values[value].slices()] = False
            assert not outside.any(), f"{value} is where it was never written"


def within(work: Callable[[], T]) -> T:
    """What `work` returns or raises; fails where it takes longer than SECONDS."""
    result: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            result.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert not thread.is_alive(), "the engine hangs"
    if failed:
        raise failed[0]
    return result[0]


@pytest.mark.slow
def test_durability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "FIRST_RETRY_SECONDS", 0.002)
    monkeypatch.setattr(settle, "LAST_RETRY_SECONDS", 0.02)
    run_state_machine_as_test(Durability, settings=SOME)
