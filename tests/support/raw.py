"""How does a test say things to a server that no client of ours would say?

Stubs that take bytes or messages, and a write stream driven message by message.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import grpc
import numpy as np
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from ziggurat_proto.v1 import image_pb2, read_pb2, service_pb2, write_pb2

from tests.support.waiting import SECONDS

Request: TypeAlias = Message | bytes

ANSWERS = {
    "CreateImage": image_pb2.Image,
    "GetImage": image_pb2.Image,
    "ListImages": service_pb2.ListImagesResponse,
    "DeleteImage": service_pb2.DeleteImageResponse,
    "GetStatus": service_pb2.ServerStatus,
    "BuildPyramid": service_pb2.BuildPyramidProgress,
    "ReadRegion": read_pb2.ReadResponse,
    "ReadSmall": read_pb2.ReadResponse,
    "ReadRegions": read_pb2.ReadRegionsResponse,
    "ReadPlane": read_pb2.ReadResponse,
}
STREAMED = {"BuildPyramid", "ReadRegion", "ReadRegions", "ReadPlane"}


class Failure(NamedTuple):
    """What a status said. fields: those that BadRequest names; quotas: that QuotaFailure does."""

    code: grpc.StatusCode
    reason: str
    domain: str
    fields: tuple[str, ...]
    metadata: dict[str, str]
    message: str
    quotas: tuple[str, ...] = ()
    retry_seconds: float | None = None


def failure(error: grpc.RpcError) -> Failure:
    """The whole of a status; reason and domain are empty where it carries no ErrorInfo."""
    info, fields, quotas = error_details_pb2.ErrorInfo(), [], []
    quota, retry = error_details_pb2.QuotaFailure(), error_details_pb2.RetryInfo()
    status = rpc_status.from_call(error)
    for packed in status.details if status is not None else ():
        bad = error_details_pb2.BadRequest()
        if packed.Unpack(bad):
            fields += [violation.field for violation in bad.field_violations]
        elif packed.Unpack(quota):
            quotas += [violation.subject for violation in quota.violations]
        elif not packed.Unpack(retry):
            assert packed.Unpack(info), packed.type_url
    return Failure(
        error.code(),
        info.reason,
        info.domain,
        tuple(fields),
        dict(info.metadata),
        error.details(),
        tuple(quotas),
        retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None,
    )


class RawServer:
    """Calls on one channel."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", -1),
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )

    def call(self, method: str, request: Request) -> Any:
        """The answer, or the list of them where the call streams; raises grpc.RpcError."""
        path = f"/ziggurat.v1.Ziggurat/{method}"
        parse = ANSWERS[method].FromString
        if method in STREAMED:
            stream = self.channel.unary_stream(path, _serialize, parse)
            return list(stream(request, timeout=SECONDS))
        return self.channel.unary_unary(path, _serialize, parse)(request, timeout=SECONDS)

    def read(self, image: str, level: int = 0) -> np.ndarray:
        """A whole level, put together from what the generated code says of the answer."""
        request = read_pb2.ReadRequest(image=image, level=level)
        answers = self.call("ReadRegion", request)
        header = answers[0].header
        name = image_pb2.DataType.Name(header.data_type).removeprefix("DATA_TYPE_").lower()
        out = np.zeros(tuple(header.shape), name)
        covered = np.zeros(out.shape, np.uint8)
        for part in (answer.part for answer in answers if answer.HasField("part")):
            box = tuple(slice(o, o + n) for o, n in zip(part.offset, part.shape, strict=True))
            out[box] = np.frombuffer(part.payload, np.dtype(name).newbyteorder("<")).reshape(
                tuple(part.shape)
            )
            covered[box] += 1
        assert (covered == 1).all(), "parts do not cover the box once"
        return out

    def write(self, image: str, stream_id: str = "raw") -> RawStream:
        """An opened write stream."""
        stream = RawStream(self.channel)
        stream.send(write_pb2.WriteRequest(open=write_pb2.Open(image=image, stream_id=stream_id)))
        return stream

    def close(self) -> None:
        self.channel.close()


class RawStream:
    """A WriteStream call; the test sends and receives one message at a time."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        stub = channel.stream_stream(
            "/ziggurat.v1.Ziggurat/WriteStream", _serialize, write_pb2.WriteResponse.FromString
        )
        self.call = stub(self._requests(), timeout=SECONDS)

    def send(self, request: Request) -> None:
        self._outbox.put(_serialize(request))

    def region(self, sequence: int, offset: Any, pixels: np.ndarray) -> None:
        self.send(region_message(sequence, offset, pixels))

    def flush(self) -> None:
        self.send(write_pb2.WriteRequest(flush=write_pb2.Flush()))

    def close(self) -> write_pb2.Closed:
        """Sends Close; returns the Closed that answers it."""
        self.send(write_pb2.WriteRequest(close=write_pb2.Close()))
        *_, last = self.call
        assert last.HasField("closed"), last
        return last.closed

    def half_close(self) -> None:
        """No message follows."""
        self._outbox.put(None)

    def next(self) -> write_pb2.WriteResponse:
        """The next answer; raises grpc.RpcError where the call ended with an error."""
        return next(self.call)

    def opened(self) -> int:
        """The Opened answer's next sequence number."""
        answer = self.next()
        assert answer.HasField("opened"), answer
        return answer.opened.next_sequence

    def received(self, sequence: int) -> None:
        """Waits until everything up to `sequence` is acknowledged as received."""
        self._reached("received", sequence)

    def durable(self, sequence: int) -> None:
        """Waits until everything up to `sequence` is acknowledged as durable."""
        self._reached("durable", sequence)

    def cancel(self) -> None:
        self.call.cancel()
        self._outbox.put(None)

    def _reached(self, member: str, sequence: int) -> None:
        while getattr(self.next().acknowledgement, member) < sequence:
            pass

    def _requests(self) -> Iterator[bytes]:
        while (message := self._outbox.get()) is not None:
            yield message


def region_message(sequence: int, offset: Any, pixels: np.ndarray) -> write_pb2.WriteRequest:
    """A Region as the generated code makes it."""
    little = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<"))
    return write_pb2.WriteRequest(
        region=write_pb2.Region(
            sequence=sequence, offset=offset, shape=pixels.shape, payload=little.tobytes()
        )
    )


def _serialize(request: Request) -> bytes:
    return request if isinstance(request, bytes) else request.SerializeToString()
