"""Do readers see the levels of one method or of another, whole, whatever goes on beside?"""

from __future__ import annotations

import collections
import shutil
import threading

import numpy as np
import pytest
import zarr
import ziggurat

from tests.support.images import assert_exact, factors_of, places
from tests.support.pixels import reference_cascade, same_bytes
from tests.support.waiting import until

# 4 x 4 x 4 chunks in 2 x 2 x 2 shards, and three levels.
SHAPE = (32, 64, 64)
LAYOUT = {
    "chunk_shape": (8, 16, 16),
    "shard_chunks": (2, 2, 2),
    "factors": [(2, 2, 2), (2, 2, 2)],
}


def pixels(shape=SHAPE, seed=1):
    return np.random.default_rng(seed).integers(1, 60_000, shape, np.uint16)


def make(client, name, data, **options):
    image = client.create(
        name, axes="zyx", shape=data.shape, dtype="uint16", **{**LAYOUT, **options}
    )
    with image.writer() as writer:
        writer.write_region(data, (0, 0, 0))
    return image


def assert_on_disk(server, image, level0):
    """What the document names is the cascade by the method that it names, and nothing else is."""
    path = server.image_path(image.name)
    named = places(path, image.downsampling)
    group = zarr.open_group(path, mode="r")
    wanted = reference_cascade(level0, factors_of(image), image.downsampling)
    for place, level in zip(named, wanted, strict=True):
        assert same_bytes(group[place][...], level), place

    def left() -> set[str]:
        return {entry.name for entry in path.iterdir() if entry.name.isdigit()} - set(named)

    # Levels that were read when they were replaced go behind the last reader.
    until(lambda: not left(), "replaced levels to be removed")


@pytest.mark.parametrize("mode", ["live", "deferred"])
def test_from_method_to_method(serve, mode):
    server = serve()
    data = pixels()
    with ziggurat.connect(server.address) as client:
        image = make(client, "a", data, pyramid=mode)
        for method in ("gaussian", "max", "max", "mean"):
            last = image.build_pyramid(method=method).wait()
            assert last.chunks_done == last.chunks_total
            image.refresh()
            assert image.downsampling == method
            assert image.pyramid == mode
            assert_exact(image, data)
            assert image.fetch(level=1).downsampling == method
        box = (slice(3, 9), slice(0, 50), slice(13, 64))
        data[box] = pixels((6, 50, 51), 2)
        with image.writer() as writer:
            writer.write_region(data[box], (3, 0, 13))
        image.build_pyramid().wait()
        assert_exact(image, data)
        assert_on_disk(server, image, data)
    server.stop()
    server = serve(server.data)
    with ziggurat.connect(server.address) as client:
        image = client.open("a")
        assert image.downsampling == "mean"
        assert_exact(image, data)
        assert_on_disk(server, image, data)


def test_it_makes_each_block_once_and_the_same_method_none(serve):
    server = serve()
    with ziggurat.connect(server.address) as client:
        image = make(client, "a", pixels(), pyramid="deferred")
        image.build_pyramid(method="min").wait()
        assert client.status().settle.blocks_made == 64 + 8
        image.build_pyramid(method="min").wait()
        assert client.status().settle.blocks_made == 64 + 8
        image.build_pyramid(method="min", force=True).wait()
        assert client.status().settle.blocks_made == 2 * (64 + 8)


def test_each_read_is_of_one_method_while_writers_go_on(serve):
    """Every window has as many 10 as 20, so that a pixel tells its method."""
    server = serve(settle_idle_seconds=0.01, cache_bytes="1MiB")
    data = np.full((32, 128, 128), 10, np.uint16)
    data[:, :, ::2] = 20
    kept = {"mean": 15, "max": 20, "min": 10}
    done = threading.Event()
    failed: list[BaseException] = []

    def read(level):
        try:
            with ziggurat.connect(server.address) as client:
                image = client.open("a")
                while not done.is_set():
                    result = image.fetch(level=level)
                    wanted = kept[result.downsampling]
                    assert (result.array == wanted).all(), (result.downsampling, result.stale)
                    seen[result.downsampling] += 1
        except BaseException as error:
            failed.append(error)

    seen = collections.Counter()
    with ziggurat.connect(server.address) as client:
        image = make(client, "a", data)
        image.build_pyramid().wait()
        readers = [threading.Thread(target=read, args=(level,)) for level in (1, 2)]
        for reader in readers:
            reader.start()
        try:
            with image.writer() as writer:
                for method in ("min", "max", "mean"):
                    for progress in image.build_pyramid(method=method):
                        # The same pixels again: dirty and stale, and what they are.
                        z = progress.chunks_done % 32
                        writer.write_region(data[z : z + 1, :20, :20], (z, 0, 0))
                    # Reads of it, before the next change.
                    until(lambda: seen[method] > 3 or failed, "reads")  # noqa: B023
        finally:
            done.set()
            for reader in readers:
                reader.join()
        if failed:
            raise failed[0]
        image.build_pyramid().wait()
        image.refresh()
        assert_exact(image, data)
        assert_on_disk(server, image, data)


def test_it_goes_on_after_the_server_was_killed(serve):
    server = serve(settle_workers=1)
    data = pixels((16, 128, 128))
    with ziggurat.connect(server.address) as client:
        image = make(client, "a", data)
        for progress in image.build_pyramid(method="gaussian"):
            if progress.chunks_done:
                break
        server.kill()
    server = serve(server.data)
    with ziggurat.connect(server.address) as client:
        image = client.open("a")
        data[5, 5, 5] = 7
        with image.writer() as writer:
            writer.write_region(data[5:6, 5:6, 5:6], (5, 5, 5))
        image.build_pyramid().wait()
        assert_exact(image, data)
        image.build_pyramid(method="gaussian").wait()
        assert image.refresh().downsampling == "gaussian"
        assert_exact(image, data)
        assert_on_disk(server, image, data)


def test_a_foreign_reader_with_the_old_document(server, client, name):
    """It finds the old arrays until the document names others, and none of others' pixels."""
    data = pixels()
    image = make(client, name, data)
    image.build_pyramid().wait()
    group = zarr.open_group(server.image_path(name), mode="r")
    old = group["1"]
    for method in ("max", "mean", "min"):
        image.build_pyramid(method=method).wait()
    assert not old[...].any()
    assert "1" not in zarr.open_group(server.image_path(name), mode="r")


def test_an_unbounded_image_that_grows(server, client, name):
    frames = pixels((24, 64, 64))
    image = client.create(
        name,
        axes="tyx",
        shape=(0, 64, 64),
        unbounded=True,
        dtype="uint16",
        chunk_shape=(1, 16, 16),
        shard_chunks=(4, 2, 2),
        factors=[(1, 2, 2)] * 2,
    )
    with image.writer() as writer:
        for t in range(8):
            writer.write(frames[t], t=t)
        writer.flush()
        t = 8
        for _ in image.build_pyramid(method="max"):
            if t < 24:
                writer.write(frames[t], t=t)
                t += 1
        for rest in range(t, 24):
            writer.write(frames[rest], t=rest)
    image.build_pyramid().wait()
    image.refresh()
    assert image.shape == (24, 64, 64)
    assert_exact(image, frames)
    assert_on_disk(server, image, frames)


def test_an_image_with_one_level(server, client, name):
    data = pixels()
    image = client.create(name, axes="zyx", shape=SHAPE, dtype="uint16", levels=1)
    with image.writer() as writer:
        writer.write_region(data, (0, 0, 0))
    image.build_pyramid(method="max").wait()
    assert image.refresh().downsampling == "max"
    assert_on_disk(server, image, data)


def test_labels(server, client, name):
    data = pixels()
    make(client, name, data)
    masks = client.create(
        "cells", axes="zyx", shape=SHAPE, dtype="uint16", kind="labels", labels_of=name
    )
    with masks.writer() as writer:
        writer.write_region(data, (0, 0, 0))
    with pytest.raises(ziggurat.InvalidArgument, match="median makes labels") as raised:
        masks.build_pyramid(method="median").wait()
    assert raised.value.field == "method"
    masks.build_pyramid(method="max").wait()
    masks.refresh()
    assert_exact(masks, data)
    assert client.open(name).downsampling == "mean"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"box": np.s_[:3, :3, :3]}, "offset"),
        ({"up_to_level": 1}, "up_to_level"),
        ({"method": "cubic"}, "method"),
    ],
    ids=["box", "up_to_level", "unknown"],
)
def test_what_does_not_go_with_it(client, name, options, field):
    image = make(client, name, pixels())
    with pytest.raises(ziggurat.InvalidArgument) as raised:
        image.build_pyramid(**{"method": "max", **options}).wait()
    assert raised.value.field == field
    assert image.refresh().downsampling == "mean"


def test_a_method_that_this_image_can_not_have(client, name):
    image = client.create(
        name, axes="yx", shape=(64, 64), dtype="float32", fill_value=0.5, levels=2
    )
    with pytest.raises(ziggurat.InvalidArgument, match="gaussian") as raised:
        image.build_pyramid(method="gaussian").wait()
    assert raised.value.field == "method"


def test_a_directory_of_another_one_that_is_in_the_way_is_left_alone(server, client, name):
    data = pixels()
    image = make(client, name, data)
    image.build_pyramid().wait()
    path = server.image_path(name)
    shutil.copytree(path / "2", path / "4")
    image.build_pyramid(method="max").wait()
    assert (path / "4" / "zarr.json").exists()
    shutil.rmtree(path / "4")
    image.refresh()
    assert_exact(image, data)
    assert_on_disk(server, image, data)
