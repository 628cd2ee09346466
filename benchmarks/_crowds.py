"""What do many chunks, many images and a long log cost?

Three questions of their own, a server each. Chunks: an image of small chunks of which more
and more are there, all of them deferred, so that memory, database and shards know each; what
does the next one cost? Images: more and more in one server, each with a stream that was
closed. Recovery: a server is killed with so much in its log, and started again.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ziggurat
from numpy.typing import NDArray

from benchmarks._data import Frames
from benchmarks._growing import Cost, clock, serving
from benchmarks._server import cpu_seconds, peak_rss_bytes, rss_bytes

MIB = 2**20
# A chunk of 512 bytes, 4096 chunks a shard.
SMALL = (8, 8, 8)
SMALL_SHARD = (128, 128, 128)
SMALL_IMAGE = (1024, 1024, 1024)
SHARD_CHUNKS = 4096
# Of an image of which there are many; and so many of them have a prefix.
FIELD = (64, 64)
GROUP = 100


@dataclass(frozen=True, slots=True)
class Chunks:
    """With so many chunks there: what the next shard of them costs, and answers about the image.

    write_us, read_us, exact_us: CPU time of the server for each chunk that is written and
    stored, read at level 0, read exactly at level 1. open_seconds, status_seconds: until the
    server has told of the image, of itself.
    """

    present: int
    write_us: float
    read_us: float
    exact_us: float
    open_seconds: float
    status_seconds: float
    rss_bytes: int


@dataclass(slots=True)
class Images:
    """With so many images there, and as many streams.

    create_ms, close_ms: CPU time of the server for the last ones, made, and written to and
    closed. list_ms, prefix_ms: until all are listed, and those below a prefix, for each image.
    start_seconds, start_cpu: of a start with them.
    """

    present: int
    create_ms: float
    close_ms: float
    list_ms: float
    prefix_ms: float
    status_seconds: float
    rss_bytes: int
    start_seconds: float = 0.0
    start_cpu: float = 0.0
    start_rss_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Recovered:
    """After a kill with `logged` bytes of pixels in the log that were not stored.

    seconds, cpu: of the start, without that of a start with an empty log.
    """

    logged: int
    seconds: float
    cpu: float
    peak_rss_bytes: int


def _timed(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _of_shard(number: int) -> NDArray[np.uint8]:
    """The pixels of a shard, which tell shards apart and are nowhere fill value."""
    dice = np.random.default_rng(number)
    return dice.integers(1, 256, SMALL_SHARD, dtype=np.uint8)


def chunks(directory: Path, counts: list[int]) -> tuple[list[Chunks], Cost]:
    """For each of `counts`, in order; and the start over the last."""
    grid = tuple(n // s for n, s in zip(SMALL_IMAGE, SMALL_SHARD, strict=True))
    found = []
    with (
        serving(directory, 512 * MIB) as server,
        ziggurat.connect(server.address, timeout_seconds=300) as client,
    ):
        image = client.create(
            "chunks",
            axes="zyx",
            shape=SMALL_IMAGE,
            dtype="uint8",
            chunk_shape=SMALL,
            shard_shape=SMALL_SHARD,
            codec="none",
            pyramid="deferred",
        )

        def place(number: int) -> tuple[int, ...]:
            return tuple(
                int(i) * s for i, s in zip(np.unravel_index(number, grid), SMALL_SHARD, strict=True)
            )

        def write(first: int, last: int) -> None:
            with image.writer(durability="received") as writer:
                for number in range(first, last):
                    writer.write_region(_of_shard(number), place(number))

        write(0, 1)
        done = 1
        for count in counts:
            shards = max(done + 1, math.ceil(count / SHARD_CHUNKS))
            write(done, shards - 1)
            costs = Cost(), Cost(), Cost()
            with clock(costs[0], server.pid, SHARD_CHUNKS):
                write(shards - 1, shards)
            done = shards
            corner = place(done - 1)
            with clock(costs[1], server.pid, SHARD_CHUNKS):
                box = image.read(offset=corner, shape=SMALL_SHARD)
            assert np.array_equal(box, _of_shard(done - 1)), "a shard of small chunks differs"
            inside = (32, 32, 64)
            with clock(costs[2], server.pid, math.prod(inside) * 8 // math.prod(SMALL)):
                coarse = tuple(n // 2 for n in corner)
                image.level(1).read(offset=coarse, shape=inside, exact=True)
            write_us, read_us, exact_us = (c.server_cpu / c.nbytes * 1e6 for c in costs)
            found.append(
                Chunks(
                    done * SHARD_CHUNKS,
                    write_us,
                    read_us,
                    exact_us,
                    min(_timed(lambda: client.open("chunks")) for _ in range(3)),
                    min(_timed(client.status) for _ in range(3)),
                    rss_bytes(server.pid),
                )
            )
    start = time.perf_counter()
    with serving(directory, 512 * MIB) as server:
        again = Cost(done * SHARD_CHUNKS, time.perf_counter() - start, cpu_seconds(server.pid))
    return found, again


def images(directory: Path, counts: list[int]) -> list[Images]:
    """For each of `counts`, in order; the server starts anew behind each."""
    found: list[Images] = []
    frame = np.arange(1, 1 + math.prod(FIELD), dtype=np.uint16).reshape(1, *FIELD)
    done, probe = 0, max(5, counts[0] // 10)
    for count in counts:
        with (
            serving(directory, 512 * MIB) as server,
            ziggurat.connect(server.address, timeout_seconds=300) as client,
        ):
            _write(_make(client, done, count - probe), frame)
            costs = Cost(), Cost()
            with clock(costs[0], server.pid, probe):
                made = _make(client, count - probe, count)
            with clock(costs[1], server.pid, probe):
                _write(made, frame)
            done = count
            row = Images(
                count,
                costs[0].server_cpu / probe * 1e3,
                costs[1].server_cpu / probe * 1e3,
                _listed(client, "", count) / count * 1e3,
                _listed(client, "group-0", min(count, GROUP)) / min(count, GROUP) * 1e3,
                min(_timed(client.status) for _ in range(3)),
                rss_bytes(server.pid),
            )
            assert np.array_equal(made[-1].read(), frame), "an image differs"
        start = time.perf_counter()
        with serving(directory, 512 * MIB) as server:
            seconds = time.perf_counter() - start
            row.start_seconds, row.start_cpu = seconds, cpu_seconds(server.pid)
            row.start_rss_bytes = rss_bytes(server.pid)
        found.append(row)
    return found


def _make(client: ziggurat.Client, first: int, last: int) -> list[ziggurat.Image]:
    return [
        client.create(
            f"group-{number // GROUP}/image-{number}",
            axes="zyx",
            shape=(1, *FIELD),
            dtype="uint16",
            levels=2,
        )
        for number in range(first, last)
    ]


def _write(made: list[ziggurat.Image], frame: NDArray[np.uint16]) -> None:
    for image in made:
        with image.writer("camera") as writer:
            writer.write_region(frame, (0, 0, 0))


def _listed(client: ziggurat.Client, prefix: str, count: int) -> float:
    """Seconds until the images at or below `prefix` are listed, once all were opened."""
    listed = client.list(prefix)
    assert len(listed) == count, f"{len(listed)} images below {prefix!r}, not {count}"
    return min(_timed(lambda: client.list(prefix)) for _ in range(3))


def recovery(directory: Path, logged: list[int]) -> list[Recovered]:
    """For each size of the log, a kill and a start; what was durable is compared."""
    side, depth = 1024, 64
    frames = Frames((side, side), depth, "uint16", pool_bytes=depth * side * side * 2)
    found: list[Recovered] = []
    base: tuple[float, float] | None = None
    for nbytes in [0, *logged]:
        place = directory / f"log-{nbytes >> 20}"
        count = nbytes // frames[0].nbytes
        cache = 2 * max(logged) + 256 * MIB
        server = serving(place, cache)
        try:
            with ziggurat.connect(server.address) as client:
                image = client.create(
                    "log",
                    axes="zyx",
                    shape=(max(logged) // frames[0].nbytes + depth, side, side),
                    dtype="uint16",
                    chunk_shape=(64, 128, 128),
                    shard_shape=(1 << 20, 1024, 1024),
                )
                writer = image.writer("camera")
                for z in range(count):
                    writer.write(frames[z % depth], z=z)
                writer.flush()
                server.kill()
                writer.cancel()
        finally:
            server.kill()
        start = time.perf_counter()
        with serving(place, cache) as again:
            took = time.perf_counter() - start, cpu_seconds(again.pid)
            with ziggurat.connect(again.address) as client:
                image = client.open("log")
                for z in range(0, count, max(1, count // 8)):
                    assert np.array_equal(image[z], frames[z % depth]), f"plane {z} is lost"
                assert not count or np.array_equal(image[count - 1], frames[(count - 1) % depth])
            if base is None:
                base = took
            else:
                cost = took[0] - base[0], took[1] - base[1]
                found.append(Recovered(nbytes, *cost, peak_rss_bytes(again.pid)))
    return found
