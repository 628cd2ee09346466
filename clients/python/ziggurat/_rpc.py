"""How does a call reach the server?

One gRPC channel, shared by all threads. Calls go through here so that every failed
one becomes an exception of _errors.py. The two calls that carry pixels bypass the
generated serializers: their messages are bytes on this side (see _wire.py).

Nothing is tried twice here: a call that finds no server raises Unavailable at once, as
does one whose connection is cut, a read in the middle too. Whether to ask again is the
caller's choice; a Writer makes it for itself (_stream.py). The channel beneath tries to
connect again by itself, so that a call which comes a second after the server finds it.

A pickled connection is its settings: where it is unpickled, all that come with the same
settings share one, which lives as long as the process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from ziggurat_proto.v1 import read_pb2, service_pb2, service_pb2_grpc, write_pb2

from ziggurat._credentials import NOTHING, Credentials
from ziggurat._errors import FailedPrecondition, InvalidArgument, from_rpc
from ziggurat._memory import keep_memory
from ziggurat._shared_memory import Kept

DEFAULT_PORT = 7447

# Left alone, a channel would wait up to two minutes between two attempts to connect, and
# fail every call meanwhile; and it would spend twenty seconds on one attempt.
_RECONNECT_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.min_reconnect_backoff_ms", 5_000),
]

# Results up to this size come whole, in one message: for them the turns that a stream costs are
# more than what its parts save. See service.proto.
SMALL_BYTES = 2 * 2**20
_SMALL_LIMIT = "max_small_read_bytes"
# What a message has beside its pixels, at most.
_BESIDE_BYTES = 2**16

_SERVICE = service_pb2.DESCRIPTOR.services_by_name["Ziggurat"].full_name
_Answer = TypeVar("_Answer", bound=Message)
_Parsed = TypeVar("_Parsed")


class Connection:
    """A channel to one server and the calls on it.

    timeout_seconds: for calls that answer once, where none is given; None: no limit.
    credentials: what goes with every call; a token that is a function is asked each time.
    shared_memory: whether that may be tried with a server on this machine.
    shares_results: whether reads try it; not any more once the server has not taken it.
    kept: memory for their results.
    small_bytes: of results whose pixels are asked for in one message, with `read_small`.
    Threads may share it.
    """

    def __init__(
        self,
        server: str,
        *,
        timeout_seconds: float | None,
        max_receive_bytes: int,
        keepalive_seconds: float,
        keepalive_timeout_seconds: float,
        credentials: Credentials = NOTHING,
        shared_memory: bool = True,
    ) -> None:
        keep_memory()
        self.server = with_port(server)
        self._settings = (
            self.server,
            timeout_seconds,
            max_receive_bytes,
            keepalive_seconds,
            keepalive_timeout_seconds,
            credentials,
            shared_memory,
        )
        self.shared_memory = self.shares_results = shared_memory
        self.kept = Kept(self.server)
        self.timeout_seconds = timeout_seconds
        self.small_bytes = min(SMALL_BYTES, max_receive_bytes - _BESIDE_BYTES)
        self._closed = False
        self._credentials = credentials
        answer_ms = int(keepalive_timeout_seconds * 1000)
        self._channel = credentials.channel(
            self.server,
            [
                ("grpc.max_receive_message_length", max_receive_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.keepalive_time_ms", int(keepalive_seconds * 1000)),
                ("grpc.keepalive_timeout_ms", answer_ms),
                # The pings that measure the line hold up those of the keepalive, and would
                # themselves wait a minute for their answer.
                ("grpc.http2.ping_timeout_ms", answer_ms),
                # Else pings lie a minute apart where this side says nothing else.
                ("grpc.http2.max_pings_without_data", 0),
                # Else clients in one process share a connection, and a new one gets a dead one.
                ("grpc.use_local_subchannel_pool", 1),
                *_RECONNECT_OPTIONS,
            ],
        )
        self._stub: Any = service_pb2_grpc.ZigguratStub(self._channel)  # type: ignore[no-untyped-call]
        self._read: Any = self._channel.unary_stream(
            f"/{_SERVICE}/ReadRegion",
            request_serializer=read_pb2.ReadRequest.SerializeToString,
            response_deserializer=_as_is,
        )
        self._small: Any = self._channel.unary_unary(
            f"/{_SERVICE}/ReadSmall",
            request_serializer=read_pb2.ReadRequest.SerializeToString,
            response_deserializer=_as_is,
        )
        self._plane: Any = self._channel.unary_stream(
            f"/{_SERVICE}/ReadPlane",
            request_serializer=read_pb2.ReadPlaneRequest.SerializeToString,
            response_deserializer=_as_is,
        )
        self._many: Any = self._channel.unary_stream(
            f"/{_SERVICE}/ReadRegions",
            request_serializer=read_pb2.ReadRegionsRequest.SerializeToString,
            response_deserializer=_as_is,
        )
        self._write: Any = self._channel.stream_stream(
            f"/{_SERVICE}/WriteStream",
            request_serializer=_as_is,
            response_deserializer=write_pb2.WriteResponse.FromString,
        )

    def unary(
        self,
        method: str,
        request: Message,
        answer: type[_Answer],
        *,
        timeout_seconds: float | None = None,
    ) -> _Answer:
        """The answer to a call that answers once. Raises ZigguratError."""
        limit = self.timeout_seconds if timeout_seconds is None else timeout_seconds
        try:
            found = getattr(self._stub, method)(request, timeout=limit, metadata=self._open())
        except grpc.RpcError as error:
            raise from_rpc(error, server=self.server) from None
        assert isinstance(found, answer)
        return found

    def read(self, request: read_pb2.ReadRequest, timeout_seconds: float | None) -> Any:
        """A started ReadRegion call; it yields messages as bytes."""
        return self._read(request, timeout=timeout_seconds, metadata=self._open())

    def read_small(
        self, request: read_pb2.ReadRequest, timeout_seconds: float | None
    ) -> bytes | None:
        """The answer to ReadSmall; None where the server does not do that, or not so much.

        A server that says so is not asked again, or for less. Raises ZigguratError.
        """
        try:
            found: bytes = self._small(request, timeout=timeout_seconds, metadata=self._open())
        except grpc.RpcError as error:
            call: Any = error
            if call.code() is grpc.StatusCode.UNIMPLEMENTED:
                # It is older than this call.
                self.small_bytes = -1
                return None
            made = from_rpc(error, server=self.server)
            if call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and not made.details:
                # gRPC says so: the answer is larger than what this side takes.
                return None
            if made.details.get("limit") == _SMALL_LIMIT:
                self.small_bytes = min(self.small_bytes, int(made.details["value"]))
                return None
            raise made from None
        return found

    def plane(self, request: read_pb2.ReadPlaneRequest, timeout_seconds: float | None) -> Any:
        """A started ReadPlane call; it yields messages as bytes."""
        return self._plane(request, timeout=timeout_seconds, metadata=self._open())

    def read_many(self, request: read_pb2.ReadRegionsRequest, timeout_seconds: float | None) -> Any:
        """A started ReadRegions call; it yields messages as bytes."""
        return self._many(request, timeout=timeout_seconds, metadata=self._open())

    def write(self, requests: Iterator[bytes]) -> Any:
        """A started WriteStream call, without a deadline.

        requests: serialized messages; gRPC draws them on a thread of its own.
        """
        return self._write(requests, metadata=self._open())

    def build(self, request: service_pb2.BuildPyramidRequest) -> Any:
        """A started BuildPyramid call, without a deadline."""
        return self._stub.BuildPyramid(request, metadata=self._open())

    def frames(self, request: read_pb2.ListFramesRequest) -> Any:
        """A started ListFrames call, without a deadline."""
        return self._stub.ListFrames(request, metadata=self._open())

    @property
    def renews_token(self) -> bool:
        """Whether each call may come with another token."""
        return callable(self._credentials.token)

    @property
    def closed(self) -> bool:
        """Whether `close` was called: no call will reach the server any more."""
        return self._closed

    def close(self) -> None:
        """Ends the calls that still run; they raise Cancelled. May be called twice."""
        self._closed = True
        self._channel.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _shared_connection, self._settings

    def _open(self) -> tuple[tuple[str, str], ...] | None:
        """The metadata of a call, where this is not closed."""
        if self._closed:
            raise FailedPrecondition("the client is closed", reason="CLIENT_CLOSED")
        return self._credentials.metadata()


# By settings. A connection for each handle that a worker unpickles would open a socket a task.
_shared: dict[tuple[Any, ...], Connection] = {}
_sharing = threading.Lock()


def _shared_connection(
    server: str,
    timeout_seconds: float | None,
    max_receive_bytes: int,
    keepalive_seconds: float,
    keepalive_timeout_seconds: float,
    credentials: Credentials,
    shared_memory: bool,
) -> Connection:
    """This process's connection with these settings, for what was unpickled."""
    settings = (
        server,
        timeout_seconds,
        max_receive_bytes,
        keepalive_seconds,
        keepalive_timeout_seconds,
        credentials,
        shared_memory,
    )
    with _sharing:
        found = _shared.get(settings)
        if found is None or found.closed:
            found = _shared[settings] = Connection(
                server,
                timeout_seconds=timeout_seconds,
                max_receive_bytes=max_receive_bytes,
                keepalive_seconds=keepalive_seconds,
                keepalive_timeout_seconds=keepalive_timeout_seconds,
                credentials=credentials,
                shared_memory=shared_memory,
            )
        return found


def messages(
    call: Any, parse: Callable[[Any], _Parsed], server: str
) -> Generator[_Parsed, None, None]:
    """What a streaming call yields, parsed. Raises ZigguratError; cancels what is left."""
    try:
        for message in call:
            yield parse(message)
    except grpc.RpcError as error:
        raise from_rpc(error, server=server) from None
    finally:
        call.cancel()


def _as_is(message: bytes) -> bytes:
    return message


def with_port(server: str) -> str:
    """The address with a port. InvalidArgument where it is none."""
    if not isinstance(server, str) or not server.strip():
        raise InvalidArgument(f'server must be like "host:7447", got {server!r}', field="server")
    server = server.strip()
    bare = server.endswith("]") or ":" not in server
    return f"{server}:{DEFAULT_PORT}" if bare else server
