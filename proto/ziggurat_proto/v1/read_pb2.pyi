from ziggurat_proto.v1 import image_pb2 as _image_pb2
from ziggurat_proto.v1 import memory_pb2 as _memory_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Encoding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENCODING_UNSPECIFIED: _ClassVar[Encoding]
    ENCODING_RAW: _ClassVar[Encoding]
    ENCODING_BLOSC: _ClassVar[Encoding]

class Interpolation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INTERPOLATION_UNSPECIFIED: _ClassVar[Interpolation]
    INTERPOLATION_NEAREST: _ClassVar[Interpolation]
    INTERPOLATION_LINEAR: _ClassVar[Interpolation]
ENCODING_UNSPECIFIED: Encoding
ENCODING_RAW: Encoding
ENCODING_BLOSC: Encoding
INTERPOLATION_UNSPECIFIED: Interpolation
INTERPOLATION_NEAREST: Interpolation
INTERPOLATION_LINEAR: Interpolation

class ReadRequest(_message.Message):
    __slots__ = ("image", "level", "resolution", "max_voxels", "offset", "shape", "level0_box", "physical_box", "exact", "steps", "projection", "conversion", "if_newer_than", "encoding", "shared_memory")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    RESOLUTION_FIELD_NUMBER: _ClassVar[int]
    MAX_VOXELS_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    LEVEL0_BOX_FIELD_NUMBER: _ClassVar[int]
    PHYSICAL_BOX_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    PROJECTION_FIELD_NUMBER: _ClassVar[int]
    CONVERSION_FIELD_NUMBER: _ClassVar[int]
    IF_NEWER_THAN_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    SHARED_MEMORY_FIELD_NUMBER: _ClassVar[int]
    image: str
    level: int
    resolution: Resolution
    max_voxels: int
    offset: _containers.RepeatedScalarFieldContainer[int]
    shape: _containers.RepeatedScalarFieldContainer[int]
    level0_box: Box
    physical_box: PhysicalBox
    exact: bool
    steps: _containers.RepeatedScalarFieldContainer[int]
    projection: Projection
    conversion: Conversion
    if_newer_than: int
    encoding: Encoding
    shared_memory: _memory_pb2.SharedMemory
    def __init__(self, image: _Optional[str] = ..., level: _Optional[int] = ..., resolution: _Optional[_Union[Resolution, _Mapping]] = ..., max_voxels: _Optional[int] = ..., offset: _Optional[_Iterable[int]] = ..., shape: _Optional[_Iterable[int]] = ..., level0_box: _Optional[_Union[Box, _Mapping]] = ..., physical_box: _Optional[_Union[PhysicalBox, _Mapping]] = ..., exact: _Optional[bool] = ..., steps: _Optional[_Iterable[int]] = ..., projection: _Optional[_Union[Projection, _Mapping]] = ..., conversion: _Optional[_Union[Conversion, _Mapping]] = ..., if_newer_than: _Optional[int] = ..., encoding: _Optional[_Union[Encoding, str]] = ..., shared_memory: _Optional[_Union[_memory_pb2.SharedMemory, _Mapping]] = ...) -> None: ...

class Box(_message.Message):
    __slots__ = ("offset", "shape")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    offset: _containers.RepeatedScalarFieldContainer[int]
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, offset: _Optional[_Iterable[int]] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class Resolution(_message.Message):
    __slots__ = ("sizes",)
    class SizesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    SIZES_FIELD_NUMBER: _ClassVar[int]
    sizes: _containers.ScalarMap[str, float]
    def __init__(self, sizes: _Optional[_Mapping[str, float]] = ...) -> None: ...

class PhysicalBox(_message.Message):
    __slots__ = ("intervals",)
    class IntervalsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Interval
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Interval, _Mapping]] = ...) -> None: ...
    INTERVALS_FIELD_NUMBER: _ClassVar[int]
    intervals: _containers.MessageMap[str, Interval]
    def __init__(self, intervals: _Optional[_Mapping[str, Interval]] = ...) -> None: ...

class Interval(_message.Message):
    __slots__ = ("start", "stop")
    START_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    start: float
    stop: float
    def __init__(self, start: _Optional[float] = ..., stop: _Optional[float] = ...) -> None: ...

class Projection(_message.Message):
    __slots__ = ("method", "axes")
    class Method(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        METHOD_UNSPECIFIED: _ClassVar[Projection.Method]
        METHOD_MAX: _ClassVar[Projection.Method]
        METHOD_MIN: _ClassVar[Projection.Method]
        METHOD_MEAN: _ClassVar[Projection.Method]
    METHOD_UNSPECIFIED: Projection.Method
    METHOD_MAX: Projection.Method
    METHOD_MIN: Projection.Method
    METHOD_MEAN: Projection.Method
    METHOD_FIELD_NUMBER: _ClassVar[int]
    AXES_FIELD_NUMBER: _ClassVar[int]
    method: Projection.Method
    axes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, method: _Optional[_Union[Projection.Method, str]] = ..., axes: _Optional[_Iterable[str]] = ...) -> None: ...

class Conversion(_message.Message):
    __slots__ = ("data_type", "window")
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    data_type: _image_pb2.DataType
    window: _image_pb2.Window
    def __init__(self, data_type: _Optional[_Union[_image_pb2.DataType, str]] = ..., window: _Optional[_Union[_image_pb2.Window, _Mapping]] = ...) -> None: ...

class ReadRegionsRequest(_message.Message):
    __slots__ = ("reads", "as_completed")
    READS_FIELD_NUMBER: _ClassVar[int]
    AS_COMPLETED_FIELD_NUMBER: _ClassVar[int]
    reads: _containers.RepeatedCompositeFieldContainer[ReadRequest]
    as_completed: bool
    def __init__(self, reads: _Optional[_Iterable[_Union[ReadRequest, _Mapping]]] = ..., as_completed: _Optional[bool] = ...) -> None: ...

class ReadRegionsResponse(_message.Message):
    __slots__ = ("pieces",)
    PIECES_FIELD_NUMBER: _ClassVar[int]
    pieces: _containers.RepeatedCompositeFieldContainer[ReadPiece]
    def __init__(self, pieces: _Optional[_Iterable[_Union[ReadPiece, _Mapping]]] = ...) -> None: ...

class ReadPiece(_message.Message):
    __slots__ = ("index", "header", "part")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    index: int
    header: ReadHeader
    part: ReadPart
    def __init__(self, index: _Optional[int] = ..., header: _Optional[_Union[ReadHeader, _Mapping]] = ..., part: _Optional[_Union[ReadPart, _Mapping]] = ...) -> None: ...

class ReadPlaneRequest(_message.Message):
    __slots__ = ("image", "origin", "down", "across", "rows", "columns", "spacing", "interpolation", "indices", "level", "exact", "conversion")
    class IndicesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    DOWN_FIELD_NUMBER: _ClassVar[int]
    ACROSS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    SPACING_FIELD_NUMBER: _ClassVar[int]
    INTERPOLATION_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    CONVERSION_FIELD_NUMBER: _ClassVar[int]
    image: str
    origin: _containers.RepeatedScalarFieldContainer[float]
    down: _containers.RepeatedScalarFieldContainer[float]
    across: _containers.RepeatedScalarFieldContainer[float]
    rows: int
    columns: int
    spacing: float
    interpolation: Interpolation
    indices: _containers.ScalarMap[str, int]
    level: int
    exact: bool
    conversion: Conversion
    def __init__(self, image: _Optional[str] = ..., origin: _Optional[_Iterable[float]] = ..., down: _Optional[_Iterable[float]] = ..., across: _Optional[_Iterable[float]] = ..., rows: _Optional[int] = ..., columns: _Optional[int] = ..., spacing: _Optional[float] = ..., interpolation: _Optional[_Union[Interpolation, str]] = ..., indices: _Optional[_Mapping[str, int]] = ..., level: _Optional[int] = ..., exact: _Optional[bool] = ..., conversion: _Optional[_Union[Conversion, _Mapping]] = ...) -> None: ...

class ListFramesRequest(_message.Message):
    __slots__ = ("image",)
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    image: str
    def __init__(self, image: _Optional[str] = ...) -> None: ...

class FrameRows(_message.Message):
    __slots__ = ("stream_ids", "stream", "sequence", "offset", "shape", "timestamp_ns", "metadata_json")
    STREAM_IDS_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_NS_FIELD_NUMBER: _ClassVar[int]
    METADATA_JSON_FIELD_NUMBER: _ClassVar[int]
    stream_ids: _containers.RepeatedScalarFieldContainer[str]
    stream: _containers.RepeatedScalarFieldContainer[int]
    sequence: _containers.RepeatedScalarFieldContainer[int]
    offset: _containers.RepeatedScalarFieldContainer[int]
    shape: _containers.RepeatedScalarFieldContainer[int]
    timestamp_ns: _containers.RepeatedScalarFieldContainer[int]
    metadata_json: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, stream_ids: _Optional[_Iterable[str]] = ..., stream: _Optional[_Iterable[int]] = ..., sequence: _Optional[_Iterable[int]] = ..., offset: _Optional[_Iterable[int]] = ..., shape: _Optional[_Iterable[int]] = ..., timestamp_ns: _Optional[_Iterable[int]] = ..., metadata_json: _Optional[_Iterable[str]] = ...) -> None: ...

class ReadResponse(_message.Message):
    __slots__ = ("header", "part")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    header: ReadHeader
    part: ReadPart
    def __init__(self, header: _Optional[_Union[ReadHeader, _Mapping]] = ..., part: _Optional[_Union[ReadPart, _Mapping]] = ...) -> None: ...

class ReadHeader(_message.Message):
    __slots__ = ("level", "data_type", "offset", "shape", "scale", "translation", "stale", "revision", "result_shape", "steps", "not_modified", "downsampling", "encoding", "shared")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    TRANSLATION_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    RESULT_SHAPE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    NOT_MODIFIED_FIELD_NUMBER: _ClassVar[int]
    DOWNSAMPLING_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    level: int
    data_type: _image_pb2.DataType
    offset: _containers.RepeatedScalarFieldContainer[int]
    shape: _containers.RepeatedScalarFieldContainer[int]
    scale: _containers.RepeatedScalarFieldContainer[float]
    translation: _containers.RepeatedScalarFieldContainer[float]
    stale: bool
    revision: int
    result_shape: _containers.RepeatedScalarFieldContainer[int]
    steps: _containers.RepeatedScalarFieldContainer[int]
    not_modified: bool
    downsampling: _image_pb2.Downsampling
    encoding: Encoding
    shared: bool
    def __init__(self, level: _Optional[int] = ..., data_type: _Optional[_Union[_image_pb2.DataType, str]] = ..., offset: _Optional[_Iterable[int]] = ..., shape: _Optional[_Iterable[int]] = ..., scale: _Optional[_Iterable[float]] = ..., translation: _Optional[_Iterable[float]] = ..., stale: _Optional[bool] = ..., revision: _Optional[int] = ..., result_shape: _Optional[_Iterable[int]] = ..., steps: _Optional[_Iterable[int]] = ..., not_modified: _Optional[bool] = ..., downsampling: _Optional[_Union[_image_pb2.Downsampling, str]] = ..., encoding: _Optional[_Union[Encoding, str]] = ..., shared: _Optional[bool] = ...) -> None: ...

class ReadPart(_message.Message):
    __slots__ = ("offset", "shape", "payload", "frame_shape")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    FRAME_SHAPE_FIELD_NUMBER: _ClassVar[int]
    offset: _containers.RepeatedScalarFieldContainer[int]
    shape: _containers.RepeatedScalarFieldContainer[int]
    payload: bytes
    frame_shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, offset: _Optional[_Iterable[int]] = ..., shape: _Optional[_Iterable[int]] = ..., payload: _Optional[bytes] = ..., frame_shape: _Optional[_Iterable[int]] = ...) -> None: ...
