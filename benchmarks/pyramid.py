"""How fast is a pyramid built from a level 0 on disk, beside TensorStore and pyramid-sampler?

    uv run --group bench python -m benchmarks.pyramid --shape 512x512x512 --chunks 64

Level 0 is written once: camera noise, uint16, Zarr v3, a file a chunk. Each contender gets a copy
of it (hard links) and makes the same levels with the same chunks and codec, in a process of
its own; they take turns, `--repeat` times. Level 0 is in the page cache for all. The clock starts
when imports are done, and stops when the levels are written: by ziggurat synced, by
TensorStore synced file by file ("tensorstore") or not at all ("tensorstore-nosync"), by
pyramid-sampler not at all. Rates are in MB/s of raw pixels of level 0, MB = 10^6 bytes.

Every level of ziggurat is compared with TensorStore's, byte for byte. pyramid-sampler
truncates where the others round: how many pixels differ is said. It stops where a chunk
does not fit any more. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import zarr
from zarr.codecs import BloscCodec, ZstdCodec
from ziggurat_engine.cli import MALLOC

from benchmarks import _machine
from benchmarks._compare import differences
from benchmarks._data import Frames

CONTENDERS = ("ziggurat", "tensorstore", "tensorstore-nosync", "pyramid-sampler")
CODECS = {
    "blosc-lz4": BloscCodec(cname="lz4", clevel=1, shuffle="bitshuffle", typesize=2),
    "blosc-zstd": BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle", typesize=2),
    "zstd": ZstdCodec(level=1),
    "none": None,
}


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(number) for number in text.lower().split("x"))
    except ValueError:
        shape = ()
    shape = shape * 3 if len(shape) == 1 else shape
    if len(shape) != 3 or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not like 512x512x512 (z, y, x)")
    return shape


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pyramid", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--shape", type=_shape, default=(512, 512, 512), help="Z x Y x X pixels")
    parser.add_argument("--chunks", type=_shape, default=(64, 64, 64), help="64, or 64x128x128")
    parser.add_argument("--codec", choices=CODECS, default="blosc-zstd")
    parser.add_argument("--memory-mib", type=int, default=1024, help="of ziggurat")
    parser.add_argument(
        "--deeper", type=int, default=1, help="level 0 so many times as deep, of links to itself"
    )
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", action="append", choices=CONTENDERS, help="leave others out")
    parser.add_argument("--data", type=Path, help="directory to work in; a new one in it")
    return parser.parse_args()


def _write(path: Path, arguments: argparse.Namespace) -> int:
    """Level 0, and how many levels there will be."""
    shape, chunks = arguments.shape, arguments.chunks
    group = zarr.create_group(path)
    array = group.create_array(
        "0",
        shape=shape,
        chunks=chunks,
        dtype="uint16",
        compressors=CODECS[arguments.codec],
        dimension_names=("z", "y", "x"),
    )
    frames = Frames(shape[1:], shape[0], "uint16", pool_bytes=256 * 2**20)
    for z in range(0, shape[0], chunks[0]):
        stop = min(z + chunks[0], shape[0])
        array[z:stop] = frames.box((z, 0, 0), (stop - z, *shape[1:]))
    shape = _deepen(path / "0", shape, chunks, arguments.deeper)
    levels = 1
    while any(-(-n // 2 ** (levels - 1)) > c for n, c in zip(shape, chunks, strict=True)):
        levels += 1
    return levels


def _deepen(
    path: Path, shape: tuple[int, ...], chunks: tuple[int, ...], times: int
) -> tuple[int, ...]:
    """Repeats level 0 along z with hard links: inputs that would not fit the disk."""
    if times == 1:
        return shape
    if shape[0] % chunks[0]:
        raise SystemExit("--deeper: the depth has to be whole chunks")
    planes = shape[0] // chunks[0]
    for z in range(planes, planes * times):
        shutil.copytree(path / f"c/{z % planes}", path / f"c/{z}", copy_function=os.link)
    document = json.loads((path / "zarr.json").read_bytes())
    document["shape"][0] *= times
    (path / "zarr.json").write_text(json.dumps(document))
    return (shape[0] * times, *shape[1:])


def _run(name: str, path: Path, levels: int, memory: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks._pyramid_peer", name, str(path)]
    # As the command `ziggurat-engine build` sets it for itself.
    environment = {**os.environ, **(MALLOC if name == "ziggurat" else {})}
    done = subprocess.run(
        [*command, str(levels), str(memory)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if done.returncode:
        return {"missing": done.stderr.strip().splitlines()[-1]}
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def _cpu(results: list[dict[str, Any]]) -> float:
    return float(statistics.median([r["cpu_seconds"] for r in results if "cpu_seconds" in r]))


def main() -> None:
    arguments = _arguments()
    nbytes = math.prod(arguments.shape) * arguments.deeper * 2
    names = [n for n in CONTENDERS if not arguments.only or n in arguments.only]
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    compared: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="ziggurat-pyramid-", dir=arguments.data) as made:
        source = Path(made, "source")
        levels = _write(source, arguments)
        os.sync()
        for turn in range(arguments.repeat):
            for name in names:
                target = Path(made, name)
                shutil.copytree(source, target, copy_function=os.link)
                os.sync()  # nobody waits for what another left to be written
                result = _run(name, target, levels, arguments.memory_mib * 2**20)
                results[name].append(result)
                rate = nbytes / result["seconds"] / 1e6 if "seconds" in result else 0
                said = result.get("missing") or f"{rate:.0f} MB/s"
                rss = result.get("peak_rss_bytes", 0) >> 20
                cpu = result.get("cpu_seconds", 0)
                print(
                    f"{turn + 1}. {name}: {said}, {cpu:.2f} s of CPU, peak RSS {rss} MiB",
                    flush=True,
                )
            for name in names:
                if turn == 0 and name != "ziggurat" and "ziggurat" in names:
                    compared[name] = differences(
                        Path(made, "ziggurat"), Path(made, name), range(1, levels)
                    )
            for name in names:
                shutil.rmtree(Path(made, name))
    ratios: dict[str, list[float]] = {}
    for name in names:
        pairs = zip(results.get("ziggurat", ()), results[name], strict=False)
        ratios[name] = [
            b["seconds"] / a["seconds"] for a, b in pairs if "seconds" in a and "seconds" in b
        ]
        if ratios[name] and name != "ziggurat":
            cpu = [_cpu(results[n]) for n in (name, "ziggurat")]
            print(
                f"ziggurat is {statistics.median(ratios[name]):.2f} x {name}"
                f" ({min(ratios[name]):.2f} to {max(ratios[name]):.2f}),"
                f" {cpu[0] / cpu[1]:.2f} x by CPU time; {compared[name]}"
            )
    print(
        json.dumps(
            {
                "shape": arguments.shape,
                "chunks": arguments.chunks,
                "deeper": arguments.deeper,
                "codec": arguments.codec,
                "levels": levels,
                "results": results,
                "ratios": ratios,
                "compared": compared,
                "machine": _machine.facts(),
            }
        )
    )


if __name__ == "__main__":
    main()
