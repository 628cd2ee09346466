"""How much could one server take in, were there cores enough?

    uv run python -m benchmarks.cores

A server is one process, whose threads take turns at its interpreter. Copying pixels, encoding,
means and writing files run beside each other on any number of cores; what the interpreter
does, one thread at a time. So there are two limits: cores divided by the CPU seconds that a GB
takes, and the rate of the interpreter. The second one is measured with a server that leaves all
else out (benchmarks._hollow): on a machine of few cores, too, as far as client and transport,
which share it, let it. What is printed of machines with more cores is the lower one of both; it
is computed, not measured. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, TypeAlias

from ziggurat._writer import Transport

from benchmarks import _machine, ingest
from benchmarks._server import ServerError, exit_on_sigterm

WINDOW_MIB = 64
CORES = (2, 4, 8, 16)
# Transport, streams, whether the server is hollow.
Way: TypeAlias = tuple[Transport, int, bool]
FIGURES = (
    "received_mb_per_second",
    "closed_mb_per_second",
    "server_cpu_seconds_per_gb",
    "client_cpu_seconds_per_gb",
)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cores", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--shape", default="256x2048x2048", help="Z x Y x X pixels")
    parser.add_argument("--codec", choices=ingest.CODECS[:2], default="blosc-lz4")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--repeat", type=int, default=3, help="turns")
    parser.add_argument("--data", type=Path, help="directory to work in; a new one in it")
    return parser.parse_args()


def _ways(given: argparse.Namespace) -> list[Way]:
    return [
        (transport, streams, hollow)
        for transport in ingest.TRANSPORTS
        for streams in given.streams
        for hollow in (False, True)
    ]


def _run(given: argparse.Namespace, directory: Path, way: Way) -> dict[str, float]:
    transport, streams, hollow = way
    words = ["--shape", given.shape, "--codec", given.codec, "--durability", "received"]
    words += ["--streams", str(streams), "--channels", str(streams)]
    words += ["--window-mib", str(max(1, WINDOW_MIB // streams))]
    asked = ingest.arguments_of(words)
    with tempfile.TemporaryDirectory(prefix="ziggurat-cores-", dir=directory) as made:
        program = ("-m", "benchmarks._hollow") if hollow else ()
        found = ingest.run(asked, Path(made), transport, program=program)
    return {name: found[name] for name in FIGURES}


def main() -> int:
    """Runs the benchmark; returns the exit code."""
    exit_on_sigterm()
    given = _arguments()
    directory = (given.data or Path(tempfile.gettempdir())).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    ways = _ways(given)
    runs: dict[Way, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(given.repeat):
        for way in ways:
            try:
                runs[way].append(_run(given, directory, way))
            except ServerError as error:
                raise SystemExit(str(error)) from None
    rows: list[dict[str, Any]] = []
    for way in ways:
        transport, streams, hollow = way
        median = {n: statistics.median(run[n] for run in runs[way]) for n in FIGURES}
        rows.append({"transport": transport, "streams": streams, "hollow": hollow, **median})
        print(
            f"{transport}, {streams} stream(s), {'hollow' if hollow else 'whole ':6}:"
            f" received {median['received_mb_per_second']:5.0f} MB/s,"
            f" closed {median['closed_mb_per_second']:5.0f} MB/s;"
            f" CPU s/GB: server {median['server_cpu_seconds_per_gb']:.2f},"
            f" client {median['client_cpu_seconds_per_gb']:.2f}"
        )
    for whole, hollow_row in zip(rows[::2], rows[1::2], strict=True):
        cpu = whole["server_cpu_seconds_per_gb"] + whole["client_cpu_seconds_per_gb"]
        most = hollow_row["closed_mb_per_second"]
        told = ", ".join(f"{n}: {min(n / cpu * 1e3, most):.0f}" for n in CORES)
        print(
            f"{whole['transport']}, {whole['streams']} stream(s): at least, in MB/s by cores of"
            f" server and client: {told}"
        )
    words = {name: value for name, value in vars(given).items() if name != "data"}
    print(
        json.dumps(
            {
                "benchmark": "cores",
                "arguments": words,
                "machine": _machine.facts(),
                "rows": rows,
                "runs": [runs[way] for way in ways],
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
