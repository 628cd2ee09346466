"""How fast do boxes come out, over gRPC, beside those who read the files themselves?

    uv run --group bench python -m benchmarks.read --shape 512x1024x1024

An image of camera noise is written once through the engine. All contenders read that
store: ziggurat over gRPC, TensorStore and zarr-python in the process that asks, Tiled over
HTTP where it is installed (uv run --group bench --with 'tiled[client,server]' python ...).
They take turns. A turn begins cold: nothing is decoded in any cache, while the files are in
the page cache of the system. Then the same boxes are read again, warm.

Before any time is told, every contender's answers are compared with the pixels that were
written. Rates are in MB/s of raw pixels, MB = 10^6 bytes; "read" is how many bytes the
contender read from files for each byte that it returned, cold. The last line is JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ziggurat

from benchmarks import _machine
from benchmarks._data import Frames
from benchmarks._read_peers import Box, Oblique, Pixels, Reader, contenders
from benchmarks._server import ServerProcess, exit_on_sigterm, file_read_bytes

NAME = "bench"
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """Boxes or planes to read, `clients` at a time; batched: as one call, where there is one."""

    name: str
    boxes: tuple[Box | Oblique, ...]
    clients: int = 1
    batched: bool = False


@dataclass(frozen=True)
class Figures:
    """Of one pass over a case's boxes. files: bytes read from files for each one returned."""

    mb_per_second: float
    p50_ms: float
    p99_ms: float
    files: float


def _shape(text: str) -> Shape:
    try:
        shape = tuple(int(number) for number in text.lower().split("x"))
    except ValueError:
        shape = ()
    if len(shape) != 3 or min(shape) < 64:
        raise argparse.ArgumentTypeError(f"{text!r} is not like 512x1024x1024, at least 64 each")
    return shape


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.read", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--shape", type=_shape, default=(512, 1024, 1024), help="Z x Y x X pixels")
    parser.add_argument("--codec", default="blosc-zstd")
    parser.add_argument("--repeat", type=int, default=3, help="turns of each contender")
    parser.add_argument("--case", action="append", help="only cases whose name starts so")
    parser.add_argument("--only", action="append", help="only contenders whose name starts so")
    parser.add_argument("--data", type=Path, help="directory to work in; a new one in it")
    return parser.parse_args()


def cases(shape: Shape) -> list[Case]:
    """The rows of the table, the same for every run."""
    dice = np.random.default_rng(0)

    def somewhere(*edges: int) -> Box:
        size = [min(edge, n) for edge, n in zip(edges, shape, strict=True)]
        start = [int(dice.integers(0, n - s + 1)) for n, s in zip(shape, size, strict=True)]
        return tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))

    def tilted() -> Oblique:
        """A plane through the volume that leans by about 30 degrees against z."""
        rows = min(512, math.floor(shape[0] * 1.1), shape[1] // 2)
        columns = min(512, shape[2] // 2)
        down = (0.8, 0.6, 0.0)
        room = (shape[0] - 0.8 * rows, shape[1] - 0.6 * rows, shape[2] - columns)
        z, y, x = (float(dice.uniform(1, n - 1)) for n in room)
        return Oblique((z, y, x), down, (0.0, 0.0, 1.0), (rows, columns))

    z, y, x = shape
    return [
        Case("64^3", tuple(somewhere(64, 64, 64) for _ in range(50))),
        Case("256^3", tuple(somewhere(256, 256, 256) for _ in range(4))),
        Case("plane", tuple(somewhere(1, y, x) for _ in range(10))),
        Case("xz plane", tuple(somewhere(z, 1, x) for _ in range(10))),
        Case("oblique plane", tuple(tilted() for _ in range(5))),
        Case("1000 x 64^3", tuple(somewhere(64, 64, 64) for _ in range(1000)), batched=True),
        Case("16 readers", tuple(somewhere(64, 128, 128) for _ in range(320)), clients=16),
    ]


def _nbytes(box: Box | Oblique) -> int:
    if isinstance(box, Oblique):
        return math.prod(box.shape) * 2
    return math.prod(int(s.stop) - int(s.start) for s in box) * 2


def _write(data: Path, shape: Shape, codec: str) -> Frames:
    frames = Frames((shape[1], shape[2]), shape[0], "uint16")
    with (
        ServerProcess(data / "images", data / "log") as server,
        ziggurat.connect(server.address) as client,
    ):
        image = client.create(NAME, axes="zyx", shape=shape, dtype="uint16", codec=codec)
        with image.writer(durability="received") as writer:
            for z in range(shape[0]):
                writer.write(frames[z], z=z)
    return frames


def _read(reader: Reader, box: Box | Oblique) -> Pixels:
    return reader.plane(box) if isinstance(box, Oblique) else reader.read(box)


def _check(reader: Reader, boxes: Iterable[Box | Oblique], frames: Frames) -> None:
    for box in boxes:
        if isinstance(box, Oblique):
            continue
        expected = frames.box([s.start for s in box], [s.stop - s.start for s in box])
        if not np.array_equal(reader.read(box), expected):
            raise SystemExit(f"{type(reader).__name__} gave other pixels for {box}")


def _check_planes(planes: Sequence[Pixels], count: int) -> None:
    """Those of each contender against the first one's; `count` planes each."""
    for number, plane in enumerate(planes):
        # SciPy rounds what it added up in another order.
        if np.abs(plane.astype(int) - planes[number % count]).max() > 1:
            raise SystemExit(f"plane {number % count} differs between contenders")


def _timed(reader: Reader, boxes: Sequence[Box | Oblique], clients: int) -> list[float]:
    """Seconds of each read."""

    def one(box: Box | Oblique) -> float:
        start = time.perf_counter()
        _read(reader, box)
        return time.perf_counter() - start

    if clients == 1:
        return [one(box) for box in boxes]
    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(one, boxes))


def _in_one_call(reader: Reader, boxes: Sequence[Box | Oblique]) -> list[float]:
    """Seconds from one box to the next."""
    whole = [box for box in boxes if not isinstance(box, Oblique)]
    start = time.perf_counter()
    ends = [start, *(time.perf_counter() for _ in reader.read_many(whole))]
    return [b - a for a, b in itertools.pairwise(ends)]


def measure(reader: Reader, case: Case) -> Figures:
    """One pass."""
    files, start = file_read_bytes(reader.pid), time.perf_counter()
    if case.batched:
        each = _in_one_call(reader, case.boxes)
    else:
        each = _timed(reader, case.boxes, case.clients)
    seconds = time.perf_counter() - start
    nbytes = sum(map(_nbytes, case.boxes))
    return Figures(
        nbytes / seconds / 1e6,
        float(np.percentile(each, 50)) * 1e3,
        float(np.percentile(each, 99)) * 1e3,
        (file_read_bytes(reader.pid) - files) / nbytes,
    )


def _median(figures: Sequence[Figures]) -> Figures:
    columns = zip(*(asdict(one).values() for one in figures), strict=True)
    return Figures(*map(statistics.median, columns))


def _table(found: dict[str, dict[str, dict[str, Figures]]]) -> None:
    print(
        f"{'':14}{'':18}{'cold':>8}{'p50':>9}{'p99':>9}{'read':>7}{'warm':>9}{'p50':>9}{'p99':>9}"
        f"{'cold x':>9}{'warm x':>8}"
    )
    for case, rows in found.items():
        ours = next(iter(rows.values()))
        for number, (name, row) in enumerate(rows.items()):
            cold, warm = row["cold"], row["warm"]
            ratios = [ours[k].mb_per_second / row[k].mb_per_second for k in ("cold", "warm")]
            print(
                f"{'' if number else case:14}{name:18}"
                f"{cold.mb_per_second:8.0f}{cold.p50_ms:9.2f}{cold.p99_ms:9.2f}{cold.files:7.2f}"
                f"{warm.mb_per_second:9.0f}{warm.p50_ms:9.2f}{warm.p99_ms:9.2f}"
                f"{ratios[0]:9.2f}{ratios[1]:8.2f}"
            )


def main() -> int:
    """Runs the benchmark; returns the exit code."""
    exit_on_sigterm()
    arguments = _arguments()

    def wanted(name: str, starts: list[str] | None) -> bool:
        return not starts or any(name.startswith(start) for start in starts)

    chosen = [c for c in cases(arguments.shape) if wanted(c.name, arguments.case)]
    openers = {n: o for n, o in contenders().items() if wanted(n, arguments.only)}
    found: dict[str, dict[str, dict[str, Figures]]] = {}
    with tempfile.TemporaryDirectory(prefix="ziggurat-read-", dir=arguments.data) as made:
        data = Path(made)
        frames = _write(data, arguments.shape, arguments.codec)
        for case in chosen:
            runs: dict[str, dict[str, list[Figures]]] = {n: {} for n in openers}
            planes: list[Pixels] = []
            for turn, (name, opener) in itertools.product(range(arguments.repeat), openers.items()):
                if not turn:
                    with opener(data, NAME) as reader:
                        _check(reader, case.boxes[:3], frames)
                        planes += [reader.plane(p) for p in case.boxes if isinstance(p, Oblique)]
                        _check_planes(planes, len(case.boxes))
                with opener(data, NAME) as reader:
                    for how in ("cold", "warm"):
                        runs[name].setdefault(how, []).append(measure(reader, case))
            found[case.name] = {
                name: {how: _median(figures) for how, figures in of.items()}
                for name, of in runs.items()
            }
            print(f"{case.name}: done", file=sys.stderr, flush=True)
    _table(found)
    print("rates in MB/s, p50 and p99 in ms; x: how many times as fast the first one is")
    figures: dict[str, Any] = {
        case: {name: {how: asdict(f) for how, f in of.items()} for name, of in rows.items()}
        for case, rows in found.items()
    }
    given = {name: value for name, value in vars(arguments).items() if name != "data"}
    result = {"benchmark": "read", "arguments": given, "machine": _machine.facts()}
    print(json.dumps({**result, "cases": figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
