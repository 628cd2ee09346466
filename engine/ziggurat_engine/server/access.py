"""Who is let in? An interceptor that finds out who calls, and holds it against the table.

Nothing of a request is received before its caller is known to have the scope. A call that
lasts ends soon after its caller's right does: before its next answer, and a write stream
within a second (write_call.py).
"""

from __future__ import annotations

import itertools
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

        def answered(requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
            try:
                _, admitted = self._admitted(rule, requests, context)
            except ZigguratError as error:
                abort(context, error)
            return inner(admitted, context)

        def streamed(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            try:
                caller, admitted = self._admitted(rule, requests, context)
                for response in inner(admitted, context):
                    yield response
                    caller.check()
            except ZigguratError as error:
                abort(context, error)

        return wrapped(handler, streamed if handler.response_streaming else answered)

    def _admitted(
        self, rule: Rule, requests: Iterator[Any], context: grpc.ServicerContext
    ) -> tuple[Caller, Iterator[Any]]:
        caller = self._identify(context)
        note(context, caller)
        rule.check(caller)
        first = first_of(requests)
        rule.check_names(caller, first)
        return caller, itertools.chain((first,), requests)


def _undeclared(_: Iterator[Any], context: grpc.ServicerContext) -> Any:
    abort(context, PermissionDenied("nobody may make this call: no scope is declared for it"))
