"""How does the demo say what it found?"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import ziggurat
from rich import box
from rich.console import Console
from rich.table import Table
from ziggurat._show import bytes_text


@dataclass(frozen=True, slots=True)
class Figures:
    """What the demo measured. Rates are of raw pixels, MB = 10^6 bytes."""

    title: str
    acknowledged_mb_per_second: float
    closed_mb_per_second: float
    read_mb_per_second: float
    read_bytes: int
    boxes: int
    compared_bytes: int
    whole: bool


def show(
    image: ziggurat.Image, figures: Figures, *, store: Path | None, preview: Path | None
) -> None:
    """Prints the table of levels and the figures on standard output."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=1000)
    console.print(_text(figures.title, image), markup=False)
    console.print(_levels(image))
    compared = "all pixels" if figures.whole else f"{figures.boxes} boxes"
    lines = [
        f"exact    {compared} of {len(image.levels)} levels equal NumPy's,"
        f" {bytes_text(figures.compared_bytes)} compared",
        f"write    {figures.acknowledged_mb_per_second:.0f} MB/s until acknowledged,"
        f" {figures.closed_mb_per_second:.0f} MB/s until all was stored and every level exact",
        f"read     {figures.read_mb_per_second:.0f} MB/s"
        f" ({bytes_text(figures.read_bytes)} of level 0, just written)",
    ]
    if store is None:
        lines.append("removed  --keep DIR keeps the OME-Zarr and draws a preview beside it")
    else:
        lines += [f"OME-Zarr {store}", f"preview  {preview}"]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _text(title: str, image: ziggurat.Image) -> str:
    shape = " x ".join(map(str, image.shape))
    layout = image.layout
    chunk, shard = (" x ".join(map(str, s)) for s in (layout.chunk_shape, layout.shard_shape))
    return (
        f"{title}: {image.axes} {shape} {image.dtype.name}, {bytes_text(image.nbytes)};"
        f" chunk {chunk}, shard {shard}, {_codec(layout.codec)}"
    )


def _codec(codec: ziggurat.Codec | None) -> str:
    """The codec and its settings: "Blosc(compressor='zstd', ...)" reads like a program."""
    if codec is None:
        return "another codec"
    settings = [str(getattr(codec, field.name)) for field in dataclasses.fields(codec)]
    return " ".join((type(codec).__name__.lower(), *settings))


def _levels(image: ziggurat.Image) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name in ("level", "shape", "voxel size", "chunks", "on disk", "of level 0"):
        right = name in ("level", "chunks", "on disk", "of level 0")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    stored = [level.stored for level in image.levels]
    first = stored[0].bytes if stored[0] else 0
    for level, found in zip(image.levels, stored, strict=True):
        nbytes = found.bytes if found else 0
        table.add_row(
            str(level.index),
            " x ".join(map(str, level.shape)),
            _voxel(image, level),
            str(found.chunks if found else 0),
            bytes_text(nbytes),
            f"{nbytes / first:.1%}" if first else "-",
        )
    return table


def _voxel(image: ziggurat.Image, level: ziggurat.Level) -> str:
    """The spacing along z, y and x with its unit: one where all have the same."""
    spatial = [(a, s) for a, s in zip(image.axes, level.scale, strict=True) if a in "zyx"]
    units = {image.units[axis] for axis, _ in spatial}
    sizes = " x ".join(f"{size:.5g}" for _, size in spatial)
    if len(units) == 1:
        return f"{sizes} {units.pop()}".strip()
    return " x ".join(f"{size:.5g} {image.units[axis]}".strip() for axis, size in spatial)
