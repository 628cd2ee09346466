"""A live image is OME-Zarr to whatever reads stores of zarr-python."""

from __future__ import annotations

import asyncio
import json
import pickle

import numpy as np
import pytest
import ziggurat

from tests.support.images import assert_exact
from tests.support.pixels import marked

zarr = pytest.importorskip("zarr", reason="the extra 'zarr' is not installed")

from zarr.abc.store import (  # noqa: E402
    OffsetByteRequest,
    RangeByteRequest,
    SuffixByteRequest,
)
from zarr.core.buffer import default_buffer_prototype  # noqa: E402
from zarr.core.sync import _collect_aiterator, sync  # noqa: E402

VOXELS = {"z": 2.0, "y": 0.5, "x": 0.5}
SPEC = {"chunk_shape": (2, 16, 16), "voxel_size": VOXELS, "unit": "micrometer"}


def read(store, key, part=None):
    found = sync(store.get(key, default_buffer_prototype(), part))
    return None if found is None else found.to_bytes()


def listed(keys):
    return list(sync(_collect_aiterator(keys)))


def without(document, *names):
    return {name: value for name, value in document.items() if name not in names}


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint64", "float32", "float64"])
def test_every_level_is_read(make, dtype):
    image, pixels = make(dtype=dtype, **SPEC)
    group = zarr.open_group(ziggurat.zarr_store(image, exact=True), mode="r")
    assert [name for name, _ in sorted(group.arrays())] == [str(k.index) for k in image.levels]
    assert_exact(image, pixels)
    for level in image.levels:
        array = group[str(level.index)]
        assert (array.shape, array.dtype, array.chunks) == (level.shape, image.dtype, (2, 16, 16))
        np.testing.assert_array_equal(array[...], image.level(level.index)[...])
    np.testing.assert_array_equal(group["0"][1:4, 3:40:7, -1], pixels[1:4, 3:40:7, -1])


def test_documents_are_those_on_disk(make, server, client):
    """Where both say it; chunks on disk are of another grid and encoding."""
    image, _ = make(
        "czyx",
        (2, 3, 20, 30),
        channels=[ziggurat.Channel("DNA", "0000FF", (10, 900)), ziggurat.Channel()],
        fill_value=7,
        **SPEC | {"chunk_shape": (1, 2, 8, 8), "shard_chunks": (1, 1, 2, 2)},
    )
    labels = client.create(
        "cells", axes="zyx", shape=(3, 20, 30), dtype="uint32", kind="labels", labels_of=image.name
    )
    for found in (image, labels):
        store = ziggurat.zarr_store(found)
        path = server.data / "images" / f"{image.name}.ome.zarr"
        path = path if found is image else path / "labels" / "cells"
        served = json.loads(read(store, "zarr.json"))
        stored = json.loads((path / "zarr.json").read_text())
        stored["attributes"] = {"ome": stored["attributes"]["ome"]}
        del stored["attributes"]["ome"]["multiscales"][0]["metadata"]
        # Of a label image alone, the image it belongs to is not there.
        stored["attributes"]["ome"].get("image-label", {}).pop("source", None)
        assert served == without(stored, "consolidated_metadata")
        for level in found.levels:
            served = json.loads(read(store, f"{level.index}/zarr.json"))
            stored = json.loads((path / f"{level.index}/zarr.json").read_text())
            assert without(served, "codecs", "chunk_grid") == without(
                stored, "codecs", "chunk_grid"
            )


@pytest.mark.parametrize("axes", ["yx", "tczyx"])
def test_what_validators_say(make, axes):
    models = pytest.importorskip("ome_zarr_models.v05", reason="ome-zarr-models is not installed")
    yaozarrs = pytest.importorskip("yaozarrs", reason="yaozarrs is not installed")
    shape = dict(zip("tczyx", (2, 2, 3, 20, 30), strict=True))
    image, pixels = make(
        axes,
        tuple(shape[a] for a in axes),
        channels=["a", "b"] if "c" in axes else None,
        voxel_size={"y": 0.5, "x": 0.5} | ({"t": 0.1} if "t" in axes else {}),
    )
    store = ziggurat.zarr_store(image)
    checked = models.Image.from_zarr(zarr.open_group(store, mode="r"))
    (multiscale,) = checked.ome_attributes.multiscales
    assert [axis.name for axis in multiscale.axes] == list(axes)
    assert len(multiscale.datasets) == len(image.levels)
    found = yaozarrs.v05.Image.model_validate(
        json.loads(read(store, "zarr.json"))["attributes"]["ome"]
    )
    assert found.multiscales[0].datasets[0].scale_transform.scale == list(image.scale)
    np.testing.assert_array_equal(zarr.open_array(store, path="0", mode="r")[...], pixels)


def test_a_label_image_is_valid(client, name):
    models = pytest.importorskip("ome_zarr_models.v05", reason="ome-zarr-models is not installed")
    image = client.create(name, axes="yx", shape=(20, 30), dtype="uint32", kind="labels")
    models.ImageLabel.from_zarr(zarr.open_group(ziggurat.zarr_store(image), mode="r"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 2.5])
def test_fill_values(client, name, value):
    image = client.create(
        name, axes="yx", shape=(5, 7), dtype="float32", fill_value=value, chunk_shape=(4, 4)
    )
    array = zarr.open_array(ziggurat.zarr_store(image), path="0", mode="r")
    np.testing.assert_array_equal(array.fill_value, np.float32(value))
    np.testing.assert_array_equal(array[...], np.full((5, 7), value, "float32"))


def test_edge_chunks_are_padded(make):
    image, pixels = make(fill_value=9, **SPEC)
    store = ziggurat.zarr_store(image)
    chunk = np.frombuffer(read(store, "0/c/2/3/4"), "<u2").reshape(2, 16, 16)
    np.testing.assert_array_equal(chunk[:1, :2, :6], pixels[4:, 48:, 64:])
    assert (chunk != 9).sum() == 12


def test_byte_ranges(make):
    image, _ = make(**SPEC)
    store = ziggurat.zarr_store(image)
    for key in ("0/c/0/1/2", "0/zarr.json"):
        whole = read(store, key)
        assert sync(store.getsize(key)) == len(whole)
        assert read(store, key, RangeByteRequest(3, 11)) == whole[3:11]
        assert read(store, key, RangeByteRequest(9, 10**6)) == whole[9:]
        assert read(store, key, OffsetByteRequest(20)) == whole[20:]
        assert read(store, key, SuffixByteRequest(5)) == whole[-5:]
        assert read(store, key, SuffixByteRequest(10**6)) == whole
        with pytest.raises(ValueError, match="Unexpected byte_range"):
            read(store, key, (0, 2))


def test_it_is_opened_to_read_alone(make):
    image, _ = make(**SPEC)
    store = ziggurat.zarr_store(image)
    assert isinstance(zarr.open(store), zarr.Group)
    assert isinstance(zarr.open(store, path="1"), zarr.Array)
    for mode in ("r+", "a", "w"):
        with pytest.raises(ValueError, match="read-only"):
            zarr.open(store, mode=mode)
    with pytest.raises(ValueError, match=r"image\.writer"):
        type(store)(store._keys, read_only=False)


def test_what_is_listed(make):
    image, _ = make(shape=(3, 20, 20), chunk_shape=(2, 16, 16), levels=2)
    store = ziggurat.zarr_store(image)
    keys = listed(store.list())
    chunks = [f"0/c/{z}/{y}/{x}" for z in range(2) for y in range(2) for x in range(2)]
    assert sorted(keys) == sorted(["zarr.json", "0/zarr.json", *chunks, "1/zarr.json", "1/c/0/0/0"])
    assert all(read(store, key) is not None for key in keys)
    for prefix in ("0/", "1/c", "0/c/1/0", "zarr", "2/", "x"):
        assert listed(store.list_prefix(prefix)) == [k for k in keys if k.startswith(prefix)]
    for prefix in (
        "",
        "0",
        "0/",
        "0/c",
        "0/c/1",
        "0/c/1/1/",
        "1/c/0",
        "2",
        "0/c/2",
        "0/d",
        "0/c/x",
    ):
        below = f"{prefix.rstrip('/')}/" if prefix else ""
        wanted = {k[len(below) :].split("/")[0] for k in keys if k.startswith(below)}
        assert sorted(listed(store.list_dir(prefix))) == sorted(wanted), prefix
    assert sync(store.getsize_prefix("1/c")) == 2 * 16 * 16 * 2


@pytest.mark.parametrize(
    "key",
    [
        *("", "0", "9/zarr.json", "0/c", "0/c/0", "0/c/0/0/9", "0/c/0/0/0/0", "c/0/0/0"),
        *("00/zarr.json", "0/c/00/0/0", "0/c/-1/0/0", "zarr_json", ".zgroup", "labels/zarr.json"),
    ],
)
def test_keys_that_are_not_there(make, key):
    image, _ = make(shape=(3, 20, 20), chunk_shape=(2, 16, 16))
    store = ziggurat.zarr_store(image)
    assert read(store, key) is None
    assert not sync(store.exists(key))
    with pytest.raises(FileNotFoundError):
        sync(store.getsize(key))


def test_writes_are_seen_before_they_are_stored(make):
    image, pixels = make(**SPEC)
    array = zarr.open_array(ziggurat.zarr_store(image), path="0", mode="r")
    with image.writer() as writer:
        writer.write_region(np.zeros((1, 50, 70), "uint16"), (3, 0, 0))
        writer.flush()
        assert not array[3].any()
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    np.testing.assert_array_equal(array[:3], pixels[:3])


def test_it_grows(client, name):
    image = client.create(
        name, axes="tyx", shape=(0, 8, 9), dtype="uint16", unbounded=True, chunk_shape=(2, 8, 8)
    )
    store = ziggurat.zarr_store(image)
    pixels = marked((5, 8, 9), "uint16")
    before = zarr.open_array(store, path="0", mode="r")
    assert before.shape == (0, 8, 9)
    other = pickle.loads(pickle.dumps(store))
    for size in (3, 5):
        with image.writer() as writer:
            writer.write_region(pixels[:size], (0, 0, 0))
        array = zarr.open_array(store, path="0", mode="r")
        assert array.shape == (size, 8, 9)
        np.testing.assert_array_equal(array[...], pixels[:size])
        # A store that has looked at nothing since reads as far as its reader knows of.
        assert read(other, f"0/c/{(size - 1) // 2}/0/0") == read(
            store, f"0/c/{(size - 1) // 2}/0/0"
        )
        assert read(other, "0/c/3/0/0") is None


def test_a_deleted_image_is_never_fill_value(make, client):
    image, _ = make(**SPEC)
    store = ziggurat.zarr_store(image)
    array = zarr.open_array(store, path="0", mode="r")
    client.delete(image.name)
    with pytest.raises(ziggurat.NotFound):
        array[...]
    with pytest.raises(FileNotFoundError):
        zarr.open_group(store, mode="r")
    assert listed(store.list()) == listed(store.list_dir("")) == []
    assert not sync(store.exists("zarr.json"))
    # Another image in its place is not taken for it.
    client.create(image.name, axes="yx", shape=(5, 5), dtype="uint16")
    with pytest.raises(FileNotFoundError):
        zarr.open_group(store, mode="r")


def test_it_is_pickled_and_compared(make):
    image, pixels = make(**SPEC)
    store = ziggurat.zarr_store(image)
    again = pickle.loads(pickle.dumps(store))
    assert again == store == ziggurat.zarr_store(image) == store.with_read_only(True)
    assert hash(again) == hash(store)
    assert store != ziggurat.zarr_store(image, exact=True)
    assert repr(store) == f"<ziggurat.ImageStore ziggurat://{image.server}/{image.name}>"
    np.testing.assert_array_equal(zarr.open_array(again, path="0", mode="r")[...], pixels)


def test_many_gets_at_once(make):
    image, _ = make(**SPEC)
    store = ziggurat.zarr_store(image)
    keys = listed(store.list_prefix("0/c"))

    async def gather():
        prototype = default_buffer_prototype()
        return await asyncio.gather(*(store.get(key, prototype) for key in keys))

    together = sync(gather())
    assert [value.to_bytes() for value in together] == [read(store, key) for key in keys]


def test_only_an_image_has_a_store():
    with pytest.raises(ziggurat.InvalidArgument, match="image must be") as caught:
        ziggurat.zarr_store("lab/run-3")
    assert caught.value.field == "image"


def test_xarray(make):
    xarray = pytest.importorskip("xarray", reason="xarray is not installed")
    image, pixels = make(**SPEC)
    others = [str(level.index) for level in image.levels[1:]]
    data = xarray.open_zarr(
        ziggurat.zarr_store(image), consolidated=False, drop_variables=others, chunks={}
    )["0"]
    assert data.dims == ("z", "y", "x")
    assert data.data.chunksize == (2, 16, 16)
    np.testing.assert_array_equal(data.isel(z=slice(1, 3), x=5), pixels[1:3, :, 5])


def test_dask(make):
    da = pytest.importorskip("dask.array", reason="the extra 'dask' is not installed")
    image, pixels = make(**SPEC)
    lazy = da.from_zarr(zarr.open_array(ziggurat.zarr_store(image), path="0", mode="r"))
    assert lazy.chunksize == image.chunks
    np.testing.assert_array_equal(lazy[::2, -5:].compute(), pixels[::2, -5:])
