"""Who answers the reads of benchmarks.read?

Each opens the same store. `cold` gives a reader that has decoded nothing yet; the files
are in the page cache of the system for all. A reader that uses a cache keeps it until it
is closed.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import ziggurat

from benchmarks._server import ServerProcess, wait_at_rest

CACHE_BYTES = 4 * 2**30
START_SECONDS = 300.0

Pixels = np.ndarray[Any, np.dtype[Any]]
Box = tuple[slice, ...]


@dataclass(frozen=True)
class Oblique:
    """A plane of `shape` pixels, one pixel apart: pixel (i, j) at origin + i down + j across."""

    origin: tuple[float, float, float]
    down: tuple[float, float, float]
    across: tuple[float, float, float]
    shape: tuple[int, int]

    def points(self) -> Pixels:
        """Where the pixels are, in pixels of level 0: (3, rows, columns)."""
        rows, columns = np.indices(self.shape)
        each = zip(self.origin, self.down, self.across, strict=True)
        return np.stack([o + rows * d + columns * a for o, d, a in each])


class Reader(Protocol):
    """Reads level 0."""

    pid: int
    """The process that reads the files."""

    def read(self, box: Box) -> Pixels:
        """The pixels of a box, in memory of the caller. Threads may call."""
        ...

    def read_many(self, boxes: Sequence[Box]) -> Iterator[Pixels]:
        """The boxes in their order, as fast as this reader can."""
        ...

    def plane(self, plane: Oblique) -> Pixels:
        """The pixels of a plane, linearly interpolated, rounded."""
        ...


class _Local:
    """A reader in this process; of a plane it reads the box around and has SciPy do the rest."""

    pid = os.getpid()

    def __init__(self, array: Any) -> None:
        self._array = array

    def read(self, box: Box) -> Pixels:
        return np.asarray(self._array[box])

    def read_many(self, boxes: Sequence[Box]) -> Iterator[Pixels]:
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            yield from pool.map(self.read, boxes)

    def plane(self, plane: Oblique) -> Pixels:
        from scipy.ndimage import map_coordinates

        points = plane.points()
        first = [int(np.floor(axis.min())) for axis in points]
        stop = [int(np.ceil(axis.max())) + 1 for axis in points]
        block = self.read(tuple(map(slice, first, stop))).astype(np.float32)
        inside = points - np.reshape(first, (3, 1, 1))
        found: Pixels = np.rint(map_coordinates(block, inside, order=1)).astype(np.uint16)
        return found


class _TensorStore(_Local):
    def read(self, box: Box) -> Pixels:
        found: Pixels = self._array[box].read().result()
        return found

    def read_many(self, boxes: Sequence[Box]) -> Iterator[Pixels]:
        for first in range(0, len(boxes), 32):
            going = [self._array[box].read() for box in boxes[first : first + 32]]
            yield from (future.result() for future in going)


class _Ziggurat:
    def __init__(self, image: ziggurat.Image, pid: int) -> None:
        self._image = image
        self.pid = pid

    def read(self, box: Box) -> Pixels:
        return self._image.read(box)

    def read_many(self, boxes: Sequence[Box]) -> Iterator[Pixels]:
        return (result.array for _, result in self._image.read_each(boxes))

    def plane(self, plane: Oblique) -> Pixels:
        return self._image.plane(plane.origin, plane.down, plane.across, plane.shape, 1.0)


class _Tiled(_Local):
    def __init__(self, array: Any, pid: int) -> None:
        super().__init__(array)
        self.pid = pid


def _level0(data: Path, name: str) -> Path:
    return data / "images" / "images" / f"{name}.ome.zarr" / "0"


@contextmanager
def ziggurat_grpc(data: Path, name: str) -> Iterator[Reader]:
    """Ours: a server process, read over gRPC on loopback."""
    settings = ["--cache-bytes", str(CACHE_BYTES)]
    with (
        ServerProcess(data / "images", data / "log", arguments=settings) as server,
        ziggurat.connect(server.address) as client,
    ):
        wait_at_rest(server.pid)
        image = client.open(name)
        # A server that has just started loads its compiled loops; of level 0 nothing is read.
        last = len(image.levels) - 1
        image.level(last)[0, 0, 0]
        image.plane((0, 0, 0), (1, 0, 0), (0, 0, 1), (2, 2), 1.0, level=last)
        yield _Ziggurat(image, server.pid)


@contextmanager
def tensorstore(data: Path, name: str) -> Iterator[Reader]:
    """TensorStore in this process, with a cache of decoded chunks."""
    import tensorstore as ts

    context = ts.Context(
        {
            "cache_pool": {"total_bytes_limit": CACHE_BYTES},
            "data_copy_concurrency": {"limit": len(os.sched_getaffinity(0))},
        }
    )
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(_level0(data, name))},
    }
    yield _TensorStore(ts.open(spec, context=context, open=True, read=True).result())


@contextmanager
def zarr_python(data: Path, name: str) -> Iterator[Reader]:
    """zarr-python in this process; it has no cache of chunks."""
    import zarr

    yield _Local(zarr.open_array(_level0(data, name), mode="r"))


@contextmanager
def tiled(data: Path, name: str) -> Iterator[Reader]:
    """Tiled: a server process, read over HTTP on loopback."""
    from tiled.client import from_uri

    environment = {
        **os.environ,
        "ZIGGURAT_BENCHMARK_ARRAY": str(_level0(data, name).absolute()),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-m", "tiled", "serve", "pyobject", "--public", "--port", "0"]
    log = data / "tiled.log"
    with open(log, "wb") as output:
        server = subprocess.Popen(
            [*command, "benchmarks._tiled_tree:tree"], env=environment, stdout=output, stderr=output
        )
    try:
        yield _Tiled(from_uri(_address(log, server))["0"], server.pid)
    finally:
        server.terminate()
        server.wait()


def _address(log: Path, server: subprocess.Popen[bytes]) -> str:
    until = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < until:
        # What it says first has the port that was asked for, 0.
        found = re.search(rb"running on \S*?(http://127\.0\.0\.1:\d+)", log.read_bytes())
        if found:
            return found[1].decode()
        time.sleep(0.1)
    raise RuntimeError(f"Tiled did not start; see {log}")


def contenders() -> dict[str, Any]:
    """Name and opener of each that is installed, ours first."""
    found = {
        "ziggurat (gRPC)": ziggurat_grpc,
        "tensorstore": tensorstore,
        "zarr-python": zarr_python,
    }
    if importlib.util.find_spec("tiled") is not None:
        found["tiled (HTTP)"] = tiled
    return found
