"""What happens in a demo, from the server's start to its end?

    start a server -> write every plane -> read boxes of every level and compare them
    -> measure what lies on disk -> draw a preview -> stop the server

Everything that can go wrong ends in DemoError, one line for a person; a comparison that
fails is one of them.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ziggurat
from ziggurat._preview import render
from ziggurat._show import progress_bar

from ziggurat_engine.demo.probe import Probe, same
from ziggurat_engine.demo.process import ServerError, ServerProcess
from ziggurat_engine.demo.report import Figures, show
from ziggurat_engine.demo.source import Source, opened
from ziggurat_engine.demo.waiting import wait_at_rest, wait_received

# At most this much of level 0 is read in one piece, to see how fast reads are.
_READ_BYTES = 256 * 2**20
# A server that has just started touches memory: on some virtual machines for seconds.
_REST_SECONDS = 15.0


class DemoError(Exception):
    """Why the demo did not succeed, in one line."""


@dataclass(slots=True)
class _Clock:
    """Bytes and the seconds that they took."""

    nbytes: int = 0
    seconds: float = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start


def run(file: Path | None, keep: Path | None, mib: int) -> None:
    """Runs the demo and prints what it found.

    file: a TIFF file; None: at most `mib` MiB from a simulated camera. keep: where the
    data stay; None: nothing stays. Raises DemoError.
    """
    try:
        with opened(file, mib) as source, _directory(keep) as directory:
            _run(source, directory, kept=keep is not None)
    except (ziggurat.ZigguratError, ServerError) as error:
        raise DemoError(str(error)) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise DemoError(f"{where}{error.strerror or error}") from error


def _run(source: Source, directory: Path, *, kept: bool) -> None:
    data, preview = directory / "data", directory / f"{source.name}.png"
    with (
        ServerProcess(data, directory / "server.log") as server,
        ziggurat.connect(server.address) as client,
    ):
        with progress_bar("starting the server"), contextlib.suppress(OSError):
            wait_at_rest(server.pid, _REST_SECONDS)
        image = _create(client, source, directory)
        probe = Probe(image)
        acknowledged, closed = _write(source, image, probe)
        boxes, compared = _compare(image, probe)
        straight = _read(image)
        image.refresh(measure=True)
        render(image, preview)
    show(
        image,
        Figures(
            title=source.title,
            acknowledged_mb_per_second=image.nbytes / acknowledged / 1e6,
            closed_mb_per_second=image.nbytes / closed / 1e6,
            read_mb_per_second=straight.nbytes / max(straight.seconds, 1e-9) / 1e6,
            read_bytes=straight.nbytes,
            boxes=boxes,
            compared_bytes=compared,
            whole=probe.whole,
        ),
        store=data / "images" / f"{source.name}.ome.zarr" if kept else None,
        preview=preview if kept else None,
    )


def _create(client: ziggurat.Client, source: Source, directory: Path) -> ziggurat.Image:
    try:
        return client.create(
            source.name,
            axes=source.axes,
            shape=source.shape,
            dtype=source.dtype,
            voxel_size=source.voxel_size,
            unit=source.unit,
            channels=source.channels,
        )
    except ziggurat.AlreadyExists:
        raise DemoError(
            f"{directory} holds an image {source.name!r} already: name another directory"
        ) from None


def _write(source: Source, image: ziggurat.Image, probe: Probe) -> tuple[float, float]:
    """Writes every plane; seconds until all was acknowledged as received, and until Closed."""
    axes = source.axes[:-2]
    start = time.perf_counter()
    with progress_bar(f"writing {source.title}") as (advance, set_total):
        set_total(image.nbytes)
        with image.writer() as writer:
            for index, plane in source.planes:
                probe.take(index, plane)
                place: dict[str, Any] = dict(zip(axes, index, strict=True))
                writer.write(plane, **place)
                advance(plane.nbytes)
            wait_received(writer)
            received = time.perf_counter() - start
    return received, time.perf_counter() - start


def _compare(image: ziggurat.Image, probe: Probe) -> tuple[int, int]:
    """Reads and compares every box; how many they are, and their bytes. Raises DemoError."""
    compared = 0
    total = sum(box.source.nbytes for box in probe.boxes)
    with progress_bar("comparing") as (advance, set_total):
        set_total(total)
        for box in probe.boxes:
            found = image.fetch(offset=box.offset, shape=box.shape, level=box.level)
            if found.stale:
                raise DemoError(f"level {box.level} is stale although the stream was closed")
            expected = probe.expected(box)
            if not same(found.array, expected):
                raise DemoError(_difference(box.level, box.offset, found.array, expected))
            compared += found.array.nbytes
            advance(box.source.nbytes)
    return len(probe.boxes), compared


def _difference(
    level: int, offset: tuple[int, ...], found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]
) -> str:
    wrong = np.argwhere(found != expected)
    first = tuple(int(o + i) for o, i in zip(offset, wrong[0], strict=True))
    at = tuple(wrong[0])
    return (
        f"level {level} is not what NumPy computes: {len(wrong)} of {found.size} pixels of the box"
        f" at {offset} differ, the first at {first}: {found[at]} where {expected[at]} should be"
    )


def _read(image: ziggurat.Image) -> _Clock:
    """Reads the first planes of level 0 in one piece."""
    plane = image.nbytes // image.shape[0]
    count = max(1, min(image.shape[0], _READ_BYTES // plane))
    clock = _Clock()
    with clock.running():
        clock.nbytes = image.read(slice(0, count)).nbytes
    return clock


@contextlib.contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    """Where the server's data go: `keep`, or a directory that is gone afterwards."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.absolute()
        return
    made = Path(tempfile.mkdtemp(prefix="ziggurat-demo-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
