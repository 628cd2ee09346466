"""Does everybody get on where many read: is anybody left behind, does a writer wait long?

    uv run python -m benchmarks.fair --readers 64 --seconds 20

A writer sends a frame, waits until it is acknowledged as durable, and rests a moment: first
alone, then beside readers who ask for boxes of 64^3 one after the other, and two who ask for
whole slabs. Printed is how long acknowledgements took, and how many boxes the readers got,
the fewest and the most. Exits with 1 where the p99 of acknowledgements is more than three
times that of the idle server, or a reader got less than half of the median. The last line
is JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import ziggurat

from benchmarks import _machine
from benchmarks._data import Frames
from benchmarks._server import ServerProcess, exit_on_sigterm

SHAPE = (128, 1024, 1024)
FRAME = (1, 512, 512)
EDGE = 64
REST_SECONDS = 0.02
PROCESSES = 4
MOST_TIMES_IDLE = 3.0
LEAST_OF_MEDIAN = 0.5


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fair", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--readers", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each of the two parts")
    parser.add_argument("--data", type=Path, help="directory to work in; a new one in it")
    return parser.parse_args()


def read_for(address: str, seconds: float, readers: int, slabs: int, seed: int) -> list[int]:
    """How many boxes each of some readers got, in a process of their own.

    slabs: how many more read whole slabs meanwhile; they are not counted.
    """
    counts = [0] * readers
    until = time.monotonic() + seconds

    def small(number: int) -> None:
        dice = np.random.default_rng(seed + number)
        while time.monotonic() < until:
            offset = [int(dice.integers(0, n - EDGE + 1)) for n in SHAPE]
            image.read(offset=offset, shape=(EDGE,) * 3)
            counts[number] += 1

    def large() -> None:
        while time.monotonic() < until:
            for z in range(0, SHAPE[0], 32):
                image.read(np.s_[z : z + 32])

    with ziggurat.connect(address) as client:
        image = client.open("read")
        threads = [threading.Thread(target=small, args=(k,)) for k in range(readers)]
        threads += [threading.Thread(target=large) for _ in range(slabs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return counts


def acknowledged(image: ziggurat.Image, seconds: float) -> list[float]:
    """Milliseconds until each frame was durable."""
    dice = np.random.default_rng(0)
    frame = dice.integers(0, 4000, FRAME, dtype=np.uint16)
    found = []
    until = time.monotonic() + seconds
    with image.writer() as writer:
        number = 0
        while time.monotonic() < until:
            start = time.perf_counter()
            writer.write_region(frame, (number % image.shape[0], 0, 0))
            writer.flush()
            found.append((time.perf_counter() - start) * 1e3)
            number += 1
            time.sleep(REST_SECONDS)
    return found


def main() -> int:
    """Runs the benchmark; returns the exit code."""
    exit_on_sigterm()
    arguments = _arguments()
    frames = Frames(SHAPE[1:], SHAPE[0], "uint16", pool_bytes=2**28)
    with (
        tempfile.TemporaryDirectory(prefix="ziggurat-fair-", dir=arguments.data) as made,
        ServerProcess(Path(made) / "images", Path(made) / "log") as server,
        ziggurat.connect(server.address) as client,
    ):
        image = client.create("read", axes="zyx", shape=SHAPE, dtype="uint16")
        with image.writer(durability="received") as writer:
            for z in range(SHAPE[0]):
                writer.write(frames[z], z=z)
        target = client.create("write", axes="zyx", shape=(64, *FRAME[1:]), dtype="uint16")
        acknowledged(target, 2.0)
        idle = acknowledged(target, arguments.seconds)
        context = multiprocessing.get_context("spawn")
        share, more = divmod(arguments.readers, PROCESSES)
        with ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
            going = [
                pool.submit(
                    read_for,
                    server.address,
                    arguments.seconds + 4.0,
                    share + (k < more),
                    int(k < 2),
                    1000 * k,
                )
                for k in range(PROCESSES)
            ]
            # The processes begin to read meanwhile.
            time.sleep(3.0)
            busy = acknowledged(target, arguments.seconds)
            counts = sorted(count for each in going for count in each.result())
    figures = {
        "idle_p50_ms": float(np.percentile(idle, 50)),
        "idle_p99_ms": float(np.percentile(idle, 99)),
        "busy_p50_ms": float(np.percentile(busy, 50)),
        "busy_p99_ms": float(np.percentile(busy, 99)),
        "boxes_fewest": counts[0],
        "boxes_median": float(np.median(counts)),
        "boxes_most": counts[-1],
    }
    for name, value in figures.items():
        print(f"{name:14} {value:10.1f}")
    times = figures["busy_p99_ms"] / figures["idle_p99_ms"]
    print(f"acknowledgements: p99 is {times:.2f} times that of the idle server")
    fair = counts[0] >= LEAST_OF_MEDIAN * figures["boxes_median"]
    given = {name: value for name, value in vars(arguments).items() if name != "data"}
    result = {"benchmark": "fair", "arguments": given, "machine": _machine.facts()}
    print(json.dumps({**result, **figures}))
    return 0 if fair and times <= MOST_TIMES_IDLE else 1


if __name__ == "__main__":
    sys.exit(main())
