"""How is a server fed at a constant rate for a long time, without filling its disk?

A feed writes image after image through one stream each, and deletes the last but one; what it
wrote last can be read meanwhile. An image is closed beside the next one's first frames, so
that the rate does not stop.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import deque

import numpy as np
import ziggurat
from ziggurat._stream import Durability

from benchmarks._data import Frames

EDGE = 64


class Feed:
    """Frames into images of `frames.count` planes, from its own threads until `stop`.

    frames_per_second: None: as fast as they are taken.
    """

    def __init__(
        self,
        client: ziggurat.Client,
        name: str,
        frames: Frames,
        durability: Durability,
        frames_per_second: float | None,
    ) -> None:
        self._client, self._name, self._frames = client, name, frames
        self._durability: Durability = durability
        self._interval = 1 / frames_per_second if frames_per_second else 0.0
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._latencies: list[float] = []
        self.acknowledged_bytes = 0
        self.errors: list[BaseException] = []
        # What may be read; held by who reads it, so that it is not deleted meanwhile.
        self._reading = threading.Lock()
        self._last: ziggurat.Image | None = None
        self._closing: threading.Thread | None = None
        self._thread = threading.Thread(target=self._run, name=f"feed-{name}")
        self._thread.start()

    def stop(self) -> None:
        """Returns when all is written and deleted again; raises what failed."""
        self._stopping.set()
        self._thread.join()
        if self.errors:
            raise self.errors[0]

    def latencies(self) -> list[float]:
        """Seconds from the call of write to its acknowledgement, since this was last asked."""
        with self._lock:
            found, self._latencies = self._latencies, []
        return found

    def read(self, dice: np.random.Generator) -> float | None:
        """Reads a box of the last whole image, and compares; seconds, None where there is none."""
        with self._reading:
            image = self._last
            if image is None:
                return None
            offset = [int(dice.integers(n - EDGE + 1)) for n in image.shape]
            start = time.perf_counter()
            box = image.read(offset=offset, shape=(EDGE,) * 3)
            seconds = time.perf_counter() - start
        if not np.array_equal(box, self._frames.box(offset, (EDGE,) * 3)):
            raise AssertionError(f"{image.name}: box {offset} differs")
        return seconds

    def _run(self) -> None:
        due = time.monotonic()
        try:
            for number in itertools.count():
                due = self._write(f"steady/{self._name}-{number}", due)
                if self._stopping.is_set() or self.errors:
                    break
        except BaseException as error:
            self.errors.append(error)
        finally:
            if self._closing is not None:
                self._closing.join()
            with contextlib.suppress(ziggurat.ZigguratError), self._reading:
                if self._last is not None:
                    self._client.delete(self._last.name)
                self._last = None

    def _write(self, name: str, due: float) -> float:
        """One image; returns when the first frame of the next is due."""
        frames = self._frames
        image = self._client.create(
            name, axes="zyx", shape=(frames.count, *frames.shape), dtype="uint16", codec="blosc-lz4"
        )
        writer = image.writer(durability=self._durability)
        sent: deque[tuple[int, float]] = deque()
        done = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(writer, sent, done))
        watcher.start()
        for z in range(frames.count):
            if self._stopping.is_set():
                break
            if self._interval:
                self._stopping.wait(max(0.0, due - time.monotonic()))
                due += self._interval
            called = time.perf_counter()
            writer.write(frames[z], z=z)
            sent.append((writer.sequence, called))
        whole = not self._stopping.is_set()
        if self._closing is not None:
            self._closing.join()
        arguments = (image, writer, watcher, done, whole)
        self._closing = threading.Thread(target=self._close, args=arguments)
        self._closing.start()
        return due

    def _close(
        self,
        image: ziggurat.Image,
        writer: ziggurat.Writer,
        watcher: threading.Thread,
        done: threading.Event,
        whole: bool,
    ) -> None:
        try:
            writer.close()
            done.set()
            watcher.join()
            before = image
            if whole:
                with self._reading:
                    before, self._last = self._last or image, image
            if before is not image or not whole:
                self._client.delete(before.name)
        except BaseException as error:
            done.set()
            self.errors.append(error)

    def _watch(
        self, writer: ziggurat.Writer, sent: deque[tuple[int, float]], done: threading.Event
    ) -> None:
        durable = self._durability == "durable"
        while not done.wait(0.001) or (sent and not self.errors):
            reached, now = writer.durable if durable else writer.received, time.perf_counter()
            while sent and sent[0][0] <= reached:
                seconds = now - sent.popleft()[1]
                with self._lock:
                    self._latencies.append(seconds)
                    self.acknowledged_bytes += self._frames[0].nbytes
