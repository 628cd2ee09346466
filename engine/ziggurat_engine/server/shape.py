"""How does an interceptor wrap a call of any kind? As one that takes a stream of requests.

On the wire a request that comes alone is a stream of one. Taken as a stream it is not
received before the wrapper asks for it, so that who is refused has nothing read of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import grpc

from ziggurat_engine.errors import InvalidArgument

Behaviour: TypeAlias = Callable[[Iterator[Any], grpc.ServicerContext], Any]
"""Requests and context in; out comes a response, or where they stream an iterator of them."""


def behaviour_of(handler: Any) -> Behaviour:
    """What the handler does."""
    if handler.request_streaming:
        call: Behaviour = handler.stream_stream or handler.stream_unary
        return call
    alone = handler.unary_stream or handler.unary_unary

    def behave(requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
        return alone(next(requests), context)

    return behave


def wrapped(handler: Any, behaviour: Behaviour) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler that does `behaviour`, with the messages of `handler`."""
    kind = (
        grpc.stream_stream_rpc_method_handler
        if handler.response_streaming
        else grpc.stream_unary_rpc_method_handler
    )
    made: grpc.RpcMethodHandler[Any, Any] = kind(
        behaviour, handler.request_deserializer, handler.response_serializer
    )
    return made


def first_of(requests: Iterator[Any]) -> Any:
    """The first request. InvalidArgument where the caller sent none."""
    for request in requests:
        return request
    raise InvalidArgument("the call has no message", field="request")
