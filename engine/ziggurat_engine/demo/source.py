"""Which planes does the demo write: those of a TIFF file, or of a simulated camera?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ziggurat import Channel
from ziggurat._tiff import TiffStack

from ziggurat_engine.demo.camera import Camera

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Source:
    """An image on its way in; `planes` yields (index along the axes before y, (Y, X)) once."""

    title: str
    name: str
    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    planes: Iterator[tuple[tuple[int, ...], NDArray[Any]]]
    voxel_size: dict[str, float] = field(default_factory=dict)
    unit: dict[str, str] = field(default_factory=dict)
    channels: tuple[Channel, ...] = ()


@contextmanager
def opened(file: Path | None, mib: int) -> Iterator[Source]:
    """The source: `file`, or without one a simulated stack of at most `mib` MiB.

    Raises ziggurat.ZigguratError or OSError for a file that can't be used.
    """
    if file is None:
        yield simulated(mib)
        return
    with TiffStack(file) as stack:
        yield Source(
            title=str(file),
            name=_name(file),
            axes=stack.axes,
            shape=stack.shape,
            dtype=stack.dtype,
            planes=((plane.index, plane.pixels) for plane in stack.planes()),
            voxel_size=stack.voxel_size,
            unit=stack.unit,
            channels=stack.channels,
        )


def simulated(mib: int) -> Source:
    """A z stack of at most `mib` MiB from a camera, its planes three times as far apart as wide."""
    side = next((side for side in (2048, 1024, 512) if side * side * 2 * 16 <= mib * _MIB), 256)
    depth = mib * _MIB // (side * side * 2)
    # An odd number of planes, so that the last one has no partner at the next level.
    depth = max(1, depth - (depth % 2 == 0))
    camera = Camera((side, side), depth)
    return Source(
        title="simulated camera",
        name="demo",
        axes="zyx",
        shape=(depth, side, side),
        dtype=np.dtype(np.uint16),
        planes=(((z,), camera.frame(z)) for z in range(depth)),
        voxel_size={"z": 0.3, "y": 0.1, "x": 0.1},
        unit=dict.fromkeys("zyx", "micrometer"),
    )


def _name(file: Path) -> str:
    """A name for an image that is sure to be allowed, close to the file's."""
    stem = re.sub(r"[^A-Za-z0-9]+", "-", file.name.split(".")[0]).strip("-")[:100]
    return f"demo-{stem.lower()}" if stem else "demo-file"
