"""What do reads of images cost, and bring, of which nearly nothing was written?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ziggurat_engine.config import Settings
from ziggurat_engine.engine import Engine
from ziggurat_engine.errors import Cancelled, LimitExceeded
from ziggurat_engine.grid import Grid
from ziggurat_engine.reads.answers import Read
from ziggurat_engine.reads.lattice import Cells, Lattice
from ziggurat_engine.reads.planes import Plane
from ziggurat_engine.reads.selection import Selection
from ziggurat_engine.region import Region
from ziggurat_engine.spec import Axis, ImageSpec, LayoutRequest

SHAPE = (7, 40, 45)
HUGE = (3, 2**21, 2**39)
MOST = 2**21
names = map("image-{}".format, itertools.count())


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    data = tmp_path_factory.mktemp("sparse")
    made = Engine(
        Settings(
            data=data,
            kernels="reference",
            cache_bytes=2**22,
            read_part_bytes=2**10,
            max_read_chunks=MOST,
            settle_idle_seconds=3600,
        )
    )
    made.recover()
    yield made
    for name in made.names():
        made.delete(made.image(name))
    made.close()


def image_of(
    engine: Engine,
    shape: tuple[int, ...],
    dtype: str,
    fill: Any = 0,
    shard: tuple[int, ...] | None = None,
) -> Any:
    axes = tuple(Axis(name=name, size=n) for name, n in zip("zyx", shape, strict=True))
    layout = LayoutRequest(chunk_shape=(2, 4, 4), shard_chunks=shard, level_count=1)
    return engine.create(
        ImageSpec(name=next(names), axes=axes, data_type=dtype, layout=layout, fill_value=fill)
    )


def write(engine: Engine, image: Any, stream: str, boxes: list[tuple[Region, Any]]) -> None:
    """Writes the boxes; what was written stays in memory."""
    opened = engine.streams.open(image, stream)
    for sequence, (box, pixels) in enumerate(boxes, start=1):
        engine.ingest.write(opened, sequence, box, memoryview(pixels.tobytes()))
    engine.streams.release(opened)


def store(engine: Engine, image: Any, stream: str) -> None:
    opened = engine.streams.open(image, stream)
    engine.ingest.flush(opened)
    engine.streams.release(opened)


def read(engine: Engine, image: Any, **asked: Any) -> Any:
    answer = engine.query.plan(image, Read(**asked))
    out = np.empty(answer.shape, answer.dtype)
    for box, part in engine.query.parts(answer):
        out[box.slices()] = part
    return out


@given(st.data())
def test_cells_are_those_that_hold_pixels(data: st.DataObject) -> None:
    offset, count = data.draw(st.integers(0, 50)), data.draw(st.integers(0, 30))
    step, cell = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20))
    pixels = [offset + k * step for k in range(count)]
    cells = Cells(offset, count, step, cell)
    wanted = sorted({pixel // cell for pixel in pixels})
    assert list(cells) == wanted
    assert len(cells) == len(wanted)
    for index in range(-1, 40):
        assert (index in cells) == (index in wanted)
    for index in wanted:
        inside, numbers = cells.slices(index)
        assert np.arange(index * cell, (index + 1) * cell)[inside].tolist() == pixels[numbers]


def test_how_many_cells_is_known_at_once() -> None:
    lattice = Lattice.of(Region((0, 0), (2**40, 2**40)), (1, 2**20))
    assert lattice.chunks(Grid((2**40, 2**40), (4, 4))) == 2**58


@pytest.mark.parametrize("shard", [(1, 1, 1), (1, 3, 4)], ids=["files", "shards"])
@pytest.mark.parametrize(("dtype", "fill"), [("uint16", 0), ("int64", -7), ("float32", np.nan)])
def test_reads_are_those_of_numpy(
    engine: Engine, dtype: str, fill: Any, shard: tuple[int, ...]
) -> None:
    """Of what is stored, of what is in memory, and of what is both."""
    image = image_of(engine, SHAPE, dtype, fill, shard)
    pixels = np.full(SHAPE, fill, dtype)
    rng = np.random.default_rng(5)

    def more(stream: str) -> None:
        boxes = []
        for _ in range(3):
            offset = tuple(int(rng.integers(n - 3)) for n in SHAPE)
            shape = tuple(int(rng.integers(1, 4)) for _ in SHAPE)
            part = rng.integers(-50 if dtype != "uint16" else 0, 1000, shape).astype(dtype)
            boxes.append((Region(offset, shape), part))
            pixels[boxes[-1][0].slices()] = part
        write(engine, image, stream, boxes)

    @settings(max_examples=25, database=None)
    @given(st.data())
    def same(data: st.DataObject) -> None:
        offset = tuple(data.draw(st.integers(0, n // 3)) for n in SHAPE)
        shape = tuple(data.draw(st.integers(1, n - o)) for n, o in zip(SHAPE, offset, strict=True))
        steps = tuple(data.draw(st.sampled_from((1, 1, 2, 5, 9))) for _ in SHAPE)
        box = Region(offset, shape)
        asked: dict[str, Any] = {"selection": Selection(box=box), "steps": steps}
        wanted = pixels[box.slices()][tuple(slice(None, None, step) for step in steps)]
        assert np.array_equal(read(engine, image, **asked), wanted, equal_nan=dtype[0] == "f")
        method = data.draw(st.sampled_from(("max", "min", "mean")))
        along = data.draw(st.sets(st.sampled_from("zyx"), min_size=1))
        axes = tuple("zyx".index(axis) for axis in along)
        found = read(engine, image, **asked, project=(method, tuple(along)))
        if dtype[0] == "f":
            ways = {"max": np.fmax.reduce, "min": np.fmin.reduce, "mean": np.add.reduce}
            made = ways[method](wanted, axis=axes, keepdims=True)
            if method == "mean":
                made = made / (wanted.size // made.size)
            worst = {"max": -np.inf, "min": np.inf, "mean": np.nan}[method]
            made = np.where(np.isnan(made), worst, made)
            assert np.allclose(found, made, equal_nan=True)
            return
        if method != "mean":
            assert np.array_equal(found, getattr(wanted, method)(axis=axes, keepdims=True))
            return
        total = wanted.astype(object).sum(axis=axes, keepdims=True)
        count = wanted.size // total.size
        for one, whole in zip(found.ravel().tolist(), total.ravel().tolist(), strict=True):
            assert abs(one * count - whole) * 2 <= count

    same()
    more("one")
    same()
    store(engine, image, "one")
    same()
    more("two")
    same()


@pytest.fixture(scope="module")
def huge(engine: Engine) -> Any:
    """Some 10^18 pixels, of which three were written, in one corner and far from it."""
    image = image_of(engine, HUGE, "uint8", 3, (1, 1, 1))
    box, pixels = (1, 1, 3), np.array([[[7, 8, 9]]], "uint8")
    write(engine, image, "only", [(Region((1, 2**19, 8), box), pixels)])
    store(engine, image, "only")
    return image


def test_a_projection_of_a_million_absent_chunks(engine: Engine, huge: Any) -> None:
    box = Region((0, 0, 0), (2, 2**21, 12))
    assert engine.query.plan(huge, Read(Selection(box=box))).chunks > 10**6
    found = read(engine, huge, selection=Selection(box=box), project=("max", ("y",)))
    assert found.tolist() == [[[3] * 12], [[3] * 8 + [7, 8, 9, 3]]]


def test_a_pixel_of_each_of_a_million_chunks(engine: Engine, huge: Any) -> None:
    box = Region((1, 0, 9), (1, 2**21, 1))
    found = read(engine, huge, selection=Selection(box=box), steps=(1, 4, 1))
    (there,) = np.flatnonzero(found != 3)
    assert (there, found[0, there, 0]) == (2**17, 8)


def refused(engine: Engine, huge: Any, read: Read) -> tuple[str, str, str]:
    with pytest.raises(LimitExceeded) as error:
        engine.query.plan(huge, read)
    assert str(MOST) in error.value.message
    assert "max_read_chunks" in error.value.message
    details = error.value.details
    return error.value.field, details["asked"], details["value"]


def test_more_chunks_than_a_call_may_look_at(engine: Engine, huge: Any) -> None:
    box = Selection(box=Region((0, 0, 0), (1, 1, 2**24)))
    far = Read(box, steps=(1, 1, 4))
    assert refused(engine, huge, far) == ("shape", str(2**22), str(MOST))
    projected = Read(Selection(box=Region((0, 0, 0), (2, 2**21, 32))), project=("max", ("y", "x")))
    assert refused(engine, huge, projected) == ("shape", str(2**22), str(MOST))
    with pytest.raises(LimitExceeded) as error:
        engine.query.limits.check_total(1, MOST + 1, "reads")
    assert error.value.field == "reads"


def test_a_plane_of_more_chunks_than_a_call_may_look_at(engine: Engine, huge: Any) -> None:
    plane = Plane((0, 0, 0), (0, 1, 0), (0, 0, 1), 1500, 1500, 1000, "nearest")
    with pytest.raises(LimitExceeded) as error:
        engine.query.plan_plane(huge, plane)
    assert error.value.details["limit"] == "max_read_chunks"
    assert error.value.details["asked"] == str(1500**2)


@pytest.mark.parametrize("project", [None, ("max", ("y",))])
def test_who_gives_up_ends_it_in_the_middle(engine: Engine, huge: Any, project: Any) -> None:
    asked = itertools.count()
    box = Region((1, 0, 9), (1, 2**21, 1))
    answer = engine.query.plan(huge, Read(Selection(box=box), steps=(1, 4, 1), project=project))
    with pytest.raises(Cancelled):
        for _ in engine.query.parts(answer, lambda: next(asked) >= 2):
            pass
    assert next(asked) < 100
