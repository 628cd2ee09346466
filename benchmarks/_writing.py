"""What does the client's process of the ingest benchmark do?

    python -m benchmarks._writing JSON

It makes its frames and writes two images against the clock. The first one finds a new
server: code is compiled or loaded, and memory is touched for the first time, which a
virtual machine may take long for. The second one finds it as an acquisition of hours
does; its figures are the benchmark's. It prints one line of JSON. It runs apart from
the harness so that its CPU time and memory are the client's.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import ziggurat
from ziggurat._writer import Transport
from ziggurat_engine.demo.waiting import wait_received

from benchmarks._data import Frames
from benchmarks._server import cpu_seconds, disk_written_bytes, peak_rss_bytes

_BOXES = 12


@dataclass(frozen=True, slots=True)
class Task:
    """What to write. shape: (Z, Y, X); chunks, shards: pixels, or what the server picks.

    channels: the image has so many, and frame k is plane k // channels of channel k % channels.
    mb_per_second: of all streams together, evenly; 0: as fast as it goes. checked: boxes are read
    back and compared.
    """

    server: str
    server_pid: int
    name: str
    shape: tuple[int, int, int]
    dtype: str
    codec: str
    chunks: tuple[int, ...] | None = None
    shards: tuple[int, ...] | None = None
    streams: int = 1
    window_mib: int = 64
    durability: Literal["durable", "received"] = "durable"
    transport: Transport = "grpc"
    mb_per_second: float = 0.0
    channels: int = 1
    checked: bool = True

    @property
    def image_shape(self) -> tuple[int, ...]:
        """That of the image: (Z, Y, X), or (C, Z, Y, X)."""
        planes, *plane = self.shape
        return (
            self.shape if self.channels == 1 else (self.channels, planes // self.channels, *plane)
        )

    def place(self, frame: int) -> dict[str, Any]:
        """Where a frame is written."""
        if self.channels == 1:
            return {"z": frame}
        return {"z": frame // self.channels, "c": frame % self.channels}


@dataclass(slots=True)
class Result:
    """Times from the first write; CPU and bytes written to disk over the same time, to Closed.

    first_closed_seconds: of the new server's image. client_rss_bytes: the peak, without
    the frames themselves. latency_seconds: from the call of write to the acknowledgement
    that makes its frame durable (or received, where no more was asked for), sampled
    about every millisecond. began, ended: of the second image, in seconds since 1970.
    """

    received_seconds: float
    closed_seconds: float
    client_cpu_seconds: float
    server_cpu_seconds: float
    client_rss_bytes: int
    server_rss_bytes: int
    disk_written_bytes: int
    stored_bytes: int
    level0_stored_bytes: int
    boxes_checked: int
    first_closed_seconds: float
    latency_p50_seconds: float
    latency_p99_seconds: float
    latency_max_seconds: float
    began: float
    ended: float
    levels: list[dict[str, Any]] = field(default_factory=list)


def run(task: Task) -> Result:
    """Writes and checks; raises AssertionError where a box read back differs."""
    frames = Frames(task.shape[1:], task.shape[0], task.dtype)
    before = forget_peak()
    shared = task.transport == "shared_memory"
    clients = [ziggurat.connect(task.server, shared_memory=shared) for _ in range(task.streams)]
    try:
        first = _write(_images(clients, task, f"{task.name}-first"), task, frames).closed
        clients[0].delete(f"{task.name}-first")
        images = _images(clients, task, task.name)
        image = images[0]
        cpu = time.process_time(), cpu_seconds(task.server_pid)
        disk = disk_written_bytes(task.server_pid)
        times = _write(images, task, frames)
        result = Result(
            received_seconds=times.received,
            closed_seconds=times.closed,
            client_cpu_seconds=time.process_time() - cpu[0],
            server_cpu_seconds=cpu_seconds(task.server_pid) - cpu[1],
            client_rss_bytes=peak_rss_bytes(os.getpid()) - before,
            server_rss_bytes=peak_rss_bytes(task.server_pid),
            disk_written_bytes=disk_written_bytes(task.server_pid) - disk,
            stored_bytes=0,
            level0_stored_bytes=0,
            boxes_checked=_check(image, task, frames) if task.checked else 0,
            first_closed_seconds=first,
            latency_p50_seconds=float(np.quantile(times.latencies, 0.5)),
            latency_p99_seconds=float(np.quantile(times.latencies, 0.99)),
            latency_max_seconds=max(times.latencies),
            began=times.began,
            ended=times.began + times.closed,
        )
        image.refresh(measure=True)
        for level in image.levels:
            assert level.stored is not None
            assert not level.stale, f"level {level.index} is stale after Closed"
            result.stored_bytes += level.stored.bytes
            result.levels.append(asdict(level))
        assert image.levels[0].stored is not None
        result.level0_stored_bytes = image.levels[0].stored.bytes
    finally:
        for client in clients:
            client.close()
    return result


def _images(clients: list[ziggurat.Client], task: Task, name: str) -> list[ziggurat.Image]:
    """A new image, seen by each client."""
    clients[0].create(
        name,
        axes="zyx" if task.channels == 1 else "czyx",
        shape=task.image_shape,
        dtype=task.dtype,
        voxel_size={"z": 0.1, "y": 0.1, "x": 0.1},
        unit="micrometer",
        chunk_shape=task.chunks,
        shard_shape=task.shards,
        codec=task.codec,
    )
    return [client.open(name) for client in clients]


@dataclass(slots=True)
class _Times:
    """Seconds until all was received and until Closed, and of each frame to its acknowledgement."""

    began: float = 0.0
    received: float = 0.0
    closed: float = 0.0
    latencies: list[float] = field(default_factory=list)


class _Watch:
    """When frames were acknowledged: one thread for all streams looks about every millisecond.

    durable: as durable; else as received.
    """

    def __init__(self, writers: list[ziggurat.Writer], *, durable: bool) -> None:
        self._writers = writers
        self._durable = durable
        self._sent: list[deque[tuple[int, float]]] = [deque() for _ in writers]
        self._latencies: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def sent(self, number: int, sequence: int, called: float) -> None:
        """Stream `number` called write at a time, and its last region is `sequence`."""
        self._sent[number].append((sequence, called))

    def stop(self) -> list[float]:
        """Seconds of all that was acknowledged."""
        self._over.set()
        self._thread.join()
        return self._latencies

    def _run(self) -> None:
        last = False
        while not last:
            # Once more when all is over.
            last = self._over.wait(0.001)
            for writer, waiting in zip(self._writers, self._sent, strict=True):
                reached = writer.durable if self._durable else writer.received
                now = time.perf_counter()
                while waiting and waiting[0][0] <= reached:
                    self._latencies.append(now - waiting.popleft()[1])


def _write(images: list[ziggurat.Image], task: Task, frames: Frames) -> _Times:
    """Frame k goes to stream k mod n."""
    times, errors = _Times(), []
    writers = [
        image.writer(window_bytes=task.window_mib * 2**20, durability=task.durability)
        for image in images
    ]
    found = {writer.transport for writer in writers}
    assert found == {task.transport}, f"pixels go by {found}, not by {task.transport}"
    watch = _Watch(writers, durable=task.durability == "durable")
    seconds = frames[0].nbytes / (task.mb_per_second * 1e6) if task.mb_per_second else 0.0
    start, times.began = time.perf_counter(), time.time()

    def stream(number: int) -> None:
        writer = writers[number]
        try:
            for z in range(number, task.shape[0], len(writers)):
                due = start + z * seconds
                time.sleep(max(0.0, due - time.perf_counter()))
                # A frame that comes late because others had to wait waited as well.
                called = due if seconds else time.perf_counter()
                writer.write(frames[z], **task.place(z))
                watch.sent(number, writer.sequence, called)
            wait_received(writer)
            times.received = max(times.received, time.perf_counter() - start)
            writer.close()
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=stream, args=(n,)) for n in range(len(writers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times.closed = time.perf_counter() - start
    times.latencies = watch.stop()
    if errors:
        raise errors[0]
    return times


def _check(image: ziggurat.Image, task: Task, frames: Frames) -> int:
    rng = np.random.default_rng(1)
    depth, n = task.image_shape[-3], task.channels
    for _ in range(_BOXES):
        most = map(min, (depth, *task.shape[1:]), (16, 300, 300))
        z, y, x = (int(rng.integers(1, edge + 1)) for edge in most)
        c, *start = (
            int(rng.integers(0, length - size + 1))
            for length, size in zip((n, depth, *task.shape[1:]), (1, z, y, x), strict=True)
        )
        planes = frames.box((start[0] * n, *start[1:]), (z * n, y, x))[c::n]
        offset, shape = [c, *start], [1, z, y, x]
        axes = slice(4 - len(task.image_shape), 4)
        found = image.read(offset=offset[axes], shape=shape[axes])
        assert np.array_equal(found.reshape(z, y, x), planes), f"box {offset} {shape} differs"
    return _BOXES


def forget_peak() -> int:
    """Sets this process's peak of memory to what it has now, and returns that."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_rss_bytes(os.getpid())


def task_of(text: str) -> Task:
    """The task that its JSON tells."""
    given = json.loads(text)
    for key in ("shape", "chunks", "shards"):
        given[key] = tuple(given[key]) if given.get(key) else None
    return Task(**given)


def main() -> None:
    """Reads the task, prints the result."""
    task = task_of(sys.argv[1])
    assert math.prod(task.shape)
    print(json.dumps(asdict(run(task))))


if __name__ == "__main__":
    main()
