from ziggurat_proto.v1 import image_pb2 as _image_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReadRequest(_message.Message):
    __slots__ = ("image", "level", "offset", "shape", "exact")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    image: str
    level: int
    offset: _containers.RepeatedScalarFieldContainer[int]
    shape: _containers.RepeatedScalarFieldContainer[int]
    exact: bool
    def __init__(self, image: _Optional[str] = ..., level: _Optional[int] = ..., offset: _Optional[_Iterable[int]] = ..., shape: _Optional[_Iterable[int]] = ..., exact: _Optional[bool] = ...) -> None: ...

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
    __slots__ = ("level", "data_type", "offset", "shape", "scale", "translation", "stale", "revision", "downsampling")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    TRANSLATION_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    DOWNSAMPLING_FIELD_NUMBER: _ClassVar[int]
    level: int
    data_type: _image_pb2.DataType
    offset: _containers.RepeatedScalarFieldContainer[int]
    shape: _containers.RepeatedScalarFieldContainer[int]
    scale: _containers.RepeatedScalarFieldContainer[float]
    translation: _containers.RepeatedScalarFieldContainer[float]
    stale: bool
    revision: int
    downsampling: _image_pb2.Downsampling
    def __init__(self, level: _Optional[int] = ..., data_type: _Optional[_Union[_image_pb2.DataType, str]] = ..., offset: _Optional[_Iterable[int]] = ..., shape: _Optional[_Iterable[int]] = ..., scale: _Optional[_Iterable[float]] = ..., translation: _Optional[_Iterable[float]] = ..., stale: _Optional[bool] = ..., revision: _Optional[int] = ..., downsampling: _Optional[_Union[_image_pb2.Downsampling, str]] = ...) -> None: ...

class ReadPart(_message.Message):
    __slots__ = ("offset", "shape", "payload")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    offset: _containers.RepeatedScalarFieldContainer[int]
    shape: _containers.RepeatedScalarFieldContainer[int]
    payload: bytes
    def __init__(self, offset: _Optional[_Iterable[int]] = ..., shape: _Optional[_Iterable[int]] = ..., payload: _Optional[bytes] = ...) -> None: ...
