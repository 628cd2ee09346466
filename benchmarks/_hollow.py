"""A server that leaves out what runs without the interpreter's lock.

    python -m benchmarks._hollow serve ...

Messages, plans, bookkeeping, tasks and files are those of any server, and so are the sizes of
frames: but no pixel is copied into a chunk, nothing is encoded or averaged, and full blocks of
files are left to be holes. What it stores is nonsense. What it takes in is what the interpreter
would allow on a machine of any number of cores, as far as client and transport leave it room on
this one (benchmarks.cores).
"""

from __future__ import annotations

import os
from typing import Any

from ziggurat_engine import direct, scatter
from ziggurat_engine.cli import main
from ziggurat_engine.kernels import _blosc, _fill, _mean
from ziggurat_engine.loops import Vector, compiled

# Percent of the pixels, as camera frames have with lz4.
_FRAME = 70


@compiled
def _nothing(*_: Any) -> None:
    pass


@compiled
def _encode(raw: Vector, *_: Any) -> int:
    return raw.size * _FRAME // 100


@compiled
def _differ(*_: Any) -> bool:
    # Else nothing would be stored.
    return False


class _Holes:
    """The module os, but that a full block of a file is passed over."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    @staticmethod
    def write(fd: int, data: memoryview) -> int:
        """As os.write."""
        if data.nbytes < direct.BLOCK_BYTES:
            return os.write(fd, data)
        os.lseek(fd, data.nbytes, os.SEEK_CUR)
        return data.nbytes


def hollow() -> None:
    """Leaves it out, in this process."""
    left_out: list[tuple[Any, str, object]] = [
        (scatter, "_copy", _nothing),
        (_blosc, "_encode", _encode),
        (_fill, "_all_equal", _differ),
        (_mean, "_mean_pairs", _nothing),
        (direct, "os", _Holes()),
    ]
    for module, name, instead in left_out:
        assert hasattr(module, name), f"{module.__name__} has no {name}"
        setattr(module, name, instead)


if __name__ == "__main__":
    hollow()
    main()
