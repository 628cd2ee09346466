"""One who writes a stack without a server, for benchmarks.ingest, in a process of its own.

    python -m benchmarks._ingest_peer NAME JSON

The frames exist before the clock starts; it stops when all levels are written and closed. As
with ziggurat, a first stack is written that does not count. None of them syncs a file, but
"tensorstore" where the task is durable.

acquire-zarr gets frames one by one. The others get what makes whole shards along z at
once, which no camera gives them: they have no place to collect frames in.

Prints JSON: seconds, cpu_seconds, peak_rss_bytes (without the frames), stored_bytes, files.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks._data import Frames
from benchmarks._server import peak_rss_bytes
from benchmarks._writing import Task, forget_peak, task_of

CORES = len(os.sched_getaffinity(0))
PEERS = ("acquire-zarr", "tensorstore", "zarr-python")


def acquire_zarr(task: Task, frames: Frames, path: Path, levels: int) -> None:
    """All levels, as frames come."""
    import acquire_zarr as az

    assert task.chunks
    assert task.shards
    codecs = {
        "blosc-lz4": az.CompressionCodec.BLOSC_LZ4,
        "blosc-zstd": az.CompressionCodec.BLOSC_ZSTD,
    }
    dimensions = [
        az.Dimension(
            name=name,
            kind=az.DimensionType.SPACE,
            array_size_px=size,
            chunk_size_px=chunk,
            shard_size_chunks=shard // chunk,
        )
        for name, size, chunk, shard in zip(
            "zyx", task.shape, task.chunks, task.shards, strict=True
        )
    ]
    array = az.ArraySettings(
        dimensions=dimensions,
        output_key="",
        data_type=getattr(az.DataType, task.dtype.upper()),
        compression=az.CompressionSettings(
            compressor=az.Compressor.BLOSC1, codec=codecs[task.codec], level=1, shuffle=2
        ),
        downsampling_method=az.DownsamplingMethod.MEAN,
        max_levels=levels,
    )
    stream = az.ZarrStream(az.StreamSettings(store_path=str(path), arrays=[array], max_threads=0))
    for number in range(frames.count):
        stream.append(frames[number])
    stream.close()


def tensorstore(task: Task, frames: Frames, path: Path, levels: int) -> None:
    """Level 0 by layers of shards, then each level from the one below."""
    import tensorstore as ts

    context = ts.Context(
        {
            "data_copy_concurrency": {"limit": CORES},
            "file_io_sync": task.durability == "durable",
        }
    )
    shape: tuple[int, ...] = task.shape
    below = None
    for level in range(levels):
        spec = {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": str(path / str(level))},
            "metadata": _document(task, shape),
            "create": True,
        }
        array = ts.open(spec, context=context).result()
        if below is None:
            for z, layer in _layers(task, frames):
                array[z : z + len(layer)].write(layer).result()
        else:
            array.write(ts.downsample(below, [2, 2, 2], "mean")).result()
        below, shape = array, tuple(-(-n // 2) for n in shape)


def zarr_python(task: Task, frames: Frames, path: Path, _: int) -> None:
    """Level 0 alone, by layers of shards: it has no pyramids."""
    import zarr
    from zarr.codecs import BloscCodec

    assert task.chunks
    array = zarr.create_array(
        path / "0",
        shape=task.shape,
        chunks=task.chunks,
        shards=task.shards,
        dtype=task.dtype,
        compressors=BloscCodec(
            cname="lz4" if task.codec == "blosc-lz4" else "zstd", clevel=1, shuffle="bitshuffle"
        ),
    )
    for z, layer in _layers(task, frames):
        array[z : z + len(layer)] = layer


def _layers(task: Task, frames: Frames) -> Any:
    assert task.shards
    depth, height, width = task.shape
    for z in range(0, depth, task.shards[0]):
        yield z, frames.box((z, 0, 0), (min(task.shards[0], depth - z), height, width))


def _document(task: Task, shape: tuple[int, ...]) -> dict[str, Any]:
    blosc = {
        "cname": task.codec.removeprefix("blosc-"),
        "clevel": 1,
        "shuffle": "bitshuffle",
        "typesize": 2,
        "blocksize": 0,
    }
    inner = [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "blosc", "configuration": blosc},
    ]
    sharding = {
        "chunk_shape": task.chunks,
        "codecs": inner,
        "index_codecs": [inner[0], {"name": "crc32c"}],
    }
    return {
        "shape": shape,
        "data_type": task.dtype,
        "fill_value": 0,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": task.shards}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    }


WRITERS: dict[str, Callable[[Task, Frames, Path, int], None]] = {
    "acquire-zarr": acquire_zarr,
    "tensorstore": tensorstore,
    "zarr-python": zarr_python,
}


def main() -> None:
    """Writes, measures, prints."""
    name, given, directory, levels = sys.argv[1:]
    task, write, path = task_of(given), WRITERS[name], Path(directory)
    frames = Frames(task.shape[1:], task.shape[0], task.dtype)
    path.mkdir()
    before = forget_peak()
    for target in (path / "first", path / "image"):
        wall, cpu = time.perf_counter(), time.process_time()
        write(task, frames, target, int(levels))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if target.name == "first":
            shutil.rmtree(target)
            os.sync()
    files = [file for file in (path / "image").rglob("*") if file.is_file()]
    print(
        json.dumps(
            {
                "seconds": wall,
                "cpu_seconds": cpu,
                "peak_rss_bytes": peak_rss_bytes(os.getpid()) - before,
                "stored_bytes": sum(file.stat().st_size for file in files),
                "files": len(files),
            }
        )
    )


if __name__ == "__main__":
    main()
