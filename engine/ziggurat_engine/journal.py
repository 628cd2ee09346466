"""When is an accepted write durable, and which part of the log is still needed?

A write is durable once its log record is synced, or once it is stored and a small
`Stored` record that says so is synced. The second way is that of writes that the log
does not take: regions that cover whole shards, streams that asked for `received` only,
and records that a failing log lost before their sync.

The log keeps a segment until every write in it is stored. Writes are known by their
ticks: all ticks below the oldest one that is dirty are stored.

Invariant: what is freed is a prefix of the log, and how far each stream was at its end
is in the state database before it is freed.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass, field

from ziggurat_engine.cache import DirtyDirectory
from ziggurat_engine.log import Log, Record
from ziggurat_engine.state import State, StreamState
from ziggurat_engine.vfs import Buffer

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Segment:
    """What is known of a segment: writes under way, the highest tick, where streams are."""

    under_way: int = 0
    tick: int = 0
    streams: dict[tuple[str, str], StreamState] = field(default_factory=dict)
