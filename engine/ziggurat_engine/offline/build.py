"""How is the pyramid of anybody's Zarr completed: found, planned, made, shown?

1. What is there is opened and planned. Nothing is written before the plan stands.
2. The new levels are made in a hidden directory of the group (stage.py): a build that is
   stopped in whatever way goes on there when it is called again with the same wishes.
3. Each level is renamed into its place, and the group's document, replaced last, names
   them. A reader sees the old levels or the new ones, never one that is not there. Only
   where levels are made anew (`force`) there is an instant without each.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ziggurat_engine.errors import InvalidArgument
from ziggurat_engine.foreign.reader import Counter, open_reader, present, scan
from ziggurat_engine.foreign.source import (
    Source,
    ZarrArray,
    kind_of,
    level_at,
    open_array,
    open_source,
)
from ziggurat_engine.grid import Grid
from ziggurat_engine.kernels import cpu
from ziggurat_engine.offline import describe
from ziggurat_engine.offline.plan import Plan, Wish, make
from ziggurat_engine.offline.run import Outcome, Progress, Run
from ziggurat_engine.offline.sink import Entry, LevelSink
from ziggurat_engine.offline.stage import NAME, Stage, replace_file, sync_disk
from ziggurat_engine.offline.tree import Nodes, grow, touched
from ziggurat_engine.store.handles import ShardHandles
from ziggurat_engine.vfs import OsFileSystem

PUBLISHED = "published"
# Of the source.
MAX_OPEN_SHARDS = 64

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Built:
    """What came of a build. levels: (path, shape) of all; made: how many of them are new."""

    group: Path
    levels: tuple[tuple[str, tuple[int, ...]], ...]
    made: int
    resumed_chunks: int
    decoded_chunks: int
    stored_chunks: int
    absent_chunks: int
    threads: int
    source_bytes: int
    seconds: float
    planned_bytes: int
    peak_pixel_bytes: int
    peak_rss_bytes: int


def build(
    path: Path,
    wish: Wish | None = None,
    *,
    out: Path | None = None,
    progress: Progress | None = None,
    say: Say = lambda _: None,
) -> Built:
    """Makes the levels that are missing at `path`, or in a copy of level 0 at `out`.

    All is durable when it returns. Raises InvalidArgument, which names option and value,
    NotFound, UnsupportedVersion, Corrupt where a chunk of the source does not decode,
    OSError. After any of them, and after a KeyboardInterrupt, `path` reads as before, and
    the same call goes on where this one stopped.
    """
    began = time.perf_counter()
    wish = wish or Wish()
    source = open_source(path)
    plan = make(source, wish, tuple(cpu.METHODS))
    if out is not None:
        source = _copied(source, Path(out).absolute(), say)
        plan = make(source, wish, tuple(cpu.METHODS))
    group = source.group
    if group is None:
        raise InvalidArgument(
            f"{path}: an array that is not the level 0 of a group has no place for levels"
            " beside it; --out GROUP makes one with a copy of it",
            field="out",
        )
    outcome, resumed = Outcome(0, 0, 0, 0), 0
    if plan.levels:
        stage = Stage(group)
        _check_free(stage, group, plan, wish)
        try:
            outcome, resumed = _make(stage, source, plan, progress, say)
            _publish(stage, group, source, plan, wish)
        except BaseException:
            stage.close()
            raise
        stage.close(remove=True)
    elif source.multiscales is None:
        _describe(group, source, plan, wish)
    kept = [(p, a.shape) for p, a in zip(source.paths, source.levels, strict=False)][: plan.keep]
    return Built(
        group=group,
        levels=(*kept, *((level.path, level.shape) for level in plan.levels)),
        made=len(plan.levels),
        resumed_chunks=resumed,
        decoded_chunks=outcome.decoded,
        stored_chunks=outcome.stored,
        absent_chunks=outcome.absent,
        threads=plan.threads,
        source_bytes=int(np.prod(plan.base.shape, dtype=object)) * plan.base.dtype.itemsize,
        seconds=time.perf_counter() - began,
        planned_bytes=plan.planned_bytes,
        peak_pixel_bytes=outcome.peak_bytes,
        peak_rss_bytes=_peak_rss(),
    )


def _make(
    stage: Stage, source: Source, plan: Plan, progress: Progress | None, say: Say
) -> tuple[Outcome, int]:
    """All new levels, durable in the stage."""
    base = plan.base
    newest = max((s.modified for s in scan(base)), default=0.0) if stage.exists else None
    goes_on = stage.open(_settings(source, plan), newest)
    nodes = _active(plan, present(base))
    cells = [Grid(level.shape, plan.cell) for level in plan.levels]
    sinks = [
        LevelSink(stage.path / str(k), k, base.keys, plan.grids[k], cells[k])
        for k in range(len(plan.levels))
    ]
    resumed = _restore(stage.finished(), nodes, sinks)
    if goes_on and resumed:
        say(f"going on behind {resumed} finished chunks")
    if (stage.path / PUBLISHED).exists():
        return Outcome(0, 0, 0, 0), resumed
    counter = Counter()
    with contextlib.closing(ShardHandles(MAX_OPEN_SHARDS)) as handles:
        reader = open_reader(base, handles, counter)
        run = Run(plan, reader, counter, nodes, sinks, stage)
        outcome = run.run(progress)
    for sink, level in zip(sinks, plan.levels, strict=True):
        os.makedirs(sink.path, exist_ok=True)
        for name, data in describe.array_documents(plan, level).items():
            (sink.path / name).write_bytes(data)
            run.note(sink.path / name)
    run.sync()
    OsFileSystem().sync_dir(stage.path)
    return outcome, resumed


def _check_free(stage: Stage, group: Path, plan: Plan, wish: Wish) -> None:
    """Nothing that is not ours is replaced unasked, and nothing outside the group ever."""
    for level in plan.levels:
        level_at(group, level.path)
    if wish.force or (stage.path / PUBLISHED).exists():
        return
    for level in plan.levels:
        if (group / level.path).exists():
            raise InvalidArgument(
                f"{group / level.path} is there, and is no level that the image names;"
                " --force replaces it",
                field="force",
            )


def _publish(stage: Stage, group: Path, source: Source, plan: Plan, wish: Wish) -> None:
    """Puts the levels in their places, then says that they are there."""
    fs = OsFileSystem()
    # From here on what is missing in the stage is in its place.
    (stage.path / PUBLISHED).touch()
    fs.sync_dir(stage.path)
    parents = set()
    for k, level in enumerate(plan.levels):
        made, target = stage.path / str(k), group / level.path
        parents.add(target.parent)
        if made.is_dir():
            _parents(target, group, source.version)
            if target.exists():
                # Asked for, by --force.
                os.rename(target, stage.path / f"{k}.old")
            os.rename(made, target)
    for parent in parents:
        fs.sync_dir(parent)
    _describe(group, source, plan, wish)


def _describe(group: Path, source: Source, plan: Plan, wish: Wish) -> None:
    said = describe.multiscales(source, plan, _name(group), wish.scale, wish.unit)
    if source.multiscales is None:
        describe.name_axes(source, plan.axes)
    describe.write_group(group, source, said)
    made = [level.path for level in plan.levels]
    describe.reconsolidate(group, [*source.paths[: plan.keep], *made])


def _active(plan: Plan, objects: np.ndarray[Any, np.dtype[np.int64]]) -> list[Nodes]:
    base, first = plan.base, plan.levels[0]
    if plan.keeps_fill:
        leaves = touched(objects, base.cell, base.shape, first.factors, plan.grids[0])
    else:
        leaves = np.arange(plan.grids[0].size, dtype=np.int64)
    return grow(plan.grids, [level.factors for level in plan.levels[1:]], leaves)


def _restore(entries: Any, nodes: Sequence[Nodes], sinks: Sequence[LevelSink]) -> int:
    count = 0
    latest: dict[tuple[int, int], Entry] = {(e.level, e.number): e for e in entries}
    for entry in latest.values():
        place = nodes[entry.level].place_of(entry.number)
        if place >= 0 and sinks[entry.level].restore(entry):
            nodes[entry.level].done[place] = True
            count += 1
    return count


def _settings(source: Source, plan: Plan) -> dict[str, Any]:
    """All that decides what is made; how much memory and how many threads do not."""
    return {
        "source": str(plan.base.path),
        "document": {k: v for k, v in plan.base.document.items() if k != "dimension_names"},
        "levels": [dataclasses.asdict(level) for level in plan.levels],
        "chunk": list(plan.chunk),
        "cell": list(plan.cell),
        "codec": plan.codec.model_dump(),
        "method": plan.method,
        "zarr": source.version,
    }


def _copied(source: Source, out: Path, say: Say) -> Source:
    """A group at `out` with a copy of level 0, as it is on disk. Goes on where it was stopped."""
    level0 = source.levels[0]
    if level0.path == out or level0.path in out.parents:
        raise InvalidArgument(f"--out {out}: lies within level 0 of the image", field="out")
    if source.group == out:
        raise InvalidArgument(f"--out {out}: that is the image itself", field="out")
    target = out / "0"
    if kind_of(out) is None:
        if out.exists() and set(os.listdir(out)) - {NAME}:
            raise InvalidArgument(f"--out {out}: it is there, and is no Zarr group", field="out")
        staged = out / NAME / "level0"
        os.makedirs(staged, exist_ok=True)
        say(f"copying level 0 to {target}")
        _copy(level0, staged)
        sync_disk(out)
        if not target.exists():
            os.rename(staged, target)
        multiscale = None
        if source.multiscales:
            first = source.multiscales["datasets"][0]
            multiscale = {**source.multiscales, "datasets": [{**first, "path": "0"}]}
        attributes = {k: v for k, v in source.attributes.items() if k in ("omero", "image-label")}
        _make_group(out, source, multiscale, attributes)
    copied = open_source(out)
    if copied.levels[0].shape != level0.shape or copied.levels[0].dtype != level0.dtype:
        raise InvalidArgument(f"--out {out}: another image is there", field="out")
    return copied


def _copy(array: ZarrArray, target: Path) -> None:
    for directory, _, names in os.walk(array.path):
        where = target / os.path.relpath(directory, array.path)
        os.makedirs(where, exist_ok=True)
        for name in names:
            path, copy = os.path.join(directory, name), where / name
            status = os.stat(path)
            if copy.exists():
                there = copy.stat()
                if there.st_size == status.st_size and there.st_mtime_ns == status.st_mtime_ns:
                    continue
            shutil.copy2(path, copy)


def _make_group(out: Path, source: Source, multiscale: Any, attributes: dict[str, Any]) -> None:
    import json

    if source.version == 2:
        if multiscale:
            attributes = {**attributes, "multiscales": [multiscale]}
        replace_file(out / ".zattrs", json.dumps(attributes, indent=2).encode())
        replace_file(out / ".zgroup", b'{\n  "zarr_format": 2\n}')
        return
    ome = {"version": source.ome_version or "0.5", **attributes}
    if multiscale:
        ome["multiscales"] = [multiscale]
    document = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {"ome": ome} if multiscale else {},
    }
    replace_file(out / "zarr.json", json.dumps(document, indent=2).encode())


def _parents(target: Path, group: Path, version: int) -> None:
    """Groups between `group` and the level, where its path has several segments."""
    missing = [p for p in target.parents if group in p.parents and kind_of(p) is None]
    for directory in reversed(missing):
        directory.mkdir(exist_ok=True)
        if version == 2:
            replace_file(directory / ".zgroup", b'{\n  "zarr_format": 2\n}')
        else:
            document = b'{"zarr_format": 3, "node_type": "group", "attributes": {}}'
            replace_file(directory / "zarr.json", document)


def _peak_rss() -> int:
    """Of this process; getrusage would also count what it was before exec."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
        line = next(line for line in lines if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _name(group: Path) -> str:
    return group.name.removesuffix(".zarr").removesuffix(".ome") or "image"


__all__ = ["Built", "Wish", "build", "open_array"]
