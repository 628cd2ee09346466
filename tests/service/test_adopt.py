"""Are images that others made served where they lie, and changed only if they may be?

Each store is adopted and read at every level; a snapshot of its tree, with times, shows
that nothing of a read-only one changed. A writable one is written to, and every level is
then the cascade of what was written, to zarr-python as well.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import ome_zarr_models.v04
import ome_zarr_models.v05
import pytest
import zarr
import ziggurat
from ziggurat_engine.config import load
from ziggurat_engine.engine import Engine
from ziggurat_engine.errors import AlreadyExists, InvalidArgument, NotFound, UnsupportedVersion
from ziggurat_engine.offline.adopt import adopt
from ziggurat_engine.region import Region
from ziggurat_proto.v1 import read_pb2, service_pb2

from tests.support import foreign
from tests.support.command import run
from tests.support.images import assert_exact, read_tensorstore, read_zarr
from tests.support.pixels import difference, marked, reference_cascade, same_bytes
from tests.support.raw import RawServer, failure
from tests.support.server import ServerProcess
from tests.support.waiting import until

Write = Callable[[Path], list[np.ndarray]]

pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")


def snapshot(path: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Every file and directory of a tree: mode, size, time, content."""
    found = {}
    for each in (path, *sorted(path.rglob("*"))):
        status = each.lstat()
        data = each.read_bytes() if each.is_file() else b""
        found[str(each)] = (status.st_mode, status.st_size, status.st_mtime_ns, data)
    return found


WRITABLE = {
    "v3": {},
    "v3-sharded": {"shards": (8, 32, 16)},
    "v3-dots": {"chunk_key_encoding": {"name": "default", "separator": "."}},
    "v2": {"version": 2},
    "v2-slashes": {"version": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
}


class Gallery:
    """A server over an adopted image of each kind, and two that are not there or are others.

    levels, paths, before: by name of the image, the latter as of its start.
    """

    def __init__(self, directory: Path, serve: Callable[..., ServerProcess]) -> None:
        self.data, self._directory = directory / "data", directory
        self.data.mkdir()
        self.levels: dict[str, list[np.ndarray]] = {}
        self.paths: dict[str, Path] = {}
        for store, write in foreign.STORES.items():
            self._adopt(f"adopted/{store}", write)
        for store, array in WRITABLE.items():
            write = partial(foreign.zarr_python, **array)
            self._adopt(f"writable/{store}", write, writable=True)
        self._adopt("rough", foreign.rough, writable=True, method="median")
        self._adopt("forgotten/read-only", foreign.zarr_python)
        self._adopt("forgotten/writable", foreign.zarr_python, writable=True)
        self._adopt("wrong/gone", foreign.zarr_python)
        self._adopt("wrong/other", foreign.zarr_python)
        shutil.rmtree(self.paths["wrong/gone"])
        other = zarr.open_group(self.paths["wrong/other"], mode="r+")
        del other["1"]
        other.create_array("1", shape=(21, 31, 23), chunks=(21, 31, 23), dtype="uint16")
        self.before = {name: snapshot(path) for name, path in self.paths.items() if path.exists()}
        self.server = serve(self.data)

    def unchanged(self, name: str) -> bool:
        return snapshot(self.paths[name]) == self.before[name]

    def _adopt(self, name: str, write: Write, *, writable: bool = False, method: str = "") -> None:
        path = self.paths[name] = self._directory / f"{name.replace('/', '-')}.zarr"
        self.levels[name] = write(path)
        adopt(self.data, str(path), name, writable=writable, method=method)


@pytest.fixture(scope="module")
def gallery(
    tmp_path_factory: pytest.TempPathFactory, serve_module: Callable[..., ServerProcess]
) -> Gallery:
    return Gallery(tmp_path_factory.mktemp("gallery"), serve_module)


@pytest.fixture
def viewer(gallery: Gallery) -> Iterator[ziggurat.Client]:
    with ziggurat.connect(gallery.server.address) as client:
        yield client


@pytest.fixture
def raw_viewer(gallery: Gallery) -> Iterator[RawServer]:
    calls = RawServer(gallery.server.address)
    yield calls
    calls.close()


@pytest.mark.parametrize("store", foreign.STORES)
def test_every_level_is_read_as_it_lies(gallery: Gallery, viewer: ziggurat.Client, store: str):
    name = f"adopted/{store}"
    image, wanted = viewer.open(name), gallery.levels[name]
    assert len(image.levels) == len(wanted) > 1
    for k, level in enumerate(wanted):
        found = image.level(k)[...]
        assert same_bytes(found, level), f"level {k}: {difference(found, level)}"
        box = tuple(slice(n // 3, n // 3 + max(1, n // 2)) for n in level.shape)
        assert same_bytes(image.level(k)[box], level[box])
        assert not image.levels[k].stale
    stored = image.refresh(measure=True).levels[0].stored
    assert stored is not None
    assert stored.chunks >= stored.objects > 0
    assert image.fetch(level=1, exact=True).stale is False
    assert gallery.unchanged(name)


def test_a_list_names_all_of_them(viewer: ziggurat.Client):
    listed = [image.name.removeprefix("adopted/") for image in viewer.list("adopted")]
    assert listed == sorted(foreign.STORES)


def test_the_metadata_of_the_group_is_what_is_said(
    gallery: Gallery, viewer: ziggurat.Client, raw_viewer: RawServer
):
    image = viewer.open("adopted/v3-sharded")
    assert image.voxel_size == dict(zip("zyx", foreign.SCALE, strict=True))
    assert image.units == dict.fromkeys("zyx", "micrometer")
    assert image.downsampling == "mean"
    assert image.adopted_from == str(gallery.paths[image.name])
    assert image.read_only
    assert viewer.open("adopted/v2-lz4").layout.codec is None
    assert viewer.open("adopted/uneven").downsampling == ""
    assert image.layout.shard_chunks == (2, 4, 2)
    assert [level.factors for level in image.levels] == [(1, 1, 1), *foreign.FACTORS]
    assert image.levels[2].scale == (4.0, 2.0, 1.0)
    assert image.levels[2].translation == (1.0, 0.75, 0.375)
    (header, *_) = raw_viewer.call(
        "ReadRegion", read_pb2.ReadRequest(image="adopted/v3-sharded", level=2)
    )
    assert tuple(header.header.scale) == (4.0, 2.0, 1.0)
    assert tuple(header.header.translation) == (1.0, 0.75, 0.375)
    channels = viewer.open("adopted/ome-zarr-py-0.4").channels
    assert channels == (ziggurat.Channel("a", "FF0000", (10.0, 500.0)),) * 2
    moved = viewer.open("adopted/calibrated")
    assert moved.levels[0].scale == (4.0, 1.0, 0.5)
    assert moved.levels[1].translation == (0.0, 10.5, 0.25)


def test_nothing_is_written_to_a_read_only_image(
    gallery: Gallery, viewer: ziggurat.Client, raw_viewer: RawServer
):
    name = "adopted/v3"
    refused = []
    stream = raw_viewer.write(name)
    with pytest.raises(grpc.RpcError) as error:
        stream.opened()
    refused.append(error.value)
    with pytest.raises(grpc.RpcError) as error:
        raw_viewer.call("BuildPyramid", service_pb2.BuildPyramidRequest(image=name, force=True))
    refused.append(error.value)
    for said in map(failure, refused):
        assert said.code is grpc.StatusCode.FAILED_PRECONDITION
        assert repr(name) in said.message
        assert "read-only" in said.message
    with pytest.raises(ziggurat.ZigguratError, match="is adopted"):
        viewer.create(
            "cells", axes="zyx", shape=foreign.SHAPE, dtype="uint8", kind="labels", labels_of=name
        )
    assert gallery.unchanged(name)


def test_deleting_forgets(gallery: Gallery, viewer: ziggurat.Client):
    name = "forgotten/read-only"
    viewer.delete(name)
    with pytest.raises(ziggurat.NotFound):
        viewer.open(name)
    viewer.create(name, axes="yx", shape=(3, 4), dtype="uint8")
    assert not viewer.open(name)[...].any()
    assert gallery.unchanged(name)
    command = ("ziggurat-engine", "adopt", gallery.paths[name], "again", "--data", gallery.data)
    assert "a server uses this directory" in run(*command, code=1).stderr


def test_forgetting_a_writable_image_stores_what_was_written(
    gallery: Gallery, raw_viewer: RawServer
):
    name = "forgotten/writable"
    stream = raw_viewer.write(name, "s")
    stream.opened()
    stream.region(1, (0, 0, 0), np.full((1, 3, 3), 99, np.uint16))
    stream.durable(1)
    delete = partial(raw_viewer.call, "DeleteImage", service_pb2.DeleteImageRequest(name=name))
    with pytest.raises(grpc.RpcError) as error:
        delete()
    assert failure(error.value).code is grpc.StatusCode.FAILED_PRECONDITION
    stream.half_close()

    def forgotten() -> bool:
        try:
            delete()
        except grpc.RpcError as error:
            if failure(error).code is not grpc.StatusCode.FAILED_PRECONDITION:
                raise
            return False
        return True

    until(forgotten, "the stream to be let go of")
    level0 = gallery.levels[name][0].copy()
    level0[0, :3, :3] = 99
    check_stored(gallery.paths[name], level0)
    assert not list(gallery.paths[name].glob(".ziggurat*"))


def test_an_image_that_is_gone_or_another_stops_nothing(viewer: ziggurat.Client):
    assert [image.name for image in viewer.list("wrong")] == ["wrong/gone", "wrong/other"]
    with pytest.raises(ziggurat.ZigguratError, match=r"wrong-gone\.zarr"):
        viewer.open("wrong/gone")
    other = viewer.open("wrong/other")
    with pytest.raises(ziggurat.ZigguratError, match="adopt it again"):
        other.level(1)[...]
    assert same_bytes(other[...], foreign.pixels())
    viewer.delete("wrong/gone")
    assert [image.name for image in viewer.list("wrong")] == ["wrong/other"]


@pytest.mark.parametrize("store", WRITABLE)
def test_a_writable_image_is_written_to_in_place(
    gallery: Gallery, viewer: ziggurat.Client, store: str
):
    name = f"writable/{store}"
    image, level0 = viewer.open(name), gallery.levels[name][0].copy()
    offset, new = (3, 11, 7), marked((9, 30, 20), "uint16", seed=7)
    with image.writer() as writer:
        writer.write_region(new, offset)
    level0[3:12, 11:41, 7:27] = new
    assert_exact(image, level0)
    assert image.streams[0].outcome == "complete"
    stored = image.refresh(measure=True).levels[0].stored
    assert stored is not None
    assert stored.chunks == 3 * 4 * 3
    check_stored(gallery.paths[name], level0)
    for file, before in gallery.before[name].items():
        if "zarr.json" in file or "/.z" in file:
            assert snapshot(Path(file))[file] == before, "documents stay as they are"


def test_levels_of_another_method_are_served_until_they_are_built(
    gallery: Gallery, viewer: ziggurat.Client
):
    image, levels = viewer.open("rough"), gallery.levels["rough"]
    assert image.downsampling == "median"
    for k, level in enumerate(levels):
        assert same_bytes(image.level(k)[...], level)
        assert not image.levels[k].stale
    image.build_pyramid(force=True).wait()
    assert_exact(image, levels[0])
    check_stored(gallery.paths["rough"], levels[0], "median")


def check_stored(path: Path, level0: np.ndarray, method: str = "mean") -> None:
    group = zarr.open_group(path, mode="r")
    v2 = group.metadata.zarr_format == 2
    (ome_zarr_models.v04.Image if v2 else ome_zarr_models.v05.Image).from_zarr(group)
    for k, wanted in enumerate(reference_cascade(level0, foreign.FACTORS, method)):
        for read in (read_zarr,) if v2 else (read_zarr, read_tensorstore):
            found = np.asarray(read(path / str(k)))
            assert same_bytes(found, wanted), f"level {k}: {difference(found, wanted)}"


def test_what_was_acknowledged_survives_a_kill_and_a_missing_disk(
    tmp_path: Path, serve: Callable[..., ServerProcess]
):
    path, data, away = tmp_path / "a.zarr", tmp_path / "data", tmp_path / "away"
    data.mkdir()
    level0 = foreign.zarr_python(path, shards=(8, 32, 16))[0].copy()
    before = snapshot(path)
    adopt(data, str(path), "a", writable=True)
    server = serve(data, settle_idle_seconds=1000)
    raw = RawServer(server.address)
    stream = raw.write("a", "s")
    assert stream.opened() == 1
    new = np.full((1, 1, 1), 4711, np.uint16)
    stream.region(1, (5, 6, 7), new)
    stream.durable(1)
    server.kill()
    raw.close()
    assert snapshot(path) == before
    path.rename(away)

    # It is not there: the server starts, keeps what it knows, and makes nothing there.
    server = serve(data, settle_idle_seconds=1000)
    raw = RawServer(server.address)
    with pytest.raises(grpc.RpcError) as error:
        raw.call("GetImage", service_pb2.GetImageRequest(name="a"))
    assert failure(error.value).code is grpc.StatusCode.UNAVAILABLE
    assert str(path) in failure(error.value).message
    assert not path.exists()
    away.rename(path)
    stream = raw.write("a", "s")
    assert stream.opened() == 2
    assert stream.close().durable == 1
    raw.close()
    level0[5, 6, 7] = 4711
    with ziggurat.connect(server.address) as client:
        assert_exact(client.open("a"), level0)
    server.stop()
    check_stored(path, level0)
    assert not list(path.glob(".*"))


@pytest.mark.parametrize(("step", "lefts"), [(2, [750, 375]), (2.0015, [749, 374])])
def test_boxes_of_level_0_in_levels_of_other_sizes(
    tmp_path: Path, serve: Callable[..., ServerProcess], step: float, lefts: list[int]
):
    """An odd edge left out, as bioformats2raw does; and sizes that no whole factor leads to."""
    path, data = tmp_path / "a.zarr", tmp_path / "data"
    data.mkdir()
    axes = [{"name": name, "type": "space"} for name in "yx"]
    scales = [step**k for k in range(3)]
    datasets = [
        {"path": str(k), "coordinateTransformations": [{"type": "scale", "scale": [s, s]}]}
        for k, s in enumerate(scales)
    ]
    group = foreign.write_group(path, 3, {"name": "x", "axes": axes, "datasets": datasets})
    for k, scale in enumerate(scales):
        columns = np.arange(int(2047 / scale), dtype=np.uint16)
        made = group.create_array(str(k), shape=(len(columns),) * 2, chunks=(256, 256), dtype="u2")
        made[...] = np.broadcast_to((columns * scale).astype(np.uint16), made.shape)
    adopt(data, str(path), "a")
    with ziggurat.connect(serve(data).address) as client:
        image = client.open("a")
        for level, left in enumerate(lefts, 1):
            found = image.fetch(offset=(1500, 1500), shape=(100, 100), level=level, level0=True)
            assert found.offset == (left, left)
            assert abs(int(found.array.min()) - 1500) <= 2 * scales[level]
            assert abs(int(found.array.max()) - 1600) <= 2 * scales[level]
            whole = image.fetch(offset=(0, 0), shape=(2047, 2047), level=level, level0=True)
            assert whole.shape == image.levels[level].shape
            last = image.fetch(offset=(2046, 0), shape=(1, 0), level=level, level0=True)
            assert last.shape == (1, 0)
            assert last.offset[0] == image.levels[level].shape[0] - 1
        found = image.fetch(offset=(1500, 1500), shape=(400, 400), max_voxels=50000)
        assert found.level == 1


def test_a_level_that_is_gone_is_not_fill_value(tmp_path: Path):
    path, data = tmp_path / "a.zarr", tmp_path / "data"
    data.mkdir()
    foreign.zarr_python(path)
    adopt(data, str(path), "a")
    engine = Engine(load(data=data, cache_bytes=64 << 20, tune_malloc=False))
    engine.recover()
    image = engine.image("a")
    assert image.foreign is not None
    assert image.foreign.read(0, (0, 0, 0)) is not None
    (path / "0").rename(tmp_path / "away")
    with pytest.raises(OSError, match="level 0 of the adopted image is not there"):
        image.foreign.read(0, (1, 1, 1))
    engine.close()


def test_measuring_a_writable_image_sees_what_was_replaced(tmp_path: Path):
    path, data = tmp_path / "a.zarr", tmp_path / "data"
    data.mkdir()
    group = foreign.write_group(path, 3, foreign.multiscale([], type="mean"))
    array = {"shape": (24, 64, 64), "chunks": (8, 16, 16), "shards": (8, 64, 64)}
    group.create_array("0", dtype="uint16", **array)[:, :16, :16] = 1
    adopt(data, str(path), "a", writable=True)
    engine = Engine(load(data=data, cache_bytes=64 << 20, tune_malloc=False))
    engine.recover()
    image = engine.image("a")
    assert image.measure(0).chunks == 3
    stream, pixels = engine.streams.open(image, "s"), np.full((24, 64, 64), 3, np.uint16)
    engine.ingest.write(stream, 1, Region((0, 0, 0), pixels.shape), memoryview(pixels.tobytes()))
    engine.ingest.finish(stream)
    engine.streams.release(stream)
    assert image.measure(0).chunks == 48
    engine.close()


def large(path: Path) -> np.ndarray:
    """An image of which a server with 8 MiB can't hold all that is written to it."""
    pixels = marked((64, 512, 512), "uint16")
    group = foreign.write_group(path, 3, foreign.multiscale([], type="mean"))
    group.create_array(
        "0", shape=pixels.shape, chunks=(8, 64, 64), shards=(8, 512, 512), dtype="uint16"
    )
    return pixels


def write_halves(raw: RawServer, pixels: np.ndarray) -> None:
    """Regions of half a shard each, which the log holds; all are durable."""
    stream = raw.write("a", "s")
    stream.opened()
    count = 0
    for z in range(0, 64, 8):
        for y in (0, 256):
            count += 1
            stream.region(count, (z, y, 0), pixels[z : z + 8, y : y + 256])
    stream.durable(count)


def unavailable(raw: RawServer) -> str:
    with pytest.raises(grpc.RpcError) as error:
        raw.call("GetImage", service_pb2.GetImageRequest(name="a"))
    assert failure(error.value).code is grpc.StatusCode.UNAVAILABLE
    return failure(error.value).message


def test_what_memory_can_t_take_of_an_absent_image_stays_in_the_log(
    tmp_path: Path, serve: Callable[..., ServerProcess]
):
    path, data, away = tmp_path / "a.zarr", tmp_path / "data", tmp_path / "away"
    data.mkdir()
    pixels = large(path)
    adopt(data, str(path), "a", writable=True)
    server = serve(data, cache_bytes="8MiB")
    raw = RawServer(server.address)
    write_halves(raw, pixels)
    server.kill()
    raw.close()
    path.rename(away)

    server = serve(data, cache_bytes="8MiB")
    raw = RawServer(server.address)
    assert str(path) in unavailable(raw)
    with ziggurat.connect(server.address) as client:
        camera = client.create("camera", axes="zyx", shape=(16, 512, 512), dtype="uint16")
        with camera.writer() as writer:
            writer.write_region(pixels[:16], offset=(0, 0, 0))
        assert_exact(camera, pixels[:16])
    away.rename(path)
    assert "start the server again" in unavailable(raw)
    raw.close()
    server.stop()

    server = serve(data, cache_bytes="8MiB")
    with ziggurat.connect(server.address) as client:
        assert same_bytes(client.open("a")[...], pixels)
    server.stop()
    assert same_bytes(zarr.open_array(path / "0", mode="r")[...], pixels)


def test_an_absent_image_stops_no_other_and_can_be_forgotten(
    tmp_path: Path, serve: Callable[..., ServerProcess]
):
    path, data, away = tmp_path / "a.zarr", tmp_path / "data", tmp_path / "away"
    data.mkdir()
    pixels = large(path)
    adopt(data, str(path), "a", writable=True)
    server = serve(data, cache_bytes="8MiB", settle_idle_seconds=1000)
    raw = RawServer(server.address)
    stream = raw.write("a", "s")
    stream.opened()
    stream.region(1, (0, 0, 0), pixels[:8, :256])
    stream.durable(1)
    path.rename(away)
    stream.region(2, (0, 256, 0), pixels[:8, 256:])
    with pytest.raises(grpc.RpcError) as error:
        stream.durable(2)
    assert failure(error.value).code is grpc.StatusCode.UNAVAILABLE
    assert str(path) in failure(error.value).message
    with ziggurat.connect(server.address) as client:
        camera = client.create("camera", axes="zyx", shape=(16, 512, 512), dtype="uint16")
        with camera.writer() as writer:
            writer.write_region(pixels[:16], offset=(0, 0, 0))
        assert_exact(camera, pixels[:16])
        client.delete("a")
        assert [image.name for image in client.list()] == ["camera"]
    raw.close()
    server.stop()
    assert not path.exists()
    assert not zarr.open_array(away / "0", mode="r")[...].any()


def edited(**changes: object) -> Callable[[Path], None]:
    """A good image of which the multiscale says something else."""

    def write(path: Path) -> None:
        foreign.zarr_python(path)
        document = json.loads((path / "zarr.json").read_text())
        document["attributes"]["ome"]["multiscales"][0].update(changes)
        (path / "zarr.json").write_text(json.dumps(document))

    return write


def bad_version(path: Path) -> None:
    foreign.zarr_python(path, version=2)
    document = json.loads((path / ".zattrs").read_text())
    document["multiscales"][0]["version"] = "0.3"
    (path / ".zattrs").write_text(json.dumps(document))


def nested(path: Path) -> None:
    zarr.create_group(path, attributes={"ome": {"bioformats2raw.layout": 3}})
    foreign.zarr_python(path / "0")


def floored(path: Path) -> None:
    group = foreign.write_group(path, 3, foreign.multiscale([(1, 2, 2)]))
    for k, shape in enumerate([(4, 61, 44), (4, 30, 22)]):
        group.create_array(str(k), shape=shape, chunks=(2, 8, 8), dtype="uint8")


def linked(path: Path) -> None:
    foreign.zarr_python(path)
    (path / "1").rename(path.with_name("elsewhere"))
    (path / "1").symlink_to("../elsewhere")


def linked_within(path: Path, what: str) -> None:
    foreign.zarr_python(path)
    (path / what).rename(path / "raw")
    (path / what).symlink_to(path / "raw")


def of_a_server(path: Path) -> None:
    foreign.zarr_python(path)
    document = json.loads((path / "zarr.json").read_text())
    document["attributes"]["ziggurat"] = {}
    (path / "zarr.json").write_text(json.dumps(document))


GOOD = foreign.zarr_python
AXES = [{"name": a, "type": "space"} for a in "xyz"]
NO_SCALE = [{"path": "0"}]
BAD = {
    "not-there": (None, {}, NotFound, "no such directory"),
    "not-zarr": (Path.mkdir, {}, InvalidArgument, "not a Zarr group"),
    "array": (
        lambda p: zarr.create_array(p, shape=(3, 4), dtype="u1"),
        {},
        InvalidArgument,
        "an array",
    ),
    "bare": (
        lambda p: zarr.create_group(p).create_array("0", shape=(3, 4), dtype="u1"),
        {},
        InvalidArgument,
        "build",
    ),
    "bioformats2raw": (nested, {}, NotFound, "a.zarr/0"),
    "0.3": (bad_version, {}, UnsupportedVersion, "0.3"),
    "axes": (edited(axes=AXES), {}, InvalidArgument, "x, y, z"),
    "axes-of-0.3": (edited(axes=["z", "y", "x"]), {}, InvalidArgument, "metadata"),
    "datasets": (edited(datasets={}), {}, InvalidArgument, "metadata"),
    "no-scale": (edited(datasets=NO_SCALE), {}, InvalidArgument, "level 0"),
    "level-gone": (edited(datasets=[{"path": "9"}]), {}, NotFound, "9"),
    "level-above": (edited(datasets=[{"path": "../b"}]), {}, InvalidArgument, "'../b'"),
    "level-absolute": (edited(datasets=[{"path": "/b"}]), {}, InvalidArgument, "'/b'"),
    "level-itself": (edited(datasets=[{"path": "0/."}]), {}, InvalidArgument, "'0/.'"),
    "level-linked": (linked, {}, InvalidArgument, "level '1'.*elsewhere"),
    "float16": (
        lambda p: GOOD(p, dtype="float16", level0=np.ones((4, 8, 8), "f4")),
        {},
        InvalidArgument,
        "float16",
    ),
    "name": (GOOD, {"name": "../a"}, InvalidArgument, "name '../a'"),
    "taken": (GOOD, {"name": "taken"}, AlreadyExists, "taken"),
    "method": (GOOD, {"writable": True, "method": "average"}, InvalidArgument, "--method average"),
    "method-alone": (GOOD, {"method": "mean"}, InvalidArgument, "--method mean"),
    "method-unknown": (
        lambda p: GOOD(p, said={"type": "local_mean"}),
        {"writable": True},
        InvalidArgument,
        "--method",
    ),
    "floored": (floored, {"writable": True}, InvalidArgument, r"level 1 \(1\).*1x2.033x2"),
    "big-endian": (
        lambda p: GOOD(p, version=2, dtype=">u2"),
        {"writable": True},
        InvalidArgument,
        "level 0",
    ),
    "index-big-endian": (
        foreign.STORES["v3-index-big-endian"],
        {"writable": True},
        InvalidArgument,
        "level 0.*index",
    ),
    "index-first": (
        foreign.STORES["v3-index-first"],
        {"writable": True},
        InvalidArgument,
        "level 0.*index",
    ),
    "shards-of-one-chunk": (
        lambda p: GOOD(p, shards=(8, 16, 16)),
        {"writable": True},
        InvalidArgument,
        "level 0.*8x16x16, have one chunk each",
    ),
    "linked-level": (
        partial(linked_within, what="1"),
        {"writable": True},
        InvalidArgument,
        "a.zarr/1 is a link, to .*raw",
    ),
    "linked-chunks": (
        partial(linked_within, what="0/c"),
        {"writable": True},
        InvalidArgument,
        "a.zarr/0/c is a link, to .*raw",
    ),
    "ziggurat": (of_a_server, {"writable": True}, InvalidArgument, "attribute 'ziggurat'"),
    "odd-chunks": (lambda p: GOOD(p, chunks=(5, 7, 9)), {"writable": True}, InvalidArgument, "7"),
    "uneven": (foreign.uneven, {"writable": True}, InvalidArgument, "level 1"),
    "fill": (
        lambda p: GOOD(p, version=2, fill_value=None),
        {"writable": True},
        InvalidArgument,
        "fill",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_can_t_be_is_refused_and_changes_nothing(tmp_path: Path, case: str):
    write, asked, kind, said = BAD[case]
    data, path = tmp_path / "data", tmp_path / "a.zarr"
    data.mkdir()
    foreign.zarr_python(tmp_path / "taken.zarr", factors=[], level0=np.ones((1, 2, 3), "u1"))
    adopt(data, str(tmp_path / "taken.zarr"), "taken")
    if write is not None:
        write(path)
    before = snapshot(data / "images"), path.exists() and snapshot(path)
    with pytest.raises(kind, match=said):
        adopt(data, str(path), **{"name": "a", **asked})
    assert (snapshot(data / "images"), path.exists() and snapshot(path)) == before


def test_paths_that_can_t_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data, path = tmp_path / "data", tmp_path / "a.zarr"
    (data / "images").mkdir(parents=True)
    foreign.zarr_python(path)
    foreign.zarr_python(data / "images/b.zarr")
    for wrong, said in (
        ("s3://bucket/a.zarr", "only directories of this machine"),
        (str(data / "images/b.zarr"), "inside the data directory"),
        (str(tmp_path), "around the data directory"),
    ):
        with pytest.raises(InvalidArgument, match=said):
            adopt(data, wrong, "a")
    # Of another server.
    theirs = tmp_path / "theirs"
    foreign.zarr_python(theirs / "images/c.zarr")
    (theirs / "lock").touch()
    (theirs / "state.sqlite").touch()
    with pytest.raises(InvalidArgument, match=rf"lies in {theirs}"):
        adopt(data, str(theirs / "images/c.zarr"), "c", writable=True)
    adopt(data, str(theirs / "images/c.zarr"), "c")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(path)
    adopted = adopt(data, "link", "a").adopted
    assert adopted is not None
    assert adopted.path == str(path)
    with pytest.raises(AlreadyExists, match="as 'a'"):
        adopt(data, str(path), "b")
