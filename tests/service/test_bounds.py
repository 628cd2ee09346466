"""Does memory stay within its budget when the store can't keep up, whatever is written?

What a process holds (RssAnon + RssShmem) is the chunks (`cache_bytes`), the interpreter
with its libraries, and what is on its way; as in benchmarks/bounds.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import ziggurat

from tests.support.server import ServerProcess
from tests.support.waiting import SECONDS, until

MIB = 2**20
CACHE_BYTES = 64 * MIB
EXCESS_BYTES = 300 * MIB
STREAMS = 4
# More than fits in memory, of pixels that do not compress.
RECEIVED_BYTES = 3 * CACHE_BYTES
SHAPE = (32, 1024, 1024)

KINDS = {
    "frames": {"durability": "durable"},
    "frames, received only": {"durability": "received"},
    "large messages": {"durability": "durable", "strip_bytes": 8 * MIB},
    "boxes": {"durability": "durable"},
}


def held_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    wanted = ("RssAnon:", "RssShmem:")
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(wanted))


class Pressing(threading.Thread):
    """Writes to a stream, from a thread, until that is cancelled."""

    def __init__(self, image: ziggurat.Image, noise: np.ndarray, kind: str, seed: int) -> None:
        super().__init__()
        self.writer = image.writer(window_bytes=16 * MIB, **KINDS[kind])
        self.written = 0
        self.error: BaseException | None = None
        self._noise, self._kind, self._rng = noise, kind, np.random.default_rng(seed)

    def run(self) -> None:
        try:
            while True:
                self._write()
        except ziggurat.Cancelled:
            pass
        except BaseException as error:
            self.error = error

    def _write(self) -> None:
        z = int(self._rng.integers(SHAPE[0] - 4))
        if self._kind == "boxes":
            y, x, height = map(int, self._rng.integers(1, 600, 3))
            pixels = self._noise[:3, : min(height, 400), :333]
            self.writer.write_region(pixels, (z, y, x))
        else:
            pixels = self._noise[z : z + 4]
            self.writer.write_region(pixels, (z, 0, 0))
        self.written += pixels.nbytes


@pytest.mark.parametrize("kind", KINDS)
def test_memory_behind_a_slow_store(
    serve: Callable[..., ServerProcess], name: str, kind: str
) -> None:
    server = serve(
        program=("-m", "ziggurat_engine.testing.slow_server", "--store", str(200 * MIB)),
        cache_bytes=CACHE_BYTES,
    )
    noise = np.random.default_rng(0).integers(0, 2**16, SHAPE, np.uint16)
    most = 0

    def enough() -> bool:
        nonlocal most
        most = max(most, held_bytes(server.process.pid))
        wrong = any(stream.error for stream in streams)
        return wrong or sum(stream.written for stream in streams) >= RECEIVED_BYTES

    def ended() -> bool:
        nonlocal most
        with suppress(OSError):
            most = max(most, held_bytes(server.process.pid))
        return not server.running

    with ziggurat.connect(server.address) as client:
        streams = [
            Pressing(
                client.create(f"{name}-{n}", axes="zyx", shape=SHAPE, dtype="uint16"),
                noise,
                kind,
                n,
            )
            for n in range(STREAMS)
        ]
        for stream in streams:
            stream.start()
        try:
            until(enough, "the streams to write that much", 2 * SECONDS)
        finally:
            for stream in streams:
                stream.writer.cancel()
            for stream in streams:
                stream.join(SECONDS)
    assert [stream.error for stream in streams] == [None] * STREAMS
    server.terminate()
    # Storing what is dirty takes memory too.
    until(ended, "the server to store everything", 2 * SECONDS)
    assert server.wait() == 0
    assert CACHE_BYTES < most <= CACHE_BYTES + EXCESS_BYTES
