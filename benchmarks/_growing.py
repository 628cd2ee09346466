"""What does a byte cost in images of any size?

An image of each size has a server of its own, and all take turns. In each turn the same
number of pixels is written, in whole shards that lie spread over the image; all else is fill
value, and so absent, but grids, levels and parents are those of an image so large. The
stages are kept apart: nothing settles while pixels are taken in, since of each shard the
last plane is held back; what follows it is settling alone.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ziggurat
from numpy.typing import NDArray
from ziggurat_engine.kernels import reference

from benchmarks._data import Frames
from benchmarks._server import ServerProcess, cpu_seconds, peak_rss_bytes

# 1 GiB to 1 TiB of uint16.
SIZES = {
    "1 GiB": (512, 1024, 1024),
    "16 GiB": (2048, 2048, 2048),
    "128 GiB": (4096, 4096, 4096),
    "1 TiB": (8192, 8192, 8192),
}
CHUNK = (64, 64, 64)
SHARD = (256, 512, 512)
SHARD_BYTES = 2 * math.prod(SHARD)
# Of a message: 1.5 MiB. All but the last plane of a shard are a multiple.
PLANES = 3
EDGE = 64
COARSE = 2
STAGES = ("ingest", "settle", "read", "read coarse")


@dataclass(slots=True)
class Cost:
    """What `nbytes` of level 0 cost (of reads: of pixels read); CPU seconds of both sides."""

    nbytes: int = 0
    seconds: float = 0.0
    server_cpu: float = 0.0
    client_cpu: float = 0.0

    @property
    def cpu_per_gb(self) -> float:
        """CPU seconds of server and client a GB (10^9 bytes)."""
        return (self.server_cpu + self.client_cpu) / self.nbytes * 1e9

    @property
    def mb_per_second(self) -> float:
        """10^6 bytes a second."""
        return self.nbytes / self.seconds / 1e6


@contextlib.contextmanager
def clock(cost: Cost, pid: int, nbytes: int) -> Iterator[None]:
    """Adds what the block took, here and in the server `pid`, for so many bytes."""
    start = time.perf_counter(), cpu_seconds(pid), time.process_time()
    yield
    cost.seconds += time.perf_counter() - start[0]
    cost.server_cpu += cpu_seconds(pid) - start[1]
    cost.client_cpu += time.process_time() - start[2]
    cost.nbytes += nbytes


def serving(directory: Path, cache_bytes: int, *more: str) -> ServerProcess:
    """A server of which nothing settles by itself."""
    directory.mkdir(parents=True, exist_ok=True)
    words = ["--cache-bytes", str(cache_bytes)]
    for setting in ("settle_idle_seconds=3600", "settle_busy_seconds=3600", *more):
        words += ["--set", setting]
    return ServerProcess(directory / "data", directory / "server.log", arguments=words)


@dataclass
class Grown:
    """An image of one size, and what its turns cost. peak_rss_bytes: of the server."""

    name: str
    directory: Path
    shards: int
    costs: list[dict[str, Cost]] = field(default_factory=list)
    starts: list[Cost] = field(default_factory=list)
    chunks_encoded: int = 0
    peak_rss_bytes: int = 0
    levels: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Pixels."""
        return SIZES[self.name]

    @property
    def places(self) -> list[tuple[int, int, int]]:
        """Offsets of the shards that are written, spread evenly over the image."""
        grid = tuple(n // s for n, s in zip(self.shape, SHARD, strict=True))
        count = math.prod(grid)
        spread = [k * (count - 1) // max(1, self.shards - 1) for k in range(self.shards)]
        indices = [np.unravel_index(number, grid) for number in spread]
        return [(int(z) * SHARD[0], int(y) * SHARD[1], int(x) * SHARD[2]) for z, y, x in indices]

    @property
    def cache_bytes(self) -> int:
        """Room for all that is written, before memory is short (21/32 of the budget)."""
        return 2 * self.shards * SHARD_BYTES

    def start(self) -> ServerProcess:
        """A server over the directory."""
        return serving(self.directory, self.cache_bytes)

    def turn(self, server: ServerProcess, frames: Frames, reads: int) -> dict[str, Cost]:
        """Writes a new image, reads of it, checks what was read; the image stays."""
        costs = {stage: Cost() for stage in STAGES}
        with ziggurat.connect(server.address) as client:
            if "grown" in [image.name for image in client.list()]:
                client.delete("grown")
            image = client.create(
                "grown",
                axes="zyx",
                shape=self.shape,
                dtype="uint16",
                chunk_shape=CHUNK,
                shard_shape=SHARD,
                codec="blosc-lz4",
            )
            self.levels = len(image.levels)
            before = client.status().settle.chunks_encoded
            self._write(image, server.pid, frames, costs)
            self.chunks_encoded = client.status().settle.chunks_encoded - before
            assert not any(level.stale for level in image.refresh().levels)
            self._read(image, server.pid, frames, reads, costs)
        self.peak_rss_bytes = max(self.peak_rss_bytes, peak_rss_bytes(server.pid))
        return costs

    def _write(
        self, image: ziggurat.Image, pid: int, frames: Frames, costs: dict[str, Cost]
    ) -> None:
        depth = SHARD[0]
        with image.writer(strip_bytes=2 * 2**20) as writer:
            with clock(costs["ingest"], pid, self.shards * SHARD_BYTES):
                for number, (z, y, x) in enumerate(self.places):
                    for plane in range(0, depth - 1, PLANES):
                        slab = frames.box((number * depth + plane, 0, 0), (PLANES, *SHARD[1:]))
                        writer.write_region(slab, (z + plane, y, x))
                writer.flush()
            with clock(costs["settle"], pid, self.shards * SHARD_BYTES):
                for number, (z, y, x) in enumerate(self.places):
                    frame = frames[(number + 1) * depth - 1]
                    writer.write_region(frame[None], (z + depth - 1, y, x))
                writer.close()

    def _read(
        self,
        image: ziggurat.Image,
        pid: int,
        frames: Frames,
        reads: int,
        costs: dict[str, Cost],
    ) -> None:
        """Boxes at random within what was written, at level 0 and at a coarse one."""
        dice = np.random.default_rng(reads)
        step = 2**COARSE
        for stage, level, factor in (("read", 0, 1), ("read coarse", COARSE, step)):
            inside = tuple(n // factor for n in SHARD)
            picked = [
                (int(dice.integers(self.shards)), *_corner(dice, inside)) for _ in range(reads)
            ]
            places = self.places
            found = []
            with clock(costs[stage], pid, reads * 2 * EDGE**3):
                for number, *offset in picked:
                    corner = [p // factor + o for p, o in zip(places[number], offset, strict=True)]
                    found.append(image.read(level=level, offset=corner, shape=(EDGE,) * 3))
            for (number, *offset), box in zip(picked, found, strict=True):
                if level == 0 or number == picked[0][0]:
                    expected = _expected(frames, number, offset, level)
                    assert np.array_equal(box, expected), f"{self.name}: {stage} {offset} differs"

    def restart(self) -> None:
        """Measures a start over what was written, and that all of it is there."""
        cost = Cost(nbytes=self.shards * SHARD_BYTES)
        start = time.perf_counter()
        with self.start() as server:
            cost.seconds = time.perf_counter() - start
            cost.server_cpu = cpu_seconds(server.pid)
            with ziggurat.connect(server.address) as client:
                assert client.open("grown").shape == self.shape
        self.starts.append(cost)


def _corner(dice: np.random.Generator, inside: tuple[int, ...]) -> list[int]:
    """Where a box may lie in one of this shape."""
    return [int(dice.integers(n - EDGE + 1)) for n in inside]


def _expected(frames: Frames, number: int, offset: list[int], level: int) -> NDArray[Any]:
    """The pixels of a box of `level` in the shard `number`, by the reference."""
    step = 2**level
    first = [o * step for o in offset]
    pixels = frames.box((number * SHARD[0] + first[0], *first[1:]), (EDGE * step,) * 3)
    for _ in range(level):
        pixels = reference.mean(pixels, pixels.shape, (2, 2, 2))
    return pixels


def grow(directory: Path, *, shards: int, turns: int, reads: int) -> list[Grown]:
    """All sizes, in turns; the first turn warms up and does not count."""
    frames = Frames(SHARD[1:], shards * SHARD[0], "uint16", pool_bytes=SHARD_BYTES)
    grown = [Grown(name, directory / name.replace(" ", ""), shards) for name in SIZES]
    with contextlib.ExitStack() as ends:
        servers = [ends.enter_context(each.start()) for each in grown]
        for number in range(turns + 1):
            for each, server in zip(grown, servers, strict=True):
                os.sync()
                costs = each.turn(server, frames, reads)
                if number:
                    each.costs.append(costs)
    for _ in range(turns):
        for each in grown:
            each.restart()
    return grown
