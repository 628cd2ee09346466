"""How are chunks of one shape settled on a card, if they are? Decided before anything is moved."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ziggurat_engine.kernels.cuda import abi
from ziggurat_engine.kernels.cuda.memory import Room, most_chunks
from ziggurat_engine.kernels.cuda.nvcomp import MAX_BLOCK_BYTES, Nvcomp
from ziggurat_engine.kernels.protocol import Recipe
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Blosc, Codec, Zstd

# Blosc blocks: small enough that a batch keeps a card busy, large enough to find repeats.
BLOCK_BYTES = {"lz4": 32 * 1024, "zstd": 64 * 1024}


@dataclass(frozen=True, slots=True)
class Packing:
    """How frames are made. slot_stride: between compressed blocks in the workspace."""

    compressor: str
    shuffle: str
    blocks: abi.Blocks
    slot_stride: int

    @property
    def frame_bytes(self) -> int:
        """The most that a frame takes, with what aligns the next.

        A Blosc frame copies what would grow; a plain one is what its compressor makes of it.
        """
        return self.slot_stride if self.blocks.plain else abi.frame_bound(self.blocks)


@dataclass(frozen=True, slots=True)
class Plan:
    """How chunks of one shape and dtype are settled by one recipe, but for its fill value.

    shape, factors: five axes; factors None: no parents. packing None: no frames. most: chunks
    of a batch.
    """

    shape: Shape
    dtype: np.dtype[np.generic]
    method: str
    factors: Shape | None
    packing: Packing | None
    stride: int
    parent_stride: int
    most: int

    def parent_shape(self, valid: Shape) -> Shape:
        """The shape of a parent, with as many axes as `valid`."""
        assert self.factors is not None
        factors = self.factors[len(self.factors) - len(valid) :]
        return tuple(-(-n // f) for n, f in zip(valid, factors, strict=True))


def plan_for(
    shape: Shape, dtype: np.dtype[np.generic], recipe: Recipe, room: Room, nvcomp: Nvcomp | None
) -> Plan | None:
    """How a card does it; None where the device code has no way, or no room for one chunk."""
    if len(shape) > 5 or (recipe.codec is None and recipe.factors is None):
        return None
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes > min(abi.MAX_CHUNK_BYTES, room.batch_bytes):
        return None
    factors = None
    parent_stride = 0
    if recipe.factors is not None:
        if not abi.supports(recipe.downsampling, dtype, recipe.factors):
            return None
        factors = abi.five(recipe.factors)
        binned = (-(-n // f) for n, f in zip(abi.five(shape), factors, strict=True))
        parent_stride = abi.stride_of(math.prod(binned) * dtype.itemsize)
    packing = None
    if recipe.codec is not None:
        packing = _packing(recipe.codec, nbytes, nvcomp)
        if packing is None:
            return None
    stride = abi.stride_of(nbytes)
    most = most_chunks(room, stride, parent_stride)
    if packing is not None:
        blocks = packing.blocks.count
        most = min(
            most,
            room.blocks // blocks,
            room.slots_bytes // (blocks * packing.slot_stride),
            room.frames_bytes // packing.frame_bytes,
        )
    if not most:
        return None
    method = recipe.downsampling
    return Plan(abi.five(shape), dtype, method, factors, packing, stride, parent_stride, most)


def _packing(codec: Codec, nbytes: int, nvcomp: Nvcomp | None) -> Packing | None:
    match codec:
        case Blosc(compressor=compressor, level=level, shuffle=shuffle) if level > 0:
            blocks = abi.Blocks(nbytes, abi.block_bytes(nbytes, BLOCK_BYTES[compressor]))
        case Zstd() if nbytes <= MAX_BLOCK_BYTES:
            compressor, shuffle = "zstd", "none"
            blocks = abi.Blocks(nbytes, nbytes, plain=True)
        case _:
            return None
    if compressor == "lz4":
        return Packing(compressor, shuffle, blocks, abi.stride_of(blocks.block_bytes))
    if nvcomp is None:
        return None
    stride = abi.stride_of(nvcomp.most_bytes(blocks.block_bytes))
    return Packing(compressor, shuffle, blocks, stride)
