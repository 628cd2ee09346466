"""Does a plane hold what SciPy finds at its points, and does it read no more?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import scipy.ndimage
import ziggurat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ziggurat_proto.v1 import read_pb2

from tests.service.subject import INVALID, MISSING, OUTSIDE, Subject, check
from tests.support.pixels import marked
from tests.support.server import ServerProcess

SHAPE = (2, 20, 40, 50)
VOXEL = {"z": 2.0, "y": 0.5, "x": 0.5}
FILL = 7


@pytest.fixture(scope="module")
def stack(server: ServerProcess) -> Iterator[ziggurat.Image]:
    with ziggurat.connect(server.address) as client:
        image = client.create(
            "tests/planes/stack",
            axes="czyx",
            shape=SHAPE,
            dtype="uint16",
            voxel_size=VOXEL,
            chunk_shape=(1, 4, 8, 8),
            factors=[(1, 1, 2, 2), (1, 2, 2, 2)],
            fill_value=FILL,
        )
        with image.writer() as writer:
            writer.write_region(marked(SHAPE, "uint16"), (0,) * 4)
        yield image.refresh()
        client.delete(image.name)  # the tests of a module may come in two runs


def wanted(
    image: ziggurat.Image, level: int, channel: int, places: np.ndarray, order: int
) -> np.ndarray:
    """By SciPy; places: (3, rows, columns) in axis units."""
    pixels = image.level(level)[channel].astype(float)
    chosen = image.levels[level]
    sizes = np.array(pixels.shape)[:, None, None]
    places = (places - np.array(chosen.translation[1:])[:, None, None]) / np.array(
        chosen.scale[1:]
    )[:, None, None]
    found = scipy.ndimage.map_coordinates(
        pixels, np.clip(places, 0, sizes - 1), order=order, mode="nearest"
    )
    inside = ((places >= -0.5) & (places < sizes - 0.5)).all(axis=0)
    return np.where(inside, found, FILL)


NUMBERS = st.floats(-1, 1)
VECTORS = st.tuples(NUMBERS, NUMBERS, NUMBERS).filter(lambda v: np.linalg.norm(v) > 0.1)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    origin=st.tuples(st.floats(-5, 45), st.floats(-3, 23), st.floats(-3, 28)),
    down=VECTORS,
    across=VECTORS,
    spacing=st.sampled_from([0.3, 0.5, 1.0, 2.5]),
    interpolation=st.sampled_from(["nearest", "linear"]),
    c=st.integers(0, 1),
    level=st.sampled_from([None, 0, 1, 2]),
)
def test_any_plane(stack, origin, down, across, spacing, interpolation, c, level) -> None:
    down, across = (np.array(v) / np.linalg.norm(v) for v in (down, across))
    if abs(down @ across) > 0.999:
        return
    found = stack.plane(
        origin, down * 3, across, (30, 41), spacing, interpolation=interpolation, level=level, c=c
    )
    assert (found.shape, found.dtype) == ((30, 41), np.dtype("uint16"))
    i, j = np.arange(30)[None, :, None], np.arange(41)[None, None, :]
    column = np.array(origin)[:, None, None]
    places = column + (i * down[:, None, None] + j * across[:, None, None]) * spacing
    if level is None:
        # z lies 2 apart and stays so in level 1; 4 in level 2.
        level = 0 if spacing < 1 else 1
    order = 0 if interpolation == "nearest" else 1
    difference = np.abs(found - wanted(stack, level, c, places, order))
    # On a border between pixels, or of the image, rounding may go either way.
    assert (difference > 0.5 + 1e-6).mean() < 0.05, difference.max()


def test_a_plane_along_the_axes_is_the_plane(stack: ziggurat.Image) -> None:
    pixels = stack.level(0)[1]
    found = stack.plane((6.0, 0, 0), (0, 1, 0), (0, 0, 1), (40, 50), 0.5, c=1)
    assert (found == pixels[3]).all()
    found = stack.plane((0, 19.5, 0), (1, 0, 0), (0, 0, 2), (20, 1), 2.0, level=0)
    assert (found[:, 0] == stack.level(0)[0, :, 39, 0]).all()
    grey = stack.plane((6.0, 0, 0), (0, 1, 0), (0, 0, 1), (40, 50), 0.5, dtype="float32", c=1)
    assert (grey == pixels[3]).all()
    missed = stack.plane((-900.0, 0, 0), (0, 1, 0), (0, 0, 1), (3, 5), 0.5)
    assert (missed == FILL).all()
    out = np.zeros((40, 50), "uint16")
    assert stack.plane((6.0, 0, 0), (0, 1, 0), (0, 0, 1), (40, 50), 0.5, c=1, out=out) is out
    assert (out == pixels[3]).all()


def test_an_image_of_one_plane(client: ziggurat.Client, name: str) -> None:
    image = client.create(name, axes="yx", shape=(9, 11), dtype="float64", chunk_shape=(4, 4))
    pixels = np.random.default_rng(0).random((9, 11))
    with image.writer() as writer:
        writer.write_region(pixels, (0, 0))
    turned = image.plane((0.0, 10.0), (0, -1), (1, 0), (11, 9), 1.0)
    assert (turned == pixels[:, ::-1].T).all()
    half = image.plane((0.5, 0.5), (1, 0), (0, 1), (8, 10), 1.0, level=0)
    mean = (pixels[1:, 1:] + pixels[:-1, 1:] + pixels[1:, :-1] + pixels[:-1, :-1]) / 4
    np.testing.assert_allclose(half, mean, rtol=1e-12)


def test_only_the_chunks_that_it_crosses_are_read(
    serve: Callable[..., ServerProcess], name: str
) -> None:
    first = serve()
    with ziggurat.connect(first.address) as client:
        image = client.create(
            name, axes="zyx", shape=(64,) * 3, dtype="uint8", chunk_shape=(8,) * 3, levels=1
        )
        with image.writer() as writer:
            writer.write_region(np.ones((64,) * 3, "uint8"), (0, 0, 0))
    first.stop()
    # Nothing is in the cache of a server that has just started. Tiles of 64 KiB.
    server = serve(first.data, read_part_bytes="64KiB")
    with ziggurat.connect(server.address) as client:
        # The diagonal z = y, by way of the centres of pixels: 8 x 8 chunks of 512.
        found = client.open(name).plane(
            (0, 0, 0), (1, 1, 0), (0, 0, 1), (64, 45), 2**0.5, interpolation="nearest", level=0
        )
        assert (found == 1).all()
        assert client.status().cache.misses == 64


GOOD: dict[str, Any] = {
    "origin": (0, 0, 0),
    "down": (0, 1, 0),
    "across": (0, 0, 1),
    "rows": 2,
    "columns": 3,
    "spacing": 1.0,
}
NAN, INF = float("nan"), float("inf")
BAD = {
    "image": (MISSING, "image", {"image": "nobody/knows"}),
    "rank": (INVALID, "origin", {"origin": (0, 0)}),
    "nan": (INVALID, "origin", {"origin": (0, NAN, 0)}),
    "far": (INVALID, "origin", {"origin": (0, 1e300, 0)}),
    "no-direction": (INVALID, "down", {"down": (0, 0, 0)}),
    "too-long": (INVALID, "down", {"down": (1.7e308, 1.7e308, 0)}),
    "parallel": (INVALID, "across", {"across": (0, -2, 0)}),
    "no-rows": (INVALID, "rows", {"rows": 0}),
    "no-columns": (INVALID, "columns", {"columns": 0}),
    "spacing-0": (INVALID, "spacing", {"spacing": 0}),
    "spacing-inf": (INVALID, "spacing", {"spacing": INF}),
    "interpolation": (INVALID, "interpolation", {"interpolation": 9}),
    "index-axis": (INVALID, "indices[c]", {"indices": {"c": 0}}),
    "index-spatial": (INVALID, "indices[z]", {"indices": {"z": 0}}),
    "level": (OUTSIDE, "level", {"level": 9}),
    "window": (INVALID, "conversion.window", {"conversion": {"window": {"start": 1, "end": 1}}}),
}


@pytest.mark.parametrize(("code", "field", "fields"), BAD.values(), ids=BAD)
def test_bad_planes(
    subject: Subject, code: grpc.StatusCode, field: str, fields: dict[str, Any]
) -> None:
    request = read_pb2.ReadPlaneRequest(**{"image": subject.name, **GOOD, **fields})
    with pytest.raises(grpc.RpcError) as error:
        subject.raw.call("ReadPlane", request)
    check(error.value, code, code.name, field)


def test_bad_indices_and_sizes(stack: ziggurat.Image) -> None:
    plane = ((0, 0, 0), (0, 1, 0), (0, 0, 1))
    with pytest.raises(ziggurat.OutOfRange) as error:
        stack.plane(*plane, (2, 2), 1.0, c=2)
    assert error.value.field == "indices[c]"
    with pytest.raises(ziggurat.LimitExceeded):
        stack.plane(*plane, (2**20, 2**20), 1e-9)
    for field, arguments in {
        "indices['t']": {"t": 0},
        "interpolation": {"interpolation": "cubic"},
        "out": {"out": np.zeros((3, 3))},
    }.items():
        with pytest.raises(ziggurat.InvalidArgument) as refused:
            stack.plane(*plane, (2, 2), 1.0, **arguments)
        assert refused.value.field == field
