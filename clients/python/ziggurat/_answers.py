"""What did the server say about an image or itself, in plain Python values?

The only reader of the generated Image and ServerStatus messages.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from ziggurat_proto.v1 import image_pb2, service_pb2

from ziggurat._errors import ServerError
from ziggurat._values import (
    Blosc,
    CacheStatus,
    Channel,
    Codec,
    DeviceStatus,
    DiskStatus,
    Gzip,
    KernelStatus,
    Layout,
    Level,
    LimitStatus,
    LogStatus,
    ServerStatus,
    SettleStatus,
    Shape,
    StoredSize,
    StreamInfo,
    TrafficStatus,
    Uncompressed,
    Zstd,
)


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image as of one answer; everything has one entry an axis, in axis order."""

    name: str
    axes: str
    shape: Shape
    scale: tuple[float, ...]
    units: tuple[str, ...]
    dtype: np.dtype[Any]
    fill_value: int | float
    channels: tuple[Channel, ...]
    layout: Layout
    downsampling: str
    kind: str
    labels_of: str
    pyramid: str
    levels: tuple[Level, ...]
    created: datetime.datetime
    revision: int
    streams: tuple[StreamInfo, ...]
    unbounded: bool
    adopted_from: str
    read_only: bool


def image_info(image: image_pb2.Image) -> ImageInfo:
    """`image` as plain values. Raises ServerError for what this version does not know."""
    return ImageInfo(
        name=image.name,
        axes="".join(axis.name for axis in image.axes),
        shape=tuple(axis.size for axis in image.axes),
        scale=tuple(axis.scale if axis.HasField("scale") else 1.0 for axis in image.axes),
        units=tuple(axis.unit for axis in image.axes),
        dtype=dtype_of(image.data_type),
        fill_value=_scalar(image.fill_value),
        channels=tuple(map(_channel, image.channels)),
        layout=Layout(
            tuple(image.layout.chunk_shape.sizes),
            tuple(image.layout.shard_chunks.sizes),
            _codec(image.layout.codec) if image.layout.HasField("codec") else None,
        ),
        downsampling=method_name(image.downsampling) if image.downsampling else "",
        kind=_word(image_pb2.ImageKind, image.kind or 1, "IMAGE_KIND_"),
        labels_of=image.labels_of,
        pyramid=_word(image_pb2.PyramidMode, image.pyramid or 1, "PYRAMID_MODE_"),
        levels=tuple(_level(k, level) for k, level in enumerate(image.levels)),
        created=image.created.ToDatetime(tzinfo=datetime.UTC),
        revision=image.revision,
        streams=tuple(map(_stream, image.streams)),
        unbounded=any(axis.unbounded for axis in image.axes),
        adopted_from=image.adopted.path,
        read_only=image.HasField("adopted") and not image.adopted.writable,
    )


def method_name(number: int) -> str:
    """A Downsampling as a word. Raises ServerError for one this version does not know."""
    return _word(image_pb2.Downsampling, number, "DOWNSAMPLING_")


def server_status(status: service_pb2.ServerStatus) -> ServerStatus:
    """`status` as plain values."""
    cache, settle, kernels, log = status.cache, status.settle, status.kernel_totals, status.log
    return ServerStatus(
        version=status.version,
        uptime_seconds=status.uptime_seconds,
        draining=status.draining,
        kernels=status.kernels,
        images=status.images,
        open_streams=status.open_streams,
        cache=CacheStatus(
            budget_bytes=cache.budget_bytes,
            clean_bytes=cache.clean_bytes,
            dirty_bytes=cache.dirty_bytes,
            hits=cache.hits,
            misses=cache.misses,
            evictions=cache.evictions,
            read_ahead=cache.read_ahead,
            read_ahead_used=cache.read_ahead_used,
            read_requests=cache.read_requests,
            read_bytes=cache.read_bytes,
        ),
        settle=SettleStatus(
            shards_waiting=settle.shards_waiting,
            shards_stored=settle.shards_stored,
            chunks_encoded=settle.chunks_encoded,
            raw_bytes=settle.raw_bytes,
            stored_bytes=settle.stored_bytes,
            failures=settle.failures,
            last_failure=settle.last_failure,
            blocks_made=settle.blocks_made,
            shards_failing=settle.shards_failing,
            unsettled_chunks=settle.unsettled_chunks,
            deferred_chunks=settle.deferred_chunks,
        ),
        kernel_totals=KernelStatus(
            chunks=kernels.chunks,
            raw_bytes=kernels.raw_bytes,
            encoded_bytes=kernels.encoded_bytes,
            encode_seconds=kernels.encode_seconds,
            downsampled_bytes=kernels.downsampled_bytes,
            downsample_seconds=kernels.downsample_seconds,
            decoded_bytes=kernels.decoded_bytes,
            decode_seconds=kernels.decode_seconds,
            cpu_batches=kernels.cpu_batches,
        ),
        devices=tuple(
            DeviceStatus(
                name=device.name,
                state=device.state,
                memory_bytes=device.memory_bytes,
                batches=device.batches,
                failures=device.failures,
                last_failure=device.last_failure,
            )
            for device in status.devices
        ),
        limits=tuple(LimitStatus(each.name, each.value, each.used) for each in status.limits),
        recovering=status.recovering,
        log=LogStatus(
            bytes=log.bytes,
            segments=log.segments,
            appended_bytes=log.appended_bytes,
            syncs=log.syncs,
            failed_syncs=log.failed_syncs,
            sync_seconds_max=log.sync_seconds_max,
            sync_seconds_total=log.sync_seconds_total,
            replayed_bytes=log.replayed_bytes,
            error=log.error,
        ),
        traffic=TrafficStatus(
            regions_written=status.traffic.regions_written,
            written_bytes=status.traffic.written_bytes,
            read_bytes=status.traffic.read_bytes,
        ),
        disks=tuple(
            DiskStatus(each.use, each.free_bytes, each.size_bytes) for each in status.disks
        ),
    )


def dtype_of(data_type: int) -> np.dtype[Any]:
    """The pixel type in the machine's byte order."""
    return np.dtype(_word(image_pb2.DataType, data_type, "DATA_TYPE_"))


def _word(enum: Any, number: int, prefix: str) -> str:
    try:
        name = str(enum.Name(number))
    except ValueError:
        raise _newer(f"{prefix.rstrip('_')} {number}") from None
    if number == 0:
        raise _newer(name)
    return name.removeprefix(prefix).lower()


def _scalar(scalar: image_pb2.Scalar) -> int | float:
    member = scalar.WhichOneof("value")
    return cast("int | float", getattr(scalar, member)) if member else 0


def _channel(channel: image_pb2.Channel) -> Channel:
    window = (channel.window.start, channel.window.end) if channel.HasField("window") else None
    return Channel(channel.label, channel.color or "FFFFFF", window)


def _codec(codec: image_pb2.Codec) -> Codec:
    match codec.WhichOneof("kind"):
        case "blosc":
            blosc = codec.blosc
            compressor = _word(
                image_pb2.BloscCompressor, blosc.compressor or 1, "BLOSC_COMPRESSOR_"
            )
            shuffle = _word(image_pb2.Shuffle, blosc.shuffle or 3, "SHUFFLE_")
            level = blosc.level if blosc.HasField("level") else 1
            return Blosc(cast("Any", compressor), level, cast("Any", shuffle))
        case "zstd":
            return Zstd(codec.zstd.level if codec.zstd.HasField("level") else 1)
        case "gzip":
            return Gzip(codec.gzip.level if codec.gzip.HasField("level") else 5)
        case "none":
            return Uncompressed()
    raise _newer("codec")


def _level(index: int, level: image_pb2.Level) -> Level:
    stored = level.stored
    return Level(
        index=index,
        shape=tuple(level.shape),
        factors=tuple(level.factors),
        scale=tuple(level.scale),
        translation=tuple(level.translation),
        stale=level.stale,
        stale_chunks=level.stale_chunks,
        stored=StoredSize(stored.chunks, stored.objects, stored.bytes)
        if level.HasField("stored")
        else None,
    )


def _stream(stream: image_pb2.StreamInfo) -> StreamInfo:
    return StreamInfo(
        stream_id=stream.stream_id,
        outcome=_word(image_pb2.StreamOutcome, stream.outcome, "STREAM_OUTCOME_"),
        next_sequence=stream.next_sequence,
        durable=stream.durable,
        regions=stream.regions,
        bytes=stream.bytes,
        skipped_frames=stream.skipped_frames,
        duplicates=stream.duplicates,
        expected_frames=stream.expected_frames if stream.HasField("expected_frames") else None,
        held=stream.held,
    )


def _newer(what: str) -> ServerError:
    return ServerError(
        f"the server names a {what} that this client does not know: is it newer?",
        reason="UNKNOWN_VALUE",
    )
