"""Does a message become the description it means, and the description the same message?"""

from __future__ import annotations

import math
from typing import Any

import pytest
from ziggurat_engine.errors import InvalidArgument
from ziggurat_engine.server import convert
from ziggurat_engine.spec import Blosc, Channel, Codec, Gzip, Uncompressed, Zstd
from ziggurat_proto.v1 import image_pb2

DTYPES = [n for n in image_pb2.DataType.keys() if n != "DATA_TYPE_UNSPECIFIED"]  # noqa: SIM118


def message(**values: Any) -> image_pb2.ImageSpec:
    spec = image_pb2.ImageSpec(name="lab/a", data_type="DATA_TYPE_UINT8")
    for name, size in (("y", 4), ("x", 5)):
        spec.axes.add(name=name, size=size)
    spec.MergeFrom(image_pb2.ImageSpec(**values))
    return spec


@pytest.mark.parametrize("name", DTYPES)
def test_data_types(name: str) -> None:
    spec = convert.spec_of(message(data_type=name))
    assert spec.data_type == name.removeprefix("DATA_TYPE_").lower()


def test_what_is_absent_has_its_default() -> None:
    spec = convert.spec_of(message())
    assert [axis.scale for axis in spec.axes] == [1, 1]
    assert (spec.fill_value, spec.channels, spec.downsampling) == (0, (), "mean")
    assert spec.layout.chunk_shape is None
    assert (spec.layout.level_count, spec.layout.factors) == (0, ())


def test_a_scale_of_zero_is_not_absent() -> None:
    spec = message()
    spec.axes[1].scale = 0
    with pytest.raises(InvalidArgument) as error:
        convert.spec_of(spec)
    assert error.value.field == "spec.axes[1].scale"


CODECS: dict[str, tuple[image_pb2.Codec, Codec]] = {
    "absent": (image_pb2.Codec(), Blosc()),
    "blosc": (image_pb2.Codec(blosc=image_pb2.Blosc()), Blosc()),
    "blosc-0": (image_pb2.Codec(blosc=image_pb2.Blosc(level=0)), Blosc(level=0)),
    "lz4": (
        image_pb2.Codec(
            blosc=image_pb2.Blosc(
                compressor="BLOSC_COMPRESSOR_LZ4", level=9, shuffle="SHUFFLE_BYTE"
            )
        ),
        Blosc(compressor="lz4", level=9, shuffle="byte"),
    ),
    "no-shuffle": (
        image_pb2.Codec(blosc=image_pb2.Blosc(shuffle="SHUFFLE_NONE")),
        Blosc(shuffle="none"),
    ),
    "zstd": (image_pb2.Codec(zstd=image_pb2.Zstd()), Zstd(level=1)),
    "zstd-minus": (image_pb2.Codec(zstd=image_pb2.Zstd(level=-7)), Zstd(level=-7)),
    "zstd-0": (image_pb2.Codec(zstd=image_pb2.Zstd(level=0)), Zstd(level=0)),
    "gzip": (image_pb2.Codec(gzip=image_pb2.Gzip()), Gzip(level=5)),
    "none": (image_pb2.Codec(none=image_pb2.Uncompressed()), Uncompressed()),
}


@pytest.mark.parametrize(("asked", "wanted"), CODECS.values(), ids=CODECS)
def test_codecs(asked: image_pb2.Codec, wanted: Codec) -> None:
    spec = convert.spec_of(message(layout=image_pb2.LayoutRequest(codec=asked)))
    assert spec.layout.codec == wanted


FILLS: dict[str, tuple[str, dict[str, Any], float]] = {
    "unsigned": ("DATA_TYPE_UINT64", {"unsigned_integer": 2**64 - 1}, 2**64 - 1),
    "signed": ("DATA_TYPE_INT64", {"signed_integer": -(2**63)}, -(2**63)),
    "real": ("DATA_TYPE_FLOAT32", {"real": 1.5}, 1.5),
    "infinite": ("DATA_TYPE_FLOAT32", {"real": -math.inf}, -math.inf),
    "empty": ("DATA_TYPE_FLOAT64", {}, 0),
}


@pytest.mark.parametrize(("dtype", "value", "wanted"), FILLS.values(), ids=FILLS)
def test_fill_values(dtype: str, value: dict[str, Any], wanted: float) -> None:
    spec = convert.spec_of(message(data_type=dtype, fill_value=image_pb2.Scalar(**value)))
    assert spec.fill_value == wanted
    assert type(spec.fill_value) is type(wanted)


def test_channels_and_windows() -> None:
    spec = message()
    spec.axes.insert(0, image_pb2.Axis(name="c", size=2))
    spec.channels.add(label="dapi", color="00ff00", window=image_pb2.Window(start=1, end=2.5))
    spec.channels.add()
    assert convert.spec_of(spec).channels == (
        Channel(label="dapi", color="00ff00", window=(1, 2.5)),
        Channel(),
    )


def test_layouts() -> None:
    layout = image_pb2.LayoutRequest(level_count=3)
    layout.chunk_shape.sizes[:] = (2, 4)
    layout.factors.add(sizes=(1, 2))
    layout.factors.add(sizes=(2, 2))
    layout.shard_bytes = 1024
    found = convert.spec_of(message(layout=layout)).layout
    assert (found.chunk_shape, found.factors) == ((2, 4), ((1, 2), (2, 2)))
    assert (found.shard_bytes, found.shard_chunks, found.shard_shape) == (1024, None, None)
    assert found.level_count == 3
    for member in ("shard_chunks", "shard_shape"):
        getattr(layout, member).sizes[:] = (6, 8)
        found = convert.spec_of(message(layout=layout)).layout
        assert getattr(found, member) == (6, 8)
        assert found.shard_bytes is None


def test_every_field_at_fault_is_named() -> None:
    spec = message(downsampling="DOWNSAMPLING_MEAN")
    spec.axes[0].size = 0
    spec.axes[1].unit = "m" * 100
    spec.layout.codec.gzip.level = 11
    with pytest.raises(InvalidArgument) as error:
        convert.spec_of(spec)
    assert [field for field, _ in error.value.violations] == [
        "spec.axes[0].size",
        "spec.axes[1].unit",
        "spec.layout.codec.gzip.level",
    ]
    assert "got 0" in error.value.message


def test_labels_and_methods() -> None:
    found = convert.spec_of(message(kind="IMAGE_KIND_LABELS", labels_of="lab/there"))
    assert (found.kind, found.downsampling, found.labels_of) == ("labels", "mode", "lab/there")
    assert convert.spec_of(message()).labels_of is None
    for word in ("median", "mode", "min", "max", "stride", "gaussian"):
        asked = message(downsampling=f"DOWNSAMPLING_{word.upper()}")
        assert convert.spec_of(asked).downsampling == word
    with pytest.raises(InvalidArgument) as error:
        convert.spec_of(message(kind="IMAGE_KIND_LABELS", downsampling="DOWNSAMPLING_MEAN"))
    assert error.value.field == "spec.downsampling"
