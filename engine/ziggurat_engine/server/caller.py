"""Who makes this call?

The interceptor that lets calls in (access.py) notes it; handlers, and interceptors outside
of it once the call is over, ask here.
"""

from __future__ import annotations

from typing import Any

import grpc

from ziggurat_engine.errors import Unauthenticated
from ziggurat_engine.security.caller import Caller

# Of a call's context, which lives as long as the call does.
_ATTRIBUTE = "ziggurat_caller"


def caller_of(context: grpc.ServicerContext) -> Caller | None:
    """Whoever was let in; None where nobody was (yet), or the call needs no right."""
    found: Caller | None = getattr(context, _ATTRIBUTE, None)
    return found


def let_in(context: grpc.ServicerContext) -> Caller:
    """As `caller_of`, for handlers, which run for nobody else. Unauthenticated."""
    found = caller_of(context)
    if found is None:
        # A handler that nobody guards: better no answer than one to anybody.
        raise Unauthenticated("nobody knows who makes this call")
    return found


def note(context: Any, caller: Caller) -> None:
    """The call is made by `caller`."""
    setattr(context, _ATTRIBUTE, caller)
