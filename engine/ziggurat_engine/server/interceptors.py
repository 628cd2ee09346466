"""What does every call pass through before its handler? The list, outermost first."""

from __future__ import annotations

import grpc

from ziggurat_engine.config import Settings
from ziggurat_engine.security.audit import AuditLog
from ziggurat_engine.server.access import Access
from ziggurat_engine.server.admission import Admission, Watch
from ziggurat_engine.server.auditing import Auditing
from ziggurat_engine.server.identify import identifier


def interceptors(settings: Settings, watch: Watch) -> list[grpc.ServerInterceptor]:
    """For grpc.server. Raises DataError, OSError where the tokens can't be read.

    watch: of clients that are silent, or do not read.
    """
    return [
        # What has no place costs nothing more.
        Admission(settings, watch),
        # Sees what Access refused, too.
        Auditing(AuditLog.of(settings)),
        Access(identifier(settings)),
    ]
