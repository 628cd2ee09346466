from ziggurat_proto.v1 import memory_pb2 as _memory_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Durability(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DURABILITY_UNSPECIFIED: _ClassVar[Durability]
    DURABILITY_DURABLE: _ClassVar[Durability]
    DURABILITY_RECEIVED: _ClassVar[Durability]

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OUTCOME_COMPLETE: _ClassVar[Outcome]
    OUTCOME_ABORTED: _ClassVar[Outcome]
DURABILITY_UNSPECIFIED: Durability
DURABILITY_DURABLE: Durability
DURABILITY_RECEIVED: Durability
OUTCOME_UNSPECIFIED: Outcome
OUTCOME_COMPLETE: Outcome
OUTCOME_ABORTED: Outcome

class WriteRequest(_message.Message):
    __slots__ = ("open", "region", "skip", "flush", "close")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    SKIP_FIELD_NUMBER: _ClassVar[int]
    FLUSH_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    open: Open
    region: Region
    skip: Skip
    flush: Flush
    close: Close
    def __init__(self, open: _Optional[_Union[Open, _Mapping]] = ..., region: _Optional[_Union[Region, _Mapping]] = ..., skip: _Optional[_Union[Skip, _Mapping]] = ..., flush: _Optional[_Union[Flush, _Mapping]] = ..., close: _Optional[_Union[Close, _Mapping]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("image", "stream_id", "durability", "expected_frames", "shared_memory")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FRAMES_FIELD_NUMBER: _ClassVar[int]
    SHARED_MEMORY_FIELD_NUMBER: _ClassVar[int]
    image: str
    stream_id: str
    durability: Durability
    expected_frames: int
    shared_memory: _memory_pb2.SharedMemory
    def __init__(self, image: _Optional[str] = ..., stream_id: _Optional[str] = ..., durability: _Optional[_Union[Durability, str]] = ..., expected_frames: _Optional[int] = ..., shared_memory: _Optional[_Union[_memory_pb2.SharedMemory, _Mapping]] = ...) -> None: ...

class Region(_message.Message):
    __slots__ = ("sequence", "offset", "shape", "payload", "timestamp_ns", "metadata_json", "shared_offset", "shared_bytes")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_NS_FIELD_NUMBER: _ClassVar[int]
    METADATA_JSON_FIELD_NUMBER: _ClassVar[int]
    SHARED_OFFSET_FIELD_NUMBER: _ClassVar[int]
    SHARED_BYTES_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    offset: _containers.RepeatedScalarFieldContainer[int]
    shape: _containers.RepeatedScalarFieldContainer[int]
    payload: bytes
    timestamp_ns: int
    metadata_json: str
    shared_offset: int
    shared_bytes: int
    def __init__(self, sequence: _Optional[int] = ..., offset: _Optional[_Iterable[int]] = ..., shape: _Optional[_Iterable[int]] = ..., payload: _Optional[bytes] = ..., timestamp_ns: _Optional[int] = ..., metadata_json: _Optional[str] = ..., shared_offset: _Optional[int] = ..., shared_bytes: _Optional[int] = ...) -> None: ...

class Skip(_message.Message):
    __slots__ = ("sequence", "frames")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    frames: int
    def __init__(self, sequence: _Optional[int] = ..., frames: _Optional[int] = ...) -> None: ...

class Flush(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Close(_message.Message):
    __slots__ = ("outcome",)
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    outcome: Outcome
    def __init__(self, outcome: _Optional[_Union[Outcome, str]] = ...) -> None: ...

class WriteResponse(_message.Message):
    __slots__ = ("opened", "acknowledgement", "closed")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGEMENT_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    opened: Opened
    acknowledgement: Acknowledgement
    closed: Closed
    def __init__(self, opened: _Optional[_Union[Opened, _Mapping]] = ..., acknowledgement: _Optional[_Union[Acknowledgement, _Mapping]] = ..., closed: _Optional[_Union[Closed, _Mapping]] = ...) -> None: ...

class Opened(_message.Message):
    __slots__ = ("next_sequence", "durable", "durability", "max_shared_bytes", "max_message_bytes")
    NEXT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    MAX_SHARED_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    next_sequence: int
    durable: int
    durability: Durability
    max_shared_bytes: int
    max_message_bytes: int
    def __init__(self, next_sequence: _Optional[int] = ..., durable: _Optional[int] = ..., durability: _Optional[_Union[Durability, str]] = ..., max_shared_bytes: _Optional[int] = ..., max_message_bytes: _Optional[int] = ...) -> None: ...

class Acknowledgement(_message.Message):
    __slots__ = ("received", "durable")
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    received: int
    durable: int
    def __init__(self, received: _Optional[int] = ..., durable: _Optional[int] = ...) -> None: ...

class Closed(_message.Message):
    __slots__ = ("durable", "regions", "bytes", "skipped_frames", "duplicates")
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FRAMES_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    durable: int
    regions: int
    bytes: int
    skipped_frames: int
    duplicates: int
    def __init__(self, durable: _Optional[int] = ..., regions: _Optional[int] = ..., bytes: _Optional[int] = ..., skipped_frames: _Optional[int] = ..., duplicates: _Optional[int] = ...) -> None: ...
