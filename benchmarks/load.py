"""What do many streams cost, and how soon is a frame acknowledged below full load?

    uv run python -m benchmarks.load --streams 8 --load 0.7

In turns, each with a new server and a client process of its own (benchmarks.ingest), frames are
written by one stream as fast as it goes and by many, which share its window: to a channel each
("apart"), and as every n-th frame of one stack, so that all of them write to the same chunks
("many"). By one stream to each of two servers at a time, each with a data directory of its own
("beside"), as a facility with several microscopes may have them. And by one at a share of the rate
at which the stack was received, evenly, as a camera sends. An acknowledgement is counted from the
call of write, or when it was due, until the client knows. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
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
    parser.add_argument("--servers", type=int, default=2, help="beside each other")
    parser.add_argument("--load", type=float, default=0.7, help="the share")
    parser.add_argument("--repeat", type=int, default=3, help="turns")
    parser.add_argument("--data", type=Path, help="directory to work in; a new one in it")
    return parser.parse_args()


def _turn(given: argparse.Namespace, directory: Path) -> dict[str, dict[str, Any]]:
    """The figures of benchmarks.ingest for each way; of several servers, of their clients."""

    def run(streams: int, channels: int = 1, mb_per_second: float = 0.0) -> dict[str, Any]:
        words = ["--shape", given.shape, "--codec", given.codec, "--durability", given.durability]
        window = max(1, WINDOW_MIB // streams)
        words += ["--streams", str(streams), "--window-mib", str(window)]
        words += ["--channels", str(channels)]
        asked = ingest.arguments_of(words)
        with tempfile.TemporaryDirectory(prefix="ziggurat-load-", dir=directory) as made:
            return ingest.run(asked, Path(made), given.transport, mb_per_second)

    def beside() -> dict[str, Any]:
        with ThreadPoolExecutor(given.servers) as pool:
            each = list(pool.map(run, [1] * given.servers))
        # From the first one's beginning to the last one's end, so that what one does alone
        # counts against them.
        began, ended = min(found["began"] for found in each), max(found["ended"] for found in each)
        raw = sum(f["closed_mb_per_second"] * f["closed_seconds"] for f in each)
        longest = (key for key in each[0] if key.startswith("latency_"))
        return {
            "closed_mb_per_second": raw / (ended - began),
            "received_mb_per_second": sum(found["received_mb_per_second"] for found in each),
            **{key: max(found[key] for found in each) for key in longest},
            "servers": each,
        }

    one = run(1)
    many = run(given.streams)
    by_turns = run(1, given.streams)
    apart = run(given.streams, given.streams)
    paced = run(1, mb_per_second=given.load * one["received_mb_per_second"])
    return {
        "one": one,
        "many": many,
        "channels": by_turns,
        "apart": apart,
        "beside": beside(),
        "paced": paced,
    }


def main() -> int:
    """Runs the benchmark; returns the exit code."""
    exit_on_sigterm()
    given = _arguments()
    if ingest.arguments_of(["--shape", given.shape]).shape[0] % given.streams:
        raise SystemExit("--streams: frames have to be as many for each")
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
                f"turn {number}, {name:8}: received {found['received_mb_per_second']:5.0f} MB/s,"
                f" closed {found['closed_mb_per_second']:5.0f} MB/s; acknowledged after"
                f" p50 {found['latency_p50_seconds'] * 1e3:.1f} ms,"
                f" p99 {found['latency_p99_seconds'] * 1e3:.1f} ms,"
                f" max {found['latency_max_seconds'] * 1e3:.1f} ms",
                flush=True,
            )

    def ratios_of(many: str, one: str) -> list[float]:
        key = "closed_mb_per_second"
        return [turn[many][key] / turn[one][key] for turn in turns]

    ratios, apart = ratios_of("many", "one"), ratios_of("apart", "channels")
    beside = ratios_of("beside", "one")
    p99 = [turn["paced"]["latency_p99_seconds"] * 1e3 for turn in turns]

    def told(values: list[float], digits: int) -> str:
        low, middle, high = min(values), statistics.median(values), max(values)
        return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"

    print(f"{given.streams} streams, a channel each: {told(apart, 2)} x one")
    print(f"{given.streams} streams into the same chunks: {told(ratios, 2)} x one")
    print(f"{given.servers} servers, a stream each: {told(beside, 2)} x one")
    print(f"at {given.load:g} of the load p99 {told(p99, 1)} ms")
    words = {name: value for name, value in vars(given).items() if name != "data"}
    result = {"benchmark": "load", "arguments": words, "machine": _machine.facts()}
    found = {"ratios": ratios, "apart": apart, "beside": beside, "p99_ms": p99, "turns": turns}
    print(json.dumps({**result, **found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
