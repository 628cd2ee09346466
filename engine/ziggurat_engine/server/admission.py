"""Which calls are let in, and how long may one leave its answers lying?

A call holds a thread. Of all but write streams there are `max_calls` at a time; one more is
refused, by name, with a hint when to try again (gRPC itself would say neither). Write streams
are counted when they are opened (ingest.py); here only calls are that have not said yet which
stream they are, or that end just now. Health is asked of a server that is full as well.

A client that does not read would hold its call's thread for ever: keepalive pings are
answered by its connection, not by its program. What it was sent last is timed, by one thread
for all calls, and the call cancelled.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import grpc

from ziggurat_engine.config import Settings
from ziggurat_engine.errors import LimitExceeded
from ziggurat_engine.server.status import abort

WRITE_STREAM = "/ziggurat.v1.Ziggurat/WriteStream"
UNCOUNTED = "/grpc.health.v1.Health/"
RETRY_SECONDS = 1.0
# Threads that refuse calls, answer health, and wait for the Open of write streams.
SPARE_CALLS = 16
# A refusal waits for one of these threads. Beyond so many gRPC refuses by itself, without a word.
FLOOD_CALLS = 1024


def threads(settings: Settings) -> int:
    """How many calls may run at a time, the spare ones among them."""
    return settings.max_streams + settings.max_calls + 2 * SPARE_CALLS


class Stalls:
    """Cancels calls of which the client takes no answer. May be used from any thread."""

    def __init__(self, stall_seconds: float) -> None:
        self._stall_seconds = stall_seconds
        self._lock = threading.Lock()
        # Since when each call has been sending what it sends now.
        self._sending: dict[grpc.ServicerContext, float] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stalls", daemon=True)

    def start(self) -> None:
        """Watches from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Watches no more."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def watched(
        self, answers: Generator[Any, None, None], context: grpc.ServicerContext
    ) -> Iterator[Any]:
        """`answers`, timed while gRPC sends one: it asks for the next when there is room."""
        with contextlib.closing(answers):
            for answer in answers:
                with self._lock:
                    self._sending[context] = time.monotonic()
                try:
                    yield answer
                finally:
                    with self._lock:
                        self._sending.pop(context, None)

    def _run(self) -> None:
        while not self._stopped.wait(min(1.0, self._stall_seconds / 4)):
            late = time.monotonic() - self._stall_seconds
            with self._lock:
                stalled = [context for context, since in self._sending.items() if since < late]
            for context in stalled:
                context.cancel()


class Admission(grpc.ServerInterceptor):
    """See above. May be used from any thread."""

    def __init__(self, settings: Settings, stalls: Stalls) -> None:
        self._stalls = stalls
        self._calls = _Places("max_calls", settings.max_calls)
        self._streams = _Places("max_streams", settings.max_streams + SPARE_CALLS)

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        """See grpc.ServerInterceptor; the handler runs while the call has a place."""
        handler = continuation(details)
        if handler is None or details.method.startswith(UNCOUNTED):
            return handler
        places = self._streams if details.method == WRITE_STREAM else self._calls
        make = {
            (False, False): (grpc.unary_unary_rpc_method_handler, handler.unary_unary),
            (False, True): (grpc.unary_stream_rpc_method_handler, handler.unary_stream),
            (True, False): (grpc.stream_unary_rpc_method_handler, handler.stream_unary),
            (True, True): (grpc.stream_stream_rpc_method_handler, handler.stream_stream),
        }
        maker, call = make[handler.request_streaming, handler.response_streaming]
        placed = self._streaming if handler.response_streaming else self._answering
        return maker(
            placed(call, places), handler.request_deserializer, handler.response_serializer
        )

    def _answering(self, call: Callable[..., Any], places: _Places) -> Callable[..., Any]:
        def placed(request: Any, context: grpc.ServicerContext) -> Any:
            places.take(context)
            try:
                return call(request, context)
            finally:
                places.give()

        return placed

    def _streaming(self, call: Callable[..., Any], places: _Places) -> Callable[..., Any]:
        def placed(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            places.take(context)
            try:
                yield from self._stalls.watched(call(request, context), context)
            finally:
                places.give()

        return placed


class _Places:
    def __init__(self, limit: str, value: int) -> None:
        self._limit, self._value = limit, value
        self._left = threading.Semaphore(value)

    def take(self, context: grpc.ServicerContext) -> None:
        if not self._left.acquire(blocking=False):
            abort(
                context,
                LimitExceeded(
                    f"{self._limit} = {self._value} run already",
                    limit=self._limit,
                    value=self._value,
                    asked=self._value + 1,
                    retry_seconds=RETRY_SECONDS,
                ),
            )

    def give(self) -> None:
        self._left.release()
