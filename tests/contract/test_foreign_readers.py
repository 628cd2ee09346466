"""Do other people's readers see exactly the pixels that went in, and a valid OME-Zarr?

Frames are made with numcodecs and stored through ChunkArray, and then read by
zarr-python, by tensorstore, and by zarrs (as zarr-python's codec pipeline).
"""

import itertools
import json

import numcodecs
import numpy as np
import ome_zarr_models.v05
import pytest
import tensorstore
import yaozarrs
import zarr
from ziggurat_engine.layout import resolve
from ziggurat_engine.spec import (
    Axis,
    Blosc,
    Channel,
    Gzip,
    ImageSpec,
    LayoutRequest,
    Uncompressed,
    Zstd,
)
from ziggurat_engine.store.catalog import Catalog
from ziggurat_engine.vfs import OsFileSystem

SIZES = {"t": (3, 1), "c": (2, 1), "z": (5, 2), "y": (21, 8), "x": (18, 4)}
AXES = ["yx", "zyx", "cyx", "tyx", "czyx", "tzyx", "tcyx", "tczyx"]
CODECS = [
    *(
        Blosc(compressor=compressor, level=3, shuffle=shuffle)
        for compressor, shuffle in itertools.product(("zstd", "lz4"), ("none", "byte", "bit"))
    ),
    Zstd(level=2),
    Gzip(level=1),
    Uncompressed(),
]
FILLS = {
    "uint8": 255,
    "uint16": 0,
    "uint32": 7,
    "uint64": 2**64 - 1,
    "int8": -128,
    "int16": -1,
    "int32": 0,
    "int64": -(2**63),
    "float32": float("nan"),
    "float64": float("-inf"),
}


def read_zarr(path):
    return zarr.open_array(path, mode="r")[...]


def read_tensorstore(path):
    kvstore = {"driver": "file", "path": str(path)}
    return tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result().read().result()


def read_zarrs(path):
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        array = zarr.open_array(path, mode="r")
        assert type(array._async_array.codec_pipeline).__name__ == "ZarrsCodecPipeline"
        return array[...]


READERS = {"zarr": read_zarr, "tensorstore": read_tensorstore, "zarrs": read_zarrs}


def encode(block, codec):
    match codec:
        case Blosc():
            shuffle = {"none": 0, "byte": 1, "bit": 2}[codec.shuffle]
            return bytes(numcodecs.Blosc(codec.compressor, codec.level, shuffle).encode(block))
        case Zstd():
            return bytes(numcodecs.Zstd(codec.level).encode(block))
        case Gzip():
            return bytes(numcodecs.GZip(codec.level).encode(block))
        case Uncompressed():
            return block.tobytes()


def spec(names="zyx", dtype="uint16", codec=None, *, sharded=True, **changes):
    sizes = [SIZES[n] for n in names]
    return ImageSpec(
        name="lab/image",
        axes=tuple(
            Axis(
                name=n,
                size=size,
                scale=0.5 + i,
                unit={"t": "second", "c": ""}.get(n, "micrometer"),
            )
            for i, (n, (size, _)) in enumerate(zip(names, sizes, strict=True))
        ),
        data_type=dtype,
        fill_value=FILLS[dtype],
        layout=LayoutRequest(
            chunk_shape=tuple(chunk for _, chunk in sizes),
            shard_chunks=tuple(2 if sharded else 1 for _ in names),
            codec=codec or Blosc(),
        ),
        **changes,
    )


def pixels(shape, dtype, fill, seed):
    """Random bits, so that every byte counts; one corner is nothing but fill value."""
    rng = np.random.default_rng(seed)
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    data = np.frombuffer(rng.bytes(nbytes), dtype).reshape(shape).copy()
    corner = tuple(slice(0, n // 2) for n in shape)
    data[corner] = fill
    return data


def store(array, data, image):
    """Stores `data` shard by shard; returns the chunks that are not all fill value."""
    level, fill, kept = array.level, image.dtype.type(image.fill_value), 0

    def frames(shard):
        for chunk in level.chunks_of(shard).indices():
            region = level.chunks.region(chunk)
            block = np.full(level.chunks.cell, fill, data.dtype)
            block[tuple(map(slice, region.shape))] = data[region.slices()]
            empty = np.array_equal(block, np.full_like(block, fill), equal_nan=True)
            yield chunk, None if empty else encode(block, image.layout.codec)

    for shard in level.shards.indices():
        chunks = list(level.chunks_of(shard).indices())
        # In two steps, so that copied chunks are among those read below.
        made = dict(frames(shard))
        for half in (chunks[::2], chunks[1::2]):
            if half:
                stored = array.replace(shard, ((c, made[c]) for c in half), half)
        kept += stored.chunks
    return kept


@pytest.fixture
def catalog(tmp_path):
    catalog = Catalog.open(OsFileSystem(), tmp_path)
    yield catalog
    catalog.close()


def check(catalog, tmp_path, request):
    image = resolve(request)
    stored = catalog.create(image)
    assert len(stored.arrays) > 1
    for k, array in enumerate(stored.arrays):
        data = pixels(array.level.shape, image.data_type, image.fill_value, k)
        kept = store(array, data, image)
        assert kept == array.measure().chunks
        if k == 0:
            assert 0 < kept < array.level.chunks.size, "some chunks must be absent"
        for name, read in READERS.items():
            seen = np.asarray(read(tmp_path / f"images/lab/image.ome.zarr/{k}"))
            assert seen.dtype == data.dtype, name
            # As bits: NaNs are compared too, and minus zero is not zero.
            np.testing.assert_array_equal(
                seen.view(f"u{seen.itemsize}"), data.view(f"u{seen.itemsize}"), err_msg=name
            )
    return stored


sharding = pytest.mark.parametrize("sharded", [True, False], ids=["sharded", "plain"])


@sharding
@pytest.mark.parametrize("codec", CODECS, ids=lambda c: "-".join(map(str, dict(c).values())))
def test_codecs(catalog, tmp_path, codec, sharded):
    check(catalog, tmp_path, spec("zyx", codec=codec, sharded=sharded))


@sharding
@pytest.mark.parametrize("dtype", FILLS)
def test_pixel_types(catalog, tmp_path, dtype, sharded):
    check(catalog, tmp_path, spec("zyx", dtype, sharded=sharded))
    array = zarr.open_array(tmp_path / "images/lab/image.ome.zarr/0", mode="r")
    expected = np.dtype(dtype).type(FILLS[dtype])
    np.testing.assert_array_equal(array.fill_value, expected)
    assert array.fill_value.dtype == expected.dtype


@sharding
@pytest.mark.parametrize("names", AXES)
def test_axes(catalog, tmp_path, names, sharded):
    channels = {}
    if "c" in names:
        first = Channel(label="DAPI", color="00FF7f", window=(10, 200.5))
        channels = {"channels": (first, Channel())}
    stored = check(catalog, tmp_path, spec(names, sharded=sharded, **channels))
    path = tmp_path / "images/lab/image.ome.zarr"
    validate(path)
    multiscale = json.loads((path / "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]
    for level, dataset in zip(stored.pyramid.levels, multiscale["datasets"], strict=True):
        assert dataset["coordinateTransformations"] == [
            {"type": "scale", "scale": list(level.scale)},
            {"type": "translation", "translation": list(level.translation)},
        ]
    assert multiscale["axes"] == [
        {
            "t": {"name": "t", "type": "time", "unit": "second"},
            "c": {"name": "c", "type": "channel"},
        }.get(n, {"name": n, "type": "space", "unit": "micrometer"})
        for n in names
    ]


def validate(path):
    ome_zarr_models.v05.Image.from_zarr(zarr.open_group(path, mode="r"))
    yaozarrs.validate_zarr_store(path)


def test_channels_are_said_in_omero(catalog, tmp_path):
    first = Channel(label="DAPI", color="00FF7f", window=(10, 200.5))
    catalog.create(resolve(spec("cyx", channels=(first, Channel()))))
    group = zarr.open_group(tmp_path / "images/lab/image.ome.zarr", mode="r")
    assert group.attrs["ome"]["omero"] == {
        "channels": [
            {
                "color": "00FF7f",
                "label": "DAPI",
                "active": True,
                "window": {"min": 0, "max": 65535, "start": 10, "end": 200.5},
            },
            {
                "color": "FFFFFF",
                "active": True,
                "window": {"min": 0, "max": 65535, "start": 0, "end": 65535},
            },
        ]
    }
    assert group.attrs["ome"]["version"] == "0.5"
    assert group.attrs["ome"]["multiscales"][0]["type"] == "mean"


def test_windows_of_floats_need_no_bounds(catalog, tmp_path):
    first = Channel(window=(-1e30, 2.5))
    catalog.create(resolve(spec("cyx", "float32", channels=(first, Channel()))))
    path = tmp_path / "images/lab/image.ome.zarr"
    validate(path)
    channels = zarr.open_group(path, mode="r").attrs["ome"]["omero"]["channels"]
    assert [c["window"] for c in channels] == [
        {"min": -1e30, "max": 2.5, "start": -1e30, "end": 2.5},
        {"min": 0, "max": 1, "start": 0, "end": 1},
    ]


def test_metadata_of_a_shard_says_what_lies_in_it(catalog, tmp_path):
    catalog.create(resolve(spec("zyx", "uint16", Blosc(compressor="lz4", level=5))))
    document = json.loads((tmp_path / "images/lab/image.ome.zarr/0/zarr.json").read_text())
    assert document["dimension_names"] == ["z", "y", "x"]
    assert document["chunk_grid"]["configuration"]["chunk_shape"] == [4, 16, 8]
    assert document["chunk_key_encoding"] == {
        "name": "default",
        "configuration": {"separator": "/"},
    }
    (sharding,) = document["codecs"]
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    blosc = {
        "cname": "lz4",
        "clevel": 5,
        "shuffle": "bitshuffle",
        "typesize": 2,
        "blocksize": 0,
    }
    assert sharding == {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [2, 8, 4],
            "codecs": [little, {"name": "blosc", "configuration": blosc}],
            "index_codecs": [little, {"name": "crc32c"}],
            "index_location": "end",
        },
    }


def test_an_image_too_big_to_hold_is_described(catalog, tmp_path):
    axes = tuple(
        Axis(name=n, size=size) for n, size in zip("tyx", (2**18, 2**20, 2**20), strict=True)
    )
    stored = catalog.create(resolve(ImageSpec(name="lab/image", axes=axes, data_type="uint16")))
    assert len(stored.arrays) > 8
    validate(tmp_path / "images/lab/image.ome.zarr")


def test_the_pipeline_of_other_tests_is_left_alone(catalog, tmp_path):
    catalog.create(resolve(spec()))
    before = zarr.config.get("codec_pipeline.path")
    read_zarrs(tmp_path / "images/lab/image.ome.zarr/0")
    assert zarr.config.get("codec_pipeline.path") == before
