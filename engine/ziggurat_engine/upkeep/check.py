"""Is a data directory whole? Every shard, chunk, document, note and log record is read.

    state     integrity, version; what is noted as stale
    log       chain, checksums, torn tail; images that it names are there
    images    documents; shard indices; every chunk decodes; levels, where asked for

Memory is bounded by threads and chunks. Findings come as they are made. Beside a server
what looks wrong is looked at again, and only what is wrong then counts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ziggurat_engine.errors import Corrupt, NotFound, UnsupportedVersion
from ziggurat_engine.kernels.protocol import Kernels
from ziggurat_engine.kernels.select import select
from ziggurat_engine.state import UNKNOWN, State
from ziggurat_engine.store.format import QUARANTINE, check_format
from ziggurat_engine.store.handles import ShardHandles
from ziggurat_engine.upkeep import database
from ziggurat_engine.upkeep.database import Notes
from ziggurat_engine.upkeep.findings import Finding
from ziggurat_engine.upkeep.foreign import check_adopted, check_zarr
from ziggurat_engine.upkeep.holding import AUDIT, TOP, Found, Holding, shards
from ziggurat_engine.upkeep.journal import Logged, read_log
from ziggurat_engine.upkeep.levels import check_below, check_shard
from ziggurat_engine.upkeep.metadata import check_documents, check_frames, check_labels
from ziggurat_engine.upkeep.pixels import Cascade, Comparison
from ziggurat_engine.upkeep.work import run
from ziggurat_engine.vfs import FileSystem, OsFileSystem

Piece = Callable[[], list[Finding]]


@dataclass
class Progress:
    """Objects looked at, and how many there are to be; both grow."""

    done: int = 0
    total: int = 0
    tell: Callable[[int, int], None] = lambda _done, _total: None

    def step(self) -> None:
        """One more is done."""
        self.done += 1
        self.tell(self.done, max(self.total, self.done))


def check(
    path: Path,
    *,
    log: Path | None = None,
    pixels: bool = False,
    threads: int = 1,
    progress: Progress | None = None,
) -> Iterator[Finding]:
    """What is to be said of the data directory, or the OME-Zarr, at `path`.

    log: where the log is, if not in it. pixels: compares levels, too. May run beside a
    server; where none runs, none can start meanwhile. Raises NotFound, InvalidArgument,
    UnsupportedVersion where there is nothing to be checked; OSError.
    """
    path = path.absolute()
    progress = progress or Progress()
    if is_directory(path):
        yield from _check_directory(path, log, pixels, threads, progress)
        return
    with ExitStack() as stack:
        handles = ShardHandles(64)
        stack.callback(handles.close)
        yield from _run(check_zarr(path, handles), threads, progress)


def is_directory(path: Path) -> bool:
    """True where `path` is a data directory, and not an OME-Zarr."""
    return (path / "images").is_dir() and any(
        (path / name).exists() for name in ("lock", database.NAME, "format.json")
    )


def _check_directory(
    path: Path, log: Path | None, pixels: bool, threads: int, progress: Progress
) -> Iterator[Finding]:
    with ExitStack() as stack:
        holding = Holding(OsFileSystem(), path, log)
        stack.callback(holding.close)
        lock = holding.lock()
        if lock is not None:
            stack.callback(lock.close)
        kernels: Kernels | None = None
        if pixels:
            kernels = select("auto", threads)
            stack.callback(kernels.close)
        read_state = partial(database.read, path / database.NAME)
        yield from examine(
            holding, read_state, kernels, beside=lock is None, threads=threads, progress=progress
        )


def examine(
    holding: Holding,
    read_state: Callable[[], State],
    kernels: Kernels | None,
    *,
    beside: bool,
    threads: int,
    progress: Progress,
) -> Iterator[Finding]:
    """What is to be said of a directory. kernels: compare levels with what these make.

    read_state: gives the state as of now, for this caller alone. beside: a server uses it.
    """
    path = holding.path
    finding = _format(holding.fs, path)
    if finding is not None:
        yield finding
        return
    logged = read_log(holding.fs, holding.log, beside=beside)
    with ExitStack() as stack:
        state: State | None = None
        try:
            state = read_state()
            stack.callback(state.close)
        except (Corrupt, FileNotFoundError) as error:
            yield Finding("state", str(path / database.NAME), str(error))
        except UnsupportedVersion as error:
            yield Finding("version", str(path / database.NAME), error.message)
        notes = database.notes_of(state) if state is not None else {}
        yield from logged.findings
        threading.Thread(target=_count, args=(holding, progress), daemon=True).start()
        fresh = partial(_fresh, read_state) if beside else None
        images = _Images(holding, notes, fresh, kernels)
        yield from _run(images.pieces(), threads, progress)
        if not beside and state is not None:
            yield from _wanted(holding, state, logged, images)
        yield from _rest(holding, beside=beside)


def _format(fs: FileSystem, path: Path) -> Finding | None:
    try:
        check_format(fs, path)
    except UnsupportedVersion as error:
        return Finding("version", str(path / "format.json"), error.message)
    except Corrupt as error:
        return Finding("unfinished", str(path / "format.json"), error.message)
    return None


def _fresh(read_state: Callable[[], State]) -> Notes:
    state = read_state()
    try:
        return database.notes_of(state)
    finally:
        state.close()


def _count(holding: Holding, progress: Progress) -> None:
    """How much there is to do; counted beside doing it, for who waits."""
    try:
        for _ in holding.objects.walk(""):
            progress.total += 1
    except OSError:
        return


def _run(pieces: Iterable[Piece], threads: int, progress: Progress) -> Iterator[Finding]:
    for findings in run(pieces, threads):
        progress.step()
        yield from findings


class _Images:
    """Check the images of a directory; knows then which there were."""

    def __init__(
        self,
        holding: Holding,
        notes: Notes,
        fresh: Callable[[], Notes] | None,
        kernels: Kernels | None,
    ) -> None:
        self._holding = holding
        self._notes = notes
        self._fresh = fresh
        self._kernels = kernels
        self.uids: set[str] = set()
        self.refused: list[str] = []

    def pieces(self) -> Iterator[Piece]:
        """All there is to do, image by image."""
        labels: dict[str, set[str]] = {}
        for found in self._holding.images():
            if isinstance(found, Finding):
                self.refused.append(found.image)
                yield partial(list, [found])
                continue
            self.uids.add(found.uid)
            if found.labels_of is not None:
                name = found.name.rpartition("/")[2]
                labels.setdefault(found.labels_of, set()).add(name)
            yield from self._image(found)
        for image, names in labels.items():
            yield partial(lambda i, n: list(check_labels(self._holding, i, n)), image, names)

    def _image(self, found: Found) -> Iterator[Piece]:
        image = found.stored.image
        count = sum(len(self._notes.get(found.noted(k), ())) for k in range(len(found.arrays)))
        if count:
            what = f"of {count} chunks the level above is to be made"
            said = Finding("stale", self._holding.where(found.key), what, found.name)
            yield partial(list, [said])
        yield self._again(found, lambda: list(check_frames(self._holding, found)))
        if image.adopted is not None:
            yield from check_adopted(found.name, image.adopted, self._holding.handles)
            return
        yield self._again(found, lambda: list(check_documents(self._holding, found)))
        for level in range(len(found.arrays)):
            for shard in shards(found, level, self._holding.objects):
                if isinstance(shard, str):
                    path = self._holding.where(shard)
                    said = Finding("leftover", path, "not a shard", found.name, level)
                    yield partial(list, [said])
                else:
                    yield self._again(found, partial(self._shard, found, level, shard))
        if self._kernels is not None:
            cascade = Cascade(found, self._kernels)
            comparison = Comparison(self._holding, cascade, self._notes, self._fresh)
            for level in range(1, len(found.arrays)):
                for shard in comparison.shards(level):
                    yield self._again(found, partial(comparison.check, level, shard))

    def _shard(self, found: Found, level: int, shard: tuple[int, ...]) -> list[Finding]:
        findings = check_shard(self._holding, found, level, shard)
        if level and self._kernels is None:
            notes = self._fresh() if self._fresh and findings else self._notes
            below = list(check_below(self._holding, found, level, shard, notes))
            if below and self._fresh is not None:
                self._holding.handles.drop_prefix(found.key)
                below = list(check_below(self._holding, found, level, shard, self._fresh()))
            findings += below
        return findings

    def _again(self, found: Found, piece: Piece) -> Piece:
        """The piece; beside a server what it finds must be found twice, in an image that stays."""

        def work() -> list[Finding]:
            try:
                findings = piece()
                if not findings or self._fresh is None:
                    return findings
                now = self._holding.find(found.name, found.labels_of)
                same = isinstance(now, Found) and (
                    now.stored.image.first_array,
                    now.uid,
                ) == (found.stored.image.first_array, found.uid)
                return piece() if same else []
            except NotFound:
                return []

        return work


def _wanted(holding: Holding, state: State, logged: Logged, images: _Images) -> Iterator[Finding]:
    """Is what the log holds wanted, and is it the log that goes with the data?"""
    known = state.log()
    if known is not None and known[1] and known[0] != logged.identity:
        what = "it is not the log that the data was last used with, which may hold what is needed"
        yield Finding("log-missing", str(holding.log), what)
    deleted, applied = state.deleted(), state.applied()
    for uid, position in logged.images.items():
        if uid in images.uids or uid in deleted or UNKNOWN in deleted:
            continue
        if position > applied.get(uid, 0):
            what = f"it holds frames of image {uid}, which is not there"
            if images.refused:
                what += f"; these can't be used: {', '.join(images.refused)}"
            yield Finding("log-missing", str(holding.log), what)


def _rest(holding: Holding, *, beside: bool) -> Iterator[Finding]:
    """Files that nobody needs; those in tmp are a server's while it runs."""
    fs, path = holding.fs, holding.path
    for entry in sorted(fs.list_dir(path)):
        if entry.name not in TOP and not entry.name.startswith((database.NAME, AUDIT)):
            yield Finding("leftover", str(path / entry.name), "not a file of a data directory")
    if not beside and fs.is_dir(path / "tmp"):
        for entry in sorted(fs.list_dir(path / "tmp")):
            yield Finding("leftover", str(path / "tmp" / entry.name), "a write that never ended")
    if fs.is_dir(path / QUARANTINE):
        count = sum(
            not entry.key.endswith(".json")
            for entry in type(holding.objects)(fs, path / QUARANTINE, path / "tmp").walk("")
        )
        if count:
            yield Finding("quarantined", str(path / QUARANTINE), f"{count} objects")
