"""Does a read bring what NumPy makes of the level, whatever it asks for, over real sockets?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tifffile
import zarr
import ziggurat
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ziggurat import _slabs
from ziggurat._commands import cli
from ziggurat._tiff import TiffStack
from ziggurat_engine.offline.adopt import adopt
from ziggurat_proto.v1 import read_pb2, service_pb2

from tests.service.subject import INVALID, OUTSIDE, TOO_MUCH, Subject, check
from tests.support.pixels import marked, same_bytes
from tests.support.raw import RawServer, failure
from tests.support.server import ServerProcess
from tests.support.waiting import until

MIB = 2**20
SHAPE = (2, 9, 40, 50)
SCALE = {"c": 1.0, "z": 2.0, "y": 0.5, "x": 0.25}


@pytest.fixture(scope="module")
def stack(server: ServerProcess) -> Iterator[ziggurat.Image]:
    """An image czyx with three levels, small chunks and odd edges."""
    with ziggurat.connect(server.address) as client:
        image = client.create(
            "tests/reads/stack",
            axes="czyx",
            shape=SHAPE,
            dtype="uint16",
            voxel_size=SCALE,
            chunk_shape=(1, 4, 8, 16),
            factors=[(1, 1, 2, 2), (1, 2, 2, 2)],
        )
        with image.writer() as writer:
            writer.write_region(marked(SHAPE, "uint16"), (0,) * 4)
        yield image.refresh()
        client.delete(image.name)  # the tests of a module may come in two runs


def mean(pixels: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Half to even, in Python's integers."""
    count = int(np.prod([pixels.shape[axis] for axis in axes]))
    total = pixels.astype(object).sum(axis=axes, keepdims=True)
    quotient, rest = total // count, total % count
    up = (2 * rest > count) | ((2 * rest == count) & (quotient % 2 == 1))
    return (quotient + up).astype(pixels.dtype)


PROJECTIONS: dict[str, Callable[[np.ndarray, tuple[int, ...]], np.ndarray]] = {
    "max": lambda pixels, axes: pixels.max(axis=axes, keepdims=True),
    "min": lambda pixels, axes: pixels.min(axis=axes, keepdims=True),
    "mean": mean,
}


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_read_is_what_numpy_makes_of_the_level(
    stack: ziggurat.Image, data: st.DataObject
) -> None:
    level = data.draw(st.integers(0, 2))
    whole = stack.level(level)[...]
    box = []
    for size in whole.shape:
        start = data.draw(st.integers(0, size - 1))
        box.append(slice(start, data.draw(st.integers(start + 1, size))))
    options: dict[str, Any] = {}
    wanted = whole[tuple(box)]
    if data.draw(st.booleans()):
        options["steps"] = [data.draw(st.integers(1, 60)) for _ in SHAPE]
        wanted = wanted[tuple(slice(None, None, step) for step in options["steps"])]
    if data.draw(st.booleans()):
        options["projection"] = data.draw(st.sampled_from(sorted(PROJECTIONS)))
        along = data.draw(st.sets(st.sampled_from("czyx"), min_size=1))
        options["along"] = data.draw(st.permutations(sorted(along)))
        axes = tuple("czyx".index(axis) for axis in along)
        wanted = PROJECTIONS[options["projection"]](wanted, axes)
    if data.draw(st.booleans()):
        low, high = sorted(data.draw(st.sets(st.integers(-10, 70000), min_size=2, max_size=2)))
        options |= {"dtype": "uint8", "window": (low, high)}
        share = np.clip((wanted.astype(float) - low) / (high - low), 0, 1)
        wanted = np.rint(share * 255).astype(np.uint8)
    found = stack.fetch(tuple(box), level=level, **options)
    assert same_bytes(found.array, wanted), options
    assert (found.level, found.stale) == (level, False)
    assert found.offset == tuple(part.start for part in box)
    assert found.shape == tuple(part.stop - part.start for part in box)
    # Where the result lies: the middle of the pixels that each of its own is made of.
    for axis, (origin, spacing) in enumerate(zip(found.origin, found.spacing, strict=True)):
        step = options.get("steps", [1] * 4)[axis]
        pixels = range(box[axis].start, box[axis].stop, step)
        places = [found.translation[axis] + k * found.scale[axis] for k in pixels]
        if "czyx"[axis] in options.get("along", ""):
            assert origin == pytest.approx(sum(places) / len(places))
            assert spacing == pytest.approx(len(places) * step * found.scale[axis])
        else:
            assert origin == pytest.approx(places[0])
            assert spacing == pytest.approx(step * found.scale[axis])


# --- which level, which box


@pytest.mark.parametrize(
    ("resolution", "level"),
    [
        (0.1, 0),  # finer than there is
        (0.5, 0),
        (1.0, 1),
        (1.999, 1),
        (2.0, 1),  # y and x would do, z would be 4
        (4.0, 2),
        (1e9, 2),
        ({"x": 0.5}, 1),
        ({"x": 0.49999}, 0),
        ({"z": 3.9}, 1),
        ({"z": 4.0}, 2),
        ({"z": 0.1, "y": 1.0}, 1),  # z has no finer pixels anyway
        ({}, 2),
        ({"c": 1.0}, 2),
    ],
)
def test_the_coarsest_level_that_is_fine_enough(
    stack: ziggurat.Image, resolution: Any, level: int
) -> None:
    found = stack.fetch(resolution=resolution)
    assert found.level == level
    assert same_bytes(found.array, stack.level(level)[...])
    assert found.scale == stack.levels[level].scale
    assert found.translation == stack.levels[level].translation


def test_the_finest_level_with_so_many_pixels(stack: ziggurat.Image) -> None:
    sizes = [int(np.prod(level.shape)) for level in stack.levels]
    for level, size in enumerate(sizes):
        assert stack.fetch(max_voxels=size).level == level
    assert stack.fetch(max_voxels=sizes[0] - 1).level == 1
    with pytest.raises(ziggurat.OutOfRange, match=str(sizes[-1])) as error:
        stack.fetch(max_voxels=sizes[-1] - 1)
    assert error.value.field == "max_voxels"
    # Of the box, before steps and projection.
    found = stack.fetch(np.s_[:, :, 3:6, 3:6], max_voxels=2 * 9 * 4, projection="max", along="z")
    assert (found.level, found.offset, found.shape) == (1, (0, 0, 1, 1), (2, 9, 2, 2))
    assert found.array.shape == (2, 1, 2, 2)


@given(data=st.data(), level=st.integers(0, 2))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_boxes_that_do_not_know_the_level_are_covered(
    stack: ziggurat.Image, data: st.DataObject, level: int
) -> None:
    """In pixels of level 0, and in units from border to border of the same pixels."""
    offset, shape = [], []
    for size in SHAPE:
        offset.append(data.draw(st.integers(0, size - 1)))
        shape.append(data.draw(st.integers(1, size - offset[-1])))
    total = np.prod([entry.factors for entry in stack.levels[: level + 1]], axis=0)
    start = [o // f for o, f in zip(offset, total, strict=True)]
    stop = [-(-(o + n) // f) for o, n, f in zip(offset, shape, total, strict=True)]
    wanted = stack.level(level)[tuple(map(slice, start, stop))]
    found = stack.fetch(offset=offset, shape=shape, level=level, level0=True)
    assert found.offset == tuple(start)
    assert same_bytes(found.array, wanted)
    scales = [SCALE[axis] for axis in "czyx"]
    physical = {
        axis: ((o - 0.5) * scale, (o + n - 0.5) * scale)
        for axis, o, n, scale in zip("czyx", offset, shape, scales, strict=True)
    }
    found = stack.fetch(physical=physical, level=level)
    assert found.offset == tuple(start)
    assert same_bytes(found.array, wanted)


def test_points_and_borders_in_units(stack: ziggurat.Image) -> None:
    point = stack.fetch(physical={"x": (1.0, 1.0), "z": (0, 0)})
    assert (point.offset, point.shape) == ((0, 0, 0, 4), (2, 1, 40, 1))
    # A point between two pixels is in the one behind it.
    assert stack.fetch(physical={"x": (1.125, 1.125)}).offset[3] == 5
    beyond = stack.fetch(physical={"x": (-1e300, 1e300), "y": (19.0, 90.0)})
    assert (beyond.offset[2:], beyond.shape[2:]) == ((38, 0), (2, 50))
    for interval in ((-9.0, -0.125), (12.375, 20.0), (1e300, 1e300)):
        with pytest.raises(ziggurat.OutOfRange, match="beyond the image") as error:
            stack.fetch(physical={"x": interval})
        assert error.value.field == "physical_box.intervals[x]"


def test_nothing_stays_nothing(stack: ziggurat.Image) -> None:
    for level in range(3):
        found = stack.fetch(offset=(0, 1, 1, 1), shape=(2, 0, 3, 3), level=level, level0=True)
        assert found.array.shape[1] == 0
    assert stack.read(np.s_[:, 3:3], steps={"x": 7}).shape == (2, 0, 40, 8)


# --- projection


@pytest.mark.parametrize("dtype", ["uint8", "int32", "uint64", "int64"])
@pytest.mark.parametrize("method", sorted(PROJECTIONS))
def test_integers_at_their_extremes(client: ziggurat.Client, name: str, dtype: str, method: str):
    limits = np.iinfo(dtype)
    rng = np.random.default_rng(0)
    pixels = rng.choice(
        np.array([limits.min, limits.min + 1, limits.max - 1, limits.max], dtype), (7, 6, 5)
    )
    pixels[:, 0, 0], pixels[:, 0, 1] = limits.max, limits.min
    image = client.create(
        name, axes="zyx", shape=(7, 6, 5), dtype=dtype, chunk_shape=(2, 4, 2), levels=1
    )
    with image.writer() as writer:
        writer.write_region(pixels, (0, 0, 0))
    for axes in ("z", "yx", "zyx"):
        wanted = PROJECTIONS[method](pixels, tuple("zyx".index(axis) for axis in axes))
        assert same_bytes(image.read(projection=method, along=axes), wanted)


def test_floats_and_what_is_not_a_number(client: ziggurat.Client, name: str) -> None:
    pixels = np.linspace(-1e30, 3e38, 60, dtype="float32").reshape(5, 4, 3)
    pixels[1, 0, 0] = pixels[:, 0, 1] = np.nan
    pixels[:, 0, 2] = [np.inf, -np.inf, 1, 2, 3]
    image = client.create(
        name, axes="zyx", shape=(5, 4, 3), dtype="float32", chunk_shape=(2, 2, 2), factors=[]
    )
    with image.writer() as writer:
        writer.write_region(pixels, (0, 0, 0))
    found = image.read(projection="mean", along="z")
    with np.errstate(invalid="ignore"):
        wanted = pixels.mean(axis=0, dtype=np.float64, keepdims=True)
    np.testing.assert_allclose(found, wanted.astype("float32"), rtol=1e-7)
    assert np.isnan(found[0, 0]).all()
    largest = image.read(projection="max", along="z")[0]
    smallest = image.read(projection="min", along="z")[0]
    assert (largest[0, 1], smallest[0, 1]) == (-np.inf, np.inf)
    assert (largest[0, 2], smallest[0, 2]) == (np.inf, -np.inf)
    assert largest[0, 0] == np.nanmax(pixels[:, 0, 0])
    # Half to even, and 0 for what is no number.
    assert image.read(dtype="uint8", projection="max", along="z")[0, 0].tolist() == [255, 0, 255]


def test_a_projection_takes_bounded_memory(serve: Callable[..., ServerProcess], name: str) -> None:
    """4 MiB through a cache of 1 and sums of 64 KiB: many tiles, and the same pixels.

    And only the result has to be below the limit of a read.
    """
    server = serve(
        cache_bytes="1MiB",
        read_projection_bytes="64KiB",
        read_part_bytes="64KiB",
        max_read_bytes="128KiB",
    )
    with ziggurat.connect(server.address) as client:
        shape = (32, 256, 256)
        image = client.create(
            name, axes="zyx", shape=shape, dtype="uint16", chunk_shape=(16, 64, 64), levels=1
        )
        pixels = marked(shape, "uint16")
        with image.writer() as writer:
            writer.write_region(pixels, (0, 0, 0))
        found = image.read(projection="mean", along="z")
        wanted = np.rint(pixels.astype("u8").sum(axis=0, keepdims=True) / 32).astype("uint16")
        assert same_bytes(found, wanted)
        assert client.status().cache.clean_bytes <= MIB
        assert same_bytes(image.read(steps=(4, 4, 2)), pixels[::4, ::4, ::2])
        for options in ({"steps": (4, 2, 2)}, {"projection": "max", "along": "z", "dtype": "u4"}):
            with pytest.raises(ziggurat.LimitExceeded):
                image.read(**options)


def test_a_read_that_is_cancelled_stops(
    serve: Callable[..., ServerProcess], tmp_path: Path, name: str
) -> None:
    """A projection of millions of chunks, one thread; another read comes through soon after.

    Of an adopted image, where each has to be looked at: what others lay is not known.
    """
    count = 2**22
    axes = [{"name": axis, "type": "space"} for axis in "zyx"]
    scale = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
    dataset = {"path": "0", "coordinateTransformations": scale}
    ome = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [dataset]}]}
    group = zarr.create_group(tmp_path / "image", attributes={"ome": ome})
    group.create_array("0", shape=(count, 1, 1), chunks=(1, 1, 1), dtype="uint8")
    (tmp_path / "data").mkdir()
    adopt(tmp_path / "data", str(tmp_path / "image"), name)
    server = serve(tmp_path / "data", read_threads=1)
    with ziggurat.connect(server.address) as client:
        raw = RawServer(server.address)
        request = read_pb2.ReadRequest(image=name)
        request.projection.method = read_pb2.Projection.METHOD_MAX
        request.projection.axes.append("z")
        call = raw.channel.unary_stream(
            "/ziggurat.v1.Ziggurat/ReadRegion",
            read_pb2.ReadRequest.SerializeToString,
            read_pb2.ReadResponse.FromString,
        )(request)
        assert next(call).header.shape == [count, 1, 1]
        call.cancel()
        image = client.open(name)
        assert image.read(np.s_[:3], timeout_seconds=60).shape == (3, 1, 1)
        assert image.read(np.s_[:3], projection="max", along="z", timeout_seconds=60) == 0
        raw.close()


# --- revisions


def test_not_modified(serve: Callable[..., ServerProcess], name: str) -> None:
    server = serve(settle_idle_seconds=1000)
    with ziggurat.connect(server.address) as client:
        image = client.create(name, axes="yx", shape=(32, 32), dtype="uint8", chunk_shape=(8, 8))
        first = image.fetch()
        assert first.revision == image.refresh().revision > 2**59
        assert image.fetch(if_newer_than=first.revision) is None
        writer = image.writer()
        # Not all of a shard: that would be stored at once.
        writer.write_region(np.ones((32, 16), "uint8"), (0, 0))
        until(lambda: writer.received == 1, "the region to be received")
        second = image.fetch(if_newer_than=first.revision)
        assert second is not None
        assert second.revision > first.revision
        assert (second.array[:, :16] == 1).all()
        assert image.fetch(if_newer_than=second.revision) is None
        # A stale answer changes though nobody writes: it is never called not modified.
        stale = image.fetch(level=1)
        assert stale.stale
        writer.close()
        exact = image.fetch(level=1, if_newer_than=stale.revision)
        assert exact is not None
        assert (exact.array[:, :8] == 1).all()
        assert not exact.stale
        assert image.fetch(level=1, if_newer_than=exact.revision) is None
        assert image.fetch(level=1, if_newer_than=exact.revision, exact=True) is None
        # What is called the same is not the same image.
        client.delete(name)
        again = client.create(name, axes="yx", shape=(32, 32), dtype="uint8", chunk_shape=(8, 8))
        assert again.fetch(if_newer_than=exact.revision) is not None
        last = again.fetch().revision
    server.kill()
    with ziggurat.connect(serve(server.data).address) as client:
        # A crash may have lost what was only received: nothing from before it counts.
        found = client.open(name).fetch(if_newer_than=last)
        assert found is not None
        assert found.revision > last


# --- what is refused


def request(**fields: Any) -> read_pb2.ReadRequest:
    return read_pb2.ReadRequest(**fields)


NAN, INF = float("nan"), float("inf")
PHYSICAL = {"intervals": {"x": {"start": 0, "stop": 1}}}
ORIGIN, ONE = (0, 0, 0), (1, 1, 1)
BAD = {
    "level-9": (OUTSIDE, "level", {"level": 9}),
    "max_voxels-0": (INVALID, "max_voxels", {"max_voxels": 0}),
    "max_voxels-1": (OUTSIDE, "max_voxels", {"max_voxels": 1}),
    "resolution-axis": (INVALID, "resolution.sizes[t]", {"resolution": {"sizes": {"t": 1}}}),
    "resolution-0": (INVALID, "resolution.sizes[x]", {"resolution": {"sizes": {"x": 0}}}),
    "resolution-nan": (INVALID, "resolution.sizes[x]", {"resolution": {"sizes": {"x": NAN}}}),
    "box-and-resolution": (
        INVALID,
        "offset",
        {"resolution": {"sizes": {"x": 1}}, "offset": ORIGIN, "shape": ONE},
    ),
    "box-and-max_voxels": (INVALID, "offset", {"max_voxels": 9, "offset": ORIGIN, "shape": ONE}),
    "two-boxes": (
        INVALID,
        "level0_box",
        {"offset": ORIGIN, "shape": ONE, "level0_box": {"offset": ORIGIN, "shape": ONE}},
    ),
    "box-and-physical": (
        INVALID,
        "physical_box",
        {"offset": ORIGIN, "shape": ONE, "physical_box": PHYSICAL},
    ),
    "level0-rank": (INVALID, "level0_box.offset", {"level0_box": {"offset": (0, 0), "shape": ONE}}),
    "level0-outside": (
        OUTSIDE,
        "level0_box.shape",
        {"level0_box": {"offset": ORIGIN, "shape": (9, 9, 9)}},
    ),
    "physical-axis": (
        INVALID,
        "physical_box.intervals[c]",
        {"physical_box": {"intervals": {"c": {"start": 0, "stop": 1}}}},
    ),
    "physical-nan": (
        INVALID,
        "physical_box.intervals[x]",
        {"physical_box": {"intervals": {"x": {"start": NAN, "stop": 1}}}},
    ),
    "physical-backwards": (
        INVALID,
        "physical_box.intervals[x]",
        {"physical_box": {"intervals": {"x": {"start": 2, "stop": 1}}}},
    ),
    "steps-rank": (INVALID, "steps", {"steps": (1, 1)}),
    "steps-0": (INVALID, "steps[1]", {"steps": (1, 0, 1)}),
    "projection-method": (INVALID, "projection.method", {"projection": {"axes": ["z"]}}),
    "projection-unknown": (
        INVALID,
        "projection.method",
        {"projection": {"method": 99, "axes": ["z"]}},
    ),
    "projection-no-axis": (INVALID, "projection.axes", {"projection": {"method": 1}}),
    "projection-axis": (
        INVALID,
        "projection.axes[1]",
        {"projection": {"method": 1, "axes": ["z", "t"]}},
    ),
    "projection-twice": (
        INVALID,
        "projection.axes[1]",
        {"projection": {"method": 1, "axes": ["z", "z"]}},
    ),
    "projection-of-nothing": (
        INVALID,
        "projection.axes",
        {"projection": {"method": 1, "axes": ["z"]}, "offset": ORIGIN, "shape": (0, 1, 1)},
    ),
    "data-type": (INVALID, "conversion.data_type", {"conversion": {"data_type": 77}}),
    "window-equal": (
        INVALID,
        "conversion.window",
        {"conversion": {"window": {"start": 1, "end": 1}}},
    ),
    "window-infinite": (
        INVALID,
        "conversion.window",
        {"conversion": {"window": {"start": 0, "end": INF}}},
    ),
    "window-too-wide": (
        INVALID,
        "conversion.window",
        {"conversion": {"window": {"start": -1.7e308, "end": 1.7e308}}},
    ),
}


@pytest.mark.parametrize(("code", "field", "fields"), BAD.values(), ids=BAD)
def test_bad_reads(
    subject: Subject, code: grpc.StatusCode, field: str, fields: dict[str, Any]
) -> None:
    for method in ("ReadRegion", "ReadSmall"):
        with pytest.raises(grpc.RpcError) as error:
            subject.raw.call(method, request(image=subject.name, **fields))
        check(error.value, code, code.name, field)


def test_a_mean_of_too_many_pixels(raw: RawServer, name: str) -> None:
    from tests.service.subject import good_spec

    spec = good_spec(name)
    spec.data_type = "DATA_TYPE_UINT64"
    spec.axes[0].size = 2**31 + 1
    raw.call("CreateImage", service_pb2.CreateImageRequest(spec=spec))
    with pytest.raises(grpc.RpcError) as error:
        raw.call(
            "ReadRegion", request(image=name, projection={"method": "METHOD_MEAN", "axes": ["z"]})
        )
    check(error.value, TOO_MUCH, "LIMIT_EXCEEDED", "projection.axes")
    assert str(2**31) in failure(error.value).message


ARGUMENTS = {
    "resolution": {"level": 1, "resolution": 1.0},
    "max_voxels": {"level": 1, "max_voxels": 9},
    "physical": {"physical": {"x": (0, 1)}, "offset": (0, 0, 0, 0)},
    "physical['q']": {"physical": {"q": (0, 1)}},
    "physical['x']": {"physical": {"x": (1, 0)}},
    "along": {"along": "z"},
    "projection": {"projection": "sum", "along": "z"},
    "steps[0]": {"steps": (0, 1, 1, 1)},
    "steps['q']": {"steps": {"q": 1}},
    "window": {"window": (3, 3)},
    "dtype": {"dtype": "complex64"},
    "if_newer_than": {"if_newer_than": -1},
}


@pytest.mark.parametrize(("field", "arguments"), ARGUMENTS.items(), ids=ARGUMENTS)
def test_bad_arguments(stack: ziggurat.Image, field: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ziggurat.InvalidArgument) as error:
        stack.fetch(**arguments)
    assert error.value.field == field


def test_out_takes_any_result(stack: ziggurat.Image) -> None:
    out = np.zeros((2, 1, 40, 50), ">f4")
    found = stack.read(projection="max", along="z", dtype="float32", out=out)
    assert found is out
    assert (out == stack.read().max(axis=1, keepdims=True)).all()
    with pytest.raises(ziggurat.InvalidArgument):
        stack.read(resolution=1.0, out=np.zeros((1, 1, 1, 1), "uint16"))


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["--level", "1", "--box", "1,2:5,:,3:20"], {"box": np.s_[1:2, 2:5, :, 3:20], "level": 1}),
        (["--resolution", "z=4,y=1.0"], {"resolution": {"z": 4.0, "y": 1.0}}),
        (
            ["--max-voxels", "3000", "--physical", "z=3:9,x=2:7.5"],
            {"max_voxels": 3000, "physical": {"z": (3, 9), "x": (2, 7.5)}},
        ),
        (
            ["--level0", "--level", "2", "--box", ":,1:8,3:30,:", "--exact"],
            {"level0": True, "level": 2, "box": np.s_[:, 1:8, 3:30, :], "exact": True},
        ),
        (
            ["--steps", "z=2,x=7", "--window", "100,30000", "--dtype", "uint8"],
            {"steps": {"z": 2, "x": 7}, "window": (100, 30000), "dtype": "uint8"},
        ),
        (
            ["--mean", "--along", "z", "--encoding", "blosc", "--steps", "y=3"],
            {"projection": "mean", "along": "z", "steps": {"y": 3}},
        ),
    ],
    ids=["box", "resolution", "physical", "level0", "steps", "projection"],
)
@pytest.mark.parametrize("slab_bytes", [2**26, 600])
def test_the_command_writes_what_a_read_gives(
    stack: ziggurat.Image,
    arguments: list[str],
    options: dict[str, Any],
    slab_bytes: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_slabs, "SLAB_BYTES", slab_bytes)
    file = tmp_path / "a.tif"
    command = ["get", stack.name, str(file), "--server", stack.server, *arguments]
    done = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    wanted = stack.fetch(**options)
    found = tifffile.imread(file)
    # The file's order is z, c.
    assert same_bytes(np.squeeze(np.swapaxes(wanted.array, 0, 1)), np.squeeze(found))
    spacing = dict(zip("czyx", wanted.spacing, strict=True))
    with TiffStack(file) as made:
        known = {axis: spacing[axis] for axis in made.voxel_size}
        assert made.voxel_size == pytest.approx(known, rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--steps", "z"], "z=4,y=2"),
        (["--physical", "z=4"], "z=2:4.5"),
        (["--window", "5"], "100,2000"),
        (["--resolution", "fine"], "2.5"),
        (["--max-voxels", "5", "--level", "1"], "max_voxels"),
        (["--max"], "along"),
        (["--along", "z"], "along"),
        (["--box", "1:1"], "no pixels"),
        (["--dtype", "complex64"], "dtype"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_command_refuses(
    stack: ziggurat.Image, arguments: list[str], said: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.tif"
    command = ["get", stack.name, str(file), "--server", stack.server, *arguments]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code in (1, 2)
    assert said in done.output
    assert not file.exists()
