"""What does a byte cost as things grow: the image, its chunks, the images, the log?

    uv run python -m benchmarks.growth --quick

A real server process and the Python client. Images of 1 GiB to 1 TiB, sparse (_growing.py):
taking pixels in, settling them, reading them and starting the server, each as CPU seconds of
server and client a GB, beside wall time and the server's peak memory. Then many chunks in one
image, many images in one server, and starts after a kill with a long log (_crowds.py). What is
read back is compared before a figure is printed.

Of each stage the report says whether it is flat: whether the largest costs at most a tenth
more than the smallest, by CPU time. --quick takes smaller steps: two minutes on two cores;
without it 10^6 chunks and 10^4 images take half an hour. The last line is JSON with everything.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import _crowds, _growing, _machine
from benchmarks._growing import STAGES, Cost, Grown
from benchmarks._server import exit_on_sigterm

FLAT = 1.10
MIB = 2**20
PARTS = ("sizes", "chunks", "images", "recovery")


@dataclass(frozen=True)
class Scale:
    """How much is done. turns: of sizes, that count; shards: of 128 MiB, written to each."""

    shards: int
    turns: int
    reads: int
    chunks: tuple[int, ...]
    images: tuple[int, ...]
    logs_mib: tuple[int, ...]


QUICK = Scale(2, 2, 60, (10_000, 40_000), (50, 200), (64, 128))
WHOLE = Scale(8, 5, 400, (10_000, 100_000, 1_000_000), (100, 1000, 10_000), (64, 256, 1024))


@dataclass(frozen=True)
class Verdict:
    """What the largest costs of what the smallest does."""

    stage: str
    ratio: float

    @property
    def flat(self) -> bool:
        """At most a tenth more."""
        return self.ratio <= FLAT

    def __str__(self) -> str:
        return f"{self.stage}: {self.ratio:.2f}, {'flat' if self.flat else 'GROWS'}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="smaller steps")
    parser.add_argument(
        "--part", action="append", choices=PARTS, help="only this one; may be repeated"
    )
    parser.add_argument("--json", type=Path, help="file for all results")
    parser.add_argument("--data", type=Path, help="directory to work in; a new one in it")
    return parser.parse_args()


def _median(costs: Sequence[Cost], what: Callable[[Cost], float]) -> float:
    return statistics.median(map(what, costs))


def sizes(directory: Path, scale: Scale) -> tuple[list[Verdict], Any]:
    """Images of 1 GiB to 1 TiB."""
    grown = _growing.grow(directory, shards=scale.shards, turns=scale.turns, reads=scale.reads)
    written = scale.shards * _growing.SHARD_BYTES >> 20
    print(f"\n{written} MiB of pixels in an image of; CPU s/GB, server + client (MB/s)")
    print(f"{'':10}{'chunks':>8}" + "".join(f"{stage:>20}" for stage in STAGES), end="")
    print(f"{'start, s CPU (s)':>20}{'peak RSS, MiB':>15}")
    rows = []
    for each in grown:
        row = {stage: [turn[stage] for turn in each.costs] for stage in STAGES}
        cells = "".join(
            f"{_median(costs, lambda c: c.cpu_per_gb):11.2f}"
            f" ({_median(costs, lambda c: c.mb_per_second):6.0f})"
            for costs in row.values()
        )
        start = _median(each.starts, lambda c: c.server_cpu)
        wall = _median(each.starts, lambda c: c.seconds)
        print(
            f"{each.name:10}{each.chunks_encoded:8}{cells}"
            f"{start:12.2f} ({wall:5.2f}){each.peak_rss_bytes >> 20:15}"
        )
        rows.append(
            {
                "image": each.name,
                "levels": each.levels,
                "chunks_encoded": each.chunks_encoded,
                "peak_rss_bytes": each.peak_rss_bytes,
                "stages": {stage: [asdict(cost) for cost in costs] for stage, costs in row.items()},
                "starts": [asdict(cost) for cost in each.starts],
            }
        )
    return _of_sizes(grown[0], grown[-1]), rows


def _of_sizes(smallest: Grown, largest: Grown) -> list[Verdict]:
    # Turn by turn: what the machine does beside it is then mostly the same for both.
    found = [
        Verdict(
            f"{stage} of {largest.name} against {smallest.name}",
            statistics.median(
                b[stage].cpu_per_gb / a[stage].cpu_per_gb
                for a, b in zip(smallest.costs, largest.costs, strict=True)
            ),
        )
        for stage in STAGES
    ]
    starts = zip(smallest.starts, largest.starts, strict=True)
    ratio = statistics.median(b.server_cpu / a.server_cpu for a, b in starts)
    return [
        *found,
        Verdict("start of the server", ratio),
        Verdict("peak memory", largest.peak_rss_bytes / smallest.peak_rss_bytes),
    ]


def chunks(directory: Path, scale: Scale) -> tuple[list[Verdict], Any]:
    """Small chunks of one image, all of them deferred."""
    rows, start = _crowds.chunks(directory, list(scale.chunks))
    print("\nchunks of 512 bytes in one image, all deferred; CPU of the server for one more")
    print("   present   write, us   read, us  exact, us  open, ms  status, ms  RSS, MiB")
    for row in rows:
        print(
            f"{row.present:10}{row.write_us:12.1f}{row.read_us:11.1f}{row.exact_us:11.1f}"
            f"{row.open_seconds * 1e3:10.1f}{row.status_seconds * 1e3:12.1f}"
            f"{row.rss_bytes >> 20:10}"
        )
    print(f"start with {start.nbytes} of them: {start.seconds:.2f} s, {start.server_cpu:.2f} s CPU")
    first, last = rows[0], rows[-1]
    verdicts = [
        Verdict("a chunk written", last.write_us / first.write_us),
        Verdict("a chunk read", last.read_us / first.read_us),
        Verdict("a chunk read exactly", last.exact_us / first.exact_us),
        Verdict("open", last.open_seconds / first.open_seconds),
        Verdict("status", last.status_seconds / first.status_seconds),
    ]
    return verdicts, {"rows": [asdict(row) for row in rows], "start": asdict(start)}


def images(directory: Path, scale: Scale) -> tuple[list[Verdict], Any]:
    """Images of one server."""
    rows = _crowds.images(directory, list(scale.images))
    print("\nimages in one server, a closed stream each; create, close: CPU ms of the server")
    print(
        "   present  create, ms  close, ms  list, ms  by prefix, ms  status, ms  RSS, MiB"
        "   start, s CPU (s)  RSS, MiB"
    )
    for row in rows:
        print(
            f"{row.present:10}{row.create_ms:12.1f}{row.close_ms:11.1f}{row.list_ms:10.2f}"
            f"{row.prefix_ms:15.2f}{row.status_seconds * 1e3:12.1f}{row.rss_bytes >> 20:10}"
            f"{row.start_cpu:11.2f} ({row.start_seconds:5.2f}){row.start_rss_bytes >> 20:10}"
        )
    first, last = rows[0], rows[-1]
    more = last.present - first.present
    print(
        f"each more: start {(last.start_cpu - first.start_cpu) / more * 1e3:.2f} ms CPU,"
        f" {(last.start_rss_bytes - first.start_rss_bytes) / more / 1024:.1f} KiB"
    )
    verdicts = [
        Verdict("an image created", last.create_ms / first.create_ms),
        Verdict("an image written to and closed", last.close_ms / first.close_ms),
        Verdict("an image listed", last.list_ms / first.list_ms),
        Verdict("an image listed by prefix", last.prefix_ms / first.prefix_ms),
        Verdict("status", last.status_seconds / first.status_seconds),
    ]
    return verdicts, [asdict(row) for row in rows]


def recovery(directory: Path, scale: Scale) -> tuple[list[Verdict], Any]:
    """Starts after a kill."""
    rows = _crowds.recovery(directory, [mib * MIB for mib in scale.logs_mib])
    print("\nstart after a kill, beyond that with an empty log")
    print("  log, MiB       s    CPU s  CPU s/GB  peak RSS, MiB")
    for row in rows:
        print(
            f"{row.logged >> 20:10}{row.seconds:8.2f}{row.cpu:9.2f}"
            f"{row.cpu / row.logged * 1e9:10.2f}{row.peak_rss_bytes >> 20:15}"
        )
    first, last = rows[0], rows[-1]
    ratio = last.cpu / last.logged / (first.cpu / first.logged)
    return [Verdict("a byte replayed", ratio)], [asdict(row) for row in rows]


def main() -> int:
    """Runs the benchmark; the exit code is 0 also where something grows: the report says so."""
    exit_on_sigterm()
    arguments = _arguments()
    scale = QUICK if arguments.quick else WHOLE
    result: dict[str, Any] = {"benchmark": "growth", "quick": arguments.quick}
    result["machine"] = _machine.facts()
    verdicts: dict[str, list[Verdict]] = {}
    parts = {"sizes": sizes, "chunks": chunks, "images": images, "recovery": recovery}
    for name in arguments.part or PARTS:
        with tempfile.TemporaryDirectory(prefix="ziggurat-growth-", dir=arguments.data) as made:
            verdicts[name], result[name] = parts[name](Path(made), scale)
            sys.stdout.flush()
    print(f"\nthe largest against the smallest, by CPU time; flat: at most {FLAT:.2f}")
    for name, found in verdicts.items():
        for verdict in found:
            print(f"  {name:10}{verdict}")
    result["verdicts"] = {
        name: [asdict(verdict) | {"flat": verdict.flat} for verdict in found]
        for name, found in verdicts.items()
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
