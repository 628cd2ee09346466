"""What is compiled for a device: which source, which instantiations, with which options?

A translation unit is a few files of this directory one behind the other, without headers, so
that NVRTC needs nothing but its text. Signatures and layouts are those of abi.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

from ziggurat_engine.kernels.cuda.abi import CAPACITIES, FACTORS

OPTIONS = (
    "--std=c++17",
    # The reference adds and divides, each rounded by itself: nothing may be fused, flushed to
    # zero or divided in a hurry.
    "--fmad=false",
    "--ftz=false",
    "--prec-div=true",
)
"""For NVRTC; the architecture comes on top."""

_UNSIGNED = ("u8", "u16", "u32", "u64")


@dataclass(frozen=True, slots=True)
class Module:
    """Kernels that are wanted together, and so compiled at once.

    files: in such an order that nothing is used before it is declared. kernels: C++ names of
    functions and instantiations, what `Launch.kernel` may be.
    """

    files: tuple[str, ...]
    kernels: tuple[str, ...]

    def source(self) -> str:
        """The translation unit."""
        directory = resources.files(__package__)
        text = "\n".join((directory / name).read_text("utf-8") for name in self.files)
        return re.sub(r"^#(include|pragma once).*$", "", text, flags=re.MULTILINE)


def _fold(pixel: str, methods: tuple[str, ...]) -> Module:
    kernels = tuple(f"fold<{pixel}, {method}, {fx}>" for method in methods for fx in FACTORS)
    return Module(("common.cuh", "windows.cuh", "fold.cu"), kernels)


def _rank(key: str) -> Module:
    kernels = tuple(f"rank_of<{key}, {capacity}>" for capacity in CAPACITIES)
    return Module(("common.cuh", "windows.cuh", "rank.cu"), kernels)


def _shuffle() -> Module:
    kinds = [(2, "BYTES"), (4, "BYTES"), (8, "BYTES")]
    kinds += [(1, "BITS"), (2, "BITS"), (4, "BITS"), (8, "BITS")]
    ways = ("shuffle", "unshuffle")
    kernels = tuple(f"{way}<{size}, {kind}>" for way in ways for size, kind in kinds)
    return Module(("common.cuh", "shuffle.cu"), kernels)


MODULES: tuple[Module, ...] = (
    Module(
        ("common.cuh", "fill.cu", "lz4.cu", "frames.cu"),
        (
            "filled",
            "lz4_compress",
            "lz4_decompress",
            "adopt_sizes",
            "frame_sizes",
            "frame_offsets",
            "frame_gather",
        ),
    ),
    _shuffle(),
    *(_fold(pixel, ("MEAN", "MIN")) for pixel in (*_UNSIGNED, "float", "double")),
    *(_fold(pixel, ("STRIDE",)) for pixel in _UNSIGNED),
    *(_rank(key) for key in _UNSIGNED),
)
"""Every kernel is in one of them."""


@cache
def module_of(kernel: str) -> Module:
    """The module that has `kernel`."""
    return next(module for module in MODULES if kernel in module.kernels)
