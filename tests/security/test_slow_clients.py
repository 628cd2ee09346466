"""Are clients that say nothing, too little or never listen let go of, and others served meanwhile?

Each waits for what the server does on its own, with settings that are short; nothing here is
sent by a client of ours.
"""

from __future__ import annotations

import collections
import itertools
import socket
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import ziggurat
from grpc_health.v1 import health_pb2
from ziggurat_proto.v1 import read_pb2, service_pb2

from tests.service.subject import TOO_MUCH
from tests.support.raw import RawServer, failure
from tests.support.waiting import SECONDS, until

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
CALLS = 3


@pytest.fixture(scope="module")
def short(serve_module):
    return serve_module(
        cache_bytes="64MiB",
        max_streams=2,
        max_calls=CALLS,
        max_connections=8,
        handshake_seconds=0.5,
        connection_idle_seconds=0.5,
        # The others are waited for; this one a client of ours has to be faster than.
        first_message_seconds=2,
        stream_idle_seconds=2,
        send_stall_seconds=0.5,
    )


@pytest.fixture
def calls(short):
    opened = RawServer(short.address)
    yield opened
    opened.close()


@pytest.fixture
def line(short):
    host, _, port = short.address.rpartition(":")
    with socket.create_connection((host, int(port)), SECONDS) as opened:
        yield opened


def closed(line: socket.socket) -> bool:
    """Reads until the server has closed the connection; TimeoutError where it does not."""
    try:
        while line.recv(4096):
            pass
    except ConnectionResetError:
        pass
    return True


def test_a_connection_that_says_nothing(line) -> None:
    assert closed(line)


def test_a_connection_that_says_a_byte_at_a_time(line) -> None:
    """Each comes before anything else is over; the whole of it would take five seconds."""
    over = threading.Event()

    def dribble() -> None:
        for byte in PREFACE:
            if over.wait(0.15):
                return
            try:
                line.sendall(bytes((byte,)))
            except OSError:
                return

    writer = threading.Thread(target=dribble)
    writer.start()
    try:
        assert closed(line)
    finally:
        over.set()
        writer.join()


def test_a_connection_without_a_call(line) -> None:
    line.sendall(PREFACE)
    assert closed(line)


def test_a_connection_that_breaks_off_in_a_frame(line) -> None:
    """Headers of 100 bytes are announced, and never come."""
    line.sendall(PREFACE + b"\0\0\x64\1\4\0\0\0\1")
    assert closed(line)


def test_more_connections_than_there_may_be(short, calls) -> None:
    host, _, port = short.address.rpartition(":")
    lines = [socket.create_connection((host, int(port)), SECONDS) for _ in range(20)]
    try:
        assert all(map(closed, lines))
    finally:
        for each in lines:
            each.close()
    assert calls.call("GetStatus", service_pb2.GetStatusRequest()).limits


class Silence:
    """Requests that never come; until it is told to end."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self.over.wait(SECONDS)
        raise StopIteration


def serialized(message) -> bytes:
    return message.SerializeToString()


def test_calls_that_send_no_request(short, calls) -> None:
    """They hold the places that there are; health answers, others are told so, then they end."""
    silence = Silence()
    stub = calls.channel.stream_unary("/ziggurat.v1.Ziggurat/GetImage")
    silent = [stub.future(silence, timeout=SECONDS) for _ in range(CALLS)]
    refused: list[grpc.RpcError] = []

    def is_refused() -> bool:
        try:
            calls.call("GetStatus", service_pb2.GetStatusRequest())
        except grpc.RpcError as error:
            refused.append(error)
        return bool(refused) or all(call.done() for call in silent)

    health = calls.channel.unary_unary(
        "/grpc.health.v1.Health/Check", serialized, health_pb2.HealthCheckResponse.FromString
    )
    until(is_refused, "the places to be taken")
    assert health(health_pb2.HealthCheckRequest(), timeout=SECONDS).status == 1
    if refused:  # else this machine was slower than they are allowed to be
        said = failure(refused[0])
        assert (said.code, said.quotas, said.retry_seconds) == (TOO_MUCH, ("max_calls",), 1)
    ended = {call.exception().code() for call in silent}
    # Those that a question came before got no place.
    assert grpc.StatusCode.CANCELLED in ended <= {grpc.StatusCode.CANCELLED, TOO_MUCH}
    silence.over.set()

    def served() -> bool:
        try:
            return bool(calls.call("GetStatus", service_pb2.GetStatusRequest()).limits)
        except grpc.RpcError:
            return False

    # A client hears of its end a moment before its place is free.
    until(served, "the places to be free")


def test_write_calls_that_do_not_say_which_stream(calls) -> None:
    silence = Silence()
    stub = calls.channel.stream_stream("/ziggurat.v1.Ziggurat/WriteStream")
    for call in [stub(silence, timeout=SECONDS) for _ in range(3)]:
        with pytest.raises(grpc.RpcError, match="first_message_seconds") as ended:
            next(call)
        assert failure(ended.value).reason == "UNAVAILABLE"
    silence.over.set()


def test_a_stream_that_falls_silent_is_free_again(short, calls) -> None:
    with ziggurat.connect(short.address) as client:
        image = client.create("quiet", axes="yx", shape=(4, 4), dtype="uint8")
        stream = calls.write("quiet", "s")
        assert stream.opened() == 1
        stream.region(1, (0, 0), np.ones((4, 4), "uint8"))
        stream.received(1)
        # Durable later: on a busy disk perhaps after the call has ended.
        with pytest.raises(grpc.RpcError, match="stream_idle_seconds") as ended:
            stream.durable(2)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        until(lambda: not image.refresh().streams[0].held, "the stream to be free")
        # A writer of ours that has nothing to say for so long comes back by itself.
        with image.writer("s") as writer:
            until(lambda: writer.reconnects, "the writer to come back")
            writer.write_region(np.full((4, 4), 3, "uint8"), offset=(0, 0))
        assert (image[...] == 3).all()
        client.delete("quiet")


def test_a_client_that_does_not_take_one_large_answer(short) -> None:
    """It has a place until it takes it, so that there are no more of them than calls."""
    with ziggurat.connect(short.address) as client:
        client.create("large", axes="yx", shape=(1024, 1024), dtype="uint8")
        request = serialized(read_pb2.ReadRequest(image="large"))
        # Windows that do not grow: 64 KiB.
        options = [("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(short.address, options) as channel:
            stub = channel.unary_stream("/ziggurat.v1.Ziggurat/ReadSmall")

            def was_cancelled() -> bool:
                reads = [stub(request, timeout=SECONDS) for _ in range(CALLS)]
                for read in reads:
                    read.initial_metadata()  # the pixels are behind it
                threading.Event().wait(1)  # longer than it has; on a busy machine it is tried again
                return all(map(_is_cancelled, reads))

            until(was_cancelled, "what nobody takes to be cancelled")
        until(lambda: _served(client), "the places to be free")
        client.delete("large")


def test_a_client_that_does_not_read(short, calls) -> None:
    with ziggurat.connect(short.address) as client:
        big = client.create("big", axes="zyx", shape=(16, 2048, 2048), dtype="uint8")
        request = serialized(read_pb2.ReadRequest(image="big"))
        stub = calls.channel.unary_stream("/ziggurat.v1.Ziggurat/ReadRegion")
        # What `create` took may be free only after its answer is here.
        reads = [_begun(stub, request) for _ in range(CALLS)]

        until(lambda: _served(client), "the calls to be cancelled")
        with pytest.raises(grpc.RpcError) as ended:
            collections.deque(itertools.chain(*reads), maxlen=0)
        assert ended.value.code() is grpc.StatusCode.CANCELLED
        assert big[0].sum() == 0
        client.delete("big")


def _begun(stub: Any, request: bytes) -> Any:
    """A read whose header has come; 64 MiB follow, more than connections hold."""
    begun = []

    def admitted() -> bool:
        read = stub(request, timeout=SECONDS)
        try:
            next(read)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                return False
            raise
        begun.append(read)
        return True

    until(admitted, "a place for a read")
    return begun[0]


def _served(client: ziggurat.Client) -> bool:
    try:
        return client.status().images > 0
    except ziggurat.LimitExceeded:
        return False


def _is_cancelled(read: Any) -> bool:
    try:
        next(read)
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.CANCELLED
    return False
