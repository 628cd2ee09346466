"""The Python client of Ziggurat, a storage engine for microscopy images.

    import ziggurat

    with ziggurat.connect("host:7447") as client:
        image = client.create("lab/run-3", axes="zyx", shape=(100, 2048, 2048), dtype="uint16")
        with image.writer() as writer:
            for z, frame in enumerate(frames):
                writer.write(frame, z=z)
        small = image.level(2)[...]

Everything public is named here; modules with a leading underscore may change.
"""

from ziggurat._build import PyramidBuild
from ziggurat._client import Client, connect
from ziggurat._errors import (
    AccessError,
    AlreadyExists,
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    LimitExceeded,
    NotFound,
    OutOfRange,
    PermissionDenied,
    RequestError,
    ServerError,
    StateError,
    StreamHeld,
    Unauthenticated,
    Unavailable,
    ZigguratError,
)
from ziggurat._frametable import Frames
from ziggurat._image import Image
from ziggurat._level import LevelView
from ziggurat._read import ReadResult
from ziggurat._values import (
    Blosc,
    BuildProgress,
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
    StoredSize,
    StreamInfo,
    TrafficStatus,
    Uncompressed,
    WriteSummary,
    Zstd,
)
from ziggurat._writer import Writer
from ziggurat._zarr import zarr_store

__all__ = [
    "AccessError",
    "AlreadyExists",
    "Blosc",
    "BuildProgress",
    "CacheStatus",
    "Cancelled",
    "Channel",
    "Client",
    "Codec",
    "DataLoss",
    "DeadlineExceeded",
    "DeviceStatus",
    "DiskStatus",
    "FailedPrecondition",
    "Frames",
    "Gzip",
    "Image",
    "InvalidArgument",
    "KernelStatus",
    "Layout",
    "Level",
    "LevelView",
    "LimitExceeded",
    "LimitStatus",
    "LogStatus",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "PyramidBuild",
    "ReadResult",
    "RequestError",
    "ServerError",
    "ServerStatus",
    "SettleStatus",
    "StateError",
    "StoredSize",
    "StreamHeld",
    "StreamInfo",
    "TrafficStatus",
    "Unauthenticated",
    "Unavailable",
    "Uncompressed",
    "WriteSummary",
    "Writer",
    "ZigguratError",
    "Zstd",
    "connect",
    "zarr_store",
]
