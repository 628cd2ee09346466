"""Are levels made when they are asked for, only where they are stale, and never wrong?"""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import ziggurat

from tests.support.images import assert_exact, assert_stored, factors_of
from tests.support.pixels import reference_cascade, same_bytes
from tests.support.waiting import until

# 4 x 4 x 4 chunks in 2 x 2 x 2 shards, and three levels.
SHAPE = (32, 64, 64)
CHUNKS = (8, 16, 16)
LAYOUT = {
    "chunk_shape": CHUNKS,
    "shard_chunks": (2, 2, 2),
    "factors": [(2, 2, 2), (2, 2, 2)],
}


def pixels(shape=SHAPE, seed=1):
    return np.random.default_rng(seed).integers(1, 60_000, shape, np.uint16)


def make(client, name, *, data=None, **options):
    image = client.create(
        name,
        axes="zyx",
        shape=SHAPE,
        dtype="uint16",
        **{**LAYOUT, "pyramid": "deferred", **options},
    )
    if data is not None:
        write(image, data)
    return image


def write(image, data, offset=(0, 0, 0)):
    with image.writer() as writer:
        writer.write_region(data, offset)


def blocks_of(client):
    """Downsampled blocks since `before` was called, once nothing is under way."""
    before = client.status().settle.blocks_made
    return lambda: client.status().settle.blocks_made - before


def test_deferred_levels_are_stale_until_they_are_built(serve):
    server = serve()
    with ziggurat.connect(server.address) as client:
        data = pixels()
        made = blocks_of(client)
        image = make(client, "a", data=data).refresh()
        assert image.pyramid == "deferred"
        assert [level.stale for level in image.levels] == [False, True, True]
        assert [level.stale_chunks for level in image.levels] == [0, 8, 1]
        assert not image.level(1)[...].any()
        assert image.fetch(level=2).stale
        assert made() == 0
        last = image.build_pyramid().wait()
        # A parent that is whole is stored at once: by then the build may not have counted it.
        assert 64 <= last.chunks_done == last.chunks_total <= 64 + 8 + 1
        assert last.bytes_done == last.bytes_total == last.chunks_done * 8 * 16 * 16 * 2
        assert last.bytes_per_second > 0
        assert last.seconds_left == 0
        assert made() == 64 + 8
        assert_exact(image, data)
        assert image.build_pyramid().wait().chunks_done == 0
        assert_stored(server, image, data)


def test_they_stay_deferred_over_a_restart(serve):
    server = serve()
    data = pixels()
    with ziggurat.connect(server.address) as client:
        make(client, "a", data=data)
    server.stop()
    server = serve(server.data)
    with ziggurat.connect(server.address) as client:
        image = client.open("a")
        assert [level.stale_chunks for level in image.levels] == [0, 8, 1]
        image.build_pyramid().wait()
        assert_exact(image, data)
    server.stop()
    server = serve(server.data)
    with ziggurat.connect(server.address) as client:
        assert_exact(client.open("a"), data)


@pytest.mark.parametrize("mode", ["live", "deferred"])
def test_an_exact_read_sees_all_that_was_acknowledged(client, name, mode):
    data = pixels()
    image = make(client, name, pyramid=mode)
    with image.writer() as writer:
        dice = random.Random(3)
        for _ in range(12):
            offset = tuple(dice.randrange(n) for n in SHAPE)
            shape = tuple(dice.randint(1, n - o) for n, o in zip(SHAPE, offset, strict=True))
            box = tuple(slice(o, o + n) for o, n in zip(offset, shape, strict=True))
            data[box] = dice.randrange(60_000)
            writer.write_region(data[box], offset)
        writer.write_region(data, (0, 0, 0))
        writer.flush()
        levels = reference_cascade(data, factors_of(image))
        result = image.fetch(level=2, exact=True)
        assert not result.stale
        assert same_bytes(result.array, levels[2])
        assert same_bytes(image.level(1).read(exact=True), levels[1])


def test_an_exact_read_computes_what_it_needs(serve):
    server = serve()
    with ziggurat.connect(server.address) as client:
        data = pixels()
        image = make(client, "a", data=data)
        levels = reference_cascade(data, factors_of(image))
        made = blocks_of(client)
        box = (slice(0, 8), slice(0, 16), slice(0, 16))
        assert same_bytes(image.read(box, level=1, exact=True), levels[1][box])
        # The shard below that chunk, and nothing of the level above.
        assert made() == 8
        assert image.refresh().levels[1].stale_chunks == 7
        assert not image.fetch(box, level=1).stale
        assert image.fetch(level=1).stale


def test_a_build_of_a_box_and_of_some_levels(serve):
    server = serve()
    with ziggurat.connect(server.address) as client:
        data = pixels()
        image = make(client, "a", data=data)
        levels = reference_cascade(data, factors_of(image))
        made = blocks_of(client)
        image.build_pyramid((slice(0, 3), slice(40, 41), slice(63, 64)), up_to_level=1).wait()
        # The shard below, and what is made of the chunk of level 1 as it is stored.
        assert made() == 8 + 1
        box = (slice(0, 8), slice(16, 32), slice(16, 32))
        assert same_bytes(image.read(box, level=1), levels[1][box])
        assert image.refresh().levels[1].stale_chunks == 7
        image.build_pyramid(up_to_level=1).wait()
        assert made() == 64 + 8
        image.build_pyramid().wait()
        assert made() == 64 + 8
        assert_exact(image, data)


def test_a_build_of_a_level_that_is_not_there(client, name):
    image = make(client, name)
    with pytest.raises(ziggurat.OutOfRange) as raised:
        image.build_pyramid(up_to_level=3).wait()
    assert raised.value.field == "up_to_level"


def test_force_mends_what_others_broke(serve):
    server = serve()
    with ziggurat.connect(server.address) as client:
        data = pixels()
        image = make(client, "a", data=data, pyramid="live")
        assert_exact(image, data)
    server.stop()
    # A shard of level 1 is another one's, and another is gone.
    level = server.image_path("a") / "1" / "c"
    shards = sorted(path for path in level.rglob("*") if path.is_file())
    shards[0].write_bytes(shards[-1].read_bytes())
    server = serve(server.data)
    with ziggurat.connect(server.address) as client:
        image = client.open("a")
        made = blocks_of(client)
        image.build_pyramid(force=True).wait()
        assert_exact(image, data)
        assert made() == 64 + 8


def test_a_forced_build_goes_on_after_a_restart(serve):
    settings = {"settle_workers": 1, "cache_bytes": "1MiB"}
    server = serve(**settings)
    shape = (64, 256, 256)
    data = pixels(shape)
    with ziggurat.connect(server.address) as client:
        image = client.create("a", axes="zyx", shape=shape, dtype="uint16", **LAYOUT)
        write(image, data)
        for progress in image.build_pyramid(force=True):
            if progress.chunks_done:
                break
        server.kill()
    server = serve(server.data, **settings)
    with ziggurat.connect(server.address) as client:
        image = client.open("a")
        until(lambda: not any(level.stale for level in image.refresh().levels), "the rest")
        assert_exact(image, data)
        until(lambda: not client.status().settle.shards_waiting, "all to be stored")
        assert_stored(server, image, data)


def test_a_build_that_is_cancelled(serve):
    server = serve(settle_workers=1, cache_bytes="1MiB")
    shape = (64, 256, 256)
    data = pixels(shape)
    with ziggurat.connect(server.address) as client:
        image = client.create(
            "a", axes="zyx", shape=shape, dtype="uint16", pyramid="deferred", **LAYOUT
        )
        write(image, data)
        build = image.build_pyramid()
        for progress in build:
            if progress.chunks_done:
                build.cancel()
                break
        with pytest.raises(ziggurat.Cancelled):
            build.wait()
        assert image.refresh().levels[1].stale
        image.build_pyramid().wait()
        assert_exact(image, data)


def test_a_build_takes_no_more_memory_than_the_budget(serve):
    server = serve(cache_bytes="512KiB")
    shape = (32, 256, 256)
    data = pixels(shape)
    with ziggurat.connect(server.address) as client:
        image = client.create("a", axes="zyx", shape=shape, dtype="uint16", **LAYOUT)
        write(image, data)
        most = 0
        for _ in image.build_pyramid(force=True):
            most = max(most, client.status().cache.dirty_bytes)
        assert 0 < most <= 512 << 10
        assert_exact(image, data)


@pytest.mark.parametrize("size", [64, 128, 256])
def test_an_edit_makes_as_many_blocks_however_large_the_image(client, name, size):
    image = client.create(
        name,
        axes="zyx",
        shape=(size,) * 3,
        dtype="uint16",
        chunk_shape=(16, 16, 16),
        shard_chunks=(1, 1, 1),
        factors=[(2, 2, 2)] * 2,
    )
    write(image, pixels((16, 16, 16)), (16, 16, 16))
    made = blocks_of(client)
    write(image, pixels((16, 16, 16), 2), (16, 16, 16))
    # One chunk of level 0, and the one of level 1 above it.
    assert made() == 2


def test_writes_and_builds_at_once_never_leave_a_mixture(serve):
    """Readers see in level 1 only what one write made: each fills the image with one value."""
    server = serve(settle_idle_seconds=0.01, cache_bytes="1MiB")
    with ziggurat.connect(server.address) as client:
        image = make(client, "a")
        box = (slice(0, 8), slice(0, 16), slice(0, 16))
        with image.writer() as writer:
            for value in range(1, 30):
                writer.write_region(np.full(SHAPE, value, np.uint16), (0, 0, 0))
                build = image.build_pyramid(force=value % 3 == 0)
                for _ in itertools.islice(build, value % 5):
                    found = image.read(box, level=1)
                    # All of a chunk of level 1 comes from one shard of level 0.
                    assert found.max() <= value
                build.cancel()
            writer.flush()
            assert (image.level(2).read(exact=True) == 29).all()
        image.build_pyramid().wait()
        assert_exact(image, np.full(SHAPE, 29, np.uint16))


@pytest.mark.parametrize("mode", ["live", "deferred"])
def test_gaussian_levels_follow_their_neighbours(client, name, mode):
    """A pixel at a corner of a chunk and a shard changes blocks on all sides of it."""
    data = pixels()
    image = make(client, name, data=data, pyramid=mode, downsampling="gaussian")
    image.build_pyramid().wait()
    assert_exact(image, data)
    with image.writer() as writer:
        for value, corner in enumerate([(16, 32, 32), (15, 31, 31), (15, 32, 31), (8, 16, 48)]):
            box = tuple(slice(c, c + 1) for c in corner)
            data[box] = 1000 * value
            writer.write_region(data[box], corner)
            writer.flush()
            levels = reference_cascade(data, factors_of(image), "gaussian")
            near = tuple(slice(c // 2 - 2, c // 2 + 2) for c in corner)
            found = image.level(1).read(near, exact=True)
            assert same_bytes(found, levels[1][near])
            assert same_bytes(image.level(2).read(exact=True), levels[2])
    image.build_pyramid().wait()
    assert_exact(image, data)
