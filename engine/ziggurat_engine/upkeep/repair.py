"""What of a damaged image can be mended, and in which order, so that it may be killed?

Level by level, from the lowest:

    1  the state database notes that the parents of what changes may be wrong, as the
       engine does before it replaces a shard (invariant 14)
    2  the object as it is goes into quarantine
    3  level 0: it is replaced by one without the chunks that are broken; they are lost.
       Above: by one with these chunks made anew of the level below, whole
    4  the parents of what changed are made anew, too; then the notes go

Killed between any two of these, either the object is still broken, and the next repair finds
it, or the note says what has to be made, which the next start of a server does. What is
lost at level 0 is lost above it as well: levels are always what the level below makes of
them, but for what is all that is left of a chunk that is gone. What they were is in
quarantine.

Documents are written anew where the image's description says what they are.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np

from ziggurat_engine.errors import Corrupt, FailedPrecondition, NotFound, ZigguratError
from ziggurat_engine.kernels import codec
from ziggurat_engine.kernels.protocol import Kernels
from ziggurat_engine.kernels.select import select
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Array
from ziggurat_engine.state import StaleShard, State
from ziggurat_engine.store import omezarr
from ziggurat_engine.store.catalog import LABELS, key_of
from ziggurat_engine.store.format import check_format
from ziggurat_engine.upkeep import database
from ziggurat_engine.upkeep.check import Progress, examine, is_directory
from ziggurat_engine.upkeep.findings import Finding
from ziggurat_engine.upkeep.holding import Found, Holding, around, parents
from ziggurat_engine.upkeep.metadata import wrong
from ziggurat_engine.upkeep.pixels import Cascade
from ziggurat_engine.upkeep.quarantine import Quarantine
from ziggurat_engine.vfs import OsFileSystem

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mended:
    """Something that was done, or with `dry_run` would be. path: of what was mended."""

    path: str
    what: str


@dataclass
class Damage:
    """What a check found in one image that may be mended.

    chunks: by level, chunks that are broken or wrong. kept: by level, chunks that are all that
    is left of what is missing below. documents: keys. labels: of its group.
    """

    chunks: dict[int, set[Shape]] = field(default_factory=dict)
    kept: dict[int, set[Shape]] = field(default_factory=dict)
    documents: list[str] = field(default_factory=list)
    labels: bool = False

    def add(self, found: Found, finding: Finding, where: Callable[[str], str]) -> bool:
        """Takes a finding in; False where nothing can be done about it."""
        level = finding.level
        if finding.kind in ("chunk", "level") and level is not None and finding.chunk is not None:
            self.chunks.setdefault(level, set()).add(finding.chunk)
        elif finding.kind == "shard" and level is not None:
            array = found.arrays[level]
            grid = array.level.shards
            names = finding.path.removeprefix(where(array.prefix)).split("/")[2:]
            shard = tuple(map(int, names))
            if len(shard) != len(grid.cell):
                return False
            self.chunks.setdefault(level, set()).update(array.level.chunks_of(shard).indices())
        elif finding.kind == "metadata":
            labels = f"{key_of(found.name)}/{LABELS}/zarr.json"
            if finding.path == where(labels):
                self.labels = True
            else:
                self.documents.append(finding.path.removeprefix(where("")).lstrip("/"))
        elif finding.kind == "missing" and level is not None and finding.chunk is not None:
            # It is made anew where something is there to make it of.
            if finding.chunk not in self.chunks.get(level, set()):
                above = parents(found, level, {finding.chunk})
                self.kept.setdefault(level + 1, set()).update(above)
                return False
        else:
            return False
        return True


class Repair:
    """Mends the images of a directory that nobody else uses. On one thread."""

    def __init__(
        self, holding: Holding, state: State, kernels: Kernels, *, dry_run: bool = False
    ) -> None:
        self._holding = holding
        self._state = state
        self._kernels = kernels
        self._dry_run = dry_run
        self._quarantine = Quarantine(holding.fs, holding.path)

    def mend(self, found: Found, damage: Damage) -> Iterator[Mended]:
        """Mends what can be, and says so behind each step.

        Raises ZigguratError, OSError where something can't be: what was done is done.
        """
        yield from self._documents(found, damage.documents)
        if damage.labels:
            yield from self._labels(found)
        if damage.chunks:
            yield from self._levels(found, damage.chunks, damage.kept)

    def _levels(
        self, found: Found, broken: dict[int, set[Shape]], kept: dict[int, set[Shape]]
    ) -> Iterator[Mended]:
        top = len(found.arrays) - 1
        # What is to be made anew at the level at hand, since what is below changed.
        changed: set[Shape] = set()
        notes: list[StaleShard] = []
        for level in range(top + 1):
            bad = broken.get(level, set())
            chunks = bad | changed - kept.get(level, set())
            before, notes = notes, []
            for shard, some in _by_shard(found, level, chunks):
                yield self._shard(found, level, shard, some, bad & some, notes)
            if not self._dry_run and before:
                self._state.clear_stale(before)
            changed = parents(found, level, chunks) if level < top and chunks else set()

    def _shard(
        self,
        found: Found,
        level: int,
        shard: Shape,
        chunks: set[Shape],
        bad: set[Shape],
        notes: list[StaleShard],
    ) -> Mended:
        array = found.arrays[level]
        path = self._holding.path / "images" / array.key(shard)
        # Also what does not decode though nobody said so: it can't stay beside the others.
        lost = self._undecodable(found, level, shard)
        if level == 0:
            # Only these are given up, whatever was said before.
            chunks = bad = lost
            said = f"level 0: {len(bad)} chunks put aside, the others stay"
        else:
            chunks, bad = chunks | lost, bad | lost
            said = f"level {level}: {len(chunks)} chunks made anew of level {level - 1}"
        if self._dry_run or not chunks:
            return Mended(str(path), said)
        if level + 1 < len(found.arrays):
            notes.extend(self._note(found, level, chunks))
        if level == 0:
            frames: list[tuple[Shape, bytes | None]] = [(chunk, None) for chunk in sorted(bad)]
            self._aside(found, level, shard, bad)
            array.replace(shard, frames, bad)
            return Mended(str(path), said)
        cascade = Cascade(found, self._kernels)
        if not bad and self._same(cascade, level, chunks):
            return Mended(str(path), f"level {level}: {len(chunks)} chunks are right as they are")
        self._aside(found, level, shard, bad)
        array.replace(shard, _frames(cascade, level, sorted(chunks)), chunks)
        return Mended(str(path), said)

    def _aside(self, found: Found, level: int, shard: Shape, bad: set[Shape]) -> None:
        array = found.arrays[level]
        note = {
            "image": found.name,
            "uid": found.uid,
            "level": level,
            "shard": list(shard),
            "bad_chunks": [list(chunk) for chunk in sorted(bad)],
            "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        self._quarantine.put(self._holding.path / "images" / array.key(shard), note)

    def _note(self, found: Found, level: int, chunks: set[Shape]) -> Iterator[StaleShard]:
        """Notes, durably, that what is made of these chunks may be wrong."""
        grid = found.arrays[level].level.chunks
        near = {
            index
            for chunk in chunks
            for index in grid.indices(around(found, level, grid.region(chunk)))
        }
        uid, noted = found.noted(level)
        for shard, some in _by_shard(found, level, near):
            yield self._state.mark_stale(uid, noted, shard, some)

    def _undecodable(self, found: Found, level: int, shard: Shape) -> set[Shape]:
        image, array = found.stored.image, found.arrays[level]
        layout = image.layout
        bad = set()
        try:
            for chunk, frame in array.frames(shard):
                try:
                    codec.decode(frame, layout.codec, image.dtype, layout.chunk_shape)
                except Corrupt:
                    bad.add(chunk)
        except Corrupt:
            return set(array.level.chunks_of(shard).indices())
        return bad

    def _same(self, cascade: Cascade, level: int, chunks: set[Shape]) -> bool:
        for chunk in chunks:
            stored, made = cascade.chunk(level, chunk), cascade.made(level, chunk)
            if stored is None:
                stored = np.full(made.shape, cascade.fill)
            if stored.tobytes() != made.tobytes():
                return False
        return True

    def _documents(self, found: Found, keys: list[str]) -> Iterator[Mended]:
        image = found.stored.image
        wanted = omezarr.documents(image)
        for key in keys:
            name = key.removeprefix(f"{found.key}/")
            data = self._holding.objects.get(key)
            if name not in wanted or not wrong(name, data, wanted[name], image):
                continue
            new = _ome_anew(data, wanted[name]) if name == "zarr.json" else wanted[name]
            path = self._holding.path / "images" / key
            if not self._dry_run:
                self._quarantine.put(path, {"image": found.name, "uid": found.uid})
                self._holding.objects.put(key, [new])
            yield Mended(str(path), "the document was written anew")

    def _labels(self, found: Found) -> Iterator[Mended]:
        key = f"{key_of(found.name)}/{LABELS}/zarr.json"
        prefix = f"{found.name}/{LABELS}/"
        there = {
            name.removeprefix(prefix)
            for name, labels_of in self._holding.catalog.find()
            if labels_of == found.name
        }
        data = old = self._holding.objects.get(key)
        for name in sorted(there | _listed(old)):
            data = omezarr.labels_document(data, name, there=name in there)
        if data is not None and data != old:
            path = self._holding.path / "images" / key
            if not self._dry_run:
                self._quarantine.put(path, {"image": found.name, "uid": found.uid})
                self._holding.objects.put(key, [data])
            yield Mended(str(path), "it names the labels that are there")


def _by_shard(found: Found, level: int, chunks: set[Shape]) -> Iterator[tuple[Shape, set[Shape]]]:
    of = found.arrays[level].level.shard_of
    for shard, some in groupby(sorted(chunks, key=lambda chunk: (of(chunk), chunk)), key=of):
        yield shard, set(some)


def _frames(
    cascade: Cascade, level: int, chunks: list[Shape]
) -> Iterator[tuple[Shape, bytes | memoryview | None]]:
    """The chunks as the level below makes them, encoded; one in memory."""
    for chunk in chunks:
        pixels: list[Array] = [cascade.made(level, chunk)]
        recipe = replace(cascade.recipe(level), factors=None)
        with closing(cascade.kernels.settle(pixels, [pixels[0].shape], recipe)) as results:
            yield chunk, next(results).frame


def _ome_anew(data: bytes | None, wanted: bytes) -> bytes:
    """The group's document with the OME metadata of the description; all else as it is."""
    document, new = json.loads(data or b"{}"), json.loads(wanted)
    document |= {name: new[name] for name in ("zarr_format", "node_type")}
    document["attributes"]["ome"] = new["attributes"]["ome"]
    return json.dumps(document, indent=2).encode()


def _listed(data: bytes | None) -> set[str]:
    try:
        return set(json.loads(data or b"{}")["attributes"]["ome"]["labels"])
    except (ValueError, KeyError, TypeError):
        return set()


def repair(
    path: Path,
    *,
    log_path: Path | None = None,
    pixels: bool = False,
    dry_run: bool = False,
    threads: int = 1,
    progress: Progress | None = None,
) -> Iterator[Mended | Finding]:
    """Checks the data directory `path` and mends what can be; gives that and what is left.

    dry_run: only says so. Raises FailedPrecondition where a server uses it, NotFound where it
    is none, DataError where its state database can't be used, since what has to be made anew
    is noted there; OSError.
    """
    path = path.absolute()
    if not is_directory(path):
        raise NotFound(f"{path}: not a data directory of a server")
    with ExitStack() as stack:
        holding = Holding(OsFileSystem(), path, log_path)
        stack.callback(holding.close)
        lock = holding.lock(to_write=not dry_run)
        if lock is None:
            raise FailedPrecondition(f"{path}: a server uses this directory; stop it first")
        stack.callback(lock.close)
        check_format(holding.fs, path)
        # Made where missing: not before it is known to be there, and to be of this version.
        database.read(path / database.NAME).close()
        kernels = select("auto", threads)
        stack.callback(kernels.close)
        findings = examine(
            holding,
            partial(database.read, path / database.NAME),
            kernels if pixels else None,
            beside=False,
            threads=threads,
            progress=progress or Progress(),
        )
        found = [each for each in findings if each.defect]
        if dry_run:
            state = database.read(path / database.NAME)
        else:
            holding.objects.sweep()
            state = State.open(path / database.NAME)
        stack.callback(state.close)
        mender = Repair(holding, state, kernels, dry_run=dry_run)
        yield from mend_all(holding, mender, found)


def mend_all(
    holding: Holding, mender: Repair, findings: Iterable[Finding]
) -> Iterator[Mended | Finding]:
    """Mends all images of a directory that findings are about; gives what is left, too."""
    by_image: dict[str, list[Finding]] = {}
    for finding in findings:
        by_image.setdefault(finding.image, []).append(finding)
    yield from by_image.pop("", ())
    for name, labels_of in list(holding.catalog.find()):
        of_image = by_image.pop(name, ())
        image = holding.find(name, labels_of) if of_image else None
        if not isinstance(image, Found) or image.stored.image.adopted is not None:
            yield from of_image
            continue
        damage = Damage()
        taken = []
        for finding in sorted(of_image, key=lambda each: each.kind == "missing"):
            if damage.add(image, finding, holding.where):
                taken.append(finding)
            else:
                yield finding
        try:
            yield from mender.mend(image, damage)
        except (ZigguratError, OSError) as error:
            log.error("%s can't be mended: %s", name, error)
            yield from taken
    for of_image in by_image.values():
        yield from of_image
