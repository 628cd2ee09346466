"""What do many streams cost, and how soon is a frame acknowledged below full load?

    uv run python -m benchmarks.load --streams 8 --load 0.7

In turns, each with a new server and a client process of its own (benchmarks.ingest): a stack is
written by one stream as fast as it goes; by many, which share its window; and by one at a share of
the rate at which the first was received, evenly, as a camera sends. An acknowledgement is counted
from the call of write, or when it was due, until the client knows. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import _machine, ingest
from benchmarks._server import ServerError, exit_on_sigterm

WINDOW_MIB = 64


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--shape", default="128x2048x2048", help="Z x Y x X pixels")
    parser.add_argument("--codec", choices=ingest.CODECS, default="blosc-lz4")
    parser.add_argument("--durability", choices=("durable", "received"), default="received")
    parser.add_argument("--transport", choices=ingest.TRANSPORTS, default="grpc")
    parser.add_argument("--streams", type=int, default=8, help="many")
    parser.add_argument("--load", type=float, default=0.7, help="the share")
    parser.add_argument("--repeat", type=int, default=3, help="turns")
    parser.add_argument("--data", type=Path, help="directory to work in; a new one in it")
    return parser.parse_args()


def _turn(given: argparse.Namespace, directory: Path) -> dict[str, dict[str, Any]]:
    """The figures of benchmarks.ingest for each of the three."""

    def run(streams: int, mb_per_second: float = 0.0) -> dict[str, Any]:
        words = ["--shape", given.shape, "--codec", given.codec, "--durability", given.durability]
        window = max(1, WINDOW_MIB // streams)
        words += ["--streams", str(streams), "--window-mib", str(window)]
        asked = ingest.arguments_of(words)
        with tempfile.TemporaryDirectory(prefix="ziggurat-load-", dir=directory) as made:
            return ingest.run(asked, Path(made), given.transport, mb_per_second)

    one = run(1)
    many = run(given.streams)
    paced = run(1, given.load * one["received_mb_per_second"])
    return {"one": one, "many": many, "paced": paced}


def main() -> int:
    """Runs the benchmark; returns the exit code."""
    exit_on_sigterm()
    given = _arguments()
    directory = (given.data or Path(tempfile.gettempdir())).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    turns = []
    for number in range(1, given.repeat + 1):
        try:
            turn = _turn(given, directory)
        except ServerError as error:
            raise SystemExit(str(error)) from None
        turns.append(turn)
        for name, found in turn.items():
            print(
                f"turn {number}, {name:5}: received {found['received_mb_per_second']:5.0f} MB/s,"
                f" closed {found['closed_mb_per_second']:5.0f} MB/s; acknowledged after"
                f" p50 {found['latency_p50_seconds'] * 1e3:.1f} ms,"
                f" p99 {found['latency_p99_seconds'] * 1e3:.1f} ms,"
                f" max {found['latency_max_seconds'] * 1e3:.1f} ms",
                flush=True,
            )
    ratios = [
        turn["many"]["closed_mb_per_second"] / turn["one"]["closed_mb_per_second"] for turn in turns
    ]
    p99 = [turn["paced"]["latency_p99_seconds"] * 1e3 for turn in turns]
    print(
        f"{given.streams} streams are {statistics.median(ratios):.2f} x one"
        f" ({min(ratios):.2f} to {max(ratios):.2f}); at {given.load:g} of the load p99"
        f" {statistics.median(p99):.1f} ms ({min(p99):.1f} to {max(p99):.1f})"
    )
    words = {name: value for name, value in vars(given).items() if name != "data"}
    result = {"benchmark": "load", "arguments": words, "machine": _machine.facts()}
    print(json.dumps({**result, "ratios": ratios, "p99_ms": p99, "turns": turns}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
