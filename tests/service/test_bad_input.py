"""Does every bad request get its status, name its field, and change nothing?

Through raw stubs, so that requests no client of ours would make arrive too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc
import pytest
from ziggurat_proto.v1 import image_pb2, read_pb2, service_pb2

from tests.service.subject import (
    GARBAGE,
    INVALID,
    MISSING,
    OUTSIDE,
    SHAPE,
    TAKEN,
    TOO_MUCH,
    Subject,
    check,
    good_spec,
)
from tests.support.raw import RawServer, failure


class CreateCase(NamedTuple):
    change: Callable[[image_pb2.ImageSpec], object]
    field: str
    code: grpc.StatusCode = INVALID
    reason: str = "INVALID_ARGUMENT"


def named(name: str) -> CreateCase:
    return CreateCase(lambda spec: setattr(spec, "name", name), "spec.name")


def axis(index: int, **values: object) -> CreateCase:
    (member,) = values
    return CreateCase(
        lambda spec: setattr(spec.axes[index], member, values[member]),
        f"spec.axes[{index}].{member}",
    )


def axes(text: str, field: str = "spec.axes") -> CreateCase:
    def change(spec: image_pb2.ImageSpec) -> None:
        spec.ClearField("axes")
        spec.ClearField("layout")
        for letter in text:
            spec.axes.add(name=letter, size=4)

    return CreateCase(change, field)


def layout(field: str, change: Callable[[image_pb2.LayoutRequest], object]) -> CreateCase:
    return CreateCase(lambda spec: change(spec.layout), f"spec.layout.{field}")


def sizes(member: str, *numbers: int, field: str = "") -> CreateCase:
    def change(asked: image_pb2.LayoutRequest) -> None:
        getattr(asked, member).sizes[:] = numbers

    return layout(field or member, change)


def step(*numbers: int) -> CreateCase:
    return layout("factors[0]", lambda asked: asked.factors.add(sizes=numbers))


def codec(kind: str, level: int) -> CreateCase:
    def change(asked: image_pb2.LayoutRequest) -> None:
        getattr(asked.codec, kind).level = level

    return layout(f"codec.{kind}.level", change)


def filled(data_type: str, **value: object) -> CreateCase:
    def change(spec: image_pb2.ImageSpec) -> None:
        spec.data_type = data_type
        spec.fill_value.CopyFrom(image_pb2.Scalar(**value))

    return CreateCase(change, "spec.fill_value")


def labels(field: str, **values: object) -> CreateCase:
    def change(spec: image_pb2.ImageSpec) -> None:
        spec.kind = image_pb2.IMAGE_KIND_LABELS
        for member, value in values.items():
            setattr(spec, member, value)

    return CreateCase(change, f"spec.{field}")


CREATE = {
    "name-empty": named(""),
    "name-traversal": named("../escape"),
    "name-traversal-inside": named("lab/../../escape"),
    "name-dot": named("lab/./run"),
    "name-absolute": named("/etc/passwd"),
    "name-doubled-slash": named("lab//run"),
    "name-trailing-slash": named("lab/run/"),
    "name-backslash": named("lab\\..\\run"),
    "name-hidden": named(".hidden"),
    "name-reserved-underscore": named("lab/_tmp"),
    "name-reserved-suffix": named("lab/run.ome.zarr"),
    "name-reserved-document": named("lab/zarr.json"),
    "name-device": named("lab/NUL"),
    "name-nul-byte": named("lab/a\0b"),
    "name-line-feed": named("lab/a\nb"),
    "name-long-segment": named("a" * 129),
    "name-long-segment-in-bytes": named("\u00e9" * 65),
    "name-many-segments": named("/".join("a" * 17)),
    "axes-none": axes(""),
    "axes-one": axes("x"),
    "axes-six": axes("tczzyx"),
    "axes-order": axes("zxy"),
    "axes-twice": axes("yyx"),
    "axes-without-x": axes("tzy"),
    "axes-unknown": axes("qyx", "spec.axes[0].name"),
    "size-zero": axis(0, size=0),
    "size-2**63": axis(1, size=2**63),
    "size-2**64-1": axis(2, size=2**64 - 1),
    "size-product": CreateCase(
        lambda spec: [setattr(a, "size", 2**40) for a in spec.axes], "spec.axes"
    ),
    "voxel-nan": axis(0, scale=math.nan),
    "voxel-negative": axis(1, scale=-0.5),
    "voxel-zero": axis(2, scale=0.0),
    "voxel-infinite": axis(2, scale=math.inf),
    "unit-long": axis(0, unit="m" * 65),
    "dtype-absent": CreateCase(lambda spec: spec.ClearField("data_type"), "spec.data_type"),
    "dtype-unknown": CreateCase(lambda spec: setattr(spec, "data_type", 99), "spec.data_type"),
    "downsampling-unknown": CreateCase(
        lambda spec: setattr(spec, "downsampling", 99), "spec.downsampling"
    ),
    "kind-unknown": CreateCase(lambda spec: setattr(spec, "kind", 3), "spec.kind"),
    "labels-mean": labels("downsampling", downsampling=image_pb2.DOWNSAMPLING_MEAN),
    "labels-median": labels("downsampling", downsampling=image_pb2.DOWNSAMPLING_MEDIAN),
    "labels-gaussian": labels("downsampling", downsampling=image_pb2.DOWNSAMPLING_GAUSSIAN),
    "labels-of-floats": labels("data_type", data_type=image_pb2.DATA_TYPE_FLOAT32),
    "labels-of-what": CreateCase(
        lambda spec: setattr(spec, "labels_of", "lab/there"), "spec.labels_of"
    ),
    "fill-nan-for-minima": CreateCase(
        lambda spec: (
            setattr(spec, "data_type", image_pb2.DATA_TYPE_FLOAT32),
            setattr(spec, "downsampling", image_pb2.DOWNSAMPLING_MIN),
            setattr(spec.fill_value, "real", math.nan),
        ),
        "spec.fill_value",
    ),
    "chunk-odd-for-factors": CreateCase(
        lambda spec: (
            spec.layout.chunk_shape.sizes.__setitem__(1, 9),
            spec.layout.factors.add(sizes=(1, 2, 2)),
        ),
        "spec.layout.factors[0]",
    ),
    "chunk-zero": sizes("chunk_shape", 2, 0, 8, field="chunk_shape[1]"),
    "chunk-rank": sizes("chunk_shape", 8, 8),
    "chunk-too-large": sizes("chunk_shape", 1, 2**20, 2**20),
    "shard-not-multiple": sizes("shard_shape", 4, 20, 16),
    "shard-zero": sizes("shard_chunks", 1, 0, 1, field="shard_chunks[1]"),
    "shard-rank": sizes("shard_chunks", 2, 2),
    "shard-below-a-chunk": layout("shard_bytes", lambda asked: setattr(asked, "shard_bytes", 100)),
    "shard-many-chunks": sizes("shard_chunks", 1024, 1024, 2),
    "factor-of-three": step(1, 3, 3),
    "factor-zero": CreateCase(
        lambda spec: spec.layout.factors.add(sizes=(1, 0, 2)), "spec.layout.factors[0][1]"
    ),
    "factors-all-one": step(1, 1, 1),
    "factors-rank": step(2, 2),
    "factors-and-levels": CreateCase(
        lambda spec: (
            spec.layout.factors.add(sizes=(1, 2, 2)),
            setattr(spec.layout, "level_count", 5),
        ),
        "spec.layout.level_count",
    ),
    "levels-33": layout("level_count", lambda asked: setattr(asked, "level_count", 33)),
    "levels-more-than-there-are": layout(
        "level_count", lambda asked: setattr(asked, "level_count", 20)
    ),
    "codec-blosc-10": codec("blosc", 10),
    "codec-zstd-23": codec("zstd", 23),
    "codec-zstd-too-low": codec("zstd", -131073),
    "codec-gzip-10": codec("gzip", 10),
    "codec-blosc-shuffle": layout(
        "codec.blosc.shuffle", lambda asked: setattr(asked.codec.blosc, "shuffle", 9)
    ),
    "fill-too-large": filled("DATA_TYPE_UINT8", unsigned_integer=256),
    "fill-negative": filled("DATA_TYPE_UINT16", signed_integer=-1),
    "fill-fraction": filled("DATA_TYPE_INT16", real=0.5),
    "fill-nan-for-integers": filled("DATA_TYPE_INT16", real=math.nan),
    "channels-without-c": CreateCase(lambda spec: spec.channels.add(label="dapi"), "spec.channels"),
    "channel-window": CreateCase(
        lambda spec: spec.channels.add(window=image_pb2.Window(start=2, end=1)),
        "spec.channels[0].window",
    ),
    "channel-color": CreateCase(
        lambda spec: spec.channels.add(color="green"), "spec.channels[0].color"
    ),
}


@pytest.mark.parametrize("case", CREATE.values(), ids=CREATE)
def test_create(subject: Subject, case: CreateCase) -> None:
    spec = good_spec(subject.name + "-bad")
    case.change(spec)
    before = subject.state()
    with pytest.raises(grpc.RpcError) as error:
        subject.raw.call("CreateImage", service_pb2.CreateImageRequest(spec=spec))
    check(error.value, case.code, case.reason, case.field)
    assert subject.state() == before


def test_create_twice(subject: Subject) -> None:
    before = subject.state()
    spec = good_spec(subject.name)
    spec.data_type = "DATA_TYPE_UINT8"
    with pytest.raises(grpc.RpcError) as error:
        subject.raw.call("CreateImage", service_pb2.CreateImageRequest(spec=spec))
    check(error.value, TAKEN, "ALREADY_EXISTS", "spec.name")
    assert subject.state() == before


def test_names_are_taken_in_any_normal_form(raw: RawServer, name: str) -> None:
    composed, decomposed = f"{name}-\u00e9", f"{name}-e\u0301"
    raw.call("CreateImage", service_pb2.CreateImageRequest(spec=good_spec(decomposed)))
    with pytest.raises(grpc.RpcError) as error:
        raw.call("CreateImage", service_pb2.CreateImageRequest(spec=good_spec(composed)))
    check(error.value, TAKEN, "ALREADY_EXISTS", "spec.name")
    found = raw.call("GetImage", service_pb2.GetImageRequest(name=decomposed))
    assert found.name == composed


UNKNOWN = {
    "get": ("GetImage", lambda name: service_pb2.GetImageRequest(name=name), "name"),
    "delete": ("DeleteImage", lambda name: service_pb2.DeleteImageRequest(name=name), "name"),
    "read": ("ReadRegion", lambda name: read_pb2.ReadRequest(image=name), "image"),
    "build": ("BuildPyramid", lambda name: service_pb2.BuildPyramidRequest(image=name), "image"),
}


@pytest.mark.parametrize("image", ["nobody/knows", "../escape", ""], ids=["name", "path", "empty"])
@pytest.mark.parametrize(("method", "request_of", "field"), UNKNOWN.values(), ids=UNKNOWN)
def test_unknown_image(
    subject: Subject, method: str, request_of: Callable[[str], Any], field: str, image: str
) -> None:
    before = subject.state()
    with pytest.raises(grpc.RpcError) as error:
        subject.raw.call(method, request_of(image))
    check(error.value, MISSING, "NOT_FOUND", field)
    assert subject.state() == before


@pytest.mark.parametrize("letter", ["a", "\u00e9", "\n"])
def test_a_name_at_length(raw: RawServer, letter: str) -> None:
    """What is wrong with it reaches the client, though it quotes what was said."""
    for method, request in (
        ("CreateImage", service_pb2.CreateImageRequest(spec=good_spec(letter * 100_000))),
        ("GetImage", service_pb2.GetImageRequest(name=letter * 100_000)),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            raw.call(method, request)
        said = failure(refused.value)
        assert said.code in (INVALID, MISSING)
        (field,) = said.fields
        assert field.endswith("name")


def test_unknown_image_of_a_stream(subject: Subject) -> None:
    before = subject.state()
    with pytest.raises(grpc.RpcError) as error:
        subject.raw.write("nobody/knows").next()
    check(error.value, MISSING, "NOT_FOUND", "open.image")
    assert subject.state() == before


class ReadCase(NamedTuple):
    field: str
    code: grpc.StatusCode
    level: int = 0
    offset: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()


READ = {
    "level-not-there": ReadCase("level", OUTSIDE, level=9),
    "level-2**32-1": ReadCase("level", OUTSIDE, level=2**32 - 1),
    "box-outside": ReadCase("shape", OUTSIDE, offset=(0, 0, 0), shape=(4, 30, 21)),
    "box-far-outside": ReadCase("shape", OUTSIDE, offset=(0, 2**63, 0), shape=(1, 1, 1)),
    "box-overflow": ReadCase("shape", OUTSIDE, offset=(0, 1, 0), shape=(1, 2**64 - 1, 1)),
    "box-of-level-0-at-level-1": ReadCase("shape", OUTSIDE, level=1, offset=(0, 0, 0), shape=SHAPE),
    "offset-rank": ReadCase("offset", INVALID, offset=(0, 0), shape=(1, 1, 1)),
    "shape-rank": ReadCase("shape", INVALID, offset=(0, 0, 0), shape=(1, 1)),
    "shape-alone": ReadCase("offset", INVALID, shape=(1, 1, 1)),
}


@pytest.mark.parametrize("case", READ.values(), ids=READ)
def test_read(subject: Subject, case: ReadCase) -> None:
    before = subject.state()
    request = read_pb2.ReadRequest(
        image=subject.name, level=case.level, offset=case.offset, shape=case.shape
    )
    with pytest.raises(grpc.RpcError) as error:
        subject.raw.call("ReadRegion", request)
    check(error.value, case.code, case.code.name, case.field)
    assert subject.state() == before
    assert (subject.raw.read(subject.name) == subject.pixels).all()


def test_read_larger_than_the_limit(raw: RawServer, name: str) -> None:
    spec = good_spec(name)
    spec.axes[0].size = 20_000
    raw.call("CreateImage", service_pb2.CreateImageRequest(spec=spec))
    with pytest.raises(grpc.RpcError) as error:
        raw.call("ReadRegion", read_pb2.ReadRequest(image=name))
    check(error.value, TOO_MUCH, "LIMIT_EXCEEDED", "shape")
    said = failure(error.value)
    assert str(2**24) in said.message
    assert said.metadata["value"] == str(2**24)
    assert said.metadata["limit"] == "max_read_bytes"
    # What fits into the limit is read.
    rows = 2**24 // (30 * 20 * 2)
    request = read_pb2.ReadRequest(image=name, offset=(0, 0, 0), shape=(rows, 30, 20))
    assert raw.call("ReadRegion", request)


@pytest.mark.parametrize(
    "method",
    [
        "CreateImage",
        "GetImage",
        "ListImages",
        "DeleteImage",
        "GetStatus",
        "BuildPyramid",
        "ReadRegion",
        "ReadRegions",
        "ReadPlane",
    ],
)
def test_garbage_instead_of_a_message(subject: Subject, method: str) -> None:
    before = subject.state()
    with pytest.raises(grpc.RpcError) as error:
        subject.raw.call(method, GARBAGE)
    check(error.value, INVALID, "INVALID_ARGUMENT", "request")
    assert subject.state() == before


def test_an_unknown_method(raw: RawServer) -> None:
    with pytest.raises(grpc.RpcError) as error:
        raw.channel.unary_unary("/ziggurat.v1.Ziggurat/Explode")(b"", timeout=30)
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
