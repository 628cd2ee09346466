"""Is a projection exact whatever its pieces are, and does it take the memory that it says?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ziggurat_engine.config import Settings
from ziggurat_engine.engine import Engine
from ziggurat_engine.errors import Cancelled, InvalidArgument
from ziggurat_engine.grid import Grid
from ziggurat_engine.reads.answers import Read
from ziggurat_engine.reads.conversion import Conversion
from ziggurat_engine.reads.lattice import Lattice
from ziggurat_engine.reads.projection import Projection, accumulator
from ziggurat_engine.region import Region
from ziggurat_engine.spec import Axis, ImageSpec, LayoutRequest
from ziggurat_engine.tiles import cut

INTEGERS = ["uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"]
FLOATS = ["float32", "float64"]


def rounded(total: int, count: int) -> int:
    quotient, rest = divmod(total, count)
    return quotient + (2 * rest > count or (2 * rest == count and quotient % 2 == 1))


@given(st.data())
def test_pieces_make_what_the_whole_would(data: st.DataObject) -> None:
    dtype = np.dtype(data.draw(st.sampled_from(INTEGERS)))
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=2, max_size=3)))
    limits = np.iinfo(dtype)
    number = st.one_of(
        st.sampled_from([limits.min, limits.max, limits.max - 1, 0]),
        st.integers(int(limits.min), int(limits.max)),
    )
    size = int(np.prod(shape))
    values = data.draw(st.lists(number, min_size=size, max_size=size))
    pixels = np.array(values, object).astype(dtype).reshape(shape)
    axes = tuple(sorted(data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))))
    cell = tuple(data.draw(st.integers(1, 3)) for _ in shape)
    exact = pixels.astype(object)
    for method in ("mean", "max", "min"):
        sums = accumulator(Projection(method, axes), shape, dtype)
        for box in cut(Grid(shape, cell), Region.whole(shape), data.draw(st.integers(1, 20))):
            sums.add(box, pixels[box.slices()])
        found = sums.result()
        if method == "mean":
            count = int(np.prod([shape[axis] for axis in axes]))
            total = np.asarray(exact.sum(axis=axes, keepdims=True))
            wanted = np.vectorize(lambda n, count=count: rounded(n, count), otypes=[object])(total)
        else:
            wanted = getattr(exact, method)(axis=axes, keepdims=True)
        assert found.dtype == dtype
        assert found.tolist() == wanted.tolist(), method


@given(st.data())
def test_a_lattice_is_what_steps_leave(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 30), min_size=2, max_size=3)))
    cell = tuple(data.draw(st.integers(1, 12)) for _ in shape)
    steps = tuple(data.draw(st.integers(1, 40)) for _ in shape)
    offset = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    size = tuple(data.draw(st.integers(0, n - o)) for n, o in zip(shape, offset, strict=True))
    grid, region = Grid(shape, cell), Region(offset, size)
    pixels = np.arange(np.prod(shape)).reshape(shape)
    wanted = pixels[region.slices()][tuple(slice(None, None, step) for step in steps)]
    lattice = Lattice.of(region, steps)
    found = np.full(wanted.shape, -1)
    counted, box = lattice.counted(grid)
    for part in cut(counted, box, data.draw(st.integers(1, 200))):
        inside = part.relative_to(box.offset)
        piece = found[inside.slices()]
        for place in lattice.part(inside).places(grid):
            whole = pixels[grid.region(place.at).slices()]
            assert (piece[place.inside] == -1).all()
            piece[place.inside] = whole[place.inside_cell]
            assert piece[place.inside].size > 0
    assert (found == wanted).all()
    if wanted.size:
        assert region.contains(lattice.covered)


# --- conversion


@given(st.data())
def test_values_are_kept_or_clipped(data: st.DataObject) -> None:
    source = np.dtype(data.draw(st.sampled_from(INTEGERS)))
    target = np.dtype(data.draw(st.sampled_from(INTEGERS)))
    limits, bounds = np.iinfo(source), np.iinfo(target)
    values = data.draw(st.lists(st.integers(int(limits.min), int(limits.max)), min_size=1))
    values += [int(limits.min), int(limits.max)]
    found = Conversion(target).apply(np.array(values, object).astype(source))
    assert found.dtype == target
    assert found.tolist() == [min(max(v, int(bounds.min)), int(bounds.max)) for v in values]


@given(
    st.sampled_from(FLOATS),
    st.sampled_from(INTEGERS),
    st.lists(st.floats(width=32), min_size=1),
)
def test_floats_round_half_to_even(source: str, target: str, values: list[float]) -> None:
    bounds = np.iinfo(target)
    values = [*values, 0.5, 1.5, 2.5, -0.5, np.inf, -np.inf, np.nan]
    found = Conversion(np.dtype(target)).apply(np.array(values, source))
    wanted = [
        0
        if np.isnan(v)
        else int(min(max(round(v) if np.isfinite(v) else v, int(bounds.min)), int(bounds.max)))
        for v in values
    ]
    assert found.tolist() == wanted


@pytest.mark.parametrize("source", INTEGERS + FLOATS)
@pytest.mark.parametrize("target", INTEGERS + FLOATS)
def test_a_window_reaches_both_ends(source: str, target: str) -> None:
    pixels = np.array([0, 10, 20, 110, 120], source)
    found = Conversion(np.dtype(target), (10.0, 110.0)).apply(pixels)
    top = 1 if found.dtype.kind == "f" else np.iinfo(target).max
    assert found.dtype == target
    assert found.tolist()[:2] == [0, 0]
    assert found.tolist()[3:] == [top, top]
    assert float(found[2]) == pytest.approx(top / 10, abs=1e-6 if top == 1 else 1)


def test_what_is_not_a_number_in_a_window() -> None:
    pixels = np.array([np.nan, -np.inf, np.inf], "float32")
    assert Conversion(np.dtype("uint64"), (0, 1)).apply(pixels).tolist() == [0, 0, 2**64 - 1]
    floats = Conversion(np.dtype("float32"), (0, 1)).apply(pixels)
    assert np.isnan(floats[0])
    assert floats[1:].tolist() == [0, 1]


@pytest.mark.parametrize("window", [(1, 1), (2, 1), (0, np.inf), (np.nan, 1), (-1.7e308, 1.7e308)])
def test_a_window_that_is_none(window: tuple[float, float]) -> None:
    with pytest.raises(InvalidArgument) as error:
        Conversion(None, window).check()
    assert error.value.field == "conversion.window"


# --- memory


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = Engine(
        Settings(
            data=tmp_path,
            kernels="reference",
            cache_bytes=2**20,
            read_part_bytes=2**12,
            read_projection_bytes=2**13,
            max_read_chunks=2**60,
            max_projected_bytes=2**60,
            read_threads=2,
        )
    )
    made.recover()
    yield made
    made.close()


def image_of(engine: Engine, *sizes: int) -> Any:
    axes = tuple(Axis(name=name, size=n) for name, n in zip("zyx", sizes, strict=True))
    layout = LayoutRequest(chunk_shape=(1, 64, 64), shard_chunks=(1, 1, 1), level_count=1)
    return engine.create(ImageSpec(name="a", axes=axes, data_type="uint16", layout=layout))


def test_a_huge_projection_counts_its_memory(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """32 MiB become 8 KiB; what it takes is in the budget, and is as little as was said."""
    image = image_of(engine, 4096, 64, 64)
    taken: list[int] = []
    beside = engine._budget.beside

    @contextmanager
    def counted(nbytes: int) -> Iterator[None]:
        before = engine._budget.clean_allowance_bytes
        with beside(nbytes):
            taken.append(nbytes)
            assert engine._budget.clean_allowance_bytes == before - nbytes
            yield

    monkeypatch.setattr(engine._budget, "beside", counted)
    answer = engine.query.plan(image, Read(project=("mean", ("z",))))
    parts = list(engine.query.parts(answer))
    assert sum(box.size for box, _ in parts) == 64 * 64
    assert len(taken) == 8
    assert max(taken) <= 2**13 + 4 * 2**12
    assert engine._budget.clean_allowance_bytes == 2**20


def test_a_projection_that_nobody_wants_stops(engine: Engine) -> None:
    image = image_of(engine, 80, 64, 64)
    stream = engine.streams.open(image, "only")
    for z in range(80):
        box, pixels = Region((z, 0, 0), (1, 64, 64)), np.ones((64, 64), "uint16")
        engine.ingest.write(stream, z + 1, box, memoryview(pixels.tobytes()))
    engine.streams.release(stream)
    looks = iter(range(50))
    answer = engine.query.plan(image, Read(project=("max", ("z", "y"))))
    with pytest.raises(Cancelled):
        list(engine.query.parts(answer, lambda: next(looks, None) is None))
    # Its turn is free again.
    for _ in range(3):
        some = engine.query.plan(image, Read(project=("max", ("y",)), steps=(40, 1, 1)))
        assert sum(box.size for box, _ in engine.query.parts(some)) == 2 * 64
