from ziggurat_proto.v1 import image_pb2 as _image_pb2
from ziggurat_proto.v1 import read_pb2 as _read_pb2
from ziggurat_proto.v1 import write_pb2 as _write_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CreateImageRequest(_message.Message):
    __slots__ = ("spec",)
    SPEC_FIELD_NUMBER: _ClassVar[int]
    spec: _image_pb2.ImageSpec
    def __init__(self, spec: _Optional[_Union[_image_pb2.ImageSpec, _Mapping]] = ...) -> None: ...

class GetImageRequest(_message.Message):
    __slots__ = ("name", "measure")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MEASURE_FIELD_NUMBER: _ClassVar[int]
    name: str
    measure: bool
    def __init__(self, name: _Optional[str] = ..., measure: _Optional[bool] = ...) -> None: ...

class ListImagesRequest(_message.Message):
    __slots__ = ("prefix", "page_size", "page_token")
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    prefix: str
    page_size: int
    page_token: str
    def __init__(self, prefix: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListImagesResponse(_message.Message):
    __slots__ = ("images", "next_page_token")
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedCompositeFieldContainer[_image_pb2.Image]
    next_page_token: str
    def __init__(self, images: _Optional[_Iterable[_Union[_image_pb2.Image, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DeleteImageRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteImageResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class BuildPyramidRequest(_message.Message):
    __slots__ = ("image", "force", "offset", "shape", "up_to_level", "method")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    UP_TO_LEVEL_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    image: str
    force: bool
    offset: _containers.RepeatedScalarFieldContainer[int]
    shape: _containers.RepeatedScalarFieldContainer[int]
    up_to_level: int
    method: _image_pb2.Downsampling
    def __init__(self, image: _Optional[str] = ..., force: _Optional[bool] = ..., offset: _Optional[_Iterable[int]] = ..., shape: _Optional[_Iterable[int]] = ..., up_to_level: _Optional[int] = ..., method: _Optional[_Union[_image_pb2.Downsampling, str]] = ...) -> None: ...

class BuildPyramidProgress(_message.Message):
    __slots__ = ("level", "chunks_done", "chunks_total", "bytes_done", "bytes_total", "elapsed_seconds")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_DONE_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    BYTES_DONE_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    level: int
    chunks_done: int
    chunks_total: int
    bytes_done: int
    bytes_total: int
    elapsed_seconds: float
    def __init__(self, level: _Optional[int] = ..., chunks_done: _Optional[int] = ..., chunks_total: _Optional[int] = ..., bytes_done: _Optional[int] = ..., bytes_total: _Optional[int] = ..., elapsed_seconds: _Optional[float] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ServerStatus(_message.Message):
    __slots__ = ("version", "uptime_seconds", "draining", "kernels", "images", "open_streams", "cache", "settle", "log", "recovering", "kernel_totals", "traffic", "disks", "devices", "limits")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    UPTIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    KERNELS_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    OPEN_STREAMS_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    SETTLE_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    RECOVERING_FIELD_NUMBER: _ClassVar[int]
    KERNEL_TOTALS_FIELD_NUMBER: _ClassVar[int]
    TRAFFIC_FIELD_NUMBER: _ClassVar[int]
    DISKS_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    version: str
    uptime_seconds: float
    draining: bool
    kernels: str
    images: int
    open_streams: int
    cache: CacheStatus
    settle: SettleStatus
    log: LogStatus
    recovering: bool
    kernel_totals: KernelStatus
    traffic: TrafficStatus
    disks: _containers.RepeatedCompositeFieldContainer[DiskStatus]
    devices: _containers.RepeatedCompositeFieldContainer[DeviceStatus]
    limits: _containers.RepeatedCompositeFieldContainer[LimitStatus]
    def __init__(self, version: _Optional[str] = ..., uptime_seconds: _Optional[float] = ..., draining: _Optional[bool] = ..., kernels: _Optional[str] = ..., images: _Optional[int] = ..., open_streams: _Optional[int] = ..., cache: _Optional[_Union[CacheStatus, _Mapping]] = ..., settle: _Optional[_Union[SettleStatus, _Mapping]] = ..., log: _Optional[_Union[LogStatus, _Mapping]] = ..., recovering: _Optional[bool] = ..., kernel_totals: _Optional[_Union[KernelStatus, _Mapping]] = ..., traffic: _Optional[_Union[TrafficStatus, _Mapping]] = ..., disks: _Optional[_Iterable[_Union[DiskStatus, _Mapping]]] = ..., devices: _Optional[_Iterable[_Union[DeviceStatus, _Mapping]]] = ..., limits: _Optional[_Iterable[_Union[LimitStatus, _Mapping]]] = ...) -> None: ...

class DeviceStatus(_message.Message):
    __slots__ = ("name", "state", "memory_bytes", "batches", "failures", "last_failure")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    LAST_FAILURE_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: str
    memory_bytes: int
    batches: int
    failures: int
    last_failure: str
    def __init__(self, name: _Optional[str] = ..., state: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., batches: _Optional[int] = ..., failures: _Optional[int] = ..., last_failure: _Optional[str] = ...) -> None: ...

class TrafficStatus(_message.Message):
    __slots__ = ("regions_written", "written_bytes", "read_bytes")
    REGIONS_WRITTEN_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_BYTES_FIELD_NUMBER: _ClassVar[int]
    READ_BYTES_FIELD_NUMBER: _ClassVar[int]
    regions_written: int
    written_bytes: int
    read_bytes: int
    def __init__(self, regions_written: _Optional[int] = ..., written_bytes: _Optional[int] = ..., read_bytes: _Optional[int] = ...) -> None: ...

class DiskStatus(_message.Message):
    __slots__ = ("use", "free_bytes", "size_bytes")
    USE_FIELD_NUMBER: _ClassVar[int]
    FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    use: str
    free_bytes: int
    size_bytes: int
    def __init__(self, use: _Optional[str] = ..., free_bytes: _Optional[int] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class LimitStatus(_message.Message):
    __slots__ = ("name", "value", "used")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: int
    used: int
    def __init__(self, name: _Optional[str] = ..., value: _Optional[int] = ..., used: _Optional[int] = ...) -> None: ...

class KernelStatus(_message.Message):
    __slots__ = ("chunks", "raw_bytes", "encoded_bytes", "encode_seconds", "downsampled_bytes", "downsample_seconds", "decoded_bytes", "decode_seconds", "cpu_batches")
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    RAW_BYTES_FIELD_NUMBER: _ClassVar[int]
    ENCODED_BYTES_FIELD_NUMBER: _ClassVar[int]
    ENCODE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DOWNSAMPLED_BYTES_FIELD_NUMBER: _ClassVar[int]
    DOWNSAMPLE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DECODED_BYTES_FIELD_NUMBER: _ClassVar[int]
    DECODE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    CPU_BATCHES_FIELD_NUMBER: _ClassVar[int]
    chunks: int
    raw_bytes: int
    encoded_bytes: int
    encode_seconds: float
    downsampled_bytes: int
    downsample_seconds: float
    decoded_bytes: int
    decode_seconds: float
    cpu_batches: int
    def __init__(self, chunks: _Optional[int] = ..., raw_bytes: _Optional[int] = ..., encoded_bytes: _Optional[int] = ..., encode_seconds: _Optional[float] = ..., downsampled_bytes: _Optional[int] = ..., downsample_seconds: _Optional[float] = ..., decoded_bytes: _Optional[int] = ..., decode_seconds: _Optional[float] = ..., cpu_batches: _Optional[int] = ...) -> None: ...

class LogStatus(_message.Message):
    __slots__ = ("bytes", "appended_bytes", "syncs", "failed_syncs", "sync_seconds_max", "replayed_bytes", "error", "sync_seconds_total", "segments")
    BYTES_FIELD_NUMBER: _ClassVar[int]
    APPENDED_BYTES_FIELD_NUMBER: _ClassVar[int]
    SYNCS_FIELD_NUMBER: _ClassVar[int]
    FAILED_SYNCS_FIELD_NUMBER: _ClassVar[int]
    SYNC_SECONDS_MAX_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_BYTES_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    SYNC_SECONDS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    bytes: int
    appended_bytes: int
    syncs: int
    failed_syncs: int
    sync_seconds_max: float
    replayed_bytes: int
    error: str
    sync_seconds_total: float
    segments: int
    def __init__(self, bytes: _Optional[int] = ..., appended_bytes: _Optional[int] = ..., syncs: _Optional[int] = ..., failed_syncs: _Optional[int] = ..., sync_seconds_max: _Optional[float] = ..., replayed_bytes: _Optional[int] = ..., error: _Optional[str] = ..., sync_seconds_total: _Optional[float] = ..., segments: _Optional[int] = ...) -> None: ...

class CacheStatus(_message.Message):
    __slots__ = ("budget_bytes", "clean_bytes", "dirty_bytes", "hits", "misses", "evictions", "read_ahead", "read_ahead_used", "read_requests", "read_bytes")
    BUDGET_BYTES_FIELD_NUMBER: _ClassVar[int]
    CLEAN_BYTES_FIELD_NUMBER: _ClassVar[int]
    DIRTY_BYTES_FIELD_NUMBER: _ClassVar[int]
    HITS_FIELD_NUMBER: _ClassVar[int]
    MISSES_FIELD_NUMBER: _ClassVar[int]
    EVICTIONS_FIELD_NUMBER: _ClassVar[int]
    READ_AHEAD_FIELD_NUMBER: _ClassVar[int]
    READ_AHEAD_USED_FIELD_NUMBER: _ClassVar[int]
    READ_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    READ_BYTES_FIELD_NUMBER: _ClassVar[int]
    budget_bytes: int
    clean_bytes: int
    dirty_bytes: int
    hits: int
    misses: int
    evictions: int
    read_ahead: int
    read_ahead_used: int
    read_requests: int
    read_bytes: int
    def __init__(self, budget_bytes: _Optional[int] = ..., clean_bytes: _Optional[int] = ..., dirty_bytes: _Optional[int] = ..., hits: _Optional[int] = ..., misses: _Optional[int] = ..., evictions: _Optional[int] = ..., read_ahead: _Optional[int] = ..., read_ahead_used: _Optional[int] = ..., read_requests: _Optional[int] = ..., read_bytes: _Optional[int] = ...) -> None: ...

class SettleStatus(_message.Message):
    __slots__ = ("shards_waiting", "shards_stored", "chunks_encoded", "raw_bytes", "stored_bytes", "failures", "last_failure", "shards_failing", "blocks_made", "unsettled_chunks", "deferred_chunks")
    SHARDS_WAITING_FIELD_NUMBER: _ClassVar[int]
    SHARDS_STORED_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_ENCODED_FIELD_NUMBER: _ClassVar[int]
    RAW_BYTES_FIELD_NUMBER: _ClassVar[int]
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    LAST_FAILURE_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FAILING_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_MADE_FIELD_NUMBER: _ClassVar[int]
    UNSETTLED_CHUNKS_FIELD_NUMBER: _ClassVar[int]
    DEFERRED_CHUNKS_FIELD_NUMBER: _ClassVar[int]
    shards_waiting: int
    shards_stored: int
    chunks_encoded: int
    raw_bytes: int
    stored_bytes: int
    failures: int
    last_failure: str
    shards_failing: int
    blocks_made: int
    unsettled_chunks: int
    deferred_chunks: int
    def __init__(self, shards_waiting: _Optional[int] = ..., shards_stored: _Optional[int] = ..., chunks_encoded: _Optional[int] = ..., raw_bytes: _Optional[int] = ..., stored_bytes: _Optional[int] = ..., failures: _Optional[int] = ..., last_failure: _Optional[str] = ..., shards_failing: _Optional[int] = ..., blocks_made: _Optional[int] = ..., unsettled_chunks: _Optional[int] = ..., deferred_chunks: _Optional[int] = ...) -> None: ...
