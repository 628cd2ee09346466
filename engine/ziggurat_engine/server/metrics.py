"""Which metrics has a server, what do they mean, and where does each come from?

One table. /metrics, the page docs/monitoring.md and the dashboard are made from it, or
tested against it. Nothing here is gathered before somebody asks.
"""

from __future__ import annotations

import contextlib
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from ziggurat_engine import __version__
from ziggurat_engine.errors import Unavailable
from ziggurat_engine.measures import Counted, Used

if TYPE_CHECKING:
    from ziggurat_engine.engine import Engine, Status
    from ziggurat_engine.kernels.protocol import DeviceTotals
    from ziggurat_engine.measures import Measures
    from ziggurat_engine.server.calls import Called, Calls
    from ziggurat_engine.space import Disk


@dataclass(frozen=True)
class Facts:
    """What one answer is made of. images: by the prefix that they count to."""

    status: Status
    measures: Measures
    calls: Called
    used: Mapping[str, Used]
    images: Mapping[str, int]


def gather(engine: Engine, calls: Calls) -> Facts:
    """All that is known now."""
    usage = engine.measures.usage
    images: Counter[str] = Counter()
    with contextlib.suppress(Unavailable):
        images.update(map(usage.prefix, engine.names()))
    return Facts(engine.status(), engine.measures, calls.read(), usage.read(), images)


Values: TypeAlias = Iterable[tuple[tuple[str, ...], float | Counted]]
"""For each combination of labels: their values, and a number or, of a histogram, all of it."""


@dataclass(frozen=True)
class Metric:
    """name: without the suffix of its type. unit: what the name ends with, where it has one."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    values: Callable[[Facts], Values]
    unit: Literal["", "bytes", "seconds"] = ""
    labels: tuple[str, ...] = ()

    @property
    def exposed(self) -> str:
        """The name in queries; a histogram has three, with _bucket, _sum and _count behind it."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


# What prometheus-client tells of the process, on Linux.
PROCESS: Mapping[str, str] = {
    "process_cpu_seconds_total": "CPU time, of user and system",
    "process_resident_memory_bytes": "memory that is resident",
    "process_virtual_memory_bytes": "memory that is mapped",
    "process_open_fds": "files and sockets that are open",
    "process_max_fds": "how many may be",
    "process_start_time_seconds": "when it started, since 1970",
}


def _one(value: Callable[[Facts], float | Counted]) -> Callable[[Facts], Values]:
    """Of a metric without labels."""
    return lambda facts: [((), value(facts))]


def _status(value: Callable[[Status], float | Counted]) -> Callable[[Facts], Values]:
    return lambda facts: [((), value(facts.status))]


def _usage(value: Callable[[Used], float]) -> Callable[[Facts], Values]:
    return lambda facts: [((prefix,), value(used)) for prefix, used in sorted(facts.used.items())]


def _stages(facts: Facts) -> Values:
    backend, kernels = facts.status.kernels, facts.status.kernel_totals
    stages = {"freeze": 0.0, "write": 0.0, "sync": 0.0, **facts.measures.stages.read()}
    stages |= {"encode": kernels.encode_seconds, "downsample": kernels.downsample_seconds}
    return [((stage, backend), seconds) for stage, seconds in sorted(stages.items())]


def _kernels(seconds: bool) -> Callable[[Facts], Values]:
    def values(facts: Facts) -> Values:
        backend, totals = facts.status.kernels, facts.status.kernel_totals
        if seconds:
            found = (totals.encode_seconds, totals.downsample_seconds, totals.decode_seconds)
        else:
            found = (totals.raw_bytes, totals.downsampled_bytes, totals.decoded_bytes)
        operations = ("encode", "downsample", "decode")
        return [((name, backend), value) for name, value in zip(operations, found, strict=True)]

    return values


def _cards(value: Callable[[DeviceTotals], float]) -> Callable[[Facts], Values]:
    def values(facts: Facts) -> Values:
        cards = enumerate(facts.status.devices)
        return [((str(number), card.name), value(card)) for number, card in cards]

    return values


def _errors(facts: Facts) -> Values:
    found = {"read": 0.0, "log_append": 0.0, **facts.measures.errors.read()}
    found |= {"settle": facts.status.settle.failures, "log_sync": facts.status.log.failed_syncs}
    return [((operation,), count) for operation, count in sorted(found.items())]


def _disks(value: Callable[[Disk], int]) -> Callable[[Facts], Values]:
    def values(facts: Facts) -> Values:
        return [((disk.use,), value(disk)) for disk in facts.status.disks]

    return values


METRICS: tuple[Metric, ...] = (
    Metric(
        "ziggurat_build_info",
        "gauge",
        "always 1; what runs is in the labels",
        lambda facts: [((__version__, platform.python_version(), facts.status.kernels), 1)],
        labels=("version", "python", "kernels"),
    ),
    Metric(
        "ziggurat_ready",
        "gauge",
        "1 where the server is healthy; 0 while it replays its log or stops",
        _status(lambda s: not (s.recovering or s.draining)),
    ),
    Metric("ziggurat_images", "gauge", "images there are", _status(lambda s: s.images)),
    Metric(
        "ziggurat_streams_open",
        "gauge",
        "write streams that somebody holds",
        _status(lambda s: s.open_streams),
    ),
    Metric(
        "ziggurat_ingest_regions",
        "counter",
        "regions that were accepted",
        _status(lambda s: s.used.regions),
    ),
    Metric(
        "ziggurat_ingest_bytes",
        "counter",
        "bytes of their pixels",
        _status(lambda s: s.used.written_bytes),
        unit="bytes",
    ),
    Metric(
        "ziggurat_shared_memory_bytes",
        "counter",
        "bytes of pixels that were taken from shared memory, not from messages",
        lambda facts: [((), facts.measures.shared.read().get("bytes", 0))],
        unit="bytes",
    ),
    Metric(
        "ziggurat_acknowledgement_seconds",
        "histogram",
        "from a region's arrival until reads see it (received), and until it survives a power cut"
        " (durable; of streams that ask for that)",
        lambda f: [
            (("received",), f.measures.received.read()),
            (("durable",), f.measures.durable.read()),
        ],
        unit="seconds",
        labels=("durability",),
    ),
    Metric(
        "ziggurat_read_bytes",
        "counter",
        "bytes of the pixels that reads were sent, before any encoding",
        _status(lambda s: s.used.read_bytes),
        unit="bytes",
    ),
    Metric(
        "ziggurat_log_records",
        "counter",
        "records appended to the log",
        _status(lambda s: s.log.records),
    ),
    Metric(
        "ziggurat_log_appended_bytes",
        "counter",
        "bytes of these records",
        _status(lambda s: s.log.record_bytes),
        unit="bytes",
    ),
    Metric(
        "ziggurat_log_sync_seconds",
        "histogram",
        "how long successful syncs of the log took",
        _status(lambda s: s.log_sync_seconds),
        unit="seconds",
    ),
    Metric(
        "ziggurat_log_segments",
        "gauge",
        "segments of the log with records that may still be needed",
        _status(lambda s: s.log.segments),
    ),
    Metric(
        "ziggurat_log_spare_segments",
        "gauge",
        "segments that are kept ready",
        _status(lambda s: s.log.spare_segments),
    ),
    Metric(
        "ziggurat_log_disk_bytes",
        "gauge",
        "size of all files of the log",
        _status(lambda s: s.log.disk_bytes),
        unit="bytes",
    ),
    Metric(
        "ziggurat_log_replayed_bytes",
        "gauge",
        "bytes of the log that this start has replayed so far",
        _status(lambda s: s.replayed_bytes),
        unit="bytes",
    ),
    Metric(
        "ziggurat_log_full",
        "gauge",
        "1 while nothing can be appended to the log",
        _status(lambda s: bool(s.log_error)),
    ),
    Metric(
        "ziggurat_cache_budget_bytes",
        "gauge",
        "memory that chunks may take (cache_bytes)",
        _status(lambda s: s.budget_bytes),
        unit="bytes",
    ),
    Metric(
        "ziggurat_cache_dirty_bytes",
        "gauge",
        "memory of chunks that are not stored; writers wait from 3/4 of the budget on",
        _status(lambda s: s.dirty_bytes),
        unit="bytes",
    ),
    Metric(
        "ziggurat_cache_clean_bytes",
        "gauge",
        "memory of chunks that are stored and kept for reads",
        _status(lambda s: s.clean_bytes),
        unit="bytes",
    ),
    Metric(
        "ziggurat_cache_hits",
        "counter",
        "stored chunks that were found in memory",
        _status(lambda s: s.hits),
    ),
    Metric(
        "ziggurat_cache_misses",
        "counter",
        "stored chunks that were read and decoded, or found absent",
        _status(lambda s: s.misses),
    ),
    Metric(
        "ziggurat_cache_evictions",
        "counter",
        "chunks that made room for others",
        _status(lambda s: s.evictions),
    ),
    Metric(
        "ziggurat_store_read_requests",
        "counter",
        "requests to the store for chunks; neighbours come in one",
        _status(lambda s: s.read_requests),
    ),
    Metric(
        "ziggurat_store_read_bytes",
        "counter",
        "bytes that they brought",
        _status(lambda s: s.read_bytes),
        unit="bytes",
    ),
    Metric(
        "ziggurat_read_ahead_chunks",
        "counter",
        "chunks loaded before anybody asked",
        _status(lambda s: s.read_ahead),
    ),
    Metric(
        "ziggurat_read_ahead_used_chunks",
        "counter",
        "those of them that were asked for later",
        _status(lambda s: s.read_ahead_used),
    ),
    Metric(
        "ziggurat_settle_shards",
        "counter",
        "shards that were stored",
        _status(lambda s: s.settle.shards_stored),
    ),
    Metric(
        "ziggurat_settle_chunks",
        "counter",
        "chunks that were stored",
        _status(lambda s: s.settle.chunks_encoded),
    ),
    Metric(
        "ziggurat_settle_raw_bytes",
        "counter",
        "bytes of their pixels",
        _status(lambda s: s.settle.raw_bytes),
        unit="bytes",
    ),
    Metric(
        "ziggurat_settle_stored_bytes",
        "counter",
        "bytes of the shards as they were written",
        _status(lambda s: s.settle.stored_bytes),
        unit="bytes",
    ),
    Metric(
        "ziggurat_settle_blocks",
        "counter",
        "downsampled blocks that were made for the level above",
        _status(lambda s: s.settle.blocks_made),
    ),
    Metric(
        "ziggurat_settle_seconds",
        "histogram",
        "how long a shard took, from freezing it until its blocks were merged",
        _one(lambda f: f.measures.settled.read()),
        unit="seconds",
    ),
    Metric(
        "ziggurat_settle_stage_seconds",
        "counter",
        "time spent in each stage: freeze, encode and downsample (of the kernels' threads, which"
        " work beside each other), write and sync (of shards and documents)",
        _stages,
        unit="seconds",
        labels=("stage", "backend"),
    ),
    Metric(
        "ziggurat_settle_waiting_shards",
        "gauge",
        "shards that are dirty, are being stored, or have blocks to be made",
        _status(lambda s: s.shards_waiting),
    ),
    Metric(
        "ziggurat_settle_failing_shards",
        "gauge",
        "shards that the last try could not store",
        _status(lambda s: s.shards_failing),
    ),
    Metric(
        "ziggurat_stale_chunks",
        "gauge",
        "chunks of which the block in the level above is not made: dirty or being stored"
        " (unsettled), or to be made later (deferred)",
        lambda f: [
            (("unsettled",), f.status.unsettled_chunks),
            (("deferred",), f.status.deferred_chunks),
        ],
        labels=("state",),
    ),
    Metric(
        "ziggurat_kernel_seconds",
        "counter",
        "time of the threads that encode, downsample and decode",
        _kernels(seconds=True),
        unit="seconds",
        labels=("operation", "backend"),
    ),
    Metric(
        "ziggurat_kernel_bytes",
        "counter",
        "bytes of the pixels that they took or gave",
        _kernels(seconds=False),
        unit="bytes",
        labels=("operation", "backend"),
    ),
    Metric(
        "ziggurat_kernel_cpu_batches",
        "counter",
        "batches that the CPU did though there are cards: none has code for them, or one failed",
        _status(lambda s: s.kernel_totals.cpu_batches),
    ),
    Metric(
        "ziggurat_card_ready",
        "gauge",
        "1 where a card works; 0 where it is paused or lost",
        _cards(lambda card: card.state == "ready"),
        labels=("card", "name"),
    ),
    Metric(
        "ziggurat_card_batches",
        "counter",
        "batches that a card did",
        _cards(lambda card: card.batches),
        labels=("card", "name"),
    ),
    Metric(
        "ziggurat_card_failures",
        "counter",
        "batches that a card gave back, and what else went wrong with it",
        _cards(lambda card: card.failures),
        labels=("card", "name"),
    ),
    Metric(
        "ziggurat_card_memory_bytes",
        "gauge",
        "what is held of a card's memory",
        _cards(lambda card: card.memory_bytes),
        unit="bytes",
        labels=("card", "name"),
    ),
    Metric(
        "ziggurat_store_errors",
        "counter",
        "what the disk or what lies on it refused: read, settle, log_append, log_sync",
        _errors,
        labels=("operation",),
    ),
    Metric(
        "ziggurat_calls_running",
        "gauge",
        "calls that run",
        lambda f: [((rpc,), count) for rpc, count in sorted(f.calls.running.items())],
        labels=("rpc",),
    ),
    Metric(
        "ziggurat_calls",
        "counter",
        "calls that ended, by the name of their status",
        lambda f: [(key, count) for key, count in sorted(f.calls.ended.items())],
        labels=("rpc", "code"),
    ),
    Metric(
        "ziggurat_call_seconds",
        "histogram",
        "how long they took",
        lambda f: [((rpc,), taken) for rpc, taken in sorted(f.calls.seconds.items())],
        unit="seconds",
        labels=("rpc",),
    ),
    Metric(
        "ziggurat_disk_free_bytes",
        "gauge",
        "what is free on the disks of data and log; see reserve_bytes",
        _disks(lambda d: d.free_bytes),
        unit="bytes",
        labels=("disk",),
    ),
    Metric(
        "ziggurat_disk_size_bytes",
        "gauge",
        "how large they are",
        _disks(lambda d: d.total_bytes),
        unit="bytes",
        labels=("disk",),
    ),
    Metric(
        "ziggurat_usage_images",
        "gauge",
        "images by the first segment of their names; what is beyond metrics_prefixes is _other",
        lambda f: [((prefix,), count) for prefix, count in sorted(f.images.items())],
        labels=("prefix",),
    ),
    Metric(
        "ziggurat_usage_written_bytes",
        "counter",
        "bytes of pixels written to them",
        _usage(lambda u: u.written_bytes),
        unit="bytes",
        labels=("prefix",),
    ),
    Metric(
        "ziggurat_usage_read_bytes",
        "counter",
        "bytes of pixels read from them",
        _usage(lambda u: u.read_bytes),
        unit="bytes",
        labels=("prefix",),
    ),
)


def table() -> str:
    """All of them, as Markdown."""
    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for metric in METRICS:
        labels = ", ".join(metric.labels)
        lines.append(f"| `{metric.exposed}` | {metric.kind} | {labels} | {metric.meaning} |")
    lines += [f"| `{name}` | process | | {meaning} |" for name, meaning in PROCESS.items()]
    return "\n".join(lines)
