"""How do domain values look as messages, and messages as domain values?

Checks nothing that spec.py checks: a message becomes plain values, and what pydantic
says of them becomes an InvalidArgument that names the fields of the request.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

import numpy as np
from pydantic import ValidationError
from ziggurat_proto.v1 import image_pb2, read_pb2, service_pb2

from ziggurat_engine.build import Progress
from ziggurat_engine.engine import Status
from ziggurat_engine.errors import InvalidArgument
from ziggurat_engine.images import OpenImage
from ziggurat_engine.reads.answers import Answer, PlaneAnswer, Read
from ziggurat_engine.reads.conversion import Conversion
from ziggurat_engine.reads.planes import Interpolation, Plane
from ziggurat_engine.reads.projection import Method
from ziggurat_engine.reads.selection import Selection
from ziggurat_engine.reads.staleness import Staleness
from ziggurat_engine.region import Region
from ziggurat_engine.spec import Blosc, Downsampling, Gzip, Image, ImageSpec, Model, Zstd
from ziggurat_engine.store.frames import Row
from ziggurat_engine.writes.streams import StreamInfo

T = TypeVar("T", bound=str)

_TYPES = {
    image_pb2.DataType.Value(name): name.removeprefix("DATA_TYPE_").lower()
    for name in image_pb2.DataType.keys()  # noqa: SIM118 - an enum, not a dict
    if name != "DATA_TYPE_UNSPECIFIED"
}
# Messages take an enum's member by its name too.
_NUMBERS = {name: f"DATA_TYPE_{name.upper()}" for name in _TYPES.values()}
_COMPRESSORS = {
    image_pb2.BLOSC_COMPRESSOR_UNSPECIFIED: "zstd",
    image_pb2.BLOSC_COMPRESSOR_ZSTD: "zstd",
    image_pb2.BLOSC_COMPRESSOR_LZ4: "lz4",
}
_SHUFFLES = {
    image_pb2.SHUFFLE_UNSPECIFIED: "bit",
    image_pb2.SHUFFLE_NONE: "none",
    image_pb2.SHUFFLE_BYTE: "byte",
    image_pb2.SHUFFLE_BIT: "bit",
}
_DOWNSAMPLINGS = {
    image_pb2.Downsampling.Value(name): name.removeprefix("DOWNSAMPLING_").lower()
    for name in image_pb2.Downsampling.keys()  # noqa: SIM118 - an enum, not a dict
}
_PYRAMIDS = {
    image_pb2.PYRAMID_MODE_UNSPECIFIED: "live",
    image_pb2.PYRAMID_MODE_LIVE: "live",
    image_pb2.PYRAMID_MODE_DEFERRED: "deferred",
}
_INTERPOLATIONS: dict[int, Interpolation] = {
    read_pb2.INTERPOLATION_UNSPECIFIED: "linear",
    read_pb2.INTERPOLATION_NEAREST: "nearest",
    read_pb2.INTERPOLATION_LINEAR: "linear",
}
_ENCODINGS = {
    read_pb2.ENCODING_UNSPECIFIED: "raw",
    read_pb2.ENCODING_RAW: "raw",
    read_pb2.ENCODING_BLOSC: "blosc",
}
_PROJECTIONS: dict[int, Method] = {
    read_pb2.Projection.METHOD_MAX: "max",
    read_pb2.Projection.METHOD_MIN: "min",
    read_pb2.Projection.METHOD_MEAN: "mean",
}
_KINDS = {
    image_pb2.IMAGE_KIND_UNSPECIFIED: "image",
    image_pb2.IMAGE_KIND_IMAGE: "image",
    image_pb2.IMAGE_KIND_LABELS: "labels",
}


def spec_of(message: image_pb2.ImageSpec) -> ImageSpec:
    """The ImageSpec of a CreateImageRequest; InvalidArgument names fields below "spec"."""
    values: dict[str, Any] = {
        "name": message.name,
        "axes": [_axis(axis) for axis in message.axes],
        "data_type": _known(_TYPES, message.data_type, "spec.data_type"),
        "channels": [_channel(channel) for channel in message.channels],
        "layout": _layout(message.layout),
        "kind": _known(_KINDS, message.kind, "spec.kind"),
        "pyramid": _known(_PYRAMIDS, message.pyramid, "spec.pyramid"),
    }
    method = _known(_DOWNSAMPLINGS, message.downsampling, "spec.downsampling")
    if message.labels_of:
        values["labels_of"] = message.labels_of
    if message.downsampling:
        values["downsampling"] = method
    if message.HasField("fill_value"):
        kind = message.fill_value.WhichOneof("value")
        values["fill_value"] = getattr(message.fill_value, kind) if kind else 0
    try:
        return ImageSpec.model_validate(values)
    except ValidationError as error:
        raise _invalid(error) from None
    except InvalidArgument as error:
        # Names are checked by a function of ours, whose error pydantic lets through.
        raise error.below("spec") from None


def _downsampling(image: Image) -> str:
    """The enum value of what makes its levels, as far as that is known."""
    known = image.adopted is None or image.adopted.method_known
    return f"DOWNSAMPLING_{(image.downsampling if known else 'unspecified').upper()}"


def image_message(
    open_image: OpenImage, staleness: Staleness, streams: Iterable[StreamInfo], *, measure: bool
) -> image_pb2.Image:
    """An Image; `measure` also counts what lies in the store."""
    image = open_image.image
    adopted = image.adopted
    stale_chunks = staleness.stale_chunks(open_image)
    message = image_pb2.Image(
        name=image.name,
        data_type=_NUMBERS[image.data_type],
        fill_value=_scalar(image),
        downsampling=_downsampling(image),
        kind=f"IMAGE_KIND_{image.kind.upper()}",
        pyramid=f"PYRAMID_MODE_{image.pyramid.upper()}",
        labels_of=image.labels_of or "",
        revision=open_image.base.revision,
    )
    message.created.FromDatetime(image.created)
    for axis, extent in zip(image.axes, open_image.shape(), strict=True):
        message.axes.add(
            name=axis.name, size=extent, scale=axis.scale, unit=axis.unit, unbounded=axis.unbounded
        )
    for channel in image.channels:
        added = message.channels.add(label=channel.label, color=channel.color)
        if channel.window is not None:
            added.window.start, added.window.end = channel.window
    layout = image.layout
    message.layout.chunk_shape.sizes[:] = layout.chunk_shape
    message.layout.shard_chunks.sizes[:] = layout.shard_chunks
    if adopted is None or adopted.codec_known:
        message.layout.codec.CopyFrom(_codec_message(layout.codec))
    if adopted is not None:
        message.adopted.path, message.adopted.writable = adopted.path, adopted.writable
    for k, level in enumerate(open_image.pyramid.levels):
        entry = message.levels.add(
            shape=open_image.shape(k),
            factors=level.factors,
            scale=level.scale,
            translation=level.translation,
            stale=staleness.stale(open_image, k),
            stale_chunks=stale_chunks[k],
        )
        if measure:
            size = open_image.measure(k)
            entry.stored.chunks, entry.stored.objects = size.chunks, size.objects
            entry.stored.bytes = size.bytes
    for stream in streams:
        message.streams.add(
            stream_id=stream.stream_id,
            outcome=f"STREAM_OUTCOME_{stream.outcome.name}",
            next_sequence=stream.received + 1,
            durable=stream.durable,
            regions=stream.regions,
            bytes=stream.bytes,
            skipped_frames=stream.skipped_frames,
            duplicates=stream.duplicates,
            expected_frames=stream.expected_frames,
            held=stream.held,
        )
    return message


def read_of(request: read_pb2.ReadRequest) -> Read:
    """What a ReadRequest asks for; InvalidArgument names its fields."""
    level, box = request.WhichOneof("level_choice"), request.WhichOneof("box")
    selection = Selection(
        level=request.level if level == "level" else None,
        resolution=dict(request.resolution.sizes) if level == "resolution" else None,
        max_voxels=request.max_voxels if level == "max_voxels" else None,
        box=_region(request) if request.offset or request.shape else None,
        level0_box=_region(request.level0_box) if box == "level0_box" else None,
        physical_box={
            axis: (interval.start, interval.stop)
            for axis, interval in request.physical_box.intervals.items()
        }
        if box == "physical_box"
        else None,
    )
    project = None
    if request.HasField("projection"):
        method = _known(_PROJECTIONS, request.projection.method, "projection.method")
        project = (method, tuple(request.projection.axes))
    return Read(
        selection,
        tuple(request.steps),
        project,
        _conversion(request.conversion),
        request.if_newer_than if request.HasField("if_newer_than") else None,
        _known(_ENCODINGS, request.encoding, "encoding") == "blosc",
    )


def plane_of(request: read_pb2.ReadPlaneRequest) -> Plane:
    """What a ReadPlaneRequest asks for; InvalidArgument names its fields."""
    return Plane(
        tuple(request.origin),
        tuple(request.down),
        tuple(request.across),
        request.rows,
        request.columns,
        request.spacing,
        _known(_INTERPOLATIONS, request.interpolation, "interpolation"),
        dict(request.indices),
        request.level if request.HasField("level") else None,
        _conversion(request.conversion),
    )


def plane_header(answer: PlaneAnswer) -> read_pb2.ReadHeader:
    """The header of a read of a plane."""
    level = answer.image.pyramid.levels[answer.placed.level]
    return read_pb2.ReadHeader(
        level=answer.placed.level,
        data_type=_NUMBERS[answer.dtype.name],
        offset=answer.region.offset,
        shape=answer.region.shape,
        scale=level.scale,
        translation=level.translation,
        stale=answer.stale,
        revision=answer.revision,
        result_shape=(answer.plane.rows, answer.plane.columns),
        downsampling=_downsampling(answer.image.image),
    )


def header_message(answer: Answer) -> read_pb2.ReadHeader:
    """The header of a read."""
    level = answer.image.pyramid.levels[answer.level]
    plain = answer.shape == answer.region.shape
    return read_pb2.ReadHeader(
        level=answer.level,
        data_type=_NUMBERS[answer.dtype.name],
        offset=answer.region.offset,
        shape=answer.region.shape,
        scale=level.scale,
        translation=level.translation,
        stale=answer.stale,
        revision=answer.revision,
        result_shape=() if plain else answer.shape,
        steps=() if max(answer.lattice.steps) == 1 else answer.lattice.steps,
        not_modified=not answer.modified,
        downsampling=_downsampling(answer.image.image),
        encoding=read_pb2.ENCODING_BLOSC if answer.frames else read_pb2.ENCODING_UNSPECIFIED,
    )


def method_of(number: int) -> Downsampling | None:
    """The method that a BuildPyramidRequest asks for; None: the one that there is."""
    found = _known(_DOWNSAMPLINGS, number, "method")
    return cast(Downsampling, found) if number else None


def frames_message(rows: Sequence[Row]) -> read_pb2.FrameRows:
    """Rows of an image's frames, column by column."""
    streams = {stream: k for k, stream in enumerate(sorted({row.stream for row in rows}))}
    return read_pb2.FrameRows(
        stream_ids=streams,
        stream=[streams[row.stream] for row in rows],
        sequence=[row.sequence for row in rows],
        offset=[n for row in rows for n in row.offset],
        shape=[n for row in rows for n in row.shape],
        timestamp_ns=[row.timestamp_ns for row in rows],
        metadata_json=[row.metadata for row in rows],
    )


def progress_message(progress: Progress) -> service_pb2.BuildPyramidProgress:
    """How far a build is."""
    return service_pb2.BuildPyramidProgress(
        level=progress.level,
        chunks_done=progress.chunks_done,
        chunks_total=progress.chunks_total,
        bytes_done=progress.bytes_done,
        bytes_total=progress.bytes_total,
        elapsed_seconds=progress.elapsed_seconds,
    )


def status_message(status: Status, version: str) -> service_pb2.ServerStatus:
    """The server's status."""
    settle = status.settle
    return service_pb2.ServerStatus(
        version=version,
        uptime_seconds=status.uptime_seconds,
        draining=status.draining,
        kernels=status.kernels,
        images=status.images,
        open_streams=status.open_streams,
        cache=service_pb2.CacheStatus(
            budget_bytes=status.budget_bytes,
            clean_bytes=status.clean_bytes,
            dirty_bytes=status.dirty_bytes,
            hits=status.hits,
            misses=status.misses,
            evictions=status.evictions,
            read_ahead=status.read_ahead,
            read_ahead_used=status.read_ahead_used,
            read_requests=status.read_requests,
            read_bytes=status.read_bytes,
        ),
        settle=service_pb2.SettleStatus(
            shards_waiting=status.shards_waiting,
            shards_failing=status.shards_failing,
            shards_stored=settle.shards_stored,
            chunks_encoded=settle.chunks_encoded,
            raw_bytes=settle.raw_bytes,
            stored_bytes=settle.stored_bytes,
            failures=settle.failures,
            last_failure=settle.last_failure,
            blocks_made=settle.blocks_made,
            unsettled_chunks=status.unsettled_chunks,
            deferred_chunks=status.deferred_chunks,
        ),
        log=service_pb2.LogStatus(
            bytes=status.log.disk_bytes,
            appended_bytes=status.log.record_bytes,
            syncs=status.log.syncs,
            failed_syncs=status.log.failed_syncs,
            sync_seconds_max=status.log.sync_seconds_max,
            replayed_bytes=status.replayed_bytes,
            error=status.log_error,
            sync_seconds_total=status.log.sync_seconds_total,
            segments=status.log.segments,
        ),
        recovering=status.recovering,
        kernel_totals=service_pb2.KernelStatus(**dataclasses.asdict(status.kernel_totals)),
        devices=[
            service_pb2.DeviceStatus(**dataclasses.asdict(device)) for device in status.devices
        ],
        traffic=service_pb2.TrafficStatus(
            regions_written=status.used.regions,
            written_bytes=status.used.written_bytes,
            read_bytes=status.used.read_bytes,
        ),
        disks=[
            service_pb2.DiskStatus(
                use=disk.use, free_bytes=disk.free_bytes, size_bytes=disk.total_bytes
            )
            for disk in status.disks
        ],
        limits=[service_pb2.LimitStatus(**dataclasses.asdict(use)) for use in status.limits],
    )


def _region(box: read_pb2.ReadRequest | read_pb2.Box) -> Region:
    return Region(tuple(box.offset), tuple(box.shape))


def _conversion(message: read_pb2.Conversion) -> Conversion:
    dtype = None
    if message.data_type:
        dtype = np.dtype(_known(_TYPES, message.data_type, "conversion.data_type"))
    window = None
    if message.HasField("window"):
        window = (message.window.start, message.window.end)
    return Conversion(dtype, window)


def _known(table: Mapping[Any, T], value: int, field: str) -> T:
    if value not in table:
        raise InvalidArgument(f"{field}: {value} is not supported", field=field)
    return table[value]


def _axis(axis: image_pb2.Axis) -> dict[str, Any]:
    scale = {"scale": axis.scale} if axis.HasField("scale") else {}
    values = {"name": axis.name, "size": axis.size, **scale}
    if axis.unit:
        values["unit"] = axis.unit
    return values | ({"unbounded": True} if axis.unbounded else {})


def _channel(channel: image_pb2.Channel) -> dict[str, Any]:
    values: dict[str, Any] = {"label": channel.label}
    if channel.color:
        values["color"] = channel.color
    if channel.HasField("window"):
        values["window"] = (channel.window.start, channel.window.end)
    return values


def _layout(layout: image_pb2.LayoutRequest) -> dict[str, Any]:
    values: dict[str, Any] = {
        "level_count": layout.level_count,
        "factors": [tuple(step.sizes) for step in layout.factors],
    }
    if layout.HasField("chunk_shape"):
        values["chunk_shape"] = tuple(layout.chunk_shape.sizes)
    shard = layout.WhichOneof("shard")
    if shard == "shard_bytes":
        values["shard_bytes"] = layout.shard_bytes
    elif shard is not None:
        values[shard] = tuple(getattr(layout, shard).sizes)
    codec = layout.codec.WhichOneof("kind")
    if codec is not None:
        values["codec"] = _codec(codec, getattr(layout.codec, codec))
    return values


def _codec(kind: str, message: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"kind": kind}
    if kind != "none" and message.HasField("level"):
        values["level"] = message.level
    if kind == "blosc":
        field = "spec.layout.codec.blosc"
        values["compressor"] = _known(_COMPRESSORS, message.compressor, f"{field}.compressor")
        values["shuffle"] = _known(_SHUFFLES, message.shuffle, f"{field}.shuffle")
    return values


def _codec_message(codec: Model) -> image_pb2.Codec:
    if isinstance(codec, Blosc):
        blosc = image_pb2.Blosc(
            level=codec.level,
            compressor=f"BLOSC_COMPRESSOR_{codec.compressor.upper()}",
            shuffle=f"SHUFFLE_{codec.shuffle.upper()}",
        )
        return image_pb2.Codec(blosc=blosc)
    if isinstance(codec, Zstd):
        return image_pb2.Codec(zstd=image_pb2.Zstd(level=codec.level))
    if isinstance(codec, Gzip):
        return image_pb2.Codec(gzip=image_pb2.Gzip(level=codec.level))
    return image_pb2.Codec(none=image_pb2.Uncompressed())


def _scalar(image: Image) -> image_pb2.Scalar:
    if image.dtype.kind == "f":
        return image_pb2.Scalar(real=image.fill_value)
    if image.dtype.kind == "u":
        return image_pb2.Scalar(unsigned_integer=int(image.fill_value))
    return image_pb2.Scalar(signed_integer=int(image.fill_value))


def _invalid(error: ValidationError) -> InvalidArgument:
    problems = error.errors(include_url=False)
    holders = {problem["loc"][:n] for problem in problems for n in range(len(problem["loc"]))}
    violations = []
    for problem in problems:
        if problem["type"] == "too_short" and problem["loc"] in holders:
            # Only because what it holds was refused.
            continue
        text = problem["msg"].removeprefix("Value error, ")
        location: Sequence[int | str] = problem["loc"]
        if not location:
            # A check over several fields: it begins with the field's name.
            name, _, text = text.partition(": ")
            location = (name,)
        field = "spec"
        for step in location:
            field += f"[{step}]" if isinstance(step, int) else f".{step}"
        given = problem["input"]
        shown = f", got {given!r}" if isinstance(given, str | int | float) else ""
        violations.append((field, f"{text}{shown}"))
    message = "; ".join(f"{field}: {text}" for field, text in violations)
    return InvalidArgument(message, field=violations[0][0], violations=tuple(violations))
