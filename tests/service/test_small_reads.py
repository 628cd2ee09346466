"""Do small results come whole, and from any server, with what a stream of parts would bring?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
import ziggurat
from ziggurat_proto.v1 import read_pb2

from tests.service.subject import SHAPE, TOO_MUCH, Subject, check
from tests.support.pixels import marked, same_bytes
from tests.support.raw import RawServer, failure
from tests.support.server import ServerProcess
from tests.support.waiting import SECONDS

READS: dict[str, dict[str, Any]] = {
    "all": {},
    "box": {"offset": (1, 3, 2), "shape": (3, 22, 17)},
    "nothing": {"offset": (1, 3, 2), "shape": (3, 0, 17)},
    "level": {"level": 1},
    "exact": {"level": 1, "exact": True},
    "most": {"max_voxels": 400},
    "steps": {"steps": (3, 2, 5)},
    "projection": {"projection": {"method": "METHOD_MAX", "axes": ["y"]}, "steps": (1, 2, 1)},
    "conversion": {"conversion": {"data_type": "DATA_TYPE_UINT8", "window": {"end": 900}}},
    "stored": {"encoding": "ENCODING_BLOSC"},
}


@pytest.mark.parametrize("fields", READS.values(), ids=READS)
def test_one_message_has_what_many_have(subject: Subject, fields: dict[str, Any]) -> None:
    request = read_pb2.ReadRequest(image=subject.name, **fields)
    whole = subject.raw.call("ReadSmall", request)
    request.encoding = read_pb2.ENCODING_RAW
    first, *rest = subject.raw.call("ReadRegion", request)
    assert whole.header == first.header
    parts = [answer.part for answer in (first, *rest) if answer.HasField("part")]
    shape = tuple(first.header.result_shape or first.header.shape)
    size = 1 if "conversion" in fields else 2
    wanted = np.zeros((*shape, size), "u1")
    for part in parts:
        box = tuple(slice(o, o + n) for o, n in zip(part.offset, part.shape, strict=True))
        wanted[box] = np.frombuffer(part.payload, "u1").reshape((*part.shape, size))
    assert whole.HasField("part") == bool(parts)
    assert whole.part.payload == wanted.tobytes()
    if parts:
        assert tuple(whole.part.offset) == (0,) * len(shape)
        assert tuple(whole.part.shape) == shape
    request.if_newer_than = first.header.revision
    again = subject.raw.call("ReadSmall", request)
    assert again.header.not_modified == (not first.header.stale)
    assert again.HasField("part") == (first.header.stale and bool(parts))


def test_what_is_too_large_comes_in_parts(serve: Callable[..., ServerProcess], name: str) -> None:
    server = serve(max_small_read_bytes="4KiB")
    pixels = marked(SHAPE, "uint16")
    raw = RawServer(server.address)
    with ziggurat.connect(server.address) as client:
        image = client.create(name, axes="zyx", shape=SHAPE, dtype="uint16", chunk_shape=(2, 8, 8))
        with image.writer() as writer:
            writer.write_region(pixels, (0, 0, 0))
        with pytest.raises(grpc.RpcError) as error:
            raw.call("ReadSmall", read_pb2.ReadRequest(image=name))
        check(error.value, TOO_MUCH, "LIMIT_EXCEEDED", "shape")
        assert failure(error.value).metadata["limit"] == "max_small_read_bytes"
        for _ in range(2):
            assert same_bytes(image.read(), pixels)
            assert same_bytes(image.read(np.s_[1:3, 4:20]), pixels[1:3, 4:20])
    raw.close()


@contextmanager
def older(server: str, missing: str) -> Iterator[str]:
    """The address of a server that has all of `server`'s calls but one."""

    def as_is(message: bytes) -> bytes:
        return message

    with grpc.insecure_channel(server) as channel:

        class Passing(grpc.GenericRpcHandler):
            def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
                if details.method.endswith(f"/{missing}"):
                    return None
                beyond = channel.stream_stream(details.method, as_is, as_is)
                return grpc.stream_stream_rpc_method_handler(
                    lambda requests, _: beyond(requests, timeout=SECONDS), as_is, as_is
                )

        passing = grpc.server(ThreadPoolExecutor(8), handlers=[Passing()])
        port = passing.add_insecure_port("127.0.0.1:0")
        passing.start()
        yield f"127.0.0.1:{port}"
        passing.stop(None).wait()


def test_a_server_that_knows_streams_alone(subject: Subject, server: ServerProcess) -> None:
    with older(server.address, "ReadSmall") as address, ziggurat.connect(address) as client:
        image = client.open(subject.name)
        for _ in range(2):
            assert same_bytes(image.read(), subject.pixels)
            assert image.fetch(if_newer_than=image.fetch().revision) is None
        with pytest.raises(ziggurat.OutOfRange):
            image.read(offset=(0, 0, 0), shape=(9, 99, 999))
