"""Is the pyramid of other people's stores completed exactly, and do other readers agree?

Stores are written by zarr-python, tensorstore, ome-zarr-py and acquire-zarr. Every level
is compared byte for byte with plain NumPy, through zarr-python and through tensorstore.
"""

import contextlib
import itertools
import json
import os

import numpy as np
import ome_zarr_models.v04
import ome_zarr_models.v05
import pytest
import tensorstore
import zarr
import zarr.codecs
from ziggurat_engine.errors import InvalidArgument
from ziggurat_engine.offline.build import Wish, build
from ziggurat_engine.pyramid import found_factor

from tests.support.pixels import DTYPES, difference, marked, reference_cascade, same_bytes

THREADS = 2


def read_tensorstore(path):
    driver = "zarr3" if (path / "zarr.json").exists() else "zarr"
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": str(path)}}
    return tensorstore.open(spec).result().read().result()


def check(group, built, level0, axes=None):
    """All levels of `built` are the cascade of `level0`, to two readers."""
    shapes = [shape for _, shape in built.levels]
    factors = [tuple(map(found_factor, a, b)) for a, b in itertools.pairwise(shapes)]
    expected = reference_cascade(level0, factors)
    assert len(expected) == len(built.levels) > 1
    for (name, _), wanted in zip(built.levels, expected, strict=True):
        for read in (lambda path: zarr.open_array(path, mode="r")[...], read_tensorstore):
            found = np.asarray(read(group / name))
            found = found.astype(found.dtype.newbyteorder("="))
            assert same_bytes(found, wanted), f"{name}: {difference(found, wanted)}"
    assert not list(group.glob(".ziggurat*"))
    return factors


def open_below(directory):
    """Files of the directory that this process has open."""
    opened = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            opened.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return [path for path in opened if path.startswith(f"{directory}/")]


def validate(group):
    opened = zarr.open_group(group, mode="r")
    if opened.metadata.zarr_format == 2:
        ome_zarr_models.v04.Image.from_zarr(opened)
        return opened.attrs["multiscales"][0]
    ome_zarr_models.v05.Image.from_zarr(opened)
    return opened.attrs["ome"]["multiscales"][0]


LAYOUTS = {
    "v2-dots": {"zarr_format": 2, "chunks": (8, 16, 16)},
    "v2-slashes": {
        "zarr_format": 2,
        "chunks": (8, 16, 16),
        "chunk_key_encoding": {"name": "v2", "separator": "/"},
    },
    "v2-fortran": {"zarr_format": 2, "chunks": (8, 16, 16), "order": "F"},
    "v2-planes": {"zarr_format": 2, "chunks": (1, 61, 45)},
    "v2-odd": {"zarr_format": 2, "chunks": (5, 7, 9)},
    "v3": {"chunks": (8, 16, 16)},
    "v3-dots": {"chunks": (8, 16, 16), "chunk_key_encoding": {"name": "default", "separator": "."}},
    "v3-v2-keys": {"chunks": (8, 16, 16), "chunk_key_encoding": {"name": "v2", "separator": "."}},
    "v3-sharded": {"chunks": (4, 8, 8), "shards": (8, 32, 16)},
    "v3-odd-shards": {"chunks": (3, 5, 7), "shards": (9, 15, 14)},
    "v3-crc": {
        "chunks": (8, 16, 16),
        "compressors": [zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()],
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_zarr_python(tmp_path, layout):
    level0 = marked((21, 61, 45), "uint16")
    settings = LAYOUTS[layout]
    group = zarr.create_group(tmp_path / "a.zarr", zarr_format=settings.get("zarr_format", 3))
    keywords = {k: v for k, v in settings.items() if k != "zarr_format"}
    group.create_array("0", shape=level0.shape, dtype="uint16", **keywords)[...] = level0
    built = build(tmp_path / "a.zarr", Wish(threads=THREADS, axes="zyx", smallest=4))
    assert not open_below(tmp_path)
    check(tmp_path / "a.zarr", built, level0)
    validate(tmp_path / "a.zarr")
    document = zarr.open_array(tmp_path / "a.zarr/1", mode="r")
    assert document.chunks == settings["chunks"]
    assert document.shards == settings.get("shards")


@pytest.mark.parametrize("dtype", [*DTYPES, ">u2", ">f4", "bool"])
@pytest.mark.parametrize("version", [2, 3])
def test_pixel_types(tmp_path, dtype, version):
    level0 = marked((9, 30, 22), np.dtype(dtype).newbyteorder("=").name.replace("bool", "uint8"))
    if dtype == "bool":
        level0 = level0 > 100
    group = zarr.create_group(tmp_path / "a.zarr", zarr_format=version)
    group.create_array("0", shape=level0.shape, chunks=(4, 8, 8), dtype=dtype)[...] = level0
    built = build(tmp_path / "a.zarr", Wish(threads=THREADS, levels=3))
    if dtype == "bool":
        expected = reference_cascade(level0.view("u1"), [(2, 2, 2)] * 2)
        for k, wanted in enumerate(expected):
            found = zarr.open_array(tmp_path / f"a.zarr/{k}", mode="r")[...]
            assert found.dtype == bool
            assert same_bytes(found.view("u1"), wanted)
        return
    check(tmp_path / "a.zarr", built, level0)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("driver", ["zarr", "zarr3"])
def test_tensorstore(tmp_path, driver, sharded):
    if driver == "zarr" and sharded:
        pytest.skip("Zarr v2 has no shards")
    level0 = marked((21, 61, 45), "uint16")
    if driver == "zarr":
        metadata = {
            "shape": level0.shape,
            "chunks": [8, 16, 16],
            "dtype": "<u2",
            "compressor": {"id": "zstd", "level": 1},
        }
    else:
        inner = [
            {"name": "bytes", "configuration": {"endian": "big"}},
            {"name": "zstd", "configuration": {"level": 1}},
        ]
        codecs = inner
        if sharded:
            shard = {"chunk_shape": [4, 8, 8], "codecs": inner}
            codecs = [{"name": "sharding_indexed", "configuration": shard}]
        metadata = {
            "shape": level0.shape,
            "data_type": "uint16",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [8, 16, 16]}},
            "codecs": codecs,
        }
    kvstore = {"driver": "file", "path": str(tmp_path / "field" / "0")}
    spec = {"driver": driver, "kvstore": kvstore, "metadata": metadata, "create": True}
    tensorstore.open(spec).result().write(level0).result()
    built = build(
        tmp_path / "field/0", Wish(threads=THREADS, scale=(2.0, 0.5, 0.5), unit="micrometer")
    )
    factors = check(tmp_path / "field", built, level0)
    assert factors[0] == (1, 2, 2), "z is coarse enough"
    said = validate(tmp_path / "field")
    assert said["datasets"][1]["coordinateTransformations"] == [
        {"type": "scale", "scale": [2.0, 1.0, 1.0]},
        {"type": "translation", "translation": [0.0, 0.25, 0.25]},
    ]
    assert said["axes"][0] == {"name": "z", "type": "space", "unit": "micrometer"}


@pytest.mark.filterwarnings("default::DeprecationWarning")
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_py(tmp_path, version):
    writer = pytest.importorskip("ome_zarr.writer")
    formats = pytest.importorskip("ome_zarr.format")
    level0 = marked((2, 3, 21, 61, 45), "uint16")
    kind = formats.FormatV04() if version == "0.4" else formats.FormatV05()
    path = tmp_path / "a.zarr"
    group = zarr.create_group(path, zarr_format=2 if version == "0.4" else 3)
    writer.write_image(
        level0,
        group,
        axes="tczyx",
        fmt=kind,
        scale_factors=[],
        storage_options={"chunks": (1, 1, 8, 16, 16)},
        metadata={"omero": {"channels": [{"color": "FF0000", "window": WINDOW, "label": "a"}] * 3}},
    )
    before = group_document(path, version)
    assert len(before["multiscales"][0]["datasets"]) == 1
    built = build(path, Wish(threads=THREADS))
    factors = check(path, built, level0)
    assert factors[0] == (1, 1, 2, 2, 2)
    validate(path)
    after = group_document(path, version)
    assert after["multiscales"][0]["datasets"][0] == before["multiscales"][0]["datasets"][0]
    for document in (before, after):
        document["multiscales"][0].pop("datasets")
    assert after == before, "all else is kept"


WINDOW = {"min": 0, "max": 65535, "start": 0, "end": 65535}


def group_document(path, version):
    if version == "0.4":
        return json.loads((path / ".zattrs").read_text())
    return json.loads((path / "zarr.json").read_text())["attributes"]["ome"]


@pytest.mark.parametrize("alone", [False, True], ids=["in-group", "alone"])
@pytest.mark.parametrize("sharded", [False, True], ids=["plain", "sharded"])
def test_acquire_zarr(tmp_path, sharded, alone):
    acquire = pytest.importorskip("acquire_zarr")
    level0 = marked((16, 64, 48), "uint16")
    path = tmp_path / "a.zarr"
    kinds = [acquire.DimensionType.TIME, acquire.DimensionType.SPACE, acquire.DimensionType.SPACE]
    dimensions = [
        acquire.Dimension(
            name=name,
            kind=kind,
            array_size_px=size,
            chunk_size_px=chunk,
            shard_size_chunks=2 if sharded else 1,
        )
        for name, kind, size, chunk in zip("tyx", kinds, level0.shape, (4, 16, 24), strict=True)
    ]
    array = acquire.ArraySettings(
        dimensions=dimensions,
        output_key="" if alone else "0",
        data_type=acquire.DataType.UINT16,
        compression=acquire.CompressionSettings(
            compressor=acquire.Compressor.BLOSC1,
            codec=acquire.CompressionCodec.BLOSC_LZ4,
            level=1,
            shuffle=1,
        ),
    )
    settings = acquire.StreamSettings(store_path=str(path), arrays=[array])
    stream = acquire.ZarrStream(settings)
    for frame in level0:
        stream.append(frame)
    stream.close()
    if alone:
        with pytest.raises(InvalidArgument, match="--out"):
            build(path, Wish(threads=THREADS))
    out = tmp_path / "b.zarr" if alone else None
    built = build(path, Wish(threads=THREADS, levels=3), out=out)
    assert built.group == (out or path)
    factors = check(built.group, built, level0)
    assert factors[0] == (1, 2, 2), "t is not binned"
    validate(built.group)
