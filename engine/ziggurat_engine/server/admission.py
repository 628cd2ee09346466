"""Which calls are let in, and how long may one leave its answers lying?

A call holds a thread. Of all but write streams there are `max_calls` at a time; one more is
refused, by name, with a hint when to try again (gRPC itself would say neither). Write streams
are counted when they are opened (streamtable.py); here only calls are that have not said yet which
stream they are, or that end just now. Health is asked of a server that is full as well.

A client that begins a call and sends no request, or that does not read, would hold its call's
thread for ever: keepalive pings are answered by its connection, not by its program. Both are
timed, by one thread for all calls, and the call is cancelled. A call that answers once has its
place until the answer is sent: what nobody takes is memory, though no thread waits with it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from ziggurat_engine.config import Settings
from ziggurat_engine.errors import InvalidArgument, LimitExceeded
from ziggurat_engine.server.shape import behaviour_of, wrapped
from ziggurat_engine.server.status import abort

WRITE_STREAM = "/ziggurat.v1.Ziggurat/WriteStream"
HEALTH = "/grpc.health.v1.Health/"
RETRY_SECONDS = 1.0
# Threads that refuse calls; as many for health, and for write calls beyond `max_streams`.
SPARE_CALLS = 16
# A refusal waits for one of these threads. Beyond so many gRPC refuses by itself, without a word.
FLOOD_CALLS = 1024


def threads(settings: Settings) -> int:
    """How many calls may run at a time, the spare ones among them."""
    return settings.max_streams + settings.max_calls + 3 * SPARE_CALLS


class Watch:
    """Cancels calls of which the client says nothing, or takes no answer. For any thread."""

    def __init__(self, first_message_seconds: float, send_stall_seconds: float) -> None:
        self._first_message_seconds = first_message_seconds
        self._send_stall_seconds = send_stall_seconds
        self._lock = threading.Lock()
        # By when each call has to go on.
        self._ends: dict[grpc.ServicerContext, float] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Watches from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Watches no more."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def asked(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        """`requests`, timed while the first is waited for; the call ends without one.

        Left to itself gRPC waits for it on the call's thread, before any of our code runs, for
        as long as the client likes.
        """
        with self._timed(context, self._first_message_seconds):
            request = next(requests, None)
        if request is None:
            abort(context, InvalidArgument("the call has no message", field="request"))
        yield request
        yield from requests

    def sent(self, answers: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        """`answers`, timed while gRPC sends one: it asks for the next when there is room."""
        try:
            for answer in answers:
                with self._timed(context, self._send_stall_seconds):
                    yield answer
        finally:
            if hasattr(answers, "close"):
                answers.close()

    def sending(self, context: grpc.ServicerContext, sent: Callable[[], None]) -> None:
        """Calls `sent` once gRPC has sent the one answer of a call, or it was cancelled; timed."""
        with self._lock:
            self._ends[context] = time.monotonic() + self._send_stall_seconds

        def over() -> None:
            with self._lock:
                self._ends.pop(context, None)
            sent()

        if not context.add_callback(over):
            over()

    @contextlib.contextmanager
    def _timed(self, context: grpc.ServicerContext, seconds: float) -> Iterator[None]:
        with self._lock:
            self._ends[context] = time.monotonic() + seconds
        try:
            yield
        finally:
            with self._lock:
                self._ends.pop(context, None)

    def _run(self) -> None:
        shortest = min(self._first_message_seconds, self._send_stall_seconds)
        while not self._stopped.wait(min(1.0, shortest / 4)):
            now = time.monotonic()
            with self._lock:
                late = [context for context, end in self._ends.items() if end < now]
            for context in late:
                context.cancel()


class Admission(grpc.ServerInterceptor):
    """See above. May be used from any thread."""

    def __init__(self, settings: Settings, watch: Watch) -> None:
        self._watch = watch
        self._calls = _Places("max_calls", settings.max_calls)
        self._streams = _Places("max_streams", settings.max_streams + SPARE_CALLS)
        self._health = _Places("health calls", SPARE_CALLS)

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Wraps all; the handler runs while the call has a place."""
        handler = continuation(details)
        if handler is None:
            # No such call: gRPC says so.
            return None
        places = self._calls
        if details.method == WRITE_STREAM:
            places = self._streams
        elif details.method.startswith(HEALTH):
            places = self._health
        inner = behaviour_of(handler)
        # It knows itself how long it waits.
        timed = details.method != WRITE_STREAM

        def fed(requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
            return inner(self._watch.asked(requests, context) if timed else requests, context)

        def answered(requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
            places.take(context)
            try:
                return fed(requests, context)
            finally:
                self._watch.sending(context, places.free)

        def streamed(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            places.take(context)
            try:
                yield from self._watch.sent(fed(requests, context), context)
            finally:
                places.free()

        return wrapped(handler, streamed if handler.response_streaming else answered)


class _Places:
    def __init__(self, limit: str, value: int) -> None:
        self._limit, self._value = limit, value
        self._left = threading.Semaphore(value)

    def take(self, context: grpc.ServicerContext) -> None:
        """A place, until `free`; the call ends where there is none."""
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

    def free(self) -> None:
        """Gives a place back."""
        self._left.release()
