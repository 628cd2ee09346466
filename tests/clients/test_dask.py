"""A level is a dask array, a dask array is written to an image, and handles reach workers."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import pickle
import threading
import weakref

import numpy as np
import pytest
import ziggurat
from hypothesis import given
from hypothesis import strategies as st

from tests.clients.workers import first_pixel, halved
from tests.support.images import assert_exact

dask = pytest.importorskip("dask", reason="the extra 'dask' is not installed")
da = pytest.importorskip("dask.array", reason="the extra 'dask' is not installed")

SPEC = {"chunk_shape": (2, 16, 16), "voxel_size": {"z": 2.0, "y": 0.5, "x": 0.5}}


def starts(chunks):
    return [list(np.cumsum((0, *sizes))[:-1]) for sizes in chunks]


def test_blocks_are_whole_chunks(make):
    image, pixels = make(**SPEC)
    with dask.config.set({"array.chunk-size": "8kiB", "scheduler": "threads"}):
        for level in image.levels:
            lazy = image.to_dask(level.index)
            assert (lazy.shape, lazy.dtype) == (level.shape, image.dtype)
            assert all(
                start % size == 0
                for places, size in zip(starts(lazy.chunks), image.chunks, strict=True)
                for start in places
            )
            np.testing.assert_array_equal(lazy.compute(), image.level(level.index)[...])
        assert image.to_dask().numblocks == (3, 4, 1)
        np.testing.assert_array_equal(image.to_dask().compute(), pixels)
    assert image.to_dask(chunks=(5, 10, 70)).numblocks == (1, 5, 1)


@given(
    st.integers(2, 5).flatmap(
        lambda n: st.tuples(
            st.lists(st.integers(0, 10**5), min_size=n, max_size=n),
            st.lists(st.integers(1, 300), min_size=n, max_size=n),
        )
    ),
    st.integers(0, 10**9),
)
def test_a_block_is_chunks_and_no_larger_than_asked(sizes, pixels):
    from ziggurat._dask import block_shape

    shape, chunk = sizes
    block = block_shape(tuple(shape), tuple(chunk), pixels)
    assert all(b % c == 0 for b, c in zip(block, chunk, strict=True))
    assert np.prod(block) <= max(pixels, np.prod(chunk))


def test_what_dask_makes_of_indices(make):
    image, pixels = make(**SPEC)
    lazy = image.to_dask()
    for index in [
        np.s_[::-1, 3:40:7],
        np.s_[..., [5, 1, 60]],
        np.s_[None, 2],
        np.s_[:, ::-5, None],
        np.s_[-1, -2, -3],
    ]:
        found = lazy[index].compute(scheduler="sync")
        np.testing.assert_array_equal(found, pixels[index])


def test_pixels_are_read_when_they_are_computed(make):
    image, pixels = make(**SPEC)
    lazy = image.to_dask()
    with image.writer() as writer:
        writer.write_region(np.ones((1, 50, 70), "uint16"), (2, 0, 0))
    pixels[2] = 1
    np.testing.assert_array_equal(lazy.compute(), pixels)


@pytest.mark.parametrize("scheduler", ["threads", "sync"])
def test_a_processed_image_is_stored(make, client, scheduler):
    image, pixels = make(**SPEC)
    result = client.create(f"{image.name}-half", axes="zyx", shape=(5, 50, 70), dtype="uint16")
    with dask.config.set({"array.chunk-size": "8kiB"}):
        result.store(image.to_dask().map_blocks(halved), scheduler=scheduler)
    assert_exact(result, pixels // 2)
    (stream,) = result.streams
    assert (stream.outcome, stream.regions) == ("complete", 12)


def test_no_more_blocks_are_in_memory_than_threads(make, client):
    image, pixels = make(shape=(8, 64, 64), chunk_shape=(2, 16, 16))
    result = client.create(f"{image.name}-half", axes="zyx", shape=(8, 64, 64), dtype="uint16")
    alive, most, counting = 0, 0, threading.RLock()

    def count(change):
        nonlocal alive, most
        with counting:
            alive += change
            most = max(most, alive)

    def watched(block):
        made = halved(block)
        count(1)
        weakref.finalize(made, count, -1)
        return made

    lazy = image.to_dask(chunks=(2, 16, 64)).map_blocks(watched, meta=image[:0])
    result.store(lazy, scheduler="threads", num_workers=2)
    assert_exact(result, pixels // 2)
    assert 1 <= most <= 2


def test_workers_in_other_processes_store(make, client):
    image, pixels = make(**SPEC)
    result = client.create(f"{image.name}-half", axes="zyx", shape=(5, 50, 70), dtype="uint16")
    with dask.config.set({"array.chunk-size": "40kiB", "multiprocessing.context": "spawn"}):
        result.store(image.to_dask().map_blocks(halved), scheduler="processes", num_workers=1)
    assert_exact(result, pixels // 2)
    assert {stream.outcome for stream in result.streams} == {"complete"}
    assert len(result.streams) > 1


def test_a_part_is_stored(make, client):
    image, pixels = make(**SPEC)
    image.store(da.zeros((2, 9, 8), dtype="uint16", chunks=(1, 5, 8)), offset=(1, 3, 60))
    pixels[1:3, 3:12, 60:68] = 0
    assert_exact(image, pixels)


def test_an_unbounded_image_grows(client, name):
    image = client.create(name, axes="tyx", shape=(0, 8, 9), dtype="uint8", unbounded=True)
    image.store(da.ones((3, 8, 9), dtype="uint8", chunks=(1, 8, 9)), offset=(2, 0, 0))
    assert image.shape == (5, 8, 9)
    assert image.to_dask().sum().compute() == 3 * 8 * 9


@pytest.mark.parametrize(
    ("array", "offset", "error", "field"),
    [
        (np.zeros((5, 50, 70), "uint16"), None, ziggurat.InvalidArgument, "array"),
        (da.zeros((50, 70), dtype="uint16"), None, ziggurat.InvalidArgument, "array"),
        (da.zeros((5, 50, 70), dtype="int16"), None, ziggurat.InvalidArgument, "array"),
        (da.zeros((5, 50, 70), dtype="uint16"), (0, 0), ziggurat.InvalidArgument, "offset"),
        (da.zeros((5, 50, 70), dtype="uint16"), (0, 1, 0), ziggurat.OutOfRange, "y"),
    ],
)
def test_what_does_not_fit_is_refused_before_it_is_computed(make, array, offset, error, field):
    image, _ = make(**SPEC)
    with pytest.raises(error) as caught:
        image.store(array, offset=offset)
    assert caught.value.field == field
    assert len(image.refresh().streams) == 1


@pytest.mark.parametrize("option", ["compute", "return_stored"])
def test_nothing_is_put_off(make, option):
    image, _ = make(**SPEC)
    array = da.zeros((5, 50, 70), dtype="uint16")
    with pytest.raises(ziggurat.InvalidArgument, match=f"{option} = False") as caught:
        image.store(array, **{option: False})
    assert caught.value.field == option
    assert len(image.refresh().streams) == 1


def test_a_failing_block_is_raised(make, client):
    image, _ = make(**SPEC)

    def failing(block):
        raise ArithmeticError("no")

    with pytest.raises(ArithmeticError, match="no"):
        image.store(image.to_dask().map_blocks(failing, dtype="uint16"))


def test_handles_are_pickled(make, client):
    image, pixels = make(**SPEC)
    again = pickle.loads(pickle.dumps([image, image.level(1), client]))
    assert again[0].levels == image.levels
    assert again[0]._connection is again[1]._connection is again[2]._connection
    np.testing.assert_array_equal(again[0][1:3], pixels[1:3])
    assert again[2].open(image.name).shape == image.shape
    again[2].close()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(image))[...], pixels)
    with pytest.raises(TypeError, match="pickle"), image.writer() as writer:
        pickle.dumps(writer)


def test_a_process_pool_reads(make):
    image, pixels = make(**SPEC)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        found = list(pool.map(first_pixel, [image, image]))
    assert found == [(int(pixels[0, 0, 0]), image.name)] * 2
