"""What runs when the power is cut, and what must be true afterwards?

A World is a disk (FaultyFs and a database) with an engine on it. Writes carry their own
number as the value of their pixels, so that every pixel tells which write it comes from.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from ziggurat_engine.config import Settings
from ziggurat_engine.engine import Engine
from ziggurat_engine.reads.answers import Read
from ziggurat_engine.reads.selection import Selection
from ziggurat_engine.region import Region
from ziggurat_engine.spec import Axis, ImageSpec, LayoutRequest
from ziggurat_engine.state import State
from ziggurat_engine.testing.faulty import FaultyFs, PowerCut
from ziggurat_engine.writes.streams import Stream

from tests.support.pixels import reference_cascade

DATA = Path("/data")
SHAPE = (6, 20, 23)
NAME = "crash/image"
STREAMS = ("left", "right")
ENGINE_THREADS = ("settle-", "log-", "read", "journal")


class Database:
    """A SQLite database in memory of which a power cut keeps what was committed.

    torn: what it may hold as well: the first commit that the cut interrupted, or the
    last one that failed, of which nobody knows what reached the disk.
    """

    def __init__(self, fs: FaultyFs, content: bytes = b"") -> None:
        self._fs = fs
        self._start = content
        self._lock = threading.Lock()
        self.content = content
        self.torn: bytes | None = None
        self._failing = 0
        self._left: list[World] = []
        self._db: sqlite3.Connection | None = None

    def connect(self) -> sqlite3.Connection:
        self._db = sqlite3.connect(
            ":memory:", check_same_thread=False, isolation_level=None, factory=_Connection
        )
        if self._start:
            self._db.deserialize(self._start)
        self._db.failing = self._fails
        return self._db

    def fail_next(self, commits: int = 1) -> None:
        """The next commits raise; what they would have written may be there after a cut."""
        self._failing += commits

    def heal(self) -> None:
        """Takes back what fail_next announced."""
        self._failing = 0

    def after(self, mode: object) -> bytes:
        """The database after a power cut."""
        return self.torn if torn(mode) and self.torn is not None else self.content

    def next_commit_in(self, left: list[World]) -> None:
        """What the next commit writes may be in those worlds, which were left at a sync point."""
        self._left = left

    def committed(self) -> None:
        assert self._db is not None
        # A commit counts as a sync point: the cut comes after it, and keeps it.
        with self._lock:
            if not self._fs.is_cut:
                self.content, self.torn = self._db.serialize(), None
                self._fs.sync_point()
            else:
                raise PowerCut

    def _fails(self) -> bool:
        assert self._db is not None
        if self._fs.is_cut:
            if self.torn is None:
                self.torn = self._db.serialize()
            raise PowerCut
        if self._left:
            # Had the power been cut at the last sync point, this would have been interrupted.
            for world in self._left:
                world.content = self._db.serialize()
            self._left = []
        if not self._failing:
            return False
        self._failing -= 1
        self.torn = self._db.serialize()
        self._db.deserialize(self.content)
        return True


def torn(mode: object) -> bool:
    """Whether a commit that the cut interrupted is there afterwards."""
    return mode != "drop" and (mode == "keep" or bool(hash(mode) % 2))


class _Connection(sqlite3.Connection):
    """Asks, once a commit is made, whether it was to fail."""

    failing: Callable[[], bool]

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        cursor = super().execute(sql, *parameters)
        if sql == "COMMIT" and self.failing():
            raise sqlite3.OperationalError("disk I/O error")
        return cursor


@dataclass(frozen=True)
class Write:
    """One region of one stream; `value` is its place in the order of all writes.

    said: its metadata. skipped: frames, where it is no region but a skip.
    """

    stream: str
    sequence: int
    region: Region
    value: int
    said: str = ""
    skipped: int = 0

    def row(self) -> tuple[str, int, str] | None:
        """What the table of frames says of it."""
        said = f'{{"skipped_frames": {self.skipped}}}' if self.skipped else self.said
        return (self.stream, self.sequence, said) if said else None


@dataclass
class World:
    """A disk and the engine on it. `durable`: what each stream was told; `closed`: which were."""

    fs: FaultyFs = field(default_factory=FaultyFs)
    content: bytes = b""
    durable: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STREAMS, 0))

    closed: set[str] = field(default_factory=set)
    downsampling: str = "mean"

    def __post_init__(self) -> None:
        self.threads = set(threading.enumerate())
        self.held: list[Stream] = []
        self.abandoned = False

    def open(self, **settings: object) -> None:
        self.database = Database(self.fs, self.content)
        chosen: dict[str, object] = {
            "cache_bytes": 1 << 20,
            "log_segment_bytes": 16 << 10,
            "max_message_bytes": 14 << 10,
            "kernels": "reference",
            "settle_workers": 1,
            "read_threads": 1,
            "settle_idle_seconds": 0.02,
        }
        self.engine = Engine(
            Settings(data=DATA, **{**chosen, **settings}),
            self.fs,
            lambda: State(self.database.connect, self.database.committed),
        )
        self.engine.recover()

    def create(self, **options: object) -> None:
        axes = [Axis(name=n, size=s) for n, s in zip("zyx", SHAPE, strict=True)]
        layout = LayoutRequest(
            chunk_shape=(2, 8, 8), shard_chunks=(1, 2, 2), factors=((1, 2, 2), (2, 2, 2))
        )
        self.engine.create(
            ImageSpec(
                name=NAME,
                axes=tuple(axes),
                data_type="uint16",
                layout=layout,
                downsampling=self.downsampling,
                **options,
            )
        )

    def streams(self) -> dict[str, Stream]:
        image = self.engine.image(NAME)
        streams = {name: self.engine.streams.open(image, name) for name in STREAMS}
        self.held = list(streams.values())
        return streams

    def write(self, stream: Stream, write: Write) -> None:
        self.put(stream, write)
        self.told(stream)

    def put(self, stream: Stream, write: Write) -> None:
        if write.skipped:
            self.engine.ingest.skip(stream, write.sequence, write.skipped)
        else:
            pixels = memoryview(np.full(write.region.shape, write.value, "<u2").tobytes())
            self.engine.ingest.write(
                stream, write.sequence, write.region, pixels, metadata=write.said
            )

    def told(self, stream: Stream) -> None:
        self.durable[stream.stream_id] = self.engine.durability.refresh(stream)[1]

    def pixels(self, level: int = 0, within: Region | None = None) -> np.ndarray:
        image = self.engine.image(NAME)
        answer = self.engine.query.plan(image, Read(Selection(level=level, box=within)))
        out = np.empty(answer.region.shape, "<u2")
        for box, part in self.engine.query.parts(answer):
            out[box.slices()] = part
        return out

    def abandon(self) -> None:
        """Ends the threads of an engine whose power was cut."""
        if self.abandoned:
            return
        self.abandoned = True
        for stream in self.held:
            self.engine.streams.release(stream)
        with contextlib.suppress(Exception, PowerCut):
            self.engine.close()
        left = [thread.name for thread in threading.enumerate() if thread not in self.threads]
        assert not [name for name in left if name.startswith(ENGINE_THREADS)], left

    def after(self, mode: object) -> World:
        """The world after the power comes back."""
        return self._left(self.fs.crash(mode), mode)

    def cuts(
        self, modes: Callable[[int], Sequence[object]], work: Callable[[World], None]
    ) -> dict[tuple[int, object], World]:
        """Does the work once; what a power cut right behind each sync point leaves.

        modes: of the cut behind the sync point of that number. What is left behind several,
        byte for byte, is there once.
        """
        found: list[tuple[int, dict[object, World]]] = []
        begun = self.fs.sync_points

        def look() -> None:
            point = self.fs.sync_points
            left = {mode: self._left(self.fs.left(mode), mode) for mode in modes(point)}
            found.append((point, left))
            self.database.next_commit_in([world for mode, world in left.items() if torn(mode)])

        self.fs.at_sync_point(look)
        work(self)
        assert [point for point, _ in found] == list(range(begun + 1, self.fs.sync_points + 1))
        distinct = {
            left.state(): ((k, mode), left) for k, worlds in found for mode, left in worlds.items()
        }
        return dict(distinct.values())

    def state(self) -> bytes:
        """A digest of all that the next life can see: what lies in tmp is removed unseen."""
        digest = hashlib.sha256(self.content)
        digest.update(repr((self.durable, sorted(self.closed))).encode())
        pending = [DATA]
        while pending:
            path = pending.pop()
            entries = sorted(self.fs.list_dir(path)) if self.fs.exists(path) else []
            digest.update(repr((path, path == DATA / "tmp" or entries)).encode())
            for entry in entries:
                if entry.is_dir:
                    pending.append(path / entry.name)
                elif path != DATA / "tmp":
                    digest.update(self.fs.read_file(path / entry.name))
        return digest.digest()

    def _left(self, fs: FaultyFs, mode: object) -> World:
        content = self.database.after(mode)
        return World(fs, content, dict(self.durable), set(self.closed), self.downsampling)


def check_pixels(pixels: np.ndarray, writes: list[Write], durable: dict[str, int]) -> None:
    """No pixel is older than the last durable write to it, and none is of no write to it."""
    oldest = np.zeros(SHAPE, np.int64)
    for write in writes:
        if write.sequence <= durable[write.stream] and not write.skipped:
            oldest[write.region.slices()] = write.value
    lost = pixels < oldest
    assert not lost.any(), f"lost: {np.argwhere(lost)[:3]} hold {pixels[lost][:3]}"
    for value in np.unique(pixels[pixels > 0]):
        (write,) = [write for write in writes if write.value == value]
        where = np.argwhere(pixels == value)
        inside = np.zeros(SHAPE, bool)
        inside[write.region.slices()] = True
        assert inside[tuple(where.T)].all(), f"write {value} is where it was never written"


def check_levels(world: World, level0: np.ndarray) -> None:
    """Level 0 is `level0`, and each level above is exactly made of the one below."""
    image = world.engine.image(NAME)
    method = image.image.downsampling
    wanted = reference_cascade(level0, image.image.layout.factors, method)
    for k, expected in enumerate(wanted):
        found = world.pixels(k)
        assert np.array_equal(found, expected), f"level {k}: {np.argwhere(found != expected)[:3]}"


def check_zarr(world: World, checked: set[bytes] | None = None) -> None:
    """The store opens with zarr-python at this instant, and every chunk decodes.

    checked: digests of stores that were looked at; another one like these is not.
    """
    root = DATA / "images" / f"{NAME}.ome.zarr"
    if not world.fs.exists(root):
        return
    files: dict[str, bytes] = {}
    pending = [root]
    while pending:
        directory = pending.pop()
        for entry in world.fs.list_dir(directory):
            path = directory / entry.name
            if entry.is_dir:
                pending.append(path)
            else:
                files[str(path.relative_to(root))] = world.fs.read_file(path)
    if checked is not None:
        digest = hashlib.sha256(repr(sorted(files.items())).encode()).digest()
        if digest in checked:
            return
        checked.add(digest)
    store = {key: zarr.core.buffer.cpu.Buffer.from_bytes(content) for key, content in files.items()}
    group = zarr.open_group(zarr.storage.MemoryStore(store), mode="r")
    for dataset in group.attrs["ome"]["multiscales"][0]["datasets"]:
        array = group[dataset["path"]]
        assert array[...].shape == array.shape
    if "frames" in group:
        for _, array in group["frames"].arrays():
            assert array[...].shape == array.shape


def until(world: World, work: Callable[[World], None]) -> bool:
    """Does the work; False where the power was cut meanwhile."""
    try:
        work(world)
    except (Exception, PowerCut):
        # Without power anything may fail, the log's dead thread included.
        if not world.fs.is_cut:
            raise
    return not world.fs.is_cut
