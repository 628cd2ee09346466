"""What does one client of the torture do, and what does it know?

    python -m benchmarks._torture_client HOST:PORT IMAGE STREAM CLIENT JOURNAL SECONDS

It writes plane after plane of its own image, over and over, through a writer that
reconnects by itself, and keeps a journal: one line "d N" whenever the writer said that
all up to sequence N is durable. After SECONDS it closes, and writes "c REGIONS
DUPLICATES". The journal is what the server may be held to, whatever is killed when.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import numpy as np
import ziggurat
from numpy.typing import NDArray

PLANES, SIDE = 96, 128
TILE = 32


def plane(client: int, n: int) -> NDArray[np.uint16]:
    """The n-th plane of a client, (SIDE, SIDE): each tile tells where it comes from."""
    grid = np.arange(SIDE * SIDE, dtype=np.uint32).reshape(SIDE, SIDE)
    pixels = (grid * np.uint32(2654435761) + np.uint32(n * 40503 + client * 7919)) >> np.uint32(16)
    result = pixels.astype(np.uint16)
    result[::TILE, ::TILE] = n & 0xFFFF
    result[::TILE, 1::TILE] = n >> 16
    return result


def numbers(pixels: NDArray[np.uint16]) -> NDArray[np.int64]:
    """The n of each tile of a plane."""
    low, high = pixels[::TILE, ::TILE].astype(np.int64), pixels[::TILE, 1::TILE].astype(np.int64)
    return low | high << 16


def main() -> None:
    """One client, to its end; exits with an error where the writer gave up."""
    server, image_name, stream, client, journal, seconds = sys.argv[1:]
    with ziggurat.connect(server) as connection, Path(journal).open("a", buffering=1) as lines:
        image = connection.open(image_name)
        writer = image.writer(stream_id=stream, retry_seconds=120)
        done = threading.Event()

        def watch() -> None:
            said = 0
            while not done.wait(0.002):
                durable = writer.durable
                if durable > said:
                    said = durable
                    lines.write(f"d {durable}\n")

        watcher = threading.Thread(target=watch)
        watcher.start()
        end = time.monotonic() + float(seconds)
        n = 0
        try:
            while time.monotonic() < end:
                n += 1
                writer.write(plane(int(client), n), z=n % PLANES)
                if n % 64 == 0:
                    time.sleep(0.01)
            summary = writer.close()
        finally:
            done.set()
            watcher.join()
        lines.write(f"d {n}\n")
        lines.write(f"c {summary.regions} {summary.duplicates} {n}\n")


if __name__ == "__main__":
    main()
