"""How fast are settling, decoding and ingest, with cards and with the CPU of the same machine?

Settling takes arrays of the host and gives finished frames and parents back, for level 0 and
for all levels above it. c-blosc works on all cores, a chunk a thread, as the fastest that
others do. Ingest is benchmarks.ingest, into a directory in memory.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray
from ziggurat_engine.kernels.cpu import CpuKernels
from ziggurat_engine.kernels.cuda.device import Device
from ziggurat_engine.kernels.cuda.kernels import CudaKernels
from ziggurat_engine.kernels.protocol import Kernels, Recipe
from ziggurat_engine.kernels.select import DEVICE_TIMEOUT_SECONDS
from ziggurat_engine.spec import Array, Blosc, Codec

from benchmarks import ingest
from benchmarks._gpu_bench import Sizes, cores, seconds

Row = dict[str, Any]

_FACTORS = (2, 2, 2)
_SHUFFLES = {"byte": blosc.SHUFFLE, "bit": blosc.BITSHUFFLE}
CODECS: tuple[Blosc, ...] = (
    Blosc(compressor="lz4", shuffle="bit"),
    Blosc(compressor="lz4", shuffle="byte"),
    Blosc(compressor="zstd", shuffle="bit"),
    Blosc(compressor="zstd", shuffle="byte"),
)


@contextlib.contextmanager
def all_kernels(devices: Sequence[Device], sizes: Sizes) -> Iterator[dict[str, Kernels]]:
    """The kernels that are compared, by name."""
    cuda = CudaKernels(
        devices,
        cores(),
        device_memory_bytes=sizes.device_memory_bytes,
        batch_bytes=sizes.batch_bytes,
        timeout_seconds=DEVICE_TIMEOUT_SECONDS,
    )
    cpu = CpuKernels(cores())
    try:
        yield {"cuda": cuda, "cpu": cpu}
    finally:
        cuda.close()
        cpu.close()


def chunks_of(pixels: NDArray[np.uint16], sizes: Sizes) -> list[Array]:
    """Level 0: chunks of their own memory, from another pixel of the frames on each."""
    flat = pixels.reshape(-1)
    size = math.prod(sizes.chunk)
    count = sizes.settle_bytes // (2 * size)
    starts = (i * size % (flat.size - size + 1) for i in range(count))
    return [flat[start : start + size].reshape(sizes.chunk).copy() for start in starts]


def settling(
    kernels: dict[str, Kernels], chunks: Sequence[Array], sizes: Sizes, *, zstd: bool
) -> list[Row]:
    """Raw bytes of level 0 per second, all levels made; and c-blosc, compressing level 0 alone.

    At last without a codec: only downsampling.
    """
    raw = sum(chunk.nbytes for chunk in chunks)
    rows: list[Row] = []
    for codec in (*CODECS, None):
        kind = f"{codec.compressor} {codec.shuffle}" if codec else "nothing, downsample"
        row: Row = {"name": f"settle {kind}", "raw_bytes": raw}
        for name, made in kernels.items():
            if name == "cuda" and codec and codec.compressor == "zstd" and not zstd:
                continue
            encoded = 0

            def work(made: Kernels = made, codec: Codec | None = codec) -> None:
                nonlocal encoded
                encoded = _all_levels(made, chunks, codec)

            row[f"{name}_bytes_per_second"] = raw / seconds(work, max(1, sizes.rounds // 2))
            if codec:
                row[f"{name}_ratio"] = raw / encoded
        if codec:
            row["c_blosc_bytes_per_second"] = _c_blosc(chunks, codec, raw)
        rows.append(row)
    return rows


def _all_levels(kernels: Kernels, chunks: Sequence[Array], codec: Codec | None) -> int:
    """Settles level 0 and as many chunks for the levels above as it has; bytes of level 0."""
    encoded, count, first = 0, len(chunks), True
    while count:
        factors = _FACTORS if count > 1 or codec is None else None
        recipe = Recipe(codec, np.uint16(0), factors)
        some = chunks[:count]
        for settled in kernels.settle(some, [some[0].shape] * count, recipe):
            if first and settled.frame is not None:
                encoded += len(settled.frame)
        first, count = False, count // math.prod(_FACTORS)
    return encoded


def _c_blosc(chunks: Sequence[Array], codec: Blosc, raw: int) -> float:
    def compress(chunk: Array) -> int:
        shuffle = _SHUFFLES[codec.shuffle]
        return len(blosc.compress(chunk, codec.compressor.encode(), codec.level, shuffle))

    with ThreadPoolExecutor(cores()) as pool:
        return raw / seconds(lambda: list(pool.map(compress, chunks)), 1)


def decoding(kernels: dict[str, Kernels], chunks: Sequence[Array], sizes: Sizes) -> list[Row]:
    """Raw bytes per second, as many threads reading as there are cores, of the engine's frames."""
    rows: list[Row] = []
    for codec in CODECS[:2]:
        recipe = Recipe(codec, np.uint16(0), None)
        some = chunks[: max(1, len(chunks) // 2)]
        valid = [chunk.shape for chunk in some]
        frames = [one.frame for one in kernels["cuda"].settle(some, valid, recipe) if one.frame]
        raw = len(frames) * some[0].nbytes
        row: Row = {"name": f"decode {codec.compressor} {codec.shuffle}", "raw_bytes": raw}

        ways: dict[str, Callable[[bytes], object]] = {
            name: partial(_decode, made, codec, some[0]) for name, made in kernels.items()
        }
        ways["c_blosc"] = blosc.decompress
        for name, way in ways.items():
            with ThreadPoolExecutor(max(16, cores())) as pool:

                def work(way: Callable[[bytes], object] = way) -> None:
                    list(pool.map(way, frames))  # noqa: B023 - called before it goes

                row[f"{name}_bytes_per_second"] = raw / seconds(work, max(1, sizes.rounds // 2))
        rows.append(row)
    return rows


def _decode(kernels: Kernels, codec: Codec, like: Array, frame: bytes) -> object:
    return kernels.decode(frame, codec, like.dtype, like.shape)


def ingesting(sizes: Sizes, names: Sequence[str], directory: Path) -> list[Row]:
    """Raw bytes per second through gRPC, until all is stored and exact; `names` of kernels."""
    rows: list[Row] = []
    for codec in ("blosc-lz4", "blosc-zstd") if sizes.thorough else ("blosc-lz4",):
        for streams in sizes.streams:
            row: Row = {"name": f"ingest {codec}, {streams} streams"}
            for name in names:
                arguments = argparse.Namespace(
                    shape=sizes.frames,
                    dtype="uint16",
                    codec=codec,
                    chunks=None,
                    shards=None,
                    streams=streams,
                    window_mib=64,
                    durability="durable",
                    set=[f"kernels={name}"],
                )
                with (
                    tempfile.TemporaryDirectory(dir=directory) as made,
                    contextlib.redirect_stdout(io.StringIO()),
                ):
                    found = ingest.run(arguments, Path(made))
                row[f"{name}_bytes_per_second"] = found["closed_mb_per_second"] * 1e6
            rows.append(row)
    return rows
