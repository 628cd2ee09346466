"""Which kernels does this machine get?"""

from __future__ import annotations

from ziggurat_engine.errors import InvalidArgument
from ziggurat_engine.kernels.protocol import Kernels


def select(name: str, threads: int) -> Kernels:
    """The kernels of that name; "auto" is the fastest that works here.

    name: "auto", "cpu" or "reference". threads: how many the kernels may start.
    Raises InvalidArgument for another name, or where threads < 1.
    """
    if name in ("auto", "cpu"):
        from ziggurat_engine.kernels.cpu import CpuKernels  # the compiler takes a second to import

        return CpuKernels(threads)
    if name == "reference":
        from ziggurat_engine.kernels.reference import ReferenceKernels

        return ReferenceKernels()
    raise InvalidArgument(
        f"kernels {name!r} are not one of auto, cpu, reference", field="kernels.name"
    )
