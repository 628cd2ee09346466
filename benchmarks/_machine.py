"""What machine is this, and how fast are its memory and its disk?

A rate says little without them: results are also given as shares of memcpy and of the
disk's own rate, both measured in the same run.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

_PACKAGES = ("ziggurat-engine", "grpcio", "protobuf", "numpy", "numba", "numcodecs", "zarr")
_BLOCK = 8 * 2**20


def facts() -> dict[str, Any]:
    """The machine, the versions and the commit, for a result that is kept."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()}",
        "python": sys.version.split()[0],
        "versions": {name: version(name) for name in _PACKAGES},
        "commit": _commit(),
    }


def memcpy_bytes_per_second(nbytes: int = 256 * 2**20, rounds: int = 5) -> float:
    """Copying between two arrays that fit no cache, on one thread; the best of `rounds`."""
    source = np.ones(nbytes, np.uint8)
    target = np.empty_like(source)
    target[:] = source  # its pages exist from now on
    return nbytes / min(_seconds(lambda: np.copyto(target, source)) for _ in range(rounds))


def disk_bytes_per_second(directory: Path, nbytes: int = 512 * 2**20) -> float:
    """Writing one new file in `directory` in order, with fdatasync at the end."""
    block = np.random.default_rng(0).integers(0, 256, _BLOCK, np.uint8).data
    file = directory / "disk-rate.tmp"
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def write() -> None:
        for _ in range(nbytes // _BLOCK):
            os.write(handle, block)
        os.fdatasync(handle)

    try:
        return nbytes // _BLOCK * _BLOCK / _seconds(write)
    finally:
        os.close(handle)
        file.unlink()


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str:
    """The commit of this checkout, "-dirty" with changes in it; "" where there is none."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
