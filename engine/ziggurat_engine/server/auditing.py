"""Which calls leave a line in the audit log? An interceptor for those that change something.

Outside of the one that lets callers in: what a known caller was refused is recorded as well.
What nobody is known to have tried is not, or anybody could fill the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
from google.protobuf.message import Message
from ziggurat_proto.v1 import image_pb2, service_pb2, write_pb2

from ziggurat_engine.security.audit import AuditLog
from ziggurat_engine.server import wire
from ziggurat_engine.server.caller import caller_of
from ziggurat_engine.server.rights import RULES
from ziggurat_engine.server.shape import behaviour_of, wrapped

# More than an image may have. What is refused may say anything.
MOST_AXES = 8
MOST_TEXT = 512


class Auditing(grpc.ServerInterceptor):
    """Records what the table calls a change."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Wraps calls that change something."""
        handler = continuation(details)
        rule = RULES.get(details.method)
        if handler is None or rule is None or not rule.change:
            return handler
        inner = behaviour_of(handler)
        change = rule.change

        def answered(requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
            seen = _Request(requests)
            try:
                answer = inner(seen, context)
            except BaseException:
                self._record(context, change, _result(context), seen.facts)
                raise
            self._record(context, change, "OK", seen.facts)
            return answer

        def streamed(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            seen = _Stream(requests) if change == "stream" else _Request(requests)
            over = f"{change}.close" if change == "stream" else change
            ended = False
            try:
                for answer in inner(seen, context):
                    if isinstance(answer, write_pb2.WriteResponse) and seen.answered(answer):
                        self._record(context, f"{change}.open", "OK", dict(seen.facts))
                    yield answer
                ended = context.is_active()
            finally:
                result = "OK" if seen.done(ended) else _result(context)
                self._record(context, over, result, seen.facts | seen.counts)

        return wrapped(handler, streamed if handler.response_streaming else answered)

    def _record(
        self, context: grpc.ServicerContext, event: str, result: str, facts: dict[str, Any]
    ) -> None:
        caller = caller_of(context)
        if caller is not None:
            self._log.record(
                event, by=caller.name, key=caller.key, origin=context.peer(), result=result, **facts
            )


class _Request:
    """A call's requests, looked at as they pass. facts: what it asked for."""

    def __init__(self, requests: Iterator[Any]) -> None:
        self._requests = requests
        self.facts: dict[str, Any] = {}
        self.counts: dict[str, int] = {}

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        request = next(self._requests)
        self.look(request)
        return request

    def look(self, request: Any) -> None:
        """Takes what is to be recorded of a request."""
        if isinstance(request, service_pb2.CreateImageRequest):
            spec = request.spec
            self.facts = {
                "image": _short(spec.name),
                "shape": [axis.size for axis in spec.axes[:MOST_AXES]],
            }
            if spec.labels_of:
                self.facts["labels_of"] = _short(spec.labels_of)
        elif isinstance(request, service_pb2.DeleteImageRequest):
            self.facts = {"image": _short(request.name)}
        elif isinstance(request, service_pb2.BuildPyramidRequest):
            self.facts = {"image": _short(request.image), "force": request.force}
            if request.method:
                self.facts["method"] = _word(image_pb2.Downsampling, request.method)

    def done(self, ended: bool) -> bool:
        """Whether all is done that the caller wanted; ended: the call came to its end."""
        return ended

    def answered(self, _: Message) -> bool:
        """Looks at an answer; whether it is the one that opens a stream."""
        return False


class _Stream(_Request):
    """A write stream. counts: what came in this call, and the last number that is durable."""

    def __init__(self, requests: Iterator[Any]) -> None:
        super().__init__(requests)
        self._closed = False
        self.counts = {"regions": 0, "bytes": 0, "skipped_frames": 0, "durable": 0}

    def look(self, request: Any) -> None:
        if isinstance(request, wire.RegionWrite):
            self.counts["regions"] += 1
            self.counts["bytes"] += request.nbytes
        elif isinstance(request, write_pb2.WriteRequest):
            if request.HasField("open"):
                image, stream = _short(request.open.image), _short(request.open.stream_id)
                self.facts = {"image": image, "stream": stream}
            elif request.HasField("skip"):
                self.counts["skipped_frames"] += request.skip.frames
            elif request.HasField("close"):
                self.facts["outcome"] = _word(write_pb2.Outcome, request.close.outcome)

    def done(self, ended: bool) -> bool:  # noqa: ARG002 - see _Request
        # Who has heard of it may go at once; and who goes without Close has left.
        return self._closed

    def answered(self, answer: Any) -> bool:
        kind = answer.WhichOneof("message")
        self.counts["durable"] = getattr(answer, kind).durable
        self._closed = kind == "closed"
        return bool(kind == "opened")


def _short(text: str) -> str:
    """What a caller said, which may be anything, and long."""
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}..."


def _word(kind: Any, number: int) -> str:
    """An enum's value; what came from a newer client may have no name here."""
    return str(kind.Name(number)) if number in kind.values() else str(number)


def _result(context: Any) -> str:
    """The status of a call that did not end well."""
    code = context.code()
    return code.name if isinstance(code, grpc.StatusCode) else "CANCELLED"
