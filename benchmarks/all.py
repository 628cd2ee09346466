"""How do we stand beside the others, in one table?

    uv run --group bench python -m benchmarks.all --quick --json all.json --plot all.png

Runs the other benchmarks one after the other and puts what they compare into one table: what, our
rate, the peer and its rate, how many times as fast we are (median, least and most of the turns)
and the target. Every one of them compares pixels before it tells a time. --quick takes smaller
shapes and fewer turns: ten minutes on two cores.

--gate FILE compares with a table that was kept (--json): the exit code is 1 where a ratio
fell below GATE of what it was. Ratios and no times: machines differ, and are busy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import _machine

GATE = 0.85
# Of an ingest a target can be set against a peer, and of shared memory against gRPC.
ACQUIRE, SHARED = "acquire-zarr", "shared"


@dataclass(frozen=True)
class Row:
    """One comparison; rates in MB/s of raw pixels. target: of the median ratio, if there is one."""

    what: str
    ours: float
    peer: str
    theirs: float
    ratio: float
    least: float
    most: float
    target: float | None = None

    @property
    def key(self) -> str:
        """The same in every run."""
        return f"{self.what} | {self.peer}"


@dataclass(frozen=True)
class Part:
    """A benchmark and what it says. rows: out of the JSON that it prints last."""

    name: str
    words: tuple[str, ...]
    rows: Callable[[dict[str, Any]], Iterator[Row]]


def _ingest(target: dict[str, float]) -> Callable[[dict[str, Any]], Iterator[Row]]:
    """The gRPC path against the peers, and shared memory against both."""

    def rows(found: dict[str, Any]) -> Iterator[Row]:
        given, runs = found["arguments"], found["runs"]
        what = f"ingest {given['codec']} {given['durability']}"
        shared = found["median"]["closed_mb_per_second"]
        grpc = statistics.median(run["grpc"]["closed_mb_per_second"] for run in runs)
        for name, others in found["peers"].items():
            theirs = statistics.median(run["mb_per_second"] for run in others)
            ratios = [run["times_as_fast_grpc"] for run in others]
            yield _row(what, grpc, name, theirs, ratios, target.get(name))
            ratios = [run["times_as_fast"] for run in others]
            yield _row(f"{what}, shared", shared, name, theirs, ratios, target.get(name))
        ratios = [run["closed_times_as_fast_as_grpc"] for run in runs]
        yield _row(f"{what}, shared", shared, "itself, gRPC", grpc, ratios, target.get(SHARED))

    return rows


def _pyramid(found: dict[str, Any]) -> Iterator[Row]:
    targets = {"tensorstore": 2.0, "pyramid-sampler": 14.0}
    shape = "x".join(map(str, found["shape"]))
    nbytes = 2 * found["deeper"] * found["shape"][0] * found["shape"][1] * found["shape"][2]

    def rate(name: str) -> float:
        seconds = [run["seconds"] for run in found["results"][name] if "seconds" in run]
        return float(nbytes / statistics.median(seconds) / 1e6)

    for name, ratios in found["ratios"].items():
        if name != "ziggurat" and ratios:
            what = f"pyramid {shape} {found['codec']}"
            yield _row(what, rate("ziggurat"), name, rate(name), ratios, targets.get(name))


def _read(found: dict[str, Any]) -> Iterator[Row]:
    targets = {
        ("256^3", "cold", "tensorstore"): 1.0,
        ("1000 x 64^3", "cold", "zarr-python"): 3.0,
    }
    for case, readers in found["cases"].items():
        (_, ours), *others = readers.items()
        for name, theirs in others:
            for how in ("cold", "warm"):
                a, b = ours[how]["mb_per_second"], theirs[how]["mb_per_second"]
                target = 20.0 if name == "tiled" else targets.get((case, how, name))
                yield _row(f"read {case} {how}", a, name, b, [a / b], target)


def _load(found: dict[str, Any]) -> Iterator[Row]:
    """Many streams against one, and the acknowledgements of one below full load."""
    given, turns = found["arguments"], found["turns"]

    def rate(which: str) -> float:
        return float(statistics.median(turn[which]["closed_mb_per_second"] for turn in turns))

    peer, what = "itself, 1 stream", f"ingest by {given['streams']} streams"
    yield _row(
        f"{what}, a channel each", rate("apart"), peer, rate("channels"), found["apart"], 0.9
    )
    yield _row(f"{what}, same chunks", rate("many"), peer, rate("one"), found["ratios"], 0.9)
    p99, most = found["p99_ms"], 50.0
    what = f"acknowledged at {given['load']:g} load, p99 ms"
    ratios = [most / each for each in p99]
    yield _row(what, statistics.median(p99), "at most, ms", most, ratios, 1.0)


def _growth(found: dict[str, Any]) -> Iterator[Row]:
    """The largest image against the smallest, by CPU time, turn by turn."""
    first, last = found["sizes"][0], found["sizes"][-1]
    for stage, costs in last["stages"].items():
        others = first["stages"][stage]
        ratios = [_cpu(b) / _cpu(a) for a, b in zip(costs, others, strict=True)]
        ours, theirs = (
            statistics.median(c["nbytes"] / c["seconds"] / 1e6 for c in each)
            for each in (costs, others)
        )
        what, peer = f"{stage} of {last['image']}", f"itself, {first['image']}"
        yield _row(what, ours, peer, theirs, ratios, 0.91)


def _cpu(cost: dict[str, Any]) -> float:
    """CPU seconds a byte."""
    return float((cost["server_cpu"] + cost["client_cpu"]) / cost["nbytes"])


def _row(
    what: str, ours: float, peer: str, theirs: float, ratios: list[float], target: float | None
) -> Row:
    middle = statistics.median(ratios)
    return Row(what, ours, peer, theirs, middle, min(ratios), max(ratios), target)


def parts(*, quick: bool) -> list[Part]:
    """What is run, in order."""
    stack = "64x2048x2048" if quick else "128x2048x2048"
    turns = ("--repeat", "2" if quick else "3")
    both = (ACQUIRE, "tensorstore")
    # What has a target is enough for the others, where it is to be quick.
    peers = (ACQUIRE,) if quick else both

    def ingest(
        codec: str, durability: str, target: dict[str, float], peers: tuple[str, ...]
    ) -> Part:
        words = ("--shape", stack, "--codec", codec, "--durability", durability, *turns)
        asked = (word for name in peers for word in ("--peer", name))
        return Part("ingest", (*words, *asked, "--transport", "both"), _ingest(target))

    def pyramid(shape: str, chunks: str) -> Part:
        return Part("pyramid", ("--shape", shape, "--chunks", chunks, *turns), _pyramid)

    small = ("--shape", "256x512x512") if quick else ("--shape", "512x1024x1024")
    return [
        ingest("blosc-lz4", "received", {ACQUIRE: 2.0, SHARED: 1.3}, both),
        ingest("blosc-zstd", "received", {ACQUIRE: 1.5}, peers),
        ingest("blosc-lz4", "durable", {ACQUIRE: 1.0}, peers),
        Part("load", ("--shape", stack, "--repeat", "1" if quick else "3"), _load),
        pyramid("512x512x512", "64"),
        *(() if quick else (pyramid("256x1024x1024", "64x128x128"),)),
        Part("read", (*small, *turns), _read),
        # As quick as it is there too: what is compared is one server with itself.
        Part("growth", ("--quick", "--part", "sizes"), _growth),
    ]


def _run(part: Part, data: Path | None) -> dict[str, Any]:
    """Its output goes through; the last line is its result."""
    where = ("--data", str(data)) if data else ()
    command = [sys.executable, "-m", f"benchmarks.{part.name}", *part.words, *where]
    print(f"\n$ python -m benchmarks.{part.name} {' '.join(part.words)}", flush=True)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        last = ""
        for line in running.stdout:
            if last:
                print(last, end="", flush=True)
            last = line
    if running.returncode:
        raise SystemExit(f"benchmarks.{part.name} failed with exit code {running.returncode}")
    found: dict[str, Any] = json.loads(last)
    return found


def _tell(rows: list[Row]) -> None:
    print(f"\n{'':36}{'ours':>8}  {'peer':20}{'theirs':>8}{'x':>8}{'least':>7}{'most':>7}  target")
    for row in rows:
        if row.target is None:
            verdict = ""
        else:
            verdict = f"{row.target:g} {'met' if row.ratio >= row.target else 'MISSED'}"
        print(
            f"{row.what:36}{row.ours:8.0f}  {row.peer:20}{row.theirs:8.0f}"
            f"{row.ratio:8.2f}{row.least:7.2f}{row.most:7.2f}  {verdict}"
        )
    print("rates in MB/s of raw pixels, medians; x: how many times as fast, turn by turn;")
    print("of what is compared with itself: as much for a CPU second")


def _plot(rows: list[Row], machine: dict[str, Any], path: Path) -> None:
    """Bars of the ratios, one a comparison; 1 is the peer."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 0.28 * len(rows)), layout="constrained")
    labels = [f"{row.what} / {row.peer}" for row in rows]
    spread = (
        [row.ratio - row.least for row in rows],
        [row.most - row.ratio for row in rows],
    )
    axes.barh(labels, [row.ratio for row in rows], xerr=spread, color="#2b6ca3")
    axes.scatter([row.target or float("nan") for row in rows], labels, color="#c0392b", marker="|")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.set_xlabel("times as fast as the peer (red: target)")
    axes.set_title(f"{machine['cpu']}, {machine['cores']} cores, commit {machine['commit']}")
    figure.savefig(path, dpi=120)


def _fallen(rows: list[Row], kept: Path) -> list[str]:
    before = {Row(**row).key: Row(**row) for row in json.loads(kept.read_text())["rows"]}
    return [
        f"{row.key}: {row.ratio:.2f} was {before[row.key].ratio:.2f}"
        for row in rows
        if row.key in before and row.ratio < GATE * before[row.key].ratio
    ]


def main() -> int:
    """Runs all; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.all", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="smaller shapes and fewer turns")
    parser.add_argument("--json", type=Path, help="file for the table and all results")
    parser.add_argument("--plot", type=Path, help="file for a picture (PNG) of the ratios")
    parser.add_argument("--gate", type=Path, help="file that --json once wrote, to compare with")
    parser.add_argument("--data", type=Path, help="directory to work in; new ones in it")
    arguments = parser.parse_args()
    machine = _machine.facts()
    rows: list[Row] = []
    results: list[dict[str, Any]] = []
    for part in parts(quick=arguments.quick):
        found = _run(part, arguments.data)
        results.append(found)
        rows += part.rows(found)
    _tell(rows)
    table = {"machine": machine, "quick": arguments.quick, "rows": [asdict(row) for row in rows]}
    if arguments.json:
        arguments.json.write_text(json.dumps({**table, "results": results}, indent=1))
    if arguments.plot:
        _plot(rows, machine, arguments.plot)
    if arguments.gate and (fallen := _fallen(rows, arguments.gate)):
        print("FELL: " + "; ".join(fallen), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
