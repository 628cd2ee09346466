"""Does a power cut amid a change of method leave the old levels or the new ones, entire?

As test_engine.py does, of a run in which a writer goes on while the levels are made by
another method. What the group's document names is always there; once the next life is
done with what it found, that is the exact cascade by the method that the document names.
The tests of one life come first.
"""

from __future__ import annotations

import itertools
import json
import threading
from typing import Any

import numpy as np
import pytest
from ziggurat_engine.build import Progress
from ziggurat_engine.errors import (
    Cancelled,
    FailedPrecondition,
    NotFound,
)
from ziggurat_engine.leases import Reading
from ziggurat_engine.reads.answers import Read
from ziggurat_engine.reads.selection import Selection
from ziggurat_engine.region import Region
from ziggurat_engine.store import omezarr

from tests.crash.world import (
    DATA,
    NAME,
    SHAPE,
    World,
    Write,
    check_levels,
    check_pixels,
    check_zarr,
)
from tests.support.waiting import SECONDS
from tests.support.waiting import until as waited

ROOT = DATA / "images" / f"{NAME}.ome.zarr"
WHOLE = Region((0, 0, 0), SHAPE)
BLOCKS = 27 + 12


def boxes():
    """Writes of one stream: all, then small boxes across chunks and shards."""
    yield Write("left", 1, WHOLE, 1)
    for n in itertools.count(2):
        offset = ((n * 3) % 5, (n * 7) % 16, (n * 5) % 18)
        yield Write("left", n, Region(offset, (1, 3, 4)), n)


def painted(writes: list[Write]) -> np.ndarray:
    pixels = np.zeros(SHAPE, "<u2")
    for write in writes:
        pixels[write.region.slices()] = write.value
    return pixels


def document(world: World) -> tuple[str, list[str]]:
    """The method that the group's document names, and its arrays."""
    attributes = json.loads(world.fs.read_file(ROOT / "zarr.json"))["attributes"]
    (multiscale,) = attributes["ome"]["multiscales"]
    assert attributes["ziggurat"]["image"]["downsampling"] == multiscale["type"]
    return multiscale["type"], [dataset["path"] for dataset in multiscale["datasets"]]


def arrays(world: World) -> list[str]:
    return sorted(entry.name for entry in world.fs.list_dir(ROOT) if entry.name.isdigit())


def each(steps, look=lambda _: None) -> None:
    """Goes on to the end, looking at each step."""
    for step in steps:
        look(step)


class Life:
    """A world with an image that is written to by one stream."""

    def __init__(self, world: World, **options: object) -> None:
        self.world = world
        world.open()
        world.create(**options)
        self.stream = world.streams()["left"]
        self.source, self.written = boxes(), []
        self.write()

    @property
    def image(self):
        return self.world.engine.image(NAME)

    def write(self, count: int = 1) -> None:
        for write in itertools.islice(self.source, count):
            self.written.append(write)
            self.world.write(self.stream, write)

    def flush(self) -> None:
        self.world.engine.ingest.flush(self.stream)
        self.world.told(self.stream)

    def build(self, method: str, **options):
        return self.world.engine.builder.build(self.image, method=method, **options)

    def begun(self, method: str, chunks: int = 10) -> None:
        """A change that is cancelled when so many chunks are done."""
        stop = threading.Event()

        def look(progress: Progress) -> None:
            if progress.level == 0 and progress.chunks_done >= chunks:
                stop.set()

        with pytest.raises(Cancelled):
            each(self.build(method, cancelled=stop.is_set), look)

    def blocks(self) -> int:
        return self.world.engine.status().settle.blocks_made

    def check(self, method: str) -> None:
        self.world.engine.ingest.finish(self.stream)
        assert self.image.image.downsampling == method
        check_levels(self.world, painted(self.written))
        assert document(self.world)[0] == method


@pytest.fixture
def life():
    worlds: list[World] = []

    def open_(**options: object) -> Life:
        worlds.append(World())
        return Life(worlds[-1], **options)

    yield open_
    for world in worlds:
        world.fs.cut()
        world.abandon()


MODES = pytest.mark.parametrize("mode", ["live", "deferred"])


@MODES
@pytest.mark.parametrize("method", ["max", "gaussian"])
def test_cancelled_it_follows_writes_and_is_gone_on_with(life, mode, method):
    lived = life(pyramid=mode)
    each(lived.world.engine.builder.build(lived.image))
    lived.begun(method)
    before = lived.blocks()
    lived.write(5)
    lived.flush()
    each(lived.world.engine.builder.build(lived.image))
    lived.check("mean")
    each(lived.build(method))
    if method == "max":
        # Of the old levels and of the new: what was written, and what was left to be made.
        assert lived.blocks() - before < 2 * BLOCKS
    lived.check(method)
    assert arrays(lived.world) == sorted(document(lived.world)[1]) == ["0", "3", "4"]


@pytest.mark.parametrize("other", ["mean", "min"])
def test_another_method_removes_what_was_begun(life, other):
    lived = life()
    lived.begun("max")
    assert arrays(lived.world) == ["0", "1", "2", "3", "4"]
    assert lived.world.engine._state.changes()
    each(lived.build(other))
    lived.check(other)
    assert arrays(lived.world) == sorted(document(lived.world)[1])
    assert not lived.world.engine._state.changes()
    lived.world.engine.builder.exact(lived.image, 2, Region.whole(lived.image.shape(2)))
    waited(lambda: not lived.world.engine._state.stale(), "all to be stored", SECONDS)


def test_one_at_a_time(life):
    lived = life()
    first = lived.build("max")
    next(first)
    for method in ("mean", "min"):
        with pytest.raises(FailedPrecondition, match="max") as raised:
            next(lived.build(method))
        assert raised.value.field == "method"
    second = threading.Thread(target=lambda: list(lived.build("max")))
    second.start()
    each(first)
    second.join(SECONDS)
    lived.check("max")
    assert lived.blocks() <= 2 * BLOCKS
    # Nor does one that nobody iterates any more keep others out.
    third = lived.build("min")
    next(third)
    third.close()
    each(lived.build("min"))
    lived.check("min")


def test_a_read_goes_on_with_the_levels_that_it_began_with(life):
    lived = life()
    lived.write(8)
    lived.flush()
    each(lived.world.engine.builder.build(lived.image))
    query = lived.world.engine.query
    wanted = lived.world.pixels(1)
    old = lived.image

    def plan(image):
        return query.plan(image, Read(Selection(level=1)))

    with Reading() as reading:
        answer = reading.plan(old, plan)
        # Which waits for nobody; but another change does, until it is given up.
        each(lived.build("max"))
        assert lived.image is not old
        with pytest.raises(Cancelled):
            each(lived.build("min", cancelled=lambda: True))
        # Who comes now with what he found before sees the new levels.
        with Reading() as others:
            assert others.plan(old, plan).image.image.downsampling == "max"
        # Of many reads in one call each comes from the levels of its time.
        assert reading.plan(old, plan).image.image.downsampling == "max"
        found = np.empty(answer.region.shape, "<u2")
        for box, part in query.parts(answer):
            found[box.slices()] = part
        assert "1" in arrays(lived.world)
        change = threading.Thread(target=lambda: list(lived.build("min")))
        change.start()
    assert np.array_equal(found, wanted)
    change.join(SECONDS)
    assert arrays(lived.world) == sorted(document(lived.world)[1])
    lived.check("min")


def test_a_close_waits_for_no_reader_and_the_next_start_removes_old_levels(life):
    lived = life()
    each(lived.world.engine.builder.build(lived.image))
    with Reading() as reading:
        reading.plan(lived.image, lambda image: image)
        each(lived.build("max"))
        for stream in lived.world.held:
            lived.world.engine.streams.release(stream)
        lived.world.engine.close()
        lived.world.abandoned = True
        assert arrays(lived.world) == ["0", "1", "2", "3", "4"]
    world = lived.world = World(lived.world.fs, lived.world.database.content)
    world.open()
    assert arrays(world) == ["0", "3", "4"]
    assert not world.engine._state.changes()
    lived.stream = world.streams()["left"]
    lived.check("max")
    world.fs.cut()
    world.abandon()


def test_no_read_of_a_deleted_image_is_planned(life):
    lived = life()
    image = lived.image
    with Reading() as reading:
        reading.plan(image, lambda found: found)
        each(lived.build("max"))
        for stream in lived.world.held:
            lived.world.engine.streams.release(stream)
        lived.world.engine.delete(image)
        with pytest.raises(NotFound), Reading() as other:
            other.plan(image, lambda found: found)
    waited(lambda: not image.base.removing.is_alive(), "old levels to be let go", SECONDS)
    assert not lived.world.fs.exists(ROOT)


def test_deleted_amid_a_change(life):
    lived = life()
    change = lived.build("max")
    next(change)
    for stream in lived.world.held:
        lived.world.engine.streams.release(stream)
    lived.world.engine.delete(lived.image)
    with pytest.raises(NotFound):
        each(change)
    assert not lived.world.fs.exists(ROOT)
    waited(lambda: not lived.world.engine.status().dirty_bytes, "memory to be free", SECONDS)
    lived.world.create()
    lived.stream = lived.world.streams()["left"]
    lived.source, lived.written = boxes(), []
    lived.write(3)
    lived.check("mean")


def test_who_reads_while_levels_are_replaced_is_told_that_they_are_stale(life, monkeypatch):
    lived = life()
    each(lived.world.engine.builder.build(lived.image))
    engine = lived.world.engine
    publish, stale, told = engine._images.publish_next, engine._settler.stale, []

    def behind(new):
        # Writers who never rest: what is stored is deferred for the new levels alone.
        lived.write()
        engine._settler.drain_all(new.now)
        return stale(new)

    def published(image):
        found = publish(image)
        told.append(engine.query.plan(found, Read(Selection(level=1))).stale)
        return found

    monkeypatch.setattr(engine._settler, "stale", behind)
    monkeypatch.setattr(engine._images, "publish_next", published)
    each(lived.build("max"))
    assert told == [True]
    lived.check("max")


def test_a_deletion_that_fails_amid_the_change_leaves_the_new_levels(life, monkeypatch):
    lived = life()
    each(lived.world.engine.builder.build(lived.image))
    lived.flush()
    engine = lived.world.engine
    for stream in lived.world.held:
        engine.streams.release(stream)
    publish, go, failed = engine._images.publish_next, threading.Event(), []

    def fail(_name):
        go.wait(SECONDS)
        raise OSError("no deletion")

    def delete() -> None:
        try:
            engine.delete(lived.image)
        except OSError as error:
            failed.append(error)

    def published(image):
        deleting.start()
        waited(lambda: image.base.deleted, "the deletion to begin", SECONDS)
        return publish(image)

    deleting = threading.Thread(target=delete)
    monkeypatch.setattr(engine._catalog, "delete", fail)
    monkeypatch.setattr(engine._images, "publish_next", published)
    each(lived.build("max"))
    go.set()
    deleting.join(SECONDS)
    assert failed
    lived.stream = lived.world.streams()["left"]
    lived.write(3)
    lived.check("max")


def test_a_deletion_amid_the_note_of_a_change_leaves_no_note(life, monkeypatch):
    lived = life()
    engine, image = lived.world.engine, lived.image
    for stream in lived.world.held:
        engine.streams.release(stream)
    deleting = threading.Thread(target=engine.delete, args=(image,))
    save = engine._state.save_change

    def saved(change):
        if change.ready:
            deleting.start()
            waited(lambda: not image.stored.gate.is_open, "the deletion to begin", SECONDS)
            # Were it not waited for, it would be over now.
            deleting.join(0.2)
        save(change)

    monkeypatch.setattr(engine._state, "save_change", saved)
    with pytest.raises(NotFound):
        each(lived.build("max"))
    deleting.join(SECONDS)
    assert lived.world.engine.names() == []
    assert not engine._state.changes()


@pytest.mark.parametrize("refused", [True, False])
def test_a_start_forgets_changes_of_images_that_are_not_there(life, refused):
    lived = life()
    each(lived.world.engine.builder.build(lived.image))
    lived.begun("max")
    for stream in lived.world.held:
        lived.world.engine.streams.release(stream)
    lived.world.engine.close()
    lived.world.abandoned = True
    fs = lived.world.fs
    if refused:
        fs.remove(ROOT / "zarr.json")
    else:
        fs.remove_tree(ROOT)
    world = World(fs, lived.world.database.content)
    world.open()
    assert bool(world.engine._state.changes()) == refused
    world.fs.cut()
    world.abandon()


def test_a_document_that_can_not_be_made_durable(life, monkeypatch):
    """Perhaps it names the new levels already: nothing is removed before that is known."""
    lived = life()
    each(lived.world.engine.builder.build(lived.image))
    fs = lived.world.fs

    replace_levels = omezarr.replace_levels

    def fail(*given: Any) -> None:
        replace_levels(*given)
        fs.fail_next("sync_dir", path=str(ROOT))

    for then in ("mean", "max"):
        with monkeypatch.context() as patched:
            patched.setattr(omezarr, "replace_levels", fail)
            with pytest.raises(OSError, match="Input/output error"):
                each(lived.build("max"))
        assert document(lived.world)[0] == "max"
        check_zarr(lived.world)
        check_levels(lived.world, painted(lived.written))
        each(lived.build(then))
        lived.check(then)
        assert arrays(lived.world) == sorted(document(lived.world)[1])


def work(world: World) -> None:
    """A writer that goes on while the method is changed, and a clean close."""
    lived = Life(world, pyramid=world.mode)
    world.written = lived.written
    lived.write(3)
    lived.flush()
    world.begun_at = world.fs.sync_points
    for k, _ in enumerate(lived.build("gaussian")):
        if k % 16 == 3:
            lived.write()
    lived.flush()
    world.engine.ingest.finish(lived.stream)
    for stream in world.held:
        world.engine.streams.release(stream)
    world.engine.close()


def check(world: World, written: list[Write]) -> None:
    """The image is there, as one method makes it, and whatever was begun can be ended."""
    world.open()
    try:
        method = document(world)[0]
        assert world.engine.image(NAME).image.downsampling == method
        streams = world.streams()
        stream = streams["left"]
        assert stream.received >= world.durable["left"]
        check_pixels(world.pixels(), written, world.durable)
        # What was not acknowledged may be there, too.
        there = world.pixels()
        each(world.engine.builder.build(world.engine.image(NAME)))
        check_levels(world, there)
        # Gone on with, or removed.
        method = ("gaussian", "mean")[stream.received % 2]
        each(world.engine.builder.build(world.engine.image(NAME), method=method))
        check_levels(world, there)
        assert document(world)[0] == method
        assert arrays(world) == sorted(document(world)[1])
        assert not world.engine._state.changes()
        for stream in streams.values():
            world.engine.streams.release(stream)
    finally:
        world.engine.close()


@pytest.mark.slow
@MODES
def test_power_cut_after_every_sync_point(mode):
    world = World()
    world.mode = mode
    world.begun_at = 2**63

    def modes(k: int) -> list[object]:
        # Every one of them in two runs.
        wanted = k >= world.begun_at and (k - world.begun_at) % 2 == (mode == "live")
        return [("drop", "keep", k)[k % 3]] if wanted else []

    left = world.cuts(modes, work)
    assert world.fs.sync_points - world.begun_at > 50
    assert len(left) > 20
    checked: set[bytes] = set()
    for (k, way), after in left.items():
        try:
            check_zarr(after, checked)
            check(after, world.written)
        except BaseException as error:
            error.add_note(f"cut after sync point {k} of {world.fs.sync_points}, mode {way}")
            raise
