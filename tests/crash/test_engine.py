"""Does a power cut after any sync point lose, double or spoil anything?

In a run of writes, overwrites, two streams and pyramids the disk is looked at right behind
every sync point: as a power cut would leave it there, with what was not synced dropped, kept
or mixed. On each of these the engine is opened. Then everything that was acknowledged is read
back, the store is valid Zarr, each stream goes on where the server says, and at the end
level 0 is what was written and every level its exact mean.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
from ziggurat_engine.region import Region
from ziggurat_engine.writes.streams import Outcome

from tests.crash.world import (
    NAME,
    SHAPE,
    STREAMS,
    World,
    Write,
    check_levels,
    check_pixels,
    check_zarr,
    until,
)


def story(seed: int = 7, count: int = 26) -> list[Write]:
    """Writes of two streams in one order: planes, then boxes that overlap; two are skips."""
    dice = random.Random(seed)
    writes: list[Write] = []
    numbers = dict.fromkeys(STREAMS, 0)
    for value in range(1, count + 1):
        stream = STREAMS[value % 2]
        numbers[stream] += 1
        if value <= SHAPE[0]:
            region = Region((value - 1, 0, 0), (1, *SHAPE[1:]))
        else:
            offset = tuple(dice.randrange(n) for n in SHAPE)
            shape = tuple(dice.randint(1, n - o) for n, o in zip(SHAPE, offset, strict=True))
            region = Region(offset, shape)
        if value == 20:
            # Covers whole shards: goes past the log.
            region = Region((0, 0, 0), SHAPE)
        skipped = value if value in (12, 21) else 0
        said = f'{{"value": {value}}}' if value % 3 == 0 and not skipped else ""
        writes.append(Write(stream, numbers[stream], region, value, said, skipped))
    return writes


WRITES = story()


def work(world: World) -> None:
    """The story, from an empty disk to a clean close."""
    world.open()
    world.create()
    streams = world.streams()
    for write in WRITES:
        world.write(streams[write.stream], write)
        if write.value in (9, 16, 23):
            world.engine.ingest.flush(streams[write.stream])
            for stream in streams.values():
                world.told(stream)
        if write.value == 13:
            world.engine.ingest.finish(streams[write.stream])
    for stream in streams.values():
        world.engine.ingest.finish(stream)
        world.told(stream)
        world.engine.ingest.close(stream, Outcome.ABORTED)
        world.closed.add(stream.stream_id)
        world.engine.streams.release(stream)
    world.engine.close()


def painted(writes: list[Write]) -> np.ndarray:
    """Level 0 after these writes, one after the other."""
    pixels = np.zeros(SHAPE, "<u2")
    for write in writes:
        if not write.skipped:
            pixels[write.region.slices()] = write.value
    return pixels


def check_facts(world: World) -> None:
    """Every acknowledged frame's row is there once, and how closed streams ended."""
    image = world.engine.image(NAME)
    rows = [(row.stream, row.sequence, row.metadata) for row in world.engine.frames(image)]
    assert len(set(rows)) == len(rows)
    wanted = {w.row(): w.sequence for w in WRITES if w.row()}
    assert set(rows) <= wanted.keys()
    for row, sequence in wanted.items():
        assert row in rows or sequence > world.durable[row[0]], f"row {row} is lost"
    streams = {info.stream_id: info for info in world.engine.streams.of(image)}
    for name in world.closed:
        assert streams[name].outcome is Outcome.ABORTED
    for name, info in streams.items():
        sent = [w for w in WRITES if w.stream == name and w.sequence <= info.received]
        assert info.regions == sum(not w.skipped for w in sent)
        assert info.skipped_frames == sum(w.skipped for w in sent)


def check(world: World) -> None:
    """Everything that must be true after a power cut, and then that the story can go on."""
    world.open()
    try:
        if NAME not in world.engine.names():
            assert not any(world.durable.values())
            world.create()
        check_pixels(world.pixels(), WRITES, world.durable)
        check_facts(world)
        streams = world.streams()
        for name, stream in streams.items():
            assert stream.received >= world.durable[name]
        # The clients send again what the server wants, in their order.
        start = {name: stream.received for name, stream in streams.items()}
        there = [write for write in WRITES if write.sequence <= start[write.stream]]
        again = [write for write in WRITES if write.sequence > start[write.stream]]
        for write in again:
            world.write(streams[write.stream], write)
        received = {name: stream.received for name, stream in streams.items()}
        assert received == {n: sum(w.stream == n for w in WRITES) for n in STREAMS}
        for stream in streams.values():
            world.engine.ingest.finish(stream)
            assert stream.durable == stream.received
            world.engine.streams.release(stream)
        check_levels(world, painted(there + again))
        check_facts(world)
    finally:
        world.engine.close()


def _check_reopened(world: World) -> None:
    again = World(world.fs, world.database.content, world.durable, world.closed)
    again.open()
    try:
        check_facts(again)
        check_levels(again, painted(WRITES))
    finally:
        again.engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("odd", [False, True], ids=["even", "odd"])
@pytest.mark.parametrize(
    ("modes", "downsampling"),
    [
        (("drop", 1, 2), "mean"),
        (("keep", 3, 4), "mean"),
        # Its levels depend on pixels of neighbouring shards.
        ((5,), "gaussian"),
    ],
)
def test_power_cut_after_every_sync_point(modes, downsampling, odd):
    """Every one of them in two runs."""
    world = World(downsampling=downsampling)
    left = world.cuts(lambda k: modes if k % 2 == odd else (), work)
    _check_reopened(world)
    assert len(left) > 25
    checked = set()
    for (k, mode), after in left.items():
        try:
            check_zarr(after, checked)
            check(after)
        except BaseException as error:
            error.add_note(f"cut after sync point {k} of {world.fs.sync_points}, mode {mode}")
            raise


@pytest.mark.parametrize("begin", range(4))
def test_an_engine_whose_power_is_cut_ends(begin):
    """With all its threads, and what it leaves is what a look at that moment would have seen."""
    stop = begin
    whole = False
    while not whole:
        world = World()
        world.fs.stop_after(stop)
        whole = until(world, work)
        world.abandon()
        check(world.after(stop))
        stop += 40
