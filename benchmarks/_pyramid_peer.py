"""One contender of benchmarks.pyramid in a process of its own.

    python -m benchmarks._pyramid_peer NAME PATH LEVELS MEMORY

Builds levels 1 to LEVELS - 1 from PATH/0. Imports and compiled code are loaded before the
clock starts. Prints JSON: seconds, peak resident bytes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CORES = len(os.sched_getaffinity(0))


class _Clock:
    """Wall and CPU seconds since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def stop(self) -> dict[str, Any]:
        """Both."""
        return {
            "seconds": time.perf_counter() - self._wall,
            "cpu_seconds": time.process_time() - self._cpu,
        }


def ziggurat(path: Path, levels: int, memory: int) -> dict[str, Any]:
    import numpy as np
    from ziggurat_engine.kernels import cpu
    from ziggurat_engine.offline.build import Wish, build

    kernels = cpu.CpuKernels(1)
    kernels.warm([np.dtype("uint16")])
    kernels.close()
    start = _Clock()
    built = build(path, Wish(levels=levels, threads=CORES, memory=memory))
    return {
        **start.stop(),
        "planned_bytes": built.planned_bytes,
        "peak_pixel_bytes": built.peak_pixel_bytes,
    }


def tensorstore(path: Path, levels: int, _: int, *, sync: bool = True) -> dict[str, Any]:
    import tensorstore as ts

    context = ts.Context(
        {"data_copy_concurrency": {"limit": CORES}, "file_io_sync": sync, "cache_pool": {}}
    )

    def at(level: int) -> dict[str, Any]:
        return {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / str(level))}}

    document = json.loads((path / "0/zarr.json").read_bytes())
    metadata = {k: document[k] for k in ("chunk_grid", "codecs", "data_type", "fill_value")}
    start = _Clock()
    below = ts.open(at(0), context=context).result()
    for level in range(1, levels):
        halved = ts.downsample(below, [2] * below.rank, "mean")
        spec = {**at(level), "metadata": {**metadata, "shape": list(halved.shape)}, "create": True}
        below = ts.open(spec, context=context).result()
        below.write(halved).result()
    return {**start.stop()}


def pyramid_sampler(path: Path, levels: int, _: int) -> dict[str, Any]:
    import zarr
    from pyramid_sampler import Downsampler

    array = zarr.open_array(path / "0", mode="r")
    start = _Clock()
    sampler = Downsampler(str(path.parent), (2, 2, 2), array.shape, chunks=array.chunks)
    sampler.downsample(levels, path.name)
    return {**start.stop()}


def main() -> None:
    name, path, levels, memory = sys.argv[1:]
    contenders: dict[str, Callable[[Path, int, int], dict[str, Any]]] = {
        "ziggurat": ziggurat,
        "tensorstore": tensorstore,
        "tensorstore-nosync": lambda *given: tensorstore(*given, sync=False),
        "pyramid-sampler": pyramid_sampler,
    }
    try:
        result = contenders[name](Path(path), int(levels), int(memory))
    except ModuleNotFoundError as error:
        result = {"missing": str(error)}
    # Not getrusage, which counts the parent too, from before this process was another program.
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in status if line.startswith("VmHWM:"))
    result["peak_rss_bytes"] = int(peak.split()[1]) * 1024
    print(json.dumps(result))


if __name__ == "__main__":
    main()
