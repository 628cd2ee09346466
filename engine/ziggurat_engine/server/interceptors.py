"""What does every call pass through before its handler? The list, outermost first."""

from __future__ import annotations

import logging

import grpc

from ziggurat_engine.config import Settings
from ziggurat_engine.security.audit import AuditLog
from ziggurat_engine.server.access import Access
from ziggurat_engine.server.admission import Admission, Watch
from ziggurat_engine.server.auditing import Auditing
from ziggurat_engine.server.calls import Calls
from ziggurat_engine.server.identify import identifier
from ziggurat_engine.server.observe import Observer
from ziggurat_engine.server.tracing import Tracing


def interceptors(
    settings: Settings, calls: Calls, watch: Watch, tracing: Tracing | None
) -> list[grpc.ServerInterceptor]:
    """For grpc.server. Raises DataError, OSError where the tokens can't be read.

    calls: counts them. watch: of clients that are silent, or do not read. tracing: None where
    nothing is traced.
    """
    level = logging.getLevelNamesMapping()[settings.access_log_level.upper()]
    found: list[grpc.ServerInterceptor] = [
        # Sees all, and how it ended.
        Observer(calls, level),
        # Sees what Admission and Access refused, too.
        Auditing(AuditLog.of(settings)),
        # Strangers hold a place only until their token is looked at.
        Admission(settings, watch),
        Access(identifier(settings)),
    ]
    if tracing is not None:
        # Innermost: its context takes the place of gRPC's for all that is behind it.
        found.append(tracing.interceptor)
    return found
