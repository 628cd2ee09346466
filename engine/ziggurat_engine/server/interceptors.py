"""Through what does every call pass, and in which order?"""

from __future__ import annotations

import logging

import grpc

from ziggurat_engine.config import Settings
from ziggurat_engine.server.calls import Calls
from ziggurat_engine.server.observe import Observer


def interceptors(settings: Settings, calls: Calls) -> list[grpc.ServerInterceptor]:
    """The outermost first. calls: counts them."""
    level = logging.getLevelNamesMapping()[settings.access_log_level.upper()]
    return [Observer(calls, level)]
