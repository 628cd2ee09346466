"""Does a card make the same bytes as the reference? Every kernel, on fresh pixels each time.

Batches go the way that the engine's go. Before each, all memory of the card and all pinned
memory is poisoned. Frames are decoded by c-blosc and libzstd, and by the card.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
from ziggurat_engine.kernels import codec as frames
from ziggurat_engine.kernels import reference
from ziggurat_engine.kernels.cuda import abi
from ziggurat_engine.kernels.cuda.kernels import CudaKernels
from ziggurat_engine.kernels.protocol import Recipe
from ziggurat_engine.kernels.select import DEVICE_TIMEOUT_SECONDS
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Array, Blosc, Codec, DTypeName, Zstd

from benchmarks._gpu_bench import Poisoned

_DTYPES: list[np.dtype[Any]] = [np.dtype(name) for name in get_args(DTypeName)]
_FEW = ("uint16", "float32")
# chunk, valid: odd edges and rows that are no multiple of 16 bytes among them.
_SHAPES: tuple[tuple[Shape, Shape], ...] = (
    ((16, 32, 64), (16, 32, 64)),
    ((16, 32, 64), (15, 31, 63)),
    ((7, 33, 45), (7, 32, 41)),
)
_FACTORS: tuple[Shape, ...] = ((2, 2, 2), (1, 2, 2), (3, 3, 3), (1, 3, 3), (2, 3, 1), (1, 1, 2))


class WrongResult(Exception):
    """A card made other bytes than the reference."""


def check(device: Poisoned, *, thorough: bool) -> int:
    """Compares; returns how many batches. Raises WrongResult with the case at fault."""
    kernels = CudaKernels(
        [device],
        2,
        device_memory_bytes=4 << 30,
        batch_bytes=4 << 20,
        timeout_seconds=DEVICE_TIMEOUT_SECONDS,
        decode_together=1,
    )
    count = 0
    try:
        for dtype, shape, valid, recipe in _cases(device, thorough=thorough):
            chunks = [_noise(shape, dtype) for _ in range(5)]
            chunks[3][...] = recipe.fill_value
            device.poison()
            found = list(kernels.settle(chunks, [valid] * len(chunks), recipe))
            for chunk, settled in zip(chunks, found, strict=True):
                where = f"{dtype} {shape} valid {valid} {recipe}"
                _compare(kernels, device, chunk, valid, recipe, settled, where)
            count += 1
        (totals,) = kernels.devices
        done_by_cpu = kernels.totals.cpu_batches
        if done_by_cpu or totals.failures:
            raise WrongResult(
                f"{done_by_cpu} batches were not done by the card: {totals.last_failure}"
            )
    finally:
        kernels.close()
    return count


def _cases(
    device: Poisoned, *, thorough: bool
) -> Iterator[tuple[np.dtype[Any], Shape, Shape, Recipe]]:
    codecs: list[Codec] = [Blosc(compressor="lz4", shuffle=s) for s in ("none", "byte", "bit")]
    if device.nvcomp is not None:
        codecs += [Blosc(compressor="zstd", shuffle=s) for s in ("none", "byte", "bit")]
        codecs.append(Zstd())
    dtypes = [dtype for dtype in _DTYPES if thorough or dtype in _FEW]
    shapes, factors = (_SHAPES, _FACTORS) if thorough else (_SHAPES[1:2], _FACTORS[:1])
    for dtype in dtypes:
        for shape, valid in shapes:
            for codec in codecs:
                yield dtype, shape, valid, Recipe(codec, dtype.type(3), None)
            for method in abi.METHODS:
                for each in factors:
                    yield dtype, shape, valid, Recipe(None, dtype.type(0), each, method)


def _noise(shape: Shape, dtype: np.dtype[Any]) -> Array:
    """All bit patterns in some, camera-like counts in others; floats of many magnitudes."""
    rng = np.random.default_rng(secrets.randbits(64))
    if dtype.kind == "f":
        values = rng.standard_normal(shape) * 10.0 ** rng.integers(-9, 9, shape)
        values[rng.random(shape) < 0.01] = np.nan
        return values.astype(dtype)
    if rng.random() < 0.5:
        return rng.poisson(100, shape).astype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(rng.bytes(size), dtype).reshape(shape).copy()


def _compare(
    kernels: CudaKernels,
    device: Poisoned,
    chunk: Array,
    valid: Shape,
    recipe: Recipe,
    settled: Any,
    where: str,
) -> None:
    if recipe.codec is not None:
        filled = reference.is_filled(chunk, recipe.fill_value)
        if (settled.frame is None) != filled:
            raise WrongResult(f"{where}: fill value")
        if settled.frame is not None:
            device.poison()
            for decode in (frames.decode, kernels.decode):
                back = decode(settled.frame, recipe.codec, chunk.dtype, chunk.shape)
                if back.tobytes() != chunk.tobytes():
                    raise WrongResult(f"{where}: {decode.__qualname__}")
    if recipe.factors is not None:
        wanted = reference.METHODS[recipe.downsampling](chunk, valid, recipe.factors)
        if settled.parent.shape != wanted.shape or settled.parent.tobytes() != wanted.tobytes():
            raise WrongResult(f"{where}: parent")
