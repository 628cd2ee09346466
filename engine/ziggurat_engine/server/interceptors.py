"""Through what does every call pass, and in which order?"""

from __future__ import annotations

import logging

import grpc

from ziggurat_engine.config import Settings
from ziggurat_engine.server.calls import Calls
from ziggurat_engine.server.observe import Observer
from ziggurat_engine.server.tracing import Tracing


def interceptors(
    settings: Settings, calls: Calls, tracing: Tracing | None
) -> list[grpc.ServerInterceptor]:
    """The outermost first. calls: counts them. tracing: None where nothing is traced."""
    level = logging.getLevelNamesMapping()[settings.access_log_level.upper()]
    return [
        Observer(calls, level),
        # Its context takes the place of gRPC's for all that is behind it.
        *([tracing.interceptor] if tracing is not None else []),
    ]
