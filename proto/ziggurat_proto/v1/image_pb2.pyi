import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DataType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATA_TYPE_UNSPECIFIED: _ClassVar[DataType]
    DATA_TYPE_UINT8: _ClassVar[DataType]
    DATA_TYPE_UINT16: _ClassVar[DataType]
    DATA_TYPE_UINT32: _ClassVar[DataType]
    DATA_TYPE_UINT64: _ClassVar[DataType]
    DATA_TYPE_INT8: _ClassVar[DataType]
    DATA_TYPE_INT16: _ClassVar[DataType]
    DATA_TYPE_INT32: _ClassVar[DataType]
    DATA_TYPE_INT64: _ClassVar[DataType]
    DATA_TYPE_FLOAT32: _ClassVar[DataType]
    DATA_TYPE_FLOAT64: _ClassVar[DataType]

class BloscCompressor(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BLOSC_COMPRESSOR_UNSPECIFIED: _ClassVar[BloscCompressor]
    BLOSC_COMPRESSOR_ZSTD: _ClassVar[BloscCompressor]
    BLOSC_COMPRESSOR_LZ4: _ClassVar[BloscCompressor]

class Shuffle(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SHUFFLE_UNSPECIFIED: _ClassVar[Shuffle]
    SHUFFLE_NONE: _ClassVar[Shuffle]
    SHUFFLE_BYTE: _ClassVar[Shuffle]
    SHUFFLE_BIT: _ClassVar[Shuffle]

class Downsampling(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DOWNSAMPLING_UNSPECIFIED: _ClassVar[Downsampling]
    DOWNSAMPLING_MEAN: _ClassVar[Downsampling]
    DOWNSAMPLING_MEDIAN: _ClassVar[Downsampling]
    DOWNSAMPLING_MODE: _ClassVar[Downsampling]
    DOWNSAMPLING_MIN: _ClassVar[Downsampling]
    DOWNSAMPLING_MAX: _ClassVar[Downsampling]
    DOWNSAMPLING_STRIDE: _ClassVar[Downsampling]
    DOWNSAMPLING_GAUSSIAN: _ClassVar[Downsampling]

class PyramidMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PYRAMID_MODE_UNSPECIFIED: _ClassVar[PyramidMode]
    PYRAMID_MODE_LIVE: _ClassVar[PyramidMode]
    PYRAMID_MODE_DEFERRED: _ClassVar[PyramidMode]

class ImageKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    IMAGE_KIND_UNSPECIFIED: _ClassVar[ImageKind]
    IMAGE_KIND_IMAGE: _ClassVar[ImageKind]
    IMAGE_KIND_LABELS: _ClassVar[ImageKind]

class StreamOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STREAM_OUTCOME_UNSPECIFIED: _ClassVar[StreamOutcome]
    STREAM_OUTCOME_OPEN: _ClassVar[StreamOutcome]
    STREAM_OUTCOME_COMPLETE: _ClassVar[StreamOutcome]
    STREAM_OUTCOME_ABORTED: _ClassVar[StreamOutcome]
    STREAM_OUTCOME_ABANDONED: _ClassVar[StreamOutcome]
DATA_TYPE_UNSPECIFIED: DataType
DATA_TYPE_UINT8: DataType
DATA_TYPE_UINT16: DataType
DATA_TYPE_UINT32: DataType
DATA_TYPE_UINT64: DataType
DATA_TYPE_INT8: DataType
DATA_TYPE_INT16: DataType
DATA_TYPE_INT32: DataType
DATA_TYPE_INT64: DataType
DATA_TYPE_FLOAT32: DataType
DATA_TYPE_FLOAT64: DataType
BLOSC_COMPRESSOR_UNSPECIFIED: BloscCompressor
BLOSC_COMPRESSOR_ZSTD: BloscCompressor
BLOSC_COMPRESSOR_LZ4: BloscCompressor
SHUFFLE_UNSPECIFIED: Shuffle
SHUFFLE_NONE: Shuffle
SHUFFLE_BYTE: Shuffle
SHUFFLE_BIT: Shuffle
DOWNSAMPLING_UNSPECIFIED: Downsampling
DOWNSAMPLING_MEAN: Downsampling
DOWNSAMPLING_MEDIAN: Downsampling
DOWNSAMPLING_MODE: Downsampling
DOWNSAMPLING_MIN: Downsampling
DOWNSAMPLING_MAX: Downsampling
DOWNSAMPLING_STRIDE: Downsampling
DOWNSAMPLING_GAUSSIAN: Downsampling
PYRAMID_MODE_UNSPECIFIED: PyramidMode
PYRAMID_MODE_LIVE: PyramidMode
PYRAMID_MODE_DEFERRED: PyramidMode
IMAGE_KIND_UNSPECIFIED: ImageKind
IMAGE_KIND_IMAGE: ImageKind
IMAGE_KIND_LABELS: ImageKind
STREAM_OUTCOME_UNSPECIFIED: StreamOutcome
STREAM_OUTCOME_OPEN: StreamOutcome
STREAM_OUTCOME_COMPLETE: StreamOutcome
STREAM_OUTCOME_ABORTED: StreamOutcome
STREAM_OUTCOME_ABANDONED: StreamOutcome

class Axis(_message.Message):
    __slots__ = ("name", "size", "scale", "unit", "unbounded")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    UNBOUNDED_FIELD_NUMBER: _ClassVar[int]
    name: str
    size: int
    scale: float
    unit: str
    unbounded: bool
    def __init__(self, name: _Optional[str] = ..., size: _Optional[int] = ..., scale: _Optional[float] = ..., unit: _Optional[str] = ..., unbounded: _Optional[bool] = ...) -> None: ...

class Channel(_message.Message):
    __slots__ = ("label", "color", "window")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    COLOR_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    label: str
    color: str
    window: Window
    def __init__(self, label: _Optional[str] = ..., color: _Optional[str] = ..., window: _Optional[_Union[Window, _Mapping]] = ...) -> None: ...

class Window(_message.Message):
    __slots__ = ("start", "end")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    start: float
    end: float
    def __init__(self, start: _Optional[float] = ..., end: _Optional[float] = ...) -> None: ...

class Scalar(_message.Message):
    __slots__ = ("unsigned_integer", "signed_integer", "real")
    UNSIGNED_INTEGER_FIELD_NUMBER: _ClassVar[int]
    SIGNED_INTEGER_FIELD_NUMBER: _ClassVar[int]
    REAL_FIELD_NUMBER: _ClassVar[int]
    unsigned_integer: int
    signed_integer: int
    real: float
    def __init__(self, unsigned_integer: _Optional[int] = ..., signed_integer: _Optional[int] = ..., real: _Optional[float] = ...) -> None: ...

class Blosc(_message.Message):
    __slots__ = ("compressor", "level", "shuffle")
    COMPRESSOR_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    SHUFFLE_FIELD_NUMBER: _ClassVar[int]
    compressor: BloscCompressor
    level: int
    shuffle: Shuffle
    def __init__(self, compressor: _Optional[_Union[BloscCompressor, str]] = ..., level: _Optional[int] = ..., shuffle: _Optional[_Union[Shuffle, str]] = ...) -> None: ...

class Zstd(_message.Message):
    __slots__ = ("level",)
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    level: int
    def __init__(self, level: _Optional[int] = ...) -> None: ...

class Gzip(_message.Message):
    __slots__ = ("level",)
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    level: int
    def __init__(self, level: _Optional[int] = ...) -> None: ...

class Uncompressed(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Codec(_message.Message):
    __slots__ = ("blosc", "zstd", "gzip", "none")
    BLOSC_FIELD_NUMBER: _ClassVar[int]
    ZSTD_FIELD_NUMBER: _ClassVar[int]
    GZIP_FIELD_NUMBER: _ClassVar[int]
    NONE_FIELD_NUMBER: _ClassVar[int]
    blosc: Blosc
    zstd: Zstd
    gzip: Gzip
    none: Uncompressed
    def __init__(self, blosc: _Optional[_Union[Blosc, _Mapping]] = ..., zstd: _Optional[_Union[Zstd, _Mapping]] = ..., gzip: _Optional[_Union[Gzip, _Mapping]] = ..., none: _Optional[_Union[Uncompressed, _Mapping]] = ...) -> None: ...

class Shape(_message.Message):
    __slots__ = ("sizes",)
    SIZES_FIELD_NUMBER: _ClassVar[int]
    sizes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, sizes: _Optional[_Iterable[int]] = ...) -> None: ...

class LayoutRequest(_message.Message):
    __slots__ = ("chunk_shape", "shard_chunks", "shard_bytes", "shard_shape", "codec", "level_count", "factors")
    CHUNK_SHAPE_FIELD_NUMBER: _ClassVar[int]
    SHARD_CHUNKS_FIELD_NUMBER: _ClassVar[int]
    SHARD_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHARD_SHAPE_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    LEVEL_COUNT_FIELD_NUMBER: _ClassVar[int]
    FACTORS_FIELD_NUMBER: _ClassVar[int]
    chunk_shape: Shape
    shard_chunks: Shape
    shard_bytes: int
    shard_shape: Shape
    codec: Codec
    level_count: int
    factors: _containers.RepeatedCompositeFieldContainer[Shape]
    def __init__(self, chunk_shape: _Optional[_Union[Shape, _Mapping]] = ..., shard_chunks: _Optional[_Union[Shape, _Mapping]] = ..., shard_bytes: _Optional[int] = ..., shard_shape: _Optional[_Union[Shape, _Mapping]] = ..., codec: _Optional[_Union[Codec, _Mapping]] = ..., level_count: _Optional[int] = ..., factors: _Optional[_Iterable[_Union[Shape, _Mapping]]] = ...) -> None: ...

class Layout(_message.Message):
    __slots__ = ("chunk_shape", "shard_chunks", "codec")
    CHUNK_SHAPE_FIELD_NUMBER: _ClassVar[int]
    SHARD_CHUNKS_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    chunk_shape: Shape
    shard_chunks: Shape
    codec: Codec
    def __init__(self, chunk_shape: _Optional[_Union[Shape, _Mapping]] = ..., shard_chunks: _Optional[_Union[Shape, _Mapping]] = ..., codec: _Optional[_Union[Codec, _Mapping]] = ...) -> None: ...

class Adopted(_message.Message):
    __slots__ = ("path", "writable")
    PATH_FIELD_NUMBER: _ClassVar[int]
    WRITABLE_FIELD_NUMBER: _ClassVar[int]
    path: str
    writable: bool
    def __init__(self, path: _Optional[str] = ..., writable: _Optional[bool] = ...) -> None: ...

class ImageSpec(_message.Message):
    __slots__ = ("name", "axes", "data_type", "fill_value", "channels", "layout", "downsampling", "pyramid", "kind", "labels_of")
    NAME_FIELD_NUMBER: _ClassVar[int]
    AXES_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    FILL_VALUE_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    DOWNSAMPLING_FIELD_NUMBER: _ClassVar[int]
    PYRAMID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LABELS_OF_FIELD_NUMBER: _ClassVar[int]
    name: str
    axes: _containers.RepeatedCompositeFieldContainer[Axis]
    data_type: DataType
    fill_value: Scalar
    channels: _containers.RepeatedCompositeFieldContainer[Channel]
    layout: LayoutRequest
    downsampling: Downsampling
    pyramid: PyramidMode
    kind: ImageKind
    labels_of: str
    def __init__(self, name: _Optional[str] = ..., axes: _Optional[_Iterable[_Union[Axis, _Mapping]]] = ..., data_type: _Optional[_Union[DataType, str]] = ..., fill_value: _Optional[_Union[Scalar, _Mapping]] = ..., channels: _Optional[_Iterable[_Union[Channel, _Mapping]]] = ..., layout: _Optional[_Union[LayoutRequest, _Mapping]] = ..., downsampling: _Optional[_Union[Downsampling, str]] = ..., pyramid: _Optional[_Union[PyramidMode, str]] = ..., kind: _Optional[_Union[ImageKind, str]] = ..., labels_of: _Optional[str] = ...) -> None: ...

class StoredSize(_message.Message):
    __slots__ = ("chunks", "objects", "bytes")
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    chunks: int
    objects: int
    bytes: int
    def __init__(self, chunks: _Optional[int] = ..., objects: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class Level(_message.Message):
    __slots__ = ("shape", "factors", "scale", "translation", "stale", "stored", "stale_chunks")
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    FACTORS_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    TRANSLATION_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    STALE_CHUNKS_FIELD_NUMBER: _ClassVar[int]
    shape: _containers.RepeatedScalarFieldContainer[int]
    factors: _containers.RepeatedScalarFieldContainer[int]
    scale: _containers.RepeatedScalarFieldContainer[float]
    translation: _containers.RepeatedScalarFieldContainer[float]
    stale: bool
    stored: StoredSize
    stale_chunks: int
    def __init__(self, shape: _Optional[_Iterable[int]] = ..., factors: _Optional[_Iterable[int]] = ..., scale: _Optional[_Iterable[float]] = ..., translation: _Optional[_Iterable[float]] = ..., stale: _Optional[bool] = ..., stored: _Optional[_Union[StoredSize, _Mapping]] = ..., stale_chunks: _Optional[int] = ...) -> None: ...

class StreamInfo(_message.Message):
    __slots__ = ("stream_id", "outcome", "next_sequence", "durable", "regions", "bytes", "skipped_frames", "duplicates", "expected_frames", "held")
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    NEXT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FRAMES_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FRAMES_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    stream_id: str
    outcome: StreamOutcome
    next_sequence: int
    durable: int
    regions: int
    bytes: int
    skipped_frames: int
    duplicates: int
    expected_frames: int
    held: bool
    def __init__(self, stream_id: _Optional[str] = ..., outcome: _Optional[_Union[StreamOutcome, str]] = ..., next_sequence: _Optional[int] = ..., durable: _Optional[int] = ..., regions: _Optional[int] = ..., bytes: _Optional[int] = ..., skipped_frames: _Optional[int] = ..., duplicates: _Optional[int] = ..., expected_frames: _Optional[int] = ..., held: _Optional[bool] = ...) -> None: ...

class Image(_message.Message):
    __slots__ = ("name", "axes", "data_type", "fill_value", "channels", "layout", "downsampling", "levels", "created", "revision", "streams", "kind", "labels_of", "pyramid", "adopted")
    NAME_FIELD_NUMBER: _ClassVar[int]
    AXES_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    FILL_VALUE_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    DOWNSAMPLING_FIELD_NUMBER: _ClassVar[int]
    LEVELS_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LABELS_OF_FIELD_NUMBER: _ClassVar[int]
    PYRAMID_FIELD_NUMBER: _ClassVar[int]
    ADOPTED_FIELD_NUMBER: _ClassVar[int]
    name: str
    axes: _containers.RepeatedCompositeFieldContainer[Axis]
    data_type: DataType
    fill_value: Scalar
    channels: _containers.RepeatedCompositeFieldContainer[Channel]
    layout: Layout
    downsampling: Downsampling
    levels: _containers.RepeatedCompositeFieldContainer[Level]
    created: _timestamp_pb2.Timestamp
    revision: int
    streams: _containers.RepeatedCompositeFieldContainer[StreamInfo]
    kind: ImageKind
    labels_of: str
    pyramid: PyramidMode
    adopted: Adopted
    def __init__(self, name: _Optional[str] = ..., axes: _Optional[_Iterable[_Union[Axis, _Mapping]]] = ..., data_type: _Optional[_Union[DataType, str]] = ..., fill_value: _Optional[_Union[Scalar, _Mapping]] = ..., channels: _Optional[_Iterable[_Union[Channel, _Mapping]]] = ..., layout: _Optional[_Union[Layout, _Mapping]] = ..., downsampling: _Optional[_Union[Downsampling, str]] = ..., levels: _Optional[_Iterable[_Union[Level, _Mapping]]] = ..., created: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., revision: _Optional[int] = ..., streams: _Optional[_Iterable[_Union[StreamInfo, _Mapping]]] = ..., kind: _Optional[_Union[ImageKind, str]] = ..., labels_of: _Optional[str] = ..., pyramid: _Optional[_Union[PyramidMode, str]] = ..., adopted: _Optional[_Union[Adopted, _Mapping]] = ...) -> None: ...
