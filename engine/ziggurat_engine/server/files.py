"""How many files may be open, and do the settings fit into that?

A descriptor that can't be had fails in the middle of a write or a read, so it is counted
before. All but the shards that are kept open for reads is needed:

    a connection        its socket
    a stream, a call     one file at a time
    a stream             the memory that its client shares
    a worker            the new shard, the old one, a directory
    a thread that reads  one shard
    the engine           locks, state database, segments of the log, what gRPC waits on

What is left is for `max_open_shards`, the one number that may be lower at no risk.
"""

from __future__ import annotations

import logging
import os
import resource
from pathlib import Path

from ziggurat_engine.config import Settings
from ziggurat_engine.errors import InvalidArgument

log = logging.getLogger(__name__)

PER_CALL = 1
PER_SHARING = 1
PER_WORKER = 3
ENGINE = 48
# With fewer, reads open a shard for nearly each chunk.
LEAST_SHARDS = 8


def _per_call(settings: Settings) -> int:
    return PER_CALL + PER_SHARING * settings.shared_memory


def needed(settings: Settings) -> int:
    """The most files that are open at a time, without shards that are kept open."""
    return (
        _per_call(settings) * (settings.max_streams + settings.max_calls)
        + settings.max_connections
        + PER_WORKER * settings.settle_workers
        + settings.read_threads
        + ENGINE
    )


def shards_that_fit(settings: Settings, limit: int) -> int:
    """How many shards may be kept open, at most `max_open_shards`, of `limit` files in all.

    Raises InvalidArgument, which names settings and numbers, where the rest leaves too few.
    """
    least = min(LEAST_SHARDS, settings.max_open_shards)
    left = limit - needed(settings)
    if left < least:
        raise InvalidArgument(
            f"{limit} files may be open (RLIMIT_NOFILE), {needed(settings) + least} may be"
            f" needed: {_per_call(settings)} for each of max_streams = {settings.max_streams} and"
            f" max_calls = {settings.max_calls}, max_connections = {settings.max_connections},"
            f" {PER_WORKER} for each of settle_workers ="
            f" {settings.settle_workers}, 1 for each of read_threads = {settings.read_threads},"
            f" {ENGINE + least} besides; raise the limit or lower these",
            field="max_streams",
        )
    return min(left, settings.max_open_shards)


def fitted(settings: Settings) -> Settings:
    """The settings with a `max_open_shards` that fits this process; raises its limit first.

    Raises InvalidArgument as `shards_that_fit` does.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # What was inherited is not ours to close.
    inherited = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 3
    shards = shards_that_fit(settings, hard - inherited)
    if shards < settings.max_open_shards:
        log.warning(
            "max_open_shards is %d instead of %d: only %d files may be open (RLIMIT_NOFILE)",
            shards,
            settings.max_open_shards,
            hard,
        )
        settings = settings.model_copy(update={"max_open_shards": shards})
    return settings
