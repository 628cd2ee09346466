"""What does one client process of the bounds benchmark do?

    python -m benchmarks._pressing JSON

It writes to some images, a stream and a thread each, as fast as the server takes it, for
so many seconds, and then drops what is under way. It prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import ziggurat
from ziggurat._writer import Transport

from benchmarks._data import Frames

DEPTH = 64
# Of a box that is not aligned with anything: planes, and pixels along y and x.
_BOX = (5, 333, 517)


@dataclass(frozen=True, slots=True)
class Task:
    """What to write. frame: (Y, X). boxes: anywhere in the image, instead of whole frames."""

    server: str
    names: tuple[str, ...]
    frame: tuple[int, int]
    boxes: bool
    seconds: float
    window_mib: int
    strip_kib: int | None
    durability: Literal["durable", "received"]
    transport: Transport


@dataclass(frozen=True, slots=True)
class Result:
    """Of all streams; raw bytes that the server acknowledged as received, and as durable."""

    seconds: float
    received_bytes: int
    durable_bytes: int
    reconnects: int


class Pressing:
    """One stream, written to until it is cancelled."""

    def __init__(self, image: ziggurat.Image, task: Task, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._task = task
        self.writer = image.writer(
            window_bytes=task.window_mib * 2**20,
            strip_bytes=task.strip_kib and task.strip_kib * 2**10,
            durability=task.durability,
        )
        assert self.writer.transport == task.transport, self.writer.transport
        # Bytes written up to and with each sequence number; frames may be cut into many.
        self._sent: list[tuple[int, int]] = []

    def run(self, frames: Frames) -> None:
        """Writes until the stream is cancelled."""
        n = total = 0
        try:
            while True:
                if self._task.boxes:
                    total += self._write_box(frames)
                else:
                    self.writer.write(frames[n % DEPTH], z=n % DEPTH)
                    total += frames[0].nbytes
                n += 1
                self._sent.append((self.writer.sequence, total))
        except ziggurat.Cancelled:
            pass

    def bytes_to(self, sequence: int) -> int:
        """Bytes of the frames that are wholly at or before `sequence`."""
        return max((total for last, total in self._sent if last <= sequence), default=0)

    def _write_box(self, frames: Frames) -> int:
        edges = (DEPTH, *self._task.frame)
        shape = [
            int(self._rng.integers(1, min(e, m) + 1)) for e, m in zip(edges, _BOX, strict=True)
        ]
        offset = [int(self._rng.integers(0, e - s + 1)) for e, s in zip(edges, shape, strict=True)]
        pixels = frames.box((0, *offset[1:]), shape)
        self.writer.write_region(pixels, tuple(offset))
        return pixels.nbytes


def run(task: Task) -> Result:
    """Presses for the time that the task says."""
    frames = Frames(task.frame, DEPTH, "uint16", pool_bytes=256 * 2**20)
    shared = task.transport == "shared_memory"
    clients = [ziggurat.connect(task.server, shared_memory=shared) for _ in task.names]
    try:
        streams = [
            Pressing(client.open(name), task, seed)
            for seed, (client, name) in enumerate(zip(clients, task.names, strict=True))
        ]
        threads = [threading.Thread(target=stream.run, args=(frames,)) for stream in streams]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        time.sleep(task.seconds)
        seconds = time.perf_counter() - start
        reached = [(stream.writer.received, stream.writer.durable) for stream in streams]
        for stream in streams:
            stream.writer.cancel()
        for thread in threads:
            thread.join()
        return Result(
            seconds=seconds,
            received_bytes=sum(
                s.bytes_to(received) for s, (received, _) in zip(streams, reached, strict=True)
            ),
            durable_bytes=sum(
                s.bytes_to(durable) for s, (_, durable) in zip(streams, reached, strict=True)
            ),
            reconnects=sum(stream.writer.reconnects for stream in streams),
        )
    finally:
        for client in clients:
            client.close()


def main() -> None:
    """Reads the task, prints the result."""
    given = json.loads(sys.argv[1])
    task = Task(**given | {name: tuple(given[name]) for name in ("names", "frame")})
    print(json.dumps(asdict(run(task))))


if __name__ == "__main__":
    main()
