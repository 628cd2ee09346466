"""Which small values does a caller hand in and get back?

All are frozen and compare by value. Those a caller makes (Channel and the codecs)
check themselves when they are made; those the server makes are taken as they come.
Shapes, factors, scales and translations are in axis order (t, c, z, y, x).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ziggurat._errors import InvalidArgument

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Channel:
    """How one channel is shown; never changes pixels.

    label: any text. color: RRGGBB in hexadecimal. window: the pixel values (start, end)
    shown from black to `color`; None: the full range of an integer type, 0 to 1 for
    floats. Raises InvalidArgument.
    """

    label: str = ""
    color: str = "FFFFFF"
    window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.label, str) or len(self.label) > 256:
            raise _bad("channel.label", f"must be a text of 256 characters, got {self.label!r}")
        if not isinstance(self.color, str) or not re.fullmatch("[0-9A-Fa-f]{6}", self.color):
            raise _bad("channel.color", f'must be RRGGBB such as "00FF00", got {self.color!r}')
        if self.window is not None:
            object.__setattr__(self, "window", _checked_window(self.window))


@dataclass(frozen=True, slots=True)
class Blosc:
    """A Blosc frame a chunk: fast, and with bit shuffle good for camera data.

    level: 0 to 9. Raises InvalidArgument.
    """

    compressor: Literal["zstd", "lz4"] = "zstd"
    level: int = 1
    shuffle: Literal["none", "byte", "bit"] = "bit"

    def __post_init__(self) -> None:
        if self.compressor not in ("zstd", "lz4"):
            raise _bad("codec.compressor", f'must be "zstd" or "lz4", got {self.compressor!r}')
        if self.shuffle not in ("none", "byte", "bit"):
            raise _bad("codec.shuffle", f'must be "none", "byte" or "bit", got {self.shuffle!r}')
        _check_level(self.level, 0, 9)


@dataclass(frozen=True, slots=True)
class Zstd:
    """A zstd frame a chunk. level: -131072 to 22. Raises InvalidArgument."""

    level: int = 1

    def __post_init__(self) -> None:
        _check_level(self.level, -131072, 22)


@dataclass(frozen=True, slots=True)
class Gzip:
    """A gzip member a chunk. level: 0 to 9. Raises InvalidArgument."""

    level: int = 5

    def __post_init__(self) -> None:
        _check_level(self.level, 0, 9)


@dataclass(frozen=True, slots=True)
class Uncompressed:
    """The pixels as they are."""


Codec: TypeAlias = Blosc | Zstd | Gzip | Uncompressed


@dataclass(frozen=True, slots=True)
class Layout:
    """How an image lies on disk; the same for every level, but for read-only adopted images.

    chunk_shape: pixels of a chunk. shard_chunks: chunks of a shard, all 1 where every
    chunk is an object of its own. codec: None where an adopted image has another one.
    """

    chunk_shape: Shape
    shard_chunks: Shape
    codec: Codec | None

    @property
    def shard_shape(self) -> Shape:
        """Pixels of a shard along each axis."""
        return tuple(c * n for c, n in zip(self.chunk_shape, self.shard_chunks, strict=True))


@dataclass(frozen=True, slots=True)
class StoredSize:
    """What lies in the store for one level: chunks that were written, objects, bytes."""

    chunks: int
    objects: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution level as of the last look at the server.

    shape: pixels. factors: downsampling from the level before, all 1 for level 0.
    scale, translation: pixel distance and centre of pixel 0 in axis units; the centre
    of pixel 0 of level 0 is the origin.
    stale: a write to a lower level had not reached this one yet; stale_chunks: how many of
    its chunks.
    stored: present only where it was measured (`Image.refresh(measure=True)`).
    """

    index: int
    shape: Shape
    factors: Shape
    scale: tuple[float, ...]
    translation: tuple[float, ...]
    stale: bool
    stale_chunks: int
    stored: StoredSize | None = None


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """How far a pyramid build is.

    level: the level being read from. The totals grow as parents become known. Bytes are
    raw bytes of the chunks. elapsed_seconds: since the build began.
    """

    level: int
    chunks_done: int
    chunks_total: int
    bytes_done: int
    bytes_total: int
    elapsed_seconds: float

    @property
    def bytes_per_second(self) -> float:
        """The rate so far."""
        return self.bytes_done / self.elapsed_seconds if self.elapsed_seconds else 0.0

    @property
    def seconds_left(self) -> float:
        """How long what is known of will take at this rate; infinite without one."""
        left = self.bytes_total - self.bytes_done
        return left / self.bytes_per_second if self.bytes_done else math.inf


@dataclass(frozen=True, slots=True)
class WriteSummary:
    """What a stream wrote since it was first opened on this server.

    durable: the last sequence number. duplicates: messages that were sent again and
    ignored.
    """

    durable: int
    regions: int
    bytes: int
    skipped_frames: int
    duplicates: int


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What became of one write stream; counts since it was first opened.

    outcome: "open" while somebody writes to it, or may come back; "complete" and
    "aborted" as it was closed; "abandoned" once nobody has held it for long.
    next_sequence: the number of the next message. durable: all up to it is on disk.
    duplicates: messages that were sent again and ignored; a crash may lose some.
    expected_frames: as the writer said. held: a call writes to it now.
    """

    stream_id: str
    outcome: str
    next_sequence: int
    durable: int
    regions: int
    bytes: int
    skipped_frames: int
    duplicates: int
    expected_frames: int | None
    held: bool


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """The server's chunk cache: bytes held of its budget, and counts since it started.

    read_ahead: chunks loaded because a scan was about to come to them; read_ahead_used: those
    that it did come to. read_requests, read_bytes: of encoded chunks, from files.
    """

    budget_bytes: int
    clean_bytes: int
    dirty_bytes: int
    hits: int
    misses: int
    evictions: int
    read_ahead: int
    read_ahead_used: int
    read_requests: int
    read_bytes: int


@dataclass(frozen=True, slots=True)
class SettleStatus:
    """What the server encoded and stored since it started.

    failures: settles that failed and will be tried again, the last for `last_failure`.
    shards_failing: shards that the last try could not store; they stay in memory and log.
    blocks_made: downsampled chunks that levels above were made from. unsettled_chunks: of which
    that is to come, since they are dirty or being stored; deferred_chunks: and that wait until
    an exact read, a build or an idle moment asks for them.
    """

    shards_waiting: int
    shards_stored: int
    chunks_encoded: int
    raw_bytes: int
    stored_bytes: int
    failures: int
    last_failure: str
    shards_failing: int
    blocks_made: int
    unsettled_chunks: int = 0
    deferred_chunks: int = 0


@dataclass(frozen=True, slots=True)
class LogStatus:
    """The write-ahead log: bytes on disk, in so many files that may still be needed.

    appended_bytes, syncs, failed_syncs and seconds: since the server started; replayed_bytes:
    at its start. error: why nothing can be appended now; "": it can.
    """

    bytes: int = 0
    segments: int = 0
    appended_bytes: int = 0
    syncs: int = 0
    failed_syncs: int = 0
    sync_seconds_max: float = 0.0
    sync_seconds_total: float = 0.0
    replayed_bytes: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class TrafficStatus:
    """Pixels that writers and readers moved, since the server started."""

    regions_written: int = 0
    written_bytes: int = 0
    read_bytes: int = 0


@dataclass(frozen=True, slots=True)
class DiskStatus:
    """The file system of the data or of the log; use: "data" or "log"."""

    use: str
    free_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class KernelStatus:
    """What the server encoded, downsampled and decoded since it started.

    chunks, raw_bytes: encoded, downsampled or both. encoded_bytes: of the frames.
    Seconds are of all threads together. cpu_batches: where there are cards, batches that the
    CPU did.
    """

    chunks: int
    raw_bytes: int
    encoded_bytes: int
    encode_seconds: float
    downsampled_bytes: int
    downsample_seconds: float
    decoded_bytes: int
    decode_seconds: float
    cpu_batches: int


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """A card of the server, and what it did since the server started.

    state: "ready", "paused" (out of memory; tried again in a minute) or "lost" (not used before
    a restart). memory_bytes: what the server holds of its memory. failures: batches that
    the CPU had to do in its place; last_failure: why the last.
    """

    name: str
    state: str
    memory_bytes: int
    batches: int
    failures: int
    last_failure: str


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """A limit of the server, by the name that errors give it, and what of it is used now.

    Both are in the unit that is in the name; of what is a rate 0 is used.
    """

    name: str
    value: int
    used: int


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """How the server is. draining: it was told to stop and finishes what it has.

    kernels: "cuda", "cpu" or "reference"; devices: the cards that work for them. recovering:
    the log is replayed; other calls are refused until that is done. disks: those that can be
    asked.
    """

    version: str
    uptime_seconds: float
    draining: bool
    kernels: str
    images: int
    open_streams: int
    cache: CacheStatus
    settle: SettleStatus
    kernel_totals: KernelStatus
    devices: tuple[DeviceStatus, ...]
    limits: tuple[LimitStatus, ...] = ()
    recovering: bool = False
    log: LogStatus = field(default_factory=LogStatus)
    traffic: TrafficStatus = field(default_factory=TrafficStatus)
    disks: tuple[DiskStatus, ...] = ()


def _checked_window(window: object) -> tuple[float, float]:
    try:
        start, end = (float(value) for value in window)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise _bad("channel.window", f"must be (start, end), got {window!r}") from None
    if not (math.isfinite(start) and math.isfinite(end) and start < end):
        raise _bad("channel.window", f"start must be below end and both finite, got {window!r}")
    return start, end


def _check_level(level: object, low: int, high: int) -> None:
    if isinstance(level, bool) or not isinstance(level, int) or not low <= level <= high:
        raise _bad("codec.level", f"must be {low} to {high}, got {level!r}")


def _bad(field: str, what: str) -> InvalidArgument:
    return InvalidArgument(f"{field} {what}", field=field)
