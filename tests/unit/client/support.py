"""A server's answers without a server: what the client's tests put in a Connection's place."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterator

import grpc
import numpy as np
from google.protobuf.any_pb2 import Any as Packed
from google.rpc import error_details_pb2, status_pb2
from ziggurat._answers import image_info
from ziggurat._image import Image
from ziggurat_proto.v1 import image_pb2, read_pb2, write_pb2

Opened = write_pb2.Opened
Answer = write_pb2.WriteResponse


class RpcFailure(grpc.RpcError):
    """A failed call, as grpc raises it."""

    def __init__(
        self, code, text="", reason="", field="", domain="ziggurat", retry_seconds=None, **details
    ):
        super().__init__(text)
        self._code, self._text = code, text
        status = status_pb2.Status(code=code.value[0], message=text)
        if reason:
            info = error_details_pb2.ErrorInfo(domain=domain, reason=reason, metadata=details)
            status.details.append(_packed(info))
        if field:
            bad = error_details_pb2.BadRequest(
                field_violations=[{"field": field, "description": text}]
            )
            status.details.append(_packed(bad))
        if retry_seconds is not None:
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromNanoseconds(int(retry_seconds * 1e9))
            status.details.append(_packed(retry))
        self.metadata = (("other", "x"), ("grpc-status-details-bin", status.SerializeToString()))

    def code(self):
        return self._code

    def details(self):
        return self._text

    def trailing_metadata(self):
        return self.metadata


def _packed(message):
    packed = Packed()
    packed.Pack(message)
    return packed


class StreamCall:
    """A bidirectional call: `script` gets the requests and yields answers."""

    def __init__(self, requests: Iterator[bytes], script: Callable):
        self._incoming: queue.Queue = queue.Queue()
        self._answers: queue.Queue = queue.Queue()
        self.cancelled = threading.Event()
        self._threads = [
            threading.Thread(target=self._draw, args=(requests,), daemon=True),
            threading.Thread(target=self._serve, args=(script,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _draw(self, requests):
        for message in requests:
            assert type(message) is bytes
            self._incoming.put(write_pb2.WriteRequest.FromString(message))
        self._incoming.put(None)

    def _serve(self, script):
        try:
            for answer in script(iter(self._incoming.get, None)):
                self._answers.put(answer)
            self._answers.put(None)
        except RpcFailure as failure:
            self._answers.put(failure)

    def cancel(self):
        self.cancelled.set()
        self._answers.put(RpcFailure(grpc.StatusCode.CANCELLED, "Locally cancelled"))
        self._incoming.put(None)

    def __iter__(self):
        while (answer := self._answers.get()) is not None:
            if isinstance(answer, RpcFailure):
                raise answer
            yield answer


class ReadCall:
    """A call that yields what it was given; an RpcFailure among it is raised."""

    def __init__(self, answers):
        self._answers = answers
        self.cancelled = False

    def cancel(self):
        self.cancelled = True

    def __iter__(self):
        for answer in self._answers:
            if isinstance(answer, RpcFailure):
                raise answer
            yield answer


class Connection:
    """Serves reads of `levels` (arrays) and hands write streams to `script`."""

    server = "nowhere:7447"
    timeout_seconds = 5.0
    closed = False
    renews_token = False
    shared_memory = shares_results = False

    def __init__(self, levels=(), script=None, tile=(1, 1, 2, 3, 5)):
        self.levels, self.script, self.tile = levels, script, tile
        self.reads: list[read_pb2.ReadRequest] = []
        self.answers = None

    def read(self, request, timeout_seconds):
        self.reads.append(request)
        if self.answers is not None:
            return ReadCall(self.answers)
        return ReadCall(self._parts(request))

    def write(self, requests):
        self.call = StreamCall(requests, self.script)
        return self.call

    def _parts(self, request):
        array = self.levels[request.level]
        header = read_pb2.ReadHeader(
            level=request.level,
            data_type=f"DATA_TYPE_{array.dtype.name.upper()}",
            offset=request.offset,
            shape=request.shape,
            stale=request.level > 0,
        )
        yield read_pb2.ReadResponse(header=header).SerializeToString()
        box = array[
            tuple(slice(o, o + n) for o, n in zip(request.offset, request.shape, strict=True))
        ]
        tile = self.tile[-box.ndim :]
        for start in itertools.product(*map(range, [0] * box.ndim, box.shape, tile)):
            yield part(start, box[tuple(slice(s, s + t) for s, t in zip(start, tile, strict=True))])


def part(offset, pixels):
    """A serialized ReadResponse with one part."""
    wire = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<"))
    found = read_pb2.ReadPart(offset=offset, shape=pixels.shape, payload=wire.tobytes())
    return read_pb2.ReadResponse(part=found).SerializeToString()


def image_message(axes, levels, **extra):
    """An Image as the server describes it; scale 0.5, doubling along y and x."""
    image = image_pb2.Image(
        name="lab/a",
        axes=[
            image_pb2.Axis(name=a, size=n, scale=0.5, unit="micrometer" if a in "zyx" else "")
            for a, n in zip(axes, levels[0].shape, strict=True)
        ],
        data_type=f"DATA_TYPE_{levels[0].dtype.name.upper()}",
        **extra,
    )
    image.layout.chunk_shape.sizes[:] = [1] * (len(axes) - 2) + [4, 4]
    image.layout.shard_chunks.sizes[:] = [1] * len(axes)
    image.layout.codec.zstd.level = 3
    for k, level in enumerate(levels):
        scale = [0.5 * 2**k if a in "yx" else 0.5 for a in axes]
        factors = [2 if k and a in "yx" else 1 for a in axes]
        image.levels.add(
            shape=level.shape, factors=factors, scale=scale, translation=[0] * len(axes)
        )
    return image


def fake_image(axes, *levels, script=None, **extra):
    """An Image over arrays, one a level."""
    connection = Connection(levels, script)
    return Image(connection, image_info(image_message(axes, levels, **extra)))
