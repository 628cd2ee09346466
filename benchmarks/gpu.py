"""What does a card give? Every kernel by itself, and the engine with it and without.

    uv run python -m benchmarks.gpu --json result.json

First every kernel is compared with the reference; where a byte differs, nothing is measured and
the exit code is 1. Then: copies, kernels as shares of what the card copies, compression by block
size, settling, decoding and ingest, beside the CPU of the same machine in the same run. The
last lines tell which targets were met. Without a card it exits with 2. It needs the extras
`cuda12` or `cuda13`, and for zstd `nvcomp12` or `nvcomp13` (docs/gpu.md).
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ziggurat_engine.kernels.cuda.cupy_device import find
from ziggurat_engine.kernels.cuda.device import Device
from ziggurat_engine.kernels.cuda.errors import DeviceError

from benchmarks import _gpu_engine, _gpu_kernels, _machine
from benchmarks._data import Frames
from benchmarks._gpu_bench import SMALL, Poisoned, Sizes
from benchmarks._gpu_correct import WrongResult, check
from benchmarks._server import ServerError, exit_on_sigterm

Row = dict[str, Any]

_GB = 1e9
# Bytes per second, and shares; on an H200 with 16 cores and PCIe gen5.
_CEILING_SHARE = 0.6
_TARGETS = {
    "lz4": 10 * _GB,
    "zstd": 5 * _GB,
    "settle lz4": 8 * _GB,
    "settle zstd": 5 * _GB,
}
_INGEST_GAIN = 2.0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the result is kept")
    parser.add_argument("--no-ingest", action="store_true", help="leave gRPC and servers out")
    # Tries the program on the tests' card; its figures mean nothing.
    parser.add_argument("--shim", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _devices(*, shim: bool) -> list[Device]:
    if not shim:
        return list(find())
    card: Device = import_module("tests.support.card").Card(pace="early")
    return [card]


def _pixels(sizes: Sizes) -> NDArray[np.uint16]:
    """Camera frames, one behind the other."""
    _, y, x = sizes.chunk
    height, width = 8 * y, 8 * x
    count = 64 if sizes.thorough else 4
    frames = Frames((height, width), count, "uint16")
    return frames.box((0, 0, 0), (count, height, width)).astype(np.uint16, copy=False)


def measure(devices: list[Device], sizes: Sizes, *, with_ingest: bool, shim: bool) -> Row:
    """Everything, in the order in which it is told. Raises WrongResult."""
    device = Poisoned(devices[0])
    print("comparing every kernel with the reference ...", flush=True)
    compared = check(device, thorough=sizes.thorough)
    print(f"{compared} batches have the reference's bytes", flush=True)
    found: Row = {"batches_compared": compared}
    found["copies"] = copies = _gpu_kernels.copies(device, sizes)
    _tell("copies", ({"name": k, "bytes_per_second": v} for k, v in copies.items()))
    pixels = _pixels(sizes)
    ceiling = copies["device"]
    bench = _gpu_kernels.Bench(device, sizes, pixels)
    found["kernels"] = _gpu_kernels.downsampling(bench, ceiling)
    found["kernels"] += _gpu_kernels.shuffling(bench, ceiling)
    _tell("kernels", found["kernels"])
    block_sizes = [size << 10 for size in ((16, 32, 64) if sizes.thorough else (4,))]
    found["lz4"] = _gpu_kernels.lz4(bench, block_sizes)
    _tell("lz4 on the card", found["lz4"])
    block_sizes += [128 << 10, 256 << 10] if sizes.thorough else []
    found["zstd"] = _gpu_kernels.zstd(bench, block_sizes)
    _tell("zstd on the card (nvCOMP)", found["zstd"])
    bench.close()
    chunks = _gpu_engine.chunks_of(pixels, sizes)
    with _gpu_engine.all_kernels(devices, sizes) as kernels:
        zstd = device.nvcomp is not None
        found["settle"] = _gpu_engine.settling(kernels, chunks, sizes, zstd=zstd)
        _tell("settle, host to host, all levels", found["settle"])
        found["decode"] = _gpu_engine.decoding(kernels, chunks, sizes)
        _tell("decode", found["decode"])
        found["devices"] = [
            {"name": each.name, "batches": each.batches, "failures": each.failures}
            for each in kernels["cuda"].devices
        ]
    found["ingest"] = []
    if with_ingest:
        names = ("cpu",) if shim else ("cuda", "cpu")
        memory = Path("/dev/shm")
        with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory:
            found["ingest"] = _gpu_engine.ingesting(sizes, names, Path(directory))
        _tell("ingest through gRPC, stored and exact", found["ingest"])
    return found


def verdict(found: Row) -> list[Row]:
    """Each target: name, figure, target and whether it is met; None where it was not measured."""
    rows: list[Row] = []

    def judge(name: str, figures: Iterable[float], target: float, unit: str) -> None:
        figure = max(figures, default=None)
        met = None if figure is None else figure >= target
        rows.append({"name": name, "figure": figure, "target": target, "unit": unit, "met": met})

    for row in found["kernels"]:
        if row["name"].startswith(("downsample uint16", "shuffle")):
            judge(row["name"], [row["of_ceiling"]], _CEILING_SHARE, "of the copy rate")
    for name in ("lz4", "zstd"):
        rates = [row["raw_bytes_per_second"] for row in found[name] if "ratio" in row]
        judge(f"{name} kernels", rates, _TARGETS[name], "B/s")
        settled = [
            row["cuda_bytes_per_second"]
            for row in found["settle"]
            if row["name"].startswith(f"settle {name}") and "cuda_bytes_per_second" in row
        ]
        judge(f"settle {name}", settled, _TARGETS[f"settle {name}"], "B/s")
    gains = [
        row["cuda_bytes_per_second"] / row["cpu_bytes_per_second"]
        for row in found["ingest"]
        if "cuda_bytes_per_second" in row
    ]
    judge("ingest, cuda over cpu", gains, _INGEST_GAIN, "x")
    return rows


def _tell(title: str, rows: Iterable[Row]) -> None:
    print(f"\n{title}")
    for row in rows:
        words = []
        for key, value in row.items():
            if key.endswith("bytes_per_second"):
                words.append(f"{key.removesuffix('bytes_per_second')} {value / _GB:.2f} GB/s")
            elif key == "of_ceiling":
                words.append(f"{value:.0%} of the copy rate")
            elif key.endswith("ratio"):
                words.append(f"{key.replace('_', ' ')} {value:.2f}")
        print(f"  {row['name']:36}", "; ".join(words).replace("_ ", " "), flush=True)


def _tell_verdict(rows: list[Row]) -> None:
    print("\ntargets")
    for row in rows:
        word = {True: "met", False: "MISSED", None: "not measured"}[row["met"]]
        scale, unit = (_GB, "GB/s") if row["unit"] == "B/s" else (1, row["unit"])
        figure = "-" if row["figure"] is None else f"{row['figure'] / scale:.2f}"
        print(f"  {row['name']:36} {figure} of {row['target'] / scale:g} {unit}: {word}")


def main() -> None:
    """Runs the benchmark as the command line says."""
    arguments = _arguments()
    exit_on_sigterm()
    try:
        devices = _devices(shim=arguments.shim)
    except DeviceError as error:
        print(f"no card to measure: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    sizes = SMALL if arguments.shim else Sizes()
    card = {"card": devices[0].name, "cards": len(devices), **_driver(shim=arguments.shim)}
    nvcomp = devices[0].nvcomp
    card["nvcomp"] = "" if nvcomp is None else nvcomp.version
    machine = _machine.facts()
    print(f"{card}; {machine['cpu']}, {machine['cores']} cores")
    try:
        found = measure(devices, sizes, with_ingest=not arguments.no_ingest, shim=arguments.shim)
    except (WrongResult, ServerError) as error:
        raise SystemExit(str(error)) from None
    except DeviceError as error:
        raise SystemExit(f"{devices[0].name}: {type(error).__name__}: {error}") from None
    rows = verdict(found)
    _tell_verdict(rows)
    result = {
        "benchmark": "gpu",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **card,
        "machine": machine,
        "verdict": rows,
        **found,
    }
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


def _driver(*, shim: bool) -> dict[str, Any]:
    if shim:
        return {}
    import cupy
    from cupy.cuda import runtime

    module = Path("/proc/driver/nvidia/version")  # the release; the number is CUDA's
    return {
        "driver": runtime.driverGetVersion(),
        "driver_release": module.read_text("utf-8").splitlines()[0] if module.exists() else "",
        "runtime": runtime.runtimeGetVersion(),
        "cupy": cupy.__version__,
    }


if __name__ == "__main__":
    main()
