"""What `Client.create` sends, and what it refuses before anything is sent."""

import math

import numpy as np
import pytest
import ziggurat
from ziggurat._answers import image_info
from ziggurat._spec import image_spec, layout_request, parse_bytes, parse_codec
from ziggurat_proto.v1 import image_pb2

NO_LAYOUT = {
    "chunk_shape": None,
    "shard_chunks": None,
    "shard_shape": None,
    "shard": None,
    "codec": "auto",
    "levels": None,
    "factors": None,
}


def spec(**arguments):
    arguments = {
        "name": "lab/a",
        "axes": "czyx",
        "shape": (2, 3, 40, 50),
        "dtype": "uint16",
        "voxel_size": None,
        "unit": None,
        "channels": None,
        "fill_value": 0,
        "kind": "image",
        "labels_of": None,
        "downsampling": None,
        "pyramid": "live",
    } | arguments
    layout_arguments = {k: arguments.pop(k) for k in list(arguments) if k in NO_LAYOUT}
    layout = layout_request(arguments["axes"], **(NO_LAYOUT | layout_arguments))
    return image_spec(arguments.pop("name"), layout=layout, **{"unbounded": False, **arguments})


def test_the_least():
    found = spec()
    assert [(a.name, a.size, a.HasField("scale"), a.unit) for a in found.axes] == [
        ("c", 2, False, ""),
        ("z", 3, False, ""),
        ("y", 40, False, ""),
        ("x", 50, False, ""),
    ]
    assert found.data_type == image_pb2.DATA_TYPE_UINT16
    assert found.fill_value.unsigned_integer == 0
    assert found.fill_value.WhichOneof("value") == "unsigned_integer"
    assert found.layout == image_pb2.LayoutRequest()


def test_sizes_and_units():
    found = spec(
        axes="tzyx",
        voxel_size={"t": 1.5, "z": 0.5, "y": np.float32(0.25), "x": 1},
        unit="micrometer",
    )
    assert [(a.scale, a.unit) for a in found.axes] == [
        (1.5, "second"),
        (0.5, "micrometer"),
        (0.25, "micrometer"),
        (1, "micrometer"),
    ]
    found = spec(axes="tzyx", voxel_size=(1, 2, 3, 4), unit={"t": "hour", "x": "meter"})
    assert [(a.scale, a.unit) for a in found.axes] == [(1, "hour"), (2, ""), (3, ""), (4, "meter")]
    assert spec(axes=["t", "z", "y", "x"], unit="micrometer").axes[0].unit == ""


def test_channels():
    found = spec(channels=["DAPI", ziggurat.Channel("GFP", "00ff00", (0, 4000))])
    assert [c.label for c in found.channels] == ["DAPI", "GFP"]
    assert not found.channels[0].HasField("window")
    assert (found.channels[1].window.start, found.channels[1].window.end) == (0, 4000)


@pytest.mark.parametrize(
    ("dtype", "value", "member"),
    [
        ("uint8", 255, "unsigned_integer"),
        (np.int16, -5, "signed_integer"),
        (">f4", math.nan, "real"),
        ("float64", 3, "real"),
    ],
)
def test_fill_values(dtype, value, member):
    found = spec(dtype=dtype, fill_value=value).fill_value
    assert found.WhichOneof("value") == member
    assert getattr(found, member) == pytest.approx(value, nan_ok=True)


def test_layout():
    found = spec(
        chunk_shape=(1, 1, 32, 32),
        shard="1.5MiB",
        codec=ziggurat.Blosc("lz4", 5, "byte"),
        levels=2,
        factors=[(1, 1, 2, 2)],
    ).layout
    assert list(found.chunk_shape.sizes) == [1, 1, 32, 32]
    assert found.shard_bytes == 3 * 2**19
    assert found.codec.blosc == image_pb2.Blosc(
        compressor="BLOSC_COMPRESSOR_LZ4", level=5, shuffle="SHUFFLE_BYTE"
    )
    assert found.level_count == 2
    assert [list(f.sizes) for f in found.factors] == [[1, 1, 2, 2]]
    assert list(spec(shard_chunks=(1, 2, 3, 4)).layout.shard_chunks.sizes) == [1, 2, 3, 4]
    assert list(spec(shard_shape=(1, 2, 3, 4)).layout.shard_shape.sizes) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("codec", "kind"),
    [(None, "none"), ("none", "none"), (ziggurat.Zstd(-7), "zstd"), ("gzip:0", "gzip")],
)
def test_codecs(codec, kind):
    assert spec(codec=codec).layout.codec.WhichOneof("kind") == kind


def test_codec_words():
    assert parse_codec("blosc") == ziggurat.Blosc()
    assert parse_codec("Blosc-LZ4:3") == ziggurat.Blosc("lz4", 3)
    assert parse_codec("zstd:-3") == ziggurat.Zstd(-3)


def test_byte_sizes():
    assert [parse_bytes("f", s) for s in ("512", "2KiB", "1 GB", "1.5gib", 7)] == [
        512,
        2048,
        10**9,
        3 * 2**29,
        7,
    ]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"axes": "xy"}, "axes"),
        ({"axes": "zcyx"}, "axes"),
        ({"axes": "zyxx"}, "axes"),
        ({"axes": ""}, "axes"),
        ({"axes": 3}, "axes"),
        ({"shape": (1, 2, 3)}, "shape"),
        ({"shape": 7}, "shape"),
        ({"shape": (2, 3, 0, 50)}, "shape[2]"),
        ({"shape": (2, 3, 2**63, 50)}, "shape[2]"),
        ({"shape": (2, 3, 4.5, 50)}, "shape[2]"),
        ({"dtype": "complex64"}, "dtype"),
        ({"dtype": "float16"}, "dtype"),
        ({"dtype": None}, "dtype"),
        ({"dtype": "no such"}, "dtype"),
        ({"name": 3}, "name"),
        ({"voxel_size": {"z": math.nan}}, "voxel_size['z']"),
        ({"voxel_size": {"z": -1}}, "voxel_size['z']"),
        ({"voxel_size": {"z": "wide"}}, "voxel_size['z']"),
        ({"voxel_size": {"t": 1}}, "voxel_size['t']"),
        ({"voxel_size": (1, 2)}, "voxel_size"),
        ({"voxel_size": 0.1}, "voxel_size"),
        ({"unit": {"q": "m"}}, "unit['q']"),
        ({"unit": {"x": 3}}, "unit['x']"),
        ({"unit": 3}, "unit"),
        ({"channels": ["a"]}, "channels"),
        ({"channels": "ab"}, "channels"),
        ({"channels": [1, 2]}, "channels[0]"),
        ({"fill_value": -1}, "fill_value"),
        ({"fill_value": 0.5}, "fill_value"),
        ({"fill_value": 65536}, "fill_value"),
        ({"dtype": "f4", "fill_value": "x"}, "fill_value"),
        ({"chunk_shape": (1, 1)}, "chunk_shape"),
        ({"chunk_shape": (1, 0, 1, 1)}, "chunk_shape[1]"),
        ({"shard": "12 parsecs"}, "shard"),
        ({"shard": 0}, "shard"),
        ({"shard": 1, "shard_chunks": (1, 1, 1, 1)}, "shard"),
        ({"codec": "jpeg"}, "codec"),
        ({"codec": "none:3"}, "codec"),
        ({"codec": "zstd:23"}, "codec.level"),
        ({"codec": 3}, "codec"),
        ({"levels": 0}, "levels"),
        ({"levels": 33}, "levels"),
        ({"factors": [(1, 1, 2)]}, "factors[0]"),
    ],
    ids=str,
)
def test_bad_values_name_their_field(arguments, field):
    with pytest.raises(ziggurat.InvalidArgument) as caught:
        spec(**arguments)
    assert caught.value.field == field
    assert field in str(caught.value)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: ziggurat.Blosc("brotli"), "codec.compressor"),
        (lambda: ziggurat.Blosc(shuffle="no"), "codec.shuffle"),
        (lambda: ziggurat.Blosc(level=10), "codec.level"),
        (lambda: ziggurat.Gzip(True), "codec.level"),
        (lambda: ziggurat.Channel(color="green"), "channel.color"),
        (lambda: ziggurat.Channel(window=(2, 1)), "channel.window"),
        (lambda: ziggurat.Channel(window=3), "channel.window"),
        (lambda: ziggurat.Channel(window=(0, math.inf)), "channel.window"),
        (lambda: ziggurat.Channel(3), "channel.label"),
    ],
)
def test_values_check_themselves(make, field):
    with pytest.raises(ziggurat.InvalidArgument) as caught:
        make()
    assert caught.value.field == field


def test_what_a_newer_server_says_is_refused_by_name():
    image = image_pb2.Image(name="a", data_type=99)
    with pytest.raises(ziggurat.ServerError, match="99"):
        image_info(image)
