"""Does a server that works for a long time stay as it is?

    uv run python -m benchmarks.steady --minutes 10

First two writers, one durable and one received, go as fast as they can: what both get stored is
what the machine can do. Then they go on at a constant 70 % of that for so many minutes, a
reader of boxes of 64^3 beside them, into images that are deleted again. Every ten seconds are
noted: the rate, the server's memory, file descriptors and threads, the size of its log, dirty
bytes, and how long acknowledgements and reads take. What is read is compared.

Of each figure the report gives the straight line through the samples behind the first fifth,
and says "drift" where it rises or falls along it by more than the bound that is printed beside
it and more than three times its standard error. Exits with 1 where anything drifts. The last
line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ziggurat

from benchmarks import _machine
from benchmarks._data import Frames
from benchmarks._feeding import Feed
from benchmarks._server import ServerProcess, exit_on_sigterm, open_files, rss_bytes, thread_count
from benchmarks._trend import Trend, trend

MIB = 2**20
FRAME, DEPTH = (1024, 1024), 128
LOAD = 0.7
READS_PER_SECOND = 20.0
WARM_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Sample:
    """As of one look; rates and quantiles since the one before, None where nothing happened."""

    seconds: float
    mb_per_second: float
    rss_bytes: int
    open_files: int
    threads: int
    log_bytes: int
    dirty_bytes: int
    durable_p99_ms: float | None
    received_p99_ms: float | None
    read_p99_ms: float | None


@dataclass(frozen=True, slots=True)
class Figure:
    """How a field of Sample is shown, and by how much it may change over the run."""

    name: str
    unit: str
    scale: float
    share: float
    least: float = 0.0

    def of(self, sample: Sample) -> float | None:
        """In `unit`."""
        value = getattr(sample, self.name)
        return None if value is None else float(value) / self.scale


FIGURES = (
    Figure("mb_per_second", "MB/s", 1, 0.05),
    Figure("rss_bytes", "MiB", MIB, 0.05, 32),
    Figure("open_files", "", 1, 0.0, 8),
    # gRPC's pool makes one more whenever all are busy, up to its size.
    Figure("threads", "", 1, 0.0, 8),
    Figure("log_bytes", "MiB", MIB, 0.0, 256),
    Figure("dirty_bytes", "MiB", MIB, 0.2, 64),
    Figure("durable_p99_ms", "ms", 1, 0.5, 10),
    Figure("received_p99_ms", "ms", 1, 0.5, 10),
    Figure("read_p99_ms", "ms", 1, 0.5, 10),
)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.steady", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="at the constant rate")
    parser.add_argument("--flat-out", type=float, default=20.0, help="seconds of the first part")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two looks")
    parser.add_argument("--cache", default="1GiB", help="budget of the server")
    parser.add_argument("--data", type=Path, help="directory to work in; a new one in it")
    return parser.parse_args()


def _p99(seconds: list[float]) -> float | None:
    return float(np.quantile(seconds, 0.99)) * 1e3 if seconds else None


class Reader:
    """Reads boxes of both feeds in turn, from its own thread."""

    def __init__(self, feeds: list[Feed]) -> None:
        self._feeds = feeds
        self._stopping = threading.Event()
        self._seconds: list[float] = []
        self.errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, name="reader")
        self._thread.start()

    def seconds(self) -> list[float]:
        """How long reads took since this was last asked."""
        found, self._seconds = self._seconds, []
        return found

    def stop(self) -> None:
        """Raises what failed."""
        self._stopping.set()
        self._thread.join()
        if self.errors:
            raise self.errors[0]

    def _run(self) -> None:
        dice = np.random.default_rng(0)
        number = 0
        try:
            while not self._stopping.wait(1 / READS_PER_SECOND):
                number += 1
                took = self._feeds[number % len(self._feeds)].read(dice)
                if took is not None:
                    self._seconds.append(took)
        except BaseException as error:
            self.errors.append(error)


def _feeds(client: ziggurat.Client, frames: Frames, rate: float | None) -> list[Feed]:
    """A durable and a received one; rate: bytes a second of both together."""
    each = None if rate is None else rate / 2 / frames[0].nbytes
    word = "flat" if rate is None else "paced"
    return [
        Feed(client, f"{word}-durable", frames, "durable", each),
        Feed(client, f"{word}-received", frames, "received", each),
    ]


def _flat_out(client: ziggurat.Client, frames: Frames, seconds: float) -> float:
    """Bytes a second that two writers get stored."""
    feeds = _feeds(client, frames, None)
    start = time.monotonic()
    while time.monotonic() - start < seconds and not any(feed.errors for feed in feeds):
        time.sleep(0.1)
    for feed in feeds:
        feed.stop()
    # With what was stored at the end, since a rate that lets memory fill up can't last.
    return sum(feed.acknowledged_bytes for feed in feeds) / (time.monotonic() - start)


def _watch(
    server: ServerProcess, log: Path, client: ziggurat.Client, feeds: list[Feed], reader: Reader
) -> Callable[[float], Sample]:
    """Looks; seconds: since the beginning."""
    durable, received = feeds
    before = [0.0, 0]

    def look(seconds: float) -> Sample:
        total = sum(feed.acknowledged_bytes for feed in feeds)
        rate = (total - before[1]) / (seconds - before[0]) / 1e6
        before[:] = [seconds, total]
        return Sample(
            seconds=seconds,
            mb_per_second=rate,
            rss_bytes=rss_bytes(server.pid),
            open_files=open_files(server.pid),
            threads=thread_count(server.pid),
            log_bytes=sum(file.stat().st_size for file in log.iterdir()),
            dirty_bytes=client.status().cache.dirty_bytes,
            durable_p99_ms=_p99(durable.latencies()),
            received_p99_ms=_p99(received.latencies()),
            read_p99_ms=_p99(reader.seconds()),
        )

    return look


def _steady(
    arguments: argparse.Namespace,
    server: ServerProcess,
    log: Path,
    client: ziggurat.Client,
    frames: Frames,
    rate: float,
) -> list[Sample]:
    print("\n       s" + "".join(f"{figure.name:>17}" for figure in FIGURES))
    feeds = _feeds(client, frames, rate)
    reader = Reader(feeds)
    look, samples = _watch(server, log, client, feeds, reader), []
    start = time.monotonic()
    try:
        while time.monotonic() - start < arguments.minutes * 60:
            time.sleep(arguments.every)
            sample = look(time.monotonic() - start)
            samples.append(sample)
            values = [figure.of(sample) for figure in FIGURES]
            cells = "".join(f"{'-':>17}" if v is None else f"{v:17.1f}" for v in values)
            print(f"{sample.seconds:8.0f}{cells}", flush=True)
            if reader.errors or any(feed.errors for feed in feeds):
                break
    finally:
        reader.stop()
        for feed in feeds:
            feed.stop()
    return samples


def _judge(samples: list[Sample]) -> dict[str, Trend]:
    kept = samples[int(len(samples) * WARM_SHARE) :]
    found = {}
    print(f"\n{'':17}{'mean':>10}{'change':>10}{'+-':>8}{'allowed':>10}")
    for figure in FIGURES:
        values = [value for s in kept if (value := figure.of(s)) is not None]
        line = trend(values, share=figure.share, least=figure.least)
        found[figure.name] = line
        print(
            f"{figure.name:17}{line.mean:10.1f}{line.change:10.2f}{line.error:8.2f}"
            f"{line.bound:10.2f} {figure.unit:5} {'DRIFT' if line.drifts else 'no drift'}"
        )
    return found


def main() -> int:
    """Runs the benchmark; returns the exit code."""
    exit_on_sigterm()
    arguments = _arguments()
    if arguments.minutes * 60 < 5 * arguments.every:
        raise SystemExit("--minutes: a trend needs five looks")
    frames = Frames(FRAME, DEPTH, "uint16")
    with (
        tempfile.TemporaryDirectory(prefix="ziggurat-steady-", dir=arguments.data) as made,
        ServerProcess(
            Path(made, "data"),
            Path(made, "server.log"),
            arguments=("--cache-bytes", arguments.cache),
        ) as server,
        ziggurat.connect(server.address, timeout_seconds=120) as client,
    ):
        most = _flat_out(client, frames, arguments.flat_out)
        rate = LOAD * most
        print(f"flat out {most / 1e6:.0f} MB/s; now {rate / 1e6:.0f} MB/s, both writers together")
        log = Path(made, "data", "log")
        samples = _steady(arguments, server, log, client, frames, rate)
    trends = _judge(samples)
    given = {name: value for name, value in vars(arguments).items() if name != "data"}
    result: dict[str, Any] = {
        "benchmark": "steady",
        "arguments": given,
        "machine": _machine.facts(),
        "flat_out_mb_per_second": most / 1e6,
        "samples": [asdict(sample) for sample in samples],
        "trends": {name: asdict(t) | {"drifts": t.drifts} for name, t in trends.items()},
    }
    print(json.dumps(result))
    return 1 if any(line.drifts for line in trends.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
