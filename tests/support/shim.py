r"""How do the device kernels run on a machine without a card?

g++ compiles their sources behind shim.h into a few libraries, the first time that one is
needed; they are kept under the sources' hash in the user's cache directory, for all test processes.
Pointers of a launch are addresses of NumPy arrays. ZIGGURAT_SHIM_FLAGS adds compiler options. To
find what is read or written out of bounds, and loads that are not aligned as a card wants them:

    export ZIGGURAT_SHIM_FLAGS="-fsanitize=address,undefined -fno-sanitize-recover"
    LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so)" \
        ASAN_OPTIONS=detect_leaks=0 uv run pytest -n0 tests/contract/test_cuda_codecs.py
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from ziggurat_engine.kernels.cuda import program
from ziggurat_engine.kernels.cuda.abi import Launch

from tests.support.kept import kept

_HEADER = Path(__file__).with_name("shim.h")
_FLAGS = [
    "-std=c++20",
    "-O1",
    "-shared",
    "-fPIC",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-Wno-unused-function",
]
_ALIGNMENT = 256  # what every buffer on a device has
POISON = 0xA5


class LaunchError(Exception):
    """What would not run on a device either."""


def available() -> bool:
    """Whether there is a compiler."""
    return shutil.which("g++") is not None


def empty(nbytes: int) -> NDArray[np.uint8]:
    """So many bytes, aligned as on a device and full of what nobody expects."""
    room = np.full(nbytes + _ALIGNMENT, POISON, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + nbytes]


def launch(launch: Launch, *, backwards: bool = False) -> None:
    """Runs a kernel to its end, without the GIL. backwards: lanes run from the last to the first.

    Raises LaunchError where the arguments do not fit the kernel, or its barriers hang.
    """
    scalars = [np.asarray(arg) for arg in launch.args]
    pointers = (ctypes.c_void_p * len(scalars))(*[s.ctypes.data for s in scalars])
    sizes = (ctypes.c_uint * len(scalars))(*[s.itemsize for s in scalars])
    trouble = library(program.module_of(launch.kernel).files).shim_launch(
        launch.kernel.encode(),
        (ctypes.c_uint * 3)(*launch.grid),
        (ctypes.c_uint * 3)(*launch.block),
        pointers,
        sizes,
        len(scalars),
        backwards,
    )
    if trouble:
        raise LaunchError(f"{launch.kernel}: {trouble.decode()}")


@cache
def library(files: tuple[str, ...]) -> ctypes.CDLL:
    """The kernels of all modules made of `files`, compiled where no earlier run has."""
    modules = [module for module in program.MODULES if module.files == files]
    flags = [*_FLAGS, *shlex.split(os.environ.get("ZIGGURAT_SHIM_FLAGS", ""))]
    text = "\n".join(
        [
            _HEADER.read_text("utf-8"),
            modules[0].source(),
            "static const std::vector<shim::Kernel> KERNELS = {",
            *(
                f'{{"{name}", shim::call_it<{name}>, shim::sizes_of({name})}},'
                for module in modules
                for name in module.kernels
            ),
            "};",
            'extern "C" const char* shim_launch(const char* name, const unsigned* grid,',
            "    const unsigned* block, void* const* args, const unsigned* sizes, unsigned count,",
            "    int reversed) {",
            "  return shim::launch(KERNELS, name, grid, block, args, sizes, count, reversed);",
            "}",
        ]
    )
    compiler = subprocess.run(["g++", "--version"], capture_output=True, check=True).stdout
    parts = [compiler, " ".join(flags).encode(), text.encode()]
    loaded = ctypes.CDLL(str(kept("shim", parts, lambda made: _compile(text, flags, made))))
    loaded.shim_launch.restype = ctypes.c_char_p
    return loaded


def _compile(text: str, flags: list[str], made: Path) -> None:
    done = subprocess.run(
        ["g++", *flags, "-x", "c++", "-", "-o", str(made)],
        check=False,
        capture_output=True,
        text=True,
        input=text,
    )
    if done.returncode:
        raise RuntimeError(f"g++ refuses the kernels:\n{done.stderr}")
