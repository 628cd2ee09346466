"""What do tests of bad requests aim at, and how do they see that nothing changed?"""

from __future__ import annotations

from typing import Any, NamedTuple

import grpc
import numpy as np
from ziggurat_proto.v1 import image_pb2, service_pb2

from tests.support.pixels import marked
from tests.support.raw import RawServer, RawStream, failure
from tests.support.waiting import until

INVALID = grpc.StatusCode.INVALID_ARGUMENT
OUTSIDE = grpc.StatusCode.OUT_OF_RANGE
MISSING = grpc.StatusCode.NOT_FOUND
TAKEN = grpc.StatusCode.ALREADY_EXISTS
TOO_MUCH = grpc.StatusCode.RESOURCE_EXHAUSTED
NOT_NOW = grpc.StatusCode.FAILED_PRECONDITION
HELD = grpc.StatusCode.ABORTED

SHAPE = (4, 30, 20)
GARBAGE = b"\xff\xff\xff not a message"


def good_spec(name: str) -> image_pb2.ImageSpec:
    spec = image_pb2.ImageSpec(name=name, data_type="DATA_TYPE_UINT16")
    for axis, size in zip("zyx", SHAPE, strict=True):
        spec.axes.add(name=axis, size=size, scale=0.5, unit="micrometer")
    spec.layout.chunk_shape.sizes[:] = (2, 8, 8)
    spec.layout.shard_chunks.sizes[:] = (1, 2, 2)
    return spec


class Subject(NamedTuple):
    """An image that holds `pixels`, written by a stream that stands at number 2."""

    raw: RawServer
    name: str
    pixels: np.ndarray

    def state(self) -> tuple[Any, ...]:
        """All that a bad request must not change."""
        names = [
            i.name for i in self.raw.call("ListImages", service_pb2.ListImagesRequest()).images
        ]

        def free() -> Any:
            image = self.raw.call("GetImage", service_pb2.GetImageRequest(name=self.name))
            return None if any(stream.held for stream in image.streams) else image

        # The call before may not have let go of its stream yet.
        image = until(free, "stream 's' to be free")
        self.resume(2).cancel()
        return names, image.SerializeToString(deterministic=True)

    def resume(self, wanted: int) -> RawStream:
        """The stream "s", opened; waits for an earlier call to let go of it."""

        def opened() -> RawStream | None:
            stream = self.raw.write(self.name, "s")
            try:
                next_sequence = stream.opened()
            except grpc.RpcError as error:
                if failure(error).code is not HELD:
                    raise
                return None
            assert next_sequence == wanted
            return stream

        return until(opened, "stream 's' to be free")


def make_subject(raw: RawServer, name: str) -> Subject:
    """A new image with one region in it."""
    raw.call("CreateImage", service_pb2.CreateImageRequest(spec=good_spec(name)))
    pixels = marked(SHAPE, "uint16")
    stream = raw.write(name, "s")
    assert stream.opened() == 1
    stream.region(1, (0, 0, 0), pixels)
    assert stream.close().durable == 1
    return Subject(raw, name, pixels)


def check(found: grpc.RpcError, code: grpc.StatusCode, reason: str, field: str) -> None:
    said = failure(found)
    assert (said.code, said.reason, said.domain) == (code, reason, "ziggurat"), said
    assert said.fields == ((field,) if field else ()), said
    assert said.message
