"""A server of one stream, in memory, whose calls fail as a test says."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass

import grpc
from ziggurat_proto.v1 import service_pb2, write_pb2

from tests.unit.client.support import Answer, RpcFailure

SECONDS = 20.0

UNAVAILABLE = RpcFailure(grpc.StatusCode.UNAVAILABLE, "gone")
HELD = RpcFailure(grpc.StatusCode.ABORTED, "another call writes", "STREAM_HELD")
DISK_FULL = RpcFailure(grpc.StatusCode.RESOURCE_EXHAUSTED, "no space left", "DISK_FULL", errno="28")
DISK_ERROR = RpcFailure(grpc.StatusCode.UNAVAILABLE, "input/output error", "DISK_ERROR")
RESET = RpcFailure(grpc.StatusCode.INTERNAL, "RST_STREAM with error code 2")
DEADLINE = RpcFailure(grpc.StatusCode.DEADLINE_EXCEEDED, "late")


def until(done: Callable[[], bool], what: str) -> None:
    """Returns once done() holds; fails after SECONDS."""
    end = time.monotonic() + SECONDS
    while not done():
        assert time.monotonic() < end, f"waited {SECONDS:g} s for {what}"
        time.sleep(0.002)


@dataclass
class Plan:
    """What one call does.

    refuse: the answer to Open. wanted: the number it says instead of its own.
    stop_after: messages it takes, then it ends with `failure`, or without a word.
    acknowledge: "durable", "received", or "" for nothing at all.
    dies: what was not acknowledged as durable is forgotten when the call ends.
    mute_close: ends instead of answering Close.
    """

    refuse: RpcFailure | None = None
    wanted: int | None = None
    stop_after: int | None = None
    failure: RpcFailure | None = UNAVAILABLE
    acknowledge: str = "durable"
    dies: bool = False
    mute_close: bool = False


class StreamServer:
    """Takes each number once, in order; then calls go as `plans` say, the last for ever.

    taken: what was accepted, serialized, by number. seen: the kinds of each call's
    messages. gate: while it is clear nothing is answered to a message.
    """

    def __init__(self, *plans: Plan, received: int = 0, durable: int | None = None) -> None:
        self.plans = [*plans, Plan()]
        self.taken: dict[int, write_pb2.WriteRequest] = {}
        self.received = received
        self.durable = received if durable is None else durable
        self.duplicates = 0
        self.seen: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()

    @property
    def calls(self) -> int:
        return len(self.seen)

    def __call__(self, requests: Iterator[write_pb2.WriteRequest]) -> Iterator[Answer]:
        plan = self.plans.pop(0) if len(self.plans) > 1 else self.plans[0]
        seen: list[str] = []
        self.seen.append(seen)
        self.open = next(requests).open
        if plan.refuse is not None:
            raise plan.refuse
        wanted = self.received + 1 if plan.wanted is None else plan.wanted
        yield Answer(
            opened={
                "next_sequence": wanted,
                "durable": min(self.durable, wanted - 1),
                "durability": self.open.durability,
            }
        )
        yield from self._answers(plan, requests, seen)
        if plan.dies:
            self._forget()

    def _answers(self, plan, requests, seen):
        left = plan.stop_after
        while left != 0:
            request = next(requests, None)
            if request is None:
                return
            kind = request.WhichOneof("message")
            seen.append(kind)
            if kind == "close" and plan.mute_close:
                break
            if kind == "close":
                self.durable = self.received
                yield Answer(closed={"durable": self.durable, "duplicates": self.duplicates})
                return
            if kind in ("region", "skip"):
                self._take(getattr(request, kind).sequence, request)
                left = None if left is None else left - 1
            if plan.acknowledge == "durable" or kind == "flush":
                self.durable = self.received
            self.gate.wait(SECONDS)
            if plan.acknowledge or kind == "flush":
                yield Answer(acknowledgement={"received": self.received, "durable": self.durable})
        if plan.failure is not None:
            if plan.dies:
                self._forget()
            raise plan.failure

    def _forget(self):
        for lost in range(self.durable + 1, self.received + 1):
            del self.taken[lost]
        self.received = self.durable

    def _take(self, number, request):
        if number > self.received + 1:
            raise RpcFailure(
                grpc.StatusCode.FAILED_PRECONDITION, f"{number} is not {self.received + 1}"
            )
        if number <= self.received:
            self.duplicates += 1
            return
        self.taken[number] = request
        self.received = number


class GrpcServer:
    """A StreamServer behind gRPC on a port of its own."""

    def __init__(self, stream: StreamServer) -> None:
        self._stream = stream
        self._server = grpc.server(futures.ThreadPoolExecutor(8))
        name = service_pb2.DESCRIPTOR.services_by_name["Ziggurat"].full_name
        method = grpc.stream_stream_rpc_method_handler(
            self._write,
            request_deserializer=write_pb2.WriteRequest.FromString,
            response_serializer=write_pb2.WriteResponse.SerializeToString,
        )
        handler = grpc.method_handlers_generic_handler(name, {"WriteStream": method})
        self._server.add_generic_rpc_handlers((handler,))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def _write(self, requests, context):
        try:
            yield from self._stream(requests)
        except RpcFailure as failure:
            context.set_trailing_metadata(failure.metadata[1:])
            context.abort(failure.code(), failure.details())

    def stop(self) -> None:
        self._server.stop(0).wait(SECONDS)


class Proxy:
    """A TCP port that leads to another one, until the cable is cut."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._ends: set[socket.socket] = set()
        self._whole = True
        self._threads: list[threading.Thread] = []
        # Bytes towards the server so far; at `cut_at` of them it cuts by itself.
        self.forwarded = 0
        self.cut_at: int | None = None
        self._start(self._accept)

    def cut(self) -> None:
        """Ends all connections and refuses new ones."""
        with self._lock:
            self._whole = False
            for end in self._ends:
                _shut(end)

    def mend(self) -> None:
        with self._lock:
            self._whole = True

    def close(self) -> None:
        self.cut()
        _shut(self._listener)
        self._listener.close()
        for thread in self._threads:
            thread.join(SECONDS)

    def _start(self, target, *args):
        self._threads.append(threading.Thread(target=target, args=args, daemon=True))
        self._threads[-1].start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if self._whole:
                    self._start(self._join, client)
                else:
                    client.close()

    def _join(self, client):
        with client, socket.create_connection(("127.0.0.1", self._port)) as server:
            with self._lock:
                self._ends |= {client, server}
                if not self._whole:
                    self._ends -= {client, server}
                    return
            back = threading.Thread(target=self._pump, args=(server, client, False))
            back.start()
            self._pump(client, server, True)
            back.join()
            with self._lock:
                self._ends -= {client, server}

    def _pump(self, source, target, upward):
        try:
            while data := source.recv(65536):
                target.sendall(data)
                if upward:
                    self.forwarded += len(data)
                    if self.cut_at is not None and self.forwarded >= self.cut_at:
                        self.cut_at = None
                        self.cut()
        except OSError:
            pass
        finally:
            _shut(source)
            _shut(target)


def _shut(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
