"""Does every chunk of an image decode that others wrote, or that is adopted?

Chunks are found by listing names and read as the engine reads adopted images (foreign):
by our own codecs, and by zarr-python where they don't know how.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ziggurat_engine.errors import Corrupt, ZigguratError
from ziggurat_engine.foreign.reader import Reader, Stored, open_reader, scan
from ziggurat_engine.foreign.source import Source, ZarrArray, images, open_array, open_source
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Adopted
from ziggurat_engine.store.adopted import check_same, check_there
from ziggurat_engine.store.handles import ShardHandles
from ziggurat_engine.upkeep.findings import Finding

Piece = Callable[[], list[Finding]]


def check_adopted(name: str, adopted: Adopted, handles: ShardHandles) -> Iterator[Piece]:
    """Pieces of work that check an adopted image; whether it is there is looked at first."""
    try:
        check_there(adopted)
    except OSError as error:
        said = Finding("absent", adopted.path, str(error), name)
        yield lambda: [said]
        return
    for level, at in enumerate(adopted.levels):
        path = Path(adopted.path) / at.path
        try:
            check_same(adopted, level)
            array = open_array(path)
        except (ZigguratError, OSError) as error:
            said = Finding("metadata", str(path), str(error), name, level)
            yield partial(list, [said])
            continue
        yield from _cells(name, level, array, handles)


def check_zarr(path: Path, handles: ShardHandles) -> Iterator[Piece]:
    """Pieces of work that check the OME-Zarr at `path`, or all that lie below it.

    NotFound, InvalidArgument, UnsupportedVersion, OSError where there is none.
    """
    try:
        sources = [open_source(path)]
    except ZigguratError:
        below = list(images(path)) if path.is_dir() else []
        if not below:
            raise
        sources = [open_source(each) for each in below]
    for source in sources:
        name = str(source.group or source.levels[0].path)
        yield partial(_documents, source, name)
        for level, array in enumerate(source.levels):
            yield from _cells(name, level, array, handles)


def _documents(source: Source, name: str) -> list[Finding]:
    found = [
        Finding("metadata", name, f"its metadata names level {path!r}, which is not there", name)
        for path in source.paths[len(source.levels) :]
    ]
    what = _invalid(source) if source.multiscales is not None else ""
    return [*found, Finding("metadata", name, what, name)] if what else found


def _invalid(source: Source) -> str:
    from ome_zarr_models import v04, v05
    from pydantic import ValidationError

    model: Any = v05.image.ImageAttrs if source.ome_version == "0.5" else v04.image.ImageAttrs
    try:
        model.model_validate(source.attributes)
    except ValidationError as error:
        return f"its OME metadata is not valid: {' '.join(str(error).split())[:200]}"
    return ""


def _cells(name: str, level: int, array: ZarrArray, handles: ShardHandles) -> Iterator[Piece]:
    reader = open_reader(array, handles)
    for stored in scan(array):
        yield partial(_cell, name, level, array, reader, stored)


def _cell(name: str, level: int, array: ZarrArray, reader: Reader, stored: Stored) -> list[Finding]:
    """What is wrong with one object. One chunk in memory, or all of them if zarr-python reads."""
    path = str(array.path / array.keys.name(stored.index))
    box = array.objects.region(stored.index)
    grid = array.objects if array.coding.reads is None else array.chunks
    findings: list[Finding] = []
    for index in grid.indices(box):
        chunk: Shape | None = index if grid is not array.objects else None
        try:
            reader.read(grid.region(index))
        except OSError as error:
            return [*findings, Finding("unreadable", path, str(error), name, level, chunk)]
        except (Corrupt, ValueError, RuntimeError, TypeError) as error:
            kind = "chunk" if str(error).startswith("chunk") else "shard"
            where = chunk if kind == "chunk" else None
            findings.append(Finding(kind, path, str(error), name, level, where))
            if kind == "shard":
                break
    return findings
