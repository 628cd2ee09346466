"""Which chunk, shard, levels and factors does an image get, and what is refused?"""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ziggurat_engine.errors import InvalidArgument
from ziggurat_engine.layout import pyramid_of, resolve
from ziggurat_engine.spec import Axis, Image, ImageSpec, LayoutRequest

KIB, MIB = 2**10, 2**20


def resolved(
    axes: str,
    shape: tuple[int, ...],
    scale: tuple[float, ...] = (),
    dtype: str = "uint16",
    fill_value: float = 0,
    downsampling: str = "mean",
    limits: dict[str, int] | None = None,
    **asked: Any,
) -> Image:
    spec = ImageSpec(
        name="a",
        axes=tuple(
            Axis(name=a, size=n, scale=s)
            for a, n, s in zip(axes, shape, scale or (1.0,) * len(shape), strict=True)
        ),
        data_type=dtype,
        fill_value=fill_value,
        downsampling=downsampling,
        layout=LayoutRequest(**asked),
    )
    return resolve(spec, **(limits or {}))


CHUNKS = {
    "2d": ("yx", (2048, 2048), "uint16", (1024, 1024)),
    "wide": ("yx", (100, 100_000), "uint16", (128, 8192)),
    "3d": ("zyx", (500, 2048, 2048), "uint16", (64, 128, 128)),
    "small": ("zyx", (5, 130, 133), "uint16", (8, 256, 256)),
    "one-pixel": ("yx", (1, 1), "float64", (1, 1)),
    "time": ("tyx", (1000, 512, 512), "uint8", (1, 512, 512)),
    "channels": ("czyx", (3, 64, 512, 512), "float32", (1, 64, 64, 128)),
    "five": ("tczyx", (10, 2, 40, 600, 600), "uint16", (1, 1, 64, 128, 128)),
}


@pytest.mark.parametrize(("axes", "shape", "dtype", "chunk"), CHUNKS.values(), ids=CHUNKS)
def test_auto_chunks(axes: str, shape: tuple[int, ...], dtype: str, chunk: tuple[int, ...]) -> None:
    assert resolved(axes, shape, dtype=dtype).layout.chunk_shape == chunk


@given(
    st.integers(1, 3).flatmap(lambda n: st.tuples(*[st.integers(1, 5000)] * n)),
    st.sampled_from(["uint8", "uint16", "float64"]),
)
def test_auto_layout_of_any_shape(shape: tuple[int, ...], dtype: str) -> None:
    """Within the targets, close to the image, until the coarsest level fits one chunk."""
    shape = (1,) * (2 - len(shape)) + shape
    image = resolved("zyx"[-len(shape) :], shape, dtype=dtype)
    layout, levels = image.layout, pyramid_of(image).levels
    nbytes = math.prod(layout.chunk_shape) * image.dtype.itemsize
    assert nbytes <= 2 * MIB
    assert nbytes * math.prod(layout.shard_chunks) <= 256 * MIB
    assert all(c < 2 * n for c, n in zip(layout.chunk_shape, shape, strict=True))
    assert all(n <= c for n, c in zip(levels[-1].shape, layout.chunk_shape, strict=True))
    for level in levels[:-1]:
        assert any(n > c for n, c in zip(level.shape, layout.chunk_shape, strict=True))


SHARDS = {
    # Chunks of 2 MiB, 16 x 16 of them a plane: whole rows first, then planes, then z.
    "default": ({}, (1, 8, 16)),
    "bytes": ({"shard_bytes": 16 * MIB}, (1, 1, 8)),
    "bytes-rows": ({"shard_bytes": 100 * MIB}, (1, 3, 16)),
    "bytes-planes": ({"shard_bytes": 1100 * MIB}, (2, 16, 16)),
    "one-chunk": ({"shard_bytes": 2 * MIB}, (1, 1, 1)),
    "chunks": ({"shard_chunks": (2, 3, 4)}, (2, 3, 4)),
    "none": ({"shard_chunks": (1, 1, 1)}, (1, 1, 1)),
    "pixels": ({"shard_shape": (128, 256, 512)}, (2, 2, 4)),
}


@pytest.mark.parametrize(("asked", "chunks"), SHARDS.values(), ids=SHARDS)
def test_shards(asked: dict[str, Any], chunks: tuple[int, ...]) -> None:
    layout = resolved("zyx", (500, 2048, 2048), chunk_shape=(64, 128, 128), **asked).layout
    assert layout.shard_chunks == chunks


FACTORS = {
    # Anisotropic: z waits until its voxel size is below twice that of y and x.
    "isotropic": ((64, 64, 64), (1, 1, 1), 8, [(2, 2, 2)] * 3),
    "anisotropic-2": ((64, 64, 64), (2, 1, 1), 8, [(1, 2, 2), *[(2, 2, 2)] * 3]),
    "anisotropic-1.99": ((64, 64, 64), (1.99, 1, 1), 8, [(2, 2, 2)] * 3),
    "anisotropic-5": (
        (16, 256, 256),
        (5, 1, 1),
        16,
        [(1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2)],
    ),
    "thin-axis": ((64, 1, 64), (1, 1, 1), 8, [(2, 1, 2)] * 3),
    "narrow-axis": ((64, 2, 64), (1, 1, 1), 8, [(2, 2, 2), (2, 1, 2), (2, 1, 2)]),
    "only-z": ((64, 1, 1), (9, 1, 1), 8, [(2, 1, 1)] * 3),
    "fits": ((8, 8, 8), (1, 1, 1), 8, []),
    "odd": ((33, 65, 65), (1, 1, 1), 16, [(2, 2, 2)] * 3),
}


@pytest.mark.parametrize(("shape", "scale", "side", "steps"), FACTORS.values(), ids=FACTORS)
def test_auto_factors(shape: Any, scale: Any, side: int, steps: list[Any]) -> None:
    found = list(resolved("zyx", shape, scale, chunk_shape=(side,) * 3).layout.factors)
    assert found == steps


def test_time_and_channels_are_never_binned() -> None:
    image = resolved("tczyx", (100, 9, 64, 64, 64), chunk_shape=(1, 1, 8, 8, 8))
    assert image.layout.factors
    assert all(step[:2] == (1, 1) for step in image.layout.factors)


def test_odd_chunks_rest() -> None:
    image = resolved("zyx", (64, 64, 64), chunk_shape=(5, 8, 8))
    assert all(step[0] == 1 for step in image.layout.factors)


def test_levels_as_many_as_asked() -> None:
    for count in (1, 2, 6):
        image = resolved("yx", (100, 100), chunk_shape=(64, 64), level_count=count)
        assert len(pyramid_of(image).levels) == count


BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "chunk-rank": ("chunk_shape", {"chunk_shape": (8,)}),
    "chunk-bytes": ("chunk_shape", {"chunk_shape": (2**13, 2**13)}),
    "shard-rank": ("shard_chunks", {"shard_chunks": (1, 1, 1)}),
    "shard-pixels-rank": ("shard_shape", {"shard_shape": (64,)}),
    "shard-pixels": ("shard_shape", {"chunk_shape": (8, 8), "shard_shape": (12, 8)}),
    "shard-bytes": ("shard_bytes", {"chunk_shape": (8, 8), "shard_bytes": 127}),
    "shard-many": ("shard_chunks", {"chunk_shape": (8, 8), "shard_chunks": (2**11, 2**10)}),
    "shard-twice": ("shard_bytes", {"shard_chunks": (1, 1), "shard_bytes": MIB}),
    "factors-rank": ("factors[0]", {"factors": ((2,),)}),
    "factors-indivisible": ("factors[1]", {"chunk_shape": (8, 8), "factors": ((2, 2), (3, 2))}),
    "factors-large": ("factors[0]", {"chunk_shape": (64, 64), "factors": ((32, 1),)}),
    "factors-nothing": ("factors[0]", {"factors": ((1, 1),)}),
    "factors-levels": ("level_count", {"factors": ((2, 2),), "level_count": 3}),
    "levels-too-many": ("level_count", {"level_count": 20}),
}


@pytest.mark.parametrize(("field", "asked"), BAD.values(), ids=BAD)
def test_refused(field: str, asked: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as error:
        resolved("yx", (100, 100), **asked)
    assert error.value.field == f"layout.{field}"


def test_no_binning_of_time_or_channels() -> None:
    with pytest.raises(InvalidArgument, match="downsamples c"):
        resolved("cyx", (2, 64, 64), chunk_shape=(2, 8, 8), factors=((2, 2, 2),))


@pytest.mark.parametrize(("value", "good"), [(0.0, True), (-1.5, True), (0.1, False)])
def test_a_fill_value_is_its_own_mean(value: float, good: bool) -> None:
    def make() -> Image:
        return resolved(
            "zyx", (64, 64, 64), dtype="float64", fill_value=value, chunk_shape=(16, 16, 16)
        )

    if good:
        make()
    else:
        with pytest.raises(InvalidArgument) as error:
            make()
        assert error.value.field == "fill_value"


def test_limits_are_those_of_the_server() -> None:
    limits = {"chunk_target_bytes": 8 * KIB, "shard_target_bytes": 64 * KIB}
    layout = resolved("yx", (1000, 1000), limits=limits).layout
    assert math.prod(layout.chunk_shape) * 2 == 8 * KIB
    assert math.prod(layout.shard_chunks) == 8


@pytest.mark.parametrize(
    ("method", "value", "good"),
    [
        ("min", math.nan, False),
        ("max", math.nan, False),
        ("min", 0.1, True),
        ("gaussian", 0.1, False),
        ("gaussian", 0.0, True),
        ("gaussian", math.nan, True),
        ("median", math.nan, True),
        ("mode", -0.0, True),
        ("stride", math.nan, True),
    ],
)
def test_a_fill_value_is_what_the_method_makes_of_it(method: str, value: float, good: bool) -> None:
    asked = {"dtype": "float32", "fill_value": value, "downsampling": method}
    if good:
        assert resolved("yx", (5000, 5000), **asked).layout.factors
        return
    with pytest.raises(InvalidArgument) as error:
        resolved("yx", (5000, 5000), **asked)
    assert error.value.field == "fill_value"


def test_gaussian_is_for_small_factors() -> None:
    assert resolved("yx", (64, 64), downsampling="gaussian", factors=((4, 3),)).layout.factors
    with pytest.raises(InvalidArgument, match="up to 4") as error:
        resolved("yx", (64, 64), downsampling="gaussian", factors=((2, 5),))
    assert error.value.field == "layout.factors"


@pytest.mark.parametrize("factors", [((3, 3),), ((2, 3), (3, 1)), ((4, 16), (3, 3))])
def test_a_chunk_left_open_is_divisible_by_the_factors(
    factors: tuple[tuple[int, ...], ...],
) -> None:
    layout = resolved("yx", (700, 900), factors=factors).layout
    assert layout.factors == factors
    for step in factors:
        assert all(c % f == 0 for c, f in zip(layout.chunk_shape, step, strict=True))
