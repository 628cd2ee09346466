"""How do images, levels and a server's state look in a terminal?

Tables are as wide as they need to be where the output is no terminal, so that nothing
a script reads is cut off.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from ziggurat._image import Image
from ziggurat._values import ServerStatus


def write(table: Table) -> None:
    """Prints `table` on standard output."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=1000)
    console.print(table)


def images_table(images: Sequence[Image]) -> Table:
    """One line an image."""
    table = _table("name", "axes", "shape", "type", ">levels", ">raw size")
    for image in images:
        row = (image.name, image.axes, _shape(image.shape), image.dtype.name)
        table.add_row(*row, str(len(image.levels)), bytes_text(image.nbytes))
    return table


def _adopted(image: Image) -> str:
    return image.adopted_from + ", read-only" * image.read_only


def image_tables(image: Image) -> tuple[Table, ...]:
    """What an image is, its levels (sizes on disk where they were measured), its streams."""
    about = _table("", "")
    about.show_header = False
    layout = image.layout
    sizes = [f"{axis} {_amount(size, image.units[axis])}" for axis, size in _calibrated(image)]
    rows = {
        "name": image.name,
        **({"adopted from": _adopted(image)} if image.adopted_from else {}),
        "axes": f"{image.axes} {_shape(image.shape)} {image.dtype.name}"
        + (", labels" if image.kind == "labels" else "")
        + (", t unbounded" if image.unbounded else ""),
        "voxel size": ", ".join(sizes) or "-",
        "chunk": f"{_shape(layout.chunk_shape)}",
        "shard": f"{_shape(layout.shard_shape)} ({_shape(layout.shard_chunks)} chunks)",
        "codec": str(layout.codec or "another"),
        "downsampling": (image.downsampling or "unknown")
        + ", deferred" * (image.pyramid == "deferred"),
        "fill value": str(image.fill_value),
        "created": image.created.isoformat(sep=" "),
    }
    for k, channel in enumerate(image.channels):
        window = "" if channel.window is None else " {:g} to {:g}".format(*channel.window)
        rows[f"channel {k}"] = f"{channel.label} #{channel.color}{window}"
    for key, value in rows.items():
        about.add_row(key, value)
    levels = _table(">level", "shape", "voxel size", ">chunks", ">objects", ">on disk", "state")
    for level in image.levels:
        stored = level.stored
        levels.add_row(
            str(level.index),
            _shape(level.shape),
            " x ".join(
                f"{s:.5g}" for a, s in zip(image.axes, level.scale, strict=True) if a != "c"
            ),
            str(stored.chunks) if stored else "-",
            str(stored.objects) if stored else "-",
            bytes_text(stored.bytes) if stored else "-",
            f"{level.stale_chunks} stale" if level.stale else "exact",
        )
    return (about, levels, _streams_table(image)) if image.streams else (about, levels)


def _streams_table(image: Image) -> Table:
    table = _table(
        "stream", "outcome", ">messages", ">regions", ">raw size", ">skipped", ">expected"
    )
    for stream in image.streams:
        table.add_row(
            stream.stream_id,
            f"{stream.outcome}, held" if stream.held else stream.outcome,
            str(stream.next_sequence - 1),
            str(stream.regions),
            bytes_text(stream.bytes),
            str(stream.skipped_frames),
            "-" if stream.expected_frames is None else str(stream.expected_frames),
        )
    return table


def status_table(status: ServerStatus, server: str) -> Table:
    """Everything the server says of itself."""
    table = _table("", "")
    table.show_header = False
    table.add_row("server", server)
    cards = {f"card {number} ": card for number, card in enumerate(status.devices)}
    groups: dict[str, Any] = {
        "": dataclasses.replace(status, devices=(), disks=()),
        "cache ": status.cache,
        "settle ": status.settle,
        "log ": status.log,
        "kernel ": status.kernel_totals,
        "traffic ": status.traffic,
        **cards,
    }
    for name, group in groups.items():
        for field in dataclasses.fields(group):
            value = getattr(group, field.name)
            if not dataclasses.is_dataclass(value) and value != () and field.name != "limits":
                table.add_row(*_said(name + field.name, value))
    for disk in status.disks:
        free, size = bytes_text(disk.free_bytes), bytes_text(disk.size_bytes)
        table.add_row(f"disk of {disk.use}", f"{free} free of {size}")
    for limit in status.limits:
        of_bytes = "bytes" in limit.name
        used, value = (bytes_text(n) if of_bytes else str(n) for n in (limit.used, limit.value))
        table.add_row(limit.name, f"{used} of {value}")
    return table


def bytes_text(size: int) -> str:
    """`size` in the unit that fits: "1.5 GiB"."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} PiB"


@contextlib.contextmanager
def progress_bar(
    what: str, *, unit: str = "bytes"
) -> Iterator[tuple[Callable[[int], None], Callable[[int | None], None]]]:
    """(advance, set_total) of a bar on standard error; nothing where that is no terminal.

    unit: "bytes" or what else is counted.
    """
    console = Console(stderr=True)
    counted = [DownloadColumn(binary_units=True), TransferSpeedColumn()]
    columns = counted if unit == "bytes" else [MofNCompleteColumn(), TextColumn(unit)]
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *columns,
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    with bar:
        task = bar.add_task(what, total=None)
        yield lambda n: bar.advance(task, n), lambda total: bar.update(task, total=total)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        right = column.startswith(">")
        table.add_column(column.lstrip(">"), justify="right" if right else "left", no_wrap=True)
    return table


def _calibrated(image: Image) -> list[tuple[str, float]]:
    return [(a, s) for a, s in image.voxel_size.items() if image.units[a] or s != 1]


def _amount(size: float, unit: str) -> str:
    return f"{size:.6g} {unit}".strip()


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _said(name: str, value: Any) -> tuple[str, str]:
    if name.endswith(("_bytes", " bytes")):
        return name.removesuffix("_bytes").replace("_", " "), bytes_text(value)
    if name.endswith("_seconds"):
        return name.removesuffix("_seconds").replace("_", " "), f"{value:.1f} s"
    if isinstance(value, bool):
        value = "yes" if value else "no"
    if isinstance(value, float):
        value = f"{value:.3g}"
    return name.replace("_", " "), str(value)
