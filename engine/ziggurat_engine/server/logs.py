"""What does a line of the log look like? The only part that knows structlog.

All code logs through the standard library's `logging`; what is passed as `extra` becomes
fields. Lines go to standard error: for people, or as one JSON object each.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog
from structlog.typing import Processor

from ziggurat_engine.server.observe import request_id


def configure(form: Literal["console", "json"], level: str) -> None:
    """From now on all that is logged at `level` or above is written so; to be called once."""
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        _add_request_id,
        structlog.processors.TimeStamper(fmt="iso", utc=form == "json"),
    ]
    end: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if form == "json":
        end += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        end.append(
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                pad_event_to=0,
                exception_formatter=structlog.dev.plain_traceback,
            )
        )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=end)
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def _add_request_id(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Of the call that this thread is at."""
    found = request_id.get()
    if found:
        event["request_id"] = found
    return event
