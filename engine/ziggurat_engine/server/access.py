"""Who is let in? An interceptor that finds out who calls, and holds it against the table.

Nothing of a request is received before its caller is known to have the scope. A call that
lasts ends soon after its caller's right does: before its next answer, and a write stream
within a second (write_call.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc

from ziggurat_engine.errors import PermissionDenied, ZigguratError
from ziggurat_engine.security.caller import Caller, Scope
from ziggurat_engine.server.caller import note
from ziggurat_engine.server.rights import RULES, Rule
from ziggurat_engine.server.shape import behaviour_of, first_of, wrapped
from ziggurat_engine.server.status import abort


class Access(grpc.ServerInterceptor):
    """identify: who makes a call; raises Unauthenticated. Called on the call's own thread."""

    def __init__(self, identify: Callable[[grpc.ServicerContext], Caller]) -> None:
        self._identify = identify

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Wraps what is in the table; refuses what is not."""
        handler = continuation(details)
        if handler is None:
            # No such call: gRPC says so.
            return None
        rule = RULES.get(details.method)
        if rule is None:
            return wrapped(handler, _undeclared)
        if rule.scope is Scope.NONE:
            return handler
        inner = behaviour_of(handler)
        take = self._checked if handler.request_streaming else self._alone

        def answered(requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
            with _Gate(context) as gate:
                caller = self._caller(rule, context)
                return inner(take(rule, caller, requests, gate), context)

        def streamed(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            with _Gate(context) as gate:
                caller = self._caller(rule, context)
                for response in inner(take(rule, caller, requests, gate), context):
                    yield response
                    caller.check()

        return wrapped(handler, streamed if handler.response_streaming else answered)

    def _caller(self, rule: Rule, context: grpc.ServicerContext) -> Caller:
        caller = self._identify(context)
        note(context, caller)
        rule.check(caller)
        return caller

    def _alone(
        self, rule: Rule, caller: Caller, requests: Iterator[Any], _: _Gate
    ) -> Iterator[Any]:
        request = first_of(requests)
        rule.check_names(caller, request)
        return iter((request,))

    def _checked(
        self, rule: Rule, caller: Caller, requests: Iterator[Any], gate: _Gate
    ) -> Iterator[Any]:
        """The first is looked at when the handler asks for it: it knows how long to wait."""
        for first in requests:
            try:
                rule.check_names(caller, first)
            except ZigguratError as error:
                gate.refusal = error
                return
            yield first
            break
        yield from requests


class _Gate:
    """Ends a call with the status of what kept it out, whatever else came of that.

    refusal: why the handler got no message; on whichever thread it asked for one.
    """

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context
        self.refusal: ZigguratError | None = None

    def __enter__(self) -> _Gate:
        return self

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        # What a handler raises is a status of its own, by `abort`.
        found = error if isinstance(error, ZigguratError) else self.refusal
        if found is not None and not isinstance(error, GeneratorExit):
            abort(self._context, found)


def _undeclared(_: Iterator[Any], context: grpc.ServicerContext) -> Any:
    abort(context, PermissionDenied("nobody may make this call: no scope is declared for it"))
