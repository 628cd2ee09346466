"""Who called what, how did it end, and by which name can both sides speak of it?

Each call of our own service has a request id: what the client sent as `x-request-id`, or one
that is made. It goes back in the trailing metadata, and into every line that is logged
while the call's thread is at it. When the call ends it is counted, and logged on the
logger `ziggurat.access`.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

import grpc

from ziggurat_engine.server.caller import caller_of
from ziggurat_engine.server.calls import Calls
from ziggurat_engine.server.servicer import SERVICE

access = logging.getLogger("ziggurat.access")

REQUEST_ID = "x-request-id"
# What goes into logs and headers as it came.
_FIT = re.compile(r"[\x21-\x7e]{1,128}")
# Of what a caller says, which may be anything, a line holds no more.
MOST_TEXT = 512

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Of the call that this thread is at; empty elsewhere."""

# Where a request names its image; of many reads the first tells.
_IMAGES: dict[str, Callable[[Any], str]] = {
    "CreateImage": lambda request: request.spec.name,
    "GetImage": lambda request: request.name,
    "ListImages": lambda request: request.prefix,
    "DeleteImage": lambda request: request.name,
    "GetStatus": lambda _: "",
    "BuildPyramid": lambda request: request.image,
    "ListFrames": lambda request: request.image,
    "ReadRegion": lambda request: request.image,
    "ReadSmall": lambda request: request.image,
    "ReadRegions": lambda request: request.reads[0].image,
    "ReadPlane": lambda request: request.image,
    "WriteStream": lambda request: request.open.image,
}

# These say that the server is at fault, and are logged as errors whatever the access level.
_FAULTS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS, grpc.StatusCode.UNKNOWN)

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Behaviour: TypeAlias = Callable[[Any, grpc.ServicerContext], Any] | None


def image_of(rpc: str, request: object) -> str:
    """The image, or prefix, that a request is about; empty where it names none."""
    try:
        return _IMAGES[rpc](request)
    except (AttributeError, IndexError, KeyError):
        # No message at all (wire.Malformed), or not the one that comes first.
        return ""


class Observer(grpc.ServerInterceptor):
    """The outermost interceptor; others may end a call, which is told here all the same.

    level: of the lines for calls that end well, as of `logging`. Those that fail have at
    least INFO. Other services (health, reflection) pass by.
    """

    def __init__(self, calls: Calls, level: int) -> None:
        self._calls = calls
        self._level = level

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wraps what handles the call."""
        handler = continuation(handler_call_details)
        service, _, rpc = handler_call_details.method.removeprefix("/").partition("/")
        if handler is None or service != SERVICE:
            return handler
        metadata = dict(handler_call_details.invocation_metadata or ())
        call = _Call(self._calls, self._level, rpc, _fit(metadata.get(REQUEST_ID)))
        parts = handler.request_deserializer, handler.response_serializer
        note = call.noted if handler.request_streaming else call.note
        # An interceptor behind this one may have made it a call of another kind.
        if handler.stream_stream is not None:
            observed = call.streamed(handler.stream_stream, note)
            return grpc.stream_stream_rpc_method_handler(observed, *parts)
        if handler.unary_stream is not None:
            observed = call.streamed(handler.unary_stream, note)
            return grpc.unary_stream_rpc_method_handler(observed, *parts)
        if handler.stream_unary is not None:
            observed = call.answered(handler.stream_unary, note)
            return grpc.stream_unary_rpc_method_handler(observed, *parts)
        observed = call.answered(handler.unary_unary, note)
        return grpc.unary_unary_rpc_method_handler(observed, *parts)


class _Call:
    """One call, from when its thread begins with it."""

    def __init__(self, calls: Calls, level: int, rpc: str, request_id_: str) -> None:
        self._calls, self._level = calls, level
        self._rpc, self._id = rpc, request_id_
        self._image = ""

    def note(self, request: Any) -> Any:
        """Remembers which image the request is about."""
        self._image = image_of(self._rpc, request)
        return request

    def noted(self, requests: Iterator[Any]) -> Iterator[Any]:
        """As `note`, of the first of many."""
        for first in requests:
            yield self.note(first)
            break
        yield from requests

    def answered(
        self, behaviour: Behaviour, note: Callable[[Any], Any]
    ) -> Callable[[Any, grpc.ServicerContext], Any]:
        """For a call with one answer."""
        assert behaviour is not None

        def observed(request: Any, context: grpc.ServicerContext) -> Any:
            with self._observed(context):
                return behaviour(note(request), context)

        return observed

    def streamed(
        self, behaviour: Behaviour, note: Callable[[Any], Any]
    ) -> Callable[[Any, grpc.ServicerContext], Iterator[Any]]:
        """For a call with many."""
        assert behaviour is not None

        def observed(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with self._observed(context):
                yield from behaviour(note(request), context)

        return observed

    @contextmanager
    def _observed(self, context: grpc.ServicerContext) -> Iterator[None]:
        start = time.perf_counter()
        token = request_id.set(self._id)
        self._calls.begin(self._rpc)
        context.set_trailing_metadata(((REQUEST_ID, self._id),))
        ended = grpc.StatusCode.OK
        try:
            yield
        except GeneratorExit:
            # Nobody takes the answers any more: cancelled, or its deadline has passed.
            ended = grpc.StatusCode.CANCELLED
            raise
        except BaseException:
            # So it is, too, where gRPC raises since the caller went before it had said all.
            left = not context.is_active()
            ended = grpc.StatusCode.CANCELLED if left else grpc.StatusCode.UNKNOWN
            raise
        finally:
            self._end(context, ended, time.perf_counter() - start)
            request_id.reset(token)

    def _end(self, context: Any, ended: grpc.StatusCode, seconds: float) -> None:
        # What an abort set; else nothing.
        code = context.code() or ended
        self._calls.end(self._rpc, code.name, seconds)
        level = self._level
        if code in _FAULTS:
            level = logging.ERROR
        elif code not in (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED):
            level = max(level, logging.INFO)
        if not access.isEnabledFor(level):
            return
        facts: dict[str, Any] = {
            "rpc": self._rpc,
            "peer": context.peer(),
            "image": _short(self._image),
            "code": code.name,
            "seconds": round(seconds, 6),
        }
        caller = caller_of(context)
        if caller is not None:
            facts["caller"] = caller.name
        details = context.details()
        if details:
            # gRPC gives back as bytes what it was told as text.
            facts["details"] = _short(details.decode() if isinstance(details, bytes) else details)
        access.log(level, "call", extra=facts)


def _short(text: str) -> str:
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}..."


def _fit(given: str | bytes | None) -> str:
    """The id that a client sent, where it can be shown as it is; else a new one."""
    if isinstance(given, str) and _FIT.fullmatch(given):
        return given
    return secrets.token_hex(8)
