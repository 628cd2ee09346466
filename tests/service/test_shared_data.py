"""Do real microscopy images go in, become exact OME-Zarr pyramids, and come out again?

Every file goes in through the command `ziggurat put`, once in the layout that the
server chooses and once in small chunks and shards, so that there are several levels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ome_zarr_models.v05
import pytest
import tifffile
import yaozarrs
import ziggurat
from PIL import Image as Picture
from ziggurat_proto.v1 import image_pb2, service_pb2

from tests.support.command import run
from tests.support.images import READERS, factors_of
from tests.support.pixels import cascade, difference, same_bytes
from tests.support.raw import RawServer
from tests.support.server import ServerProcess

MICRON = "micrometer"


class Source(NamedTuple):
    """A file, and what must be carried over. `order` leads from its axes to the image's."""

    file: str
    axes: str
    shape: tuple[int, ...]
    dtype: str
    voxel: dict[str, float]
    units: dict[str, str]
    channels: tuple[ziggurat.Channel, ...] = ()
    order: tuple[int, ...] = ()


SOURCES = {
    "nuclei": Source(
        "xy_16bit__nuclei_high_dynamic_range_with_offset.tif",
        "yx",
        (147, 149),
        "uint16",
        {"y": 1, "x": 1},
        {"y": "", "x": ""},
    ),
    "labels": Source(
        "xy_16bit_labels__nuclei.tif",
        "yx",
        (427, 423),
        "uint16",
        {"y": 0.35, "x": 0.35},
        {"y": MICRON, "x": MICRON},
    ),
    "golgi": Source(
        "xyz_calibrated_16bit__golgi_bfa.tif",
        "zyx",
        (25, 137, 147),
        "uint16",
        {"z": 0.3876, "y": 1 / 2.845474, "x": 1 / 2.845474},
        {"z": MICRON, "y": MICRON, "x": MICRON},
    ),
    "golgi-in-time": Source(
        "xyt_calibrated_16bit__golgi_bfa_sum_projection.tif",
        "tyx",
        (30, 137, 147),
        "float32",
        {"t": 59.86, "y": 1 / 2.845474, "x": 1 / 2.845474},
        {"t": "second", "y": MICRON, "x": MICRON},
    ),
    "dna": Source(
        "xyzc_16bit__dna_conf_wf.tif",
        "czyx",
        (2, 45, 130, 133),
        "uint16",
        {"c": 1, "z": 0.4994126, "y": 1 / 1.953591, "x": 1 / 1.953591},
        {"c": "", "z": MICRON, "y": MICRON, "x": MICRON},
        channels=(
            ziggurat.Channel("channel 1", "FF00FF", (0.0, 65535.0)),
            ziggurat.Channel("channel 2", "00FF00", (624.0, 6281.91015625)),
        ),
        order=(1, 0, 2, 3),
    ),
}
LAYOUTS: dict[str, Callable[[Source], list[str]]] = {
    "auto": lambda _: [],
    "small": lambda source: [
        "--chunk",
        ",".join({"t": "4", "c": "1", "z": "8", "y": "32", "x": "32"}[a] for a in source.axes),
        "--shard-chunks",
        ",".join({"t": "2", "c": "2", "z": "2", "y": "3", "x": "2"}[a] for a in source.axes),
        "--codec",
        "zstd:3",
    ],
}


class Put(NamedTuple):
    """An image that was put, with the pixels that tifffile reads from its file."""

    source: Source
    path: Path
    name: str
    image: ziggurat.Image
    pixels: np.ndarray
    server: ServerProcess

    @property
    def stored(self) -> Path:
        return self.server.image_path(self.name)


CASES = [(key, layout) for key in SOURCES for layout in LAYOUTS]


@pytest.fixture(scope="module")
def put_images(server: ServerProcess, shared_data: Path) -> Iterator[dict[Any, Put]]:
    """Every file in every layout, put once for all tests of this module."""
    found = {}
    with ziggurat.connect(server.address) as client:
        for key, layout in CASES:
            source = SOURCES[key]
            path, name = shared_data / source.file, f"real/{layout}/{key}"
            options = LAYOUTS[layout](source) + ["--labels"] * (key == "labels")
            said = run("ziggurat", "--server", server.address, "put", path, name, *options)
            assert name in said.stdout
            pixels = tifffile.imread(path)
            if source.order:
                pixels = pixels.transpose(source.order)
            image = client.open(name, measure=True)
            found[key, layout] = Put(source, path, name, image, pixels, server)
        yield found
        # The tests of a module may come in two runs.
        for put in found.values():
            client.delete(put.name)


@pytest.fixture(params=CASES, ids="-".join)
def put(request: pytest.FixtureRequest, put_images: dict[Any, Put]) -> Put:
    return put_images[request.param]


def test_every_file_is_covered(shared_data: Path) -> None:
    assert {p.name for p in shared_data.glob("*.tif")} == {s.file for s in SOURCES.values()}


def test_level_0_is_the_file(put: Put, server: ServerProcess) -> None:
    """Through the client, and through the generated code alone."""
    assert same_bytes(put.image[...], put.pixels)
    raw = RawServer(server.address)
    assert same_bytes(raw.read(put.name), put.pixels)
    raw.close()


def test_levels_are_the_cascade(put: Put) -> None:
    assert put.image.downsampling == ("mode" if "labels" in put.name else "mean")
    levels = cascade(put.pixels, factors_of(put.image), put.image.downsampling)
    if put.name.startswith("real/small"):
        assert len(levels) > 2
    for k, wanted in enumerate(levels):
        found = put.image.level(k)[...]
        assert same_bytes(found, wanted), f"level {k}: {difference(found, wanted)}"


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_other_readers_agree(put: Put, reader: Callable[[Path], np.ndarray]) -> None:
    for level in put.image.levels:
        wanted = put.image.level(level.index)[...]
        found = reader(put.stored / str(level.index))
        assert same_bytes(found, wanted), f"level {level.index}: {difference(found, wanted)}"


def test_validators_accept_it(put: Put) -> None:
    group = ome_zarr_models.open_ome_zarr(_group(put.stored))
    labels = put.image.kind == "labels"
    assert isinstance(
        group, ome_zarr_models.v05.ImageLabel if labels else ome_zarr_models.v05.Image
    )
    yaozarrs.validate_zarr_store(str(put.stored))


def test_what_it_is_was_carried_over(put: Put) -> None:
    source, image = put.source, put.image
    assert (image.axes, image.shape, image.dtype.name) == (
        source.axes,
        source.shape,
        source.dtype,
    )
    assert image.voxel_size == pytest.approx(source.voxel, rel=1e-5)
    assert image.units == source.units
    assert image.channels == source.channels


def test_the_document_on_disk_says_it_too(put: Put) -> None:
    source, image = put.source, put.image
    attributes = ome_zarr_models.v05.Image.from_zarr(_group(put.stored)).attributes.ome
    (multiscale,) = attributes.multiscales
    assert "".join(axis.name for axis in multiscale.axes) == source.axes
    assert [axis.unit or "" for axis in multiscale.axes] == [source.units[a] for a in source.axes]
    binned = np.ones(len(source.axes))
    for level, dataset in zip(image.levels, multiscale.datasets, strict=True):
        binned = binned * level.factors
        voxel = [image.voxel_size[a] for a in source.axes]
        scale, translation = dataset.coordinateTransformations
        assert scale.scale == pytest.approx(list(binned * voxel))
        assert translation.translation == pytest.approx(list((binned - 1) / 2 * voxel))
    shown = _group(put.stored).attrs["ome"].get("omero", {"channels": []})["channels"]
    assert [
        (c["label"], c["color"], (c["window"]["start"], c["window"]["end"])) for c in shown
    ] == [(c.label, c.color, c.window) for c in source.channels]


def test_stored_sizes(put: Put) -> None:
    for level in put.image.levels:
        objects = [p for p in (put.stored / str(level.index)).rglob("*") if "c" in p.parts[-5:]]
        files = [p for p in objects if p.is_file() and p.name != "zarr.json"]
        assert level.stored is not None
        assert level.stored.objects == len(files)
        assert level.stored.bytes == sum(p.stat().st_size for p in files)


@pytest.mark.parametrize("key", SOURCES)
def test_get_brings_the_file_back(
    put_images: dict[Any, Put], key: str, tmp_path: Path, client: ziggurat.Client
) -> None:
    """And what `get` writes, `put` reads again: pixels, voxel sizes, units and channels."""
    put = put_images[key, "small"]
    server = ("--server", put.server.address)
    run("ziggurat", *server, "get", put.name, tmp_path / "all.tif")
    with tifffile.TiffFile(tmp_path / "all.tif") as file, tifffile.TiffFile(put.path) as original:
        series = file.series[0]
        assert same_bytes(series.asarray(), original.series[0].asarray())
        assert series.axes == original.series[0].axes
    again = put.name + "-again"
    run("ziggurat", *server, "put", tmp_path / "all.tif", again)
    image = client.open(again)
    assert same_bytes(image[...], put.pixels)
    assert image.voxel_size == pytest.approx(put.image.voxel_size, rel=1e-5)
    assert image.units == put.image.units
    assert [(c.color, c.window) for c in image.channels] == [
        (c.color, pytest.approx(c.window)) for c in put.image.channels
    ]


def test_get_a_box_of_a_level(put_images: dict[Any, Put], tmp_path: Path) -> None:
    put = put_images["dna", "small"]
    command = ("--server", put.server.address, "get", put.name, tmp_path / "box.tif")
    run("ziggurat", *command, "--level", 1, "--box", "1,3:9,:,10:31")
    wanted = put.image.level(1)[1, 3:9, :, 10:31]
    assert same_bytes(np.squeeze(tifffile.imread(tmp_path / "box.tif")), wanted)


def test_list_and_info(put_images: dict[Any, Put]) -> None:
    put = put_images["dna", "small"]
    listed = run("ziggurat", "ls", "real/small", ZIGGURAT_SERVER=put.server.address).stdout
    for key in SOURCES:
        assert f"real/small/{key} " in listed
    assert "real/auto" not in listed
    said = run("ziggurat", "--server", put.server.address, "info", put.name).stdout
    for level in put.image.levels:
        assert " x ".join(map(str, level.shape)) in said
    assert said.count("exact") == len(put.image.levels)
    assert "1 x 8 x 32 x 32" in said
    assert "channel 2" in said


@pytest.mark.parametrize("key", SOURCES)
def test_preview(put_images: dict[Any, Put], key: str, tmp_path: Path) -> None:
    put = put_images[key, "small"]
    run("ziggurat", "--server", put.server.address, "preview", put.name, tmp_path / "p.png")
    with Picture.open(tmp_path / "p.png") as picture:
        assert picture.format == "PNG"
        assert np.asarray(picture).std() > 0


def test_status(server: ServerProcess, put_images: dict[Any, Put]) -> None:
    said = run("ziggurat", "--server", server.address, "status").stdout
    assert server.address in said
    assert "kernels" in said


def test_build(put_images: dict[Any, Put]) -> None:
    put = put_images["golgi", "small"]
    before = [put.image.level(k)[...] for k in range(len(put.image.levels))]
    command = ("--server", put.server.address, "build", put.name)
    assert "0 chunks built" in run("ziggurat", *command).stdout
    assert "0 chunks built" not in run("ziggurat", *command, "--force").stdout
    for k, wanted in enumerate(before):
        assert same_bytes(put.image.level(k)[...], wanted)


def test_remove(server: ServerProcess, raw: RawServer, name: str) -> None:
    spec = image_pb2.ImageSpec(name=name, data_type="DATA_TYPE_UINT8")
    for axis in "yx":
        spec.axes.add(name=axis, size=9)
    raw.call("CreateImage", service_pb2.CreateImageRequest(spec=spec))
    assert server.image_path(name).is_dir()
    run("ziggurat", "--server", server.address, "rm", "--yes", name)
    assert not server.image_path(name).exists()
    failed = run("ziggurat", "--server", server.address, "rm", "--yes", name, code=1)
    assert name in failed.stderr
    assert "Traceback" not in failed.stderr


def _group(path: Path) -> Any:
    import zarr

    return zarr.open_group(path, mode="r")
