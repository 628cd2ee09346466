"""How is a data directory copied while a server writes to it, so that the copy is one?

    1  DEST/format.json says that it is not finished: no server takes it
    2  log and state database, of one instant (logcopy.py)
    3  images: documents first, then shards; what did not change since is left
    4  what the database notes as stale by now
    5  what changed since 3 began: levels that may not fit each other are noted as stale
    6  all of it is durable; then DEST/format.json says that it is whole

It holds all that was durable before 2: in the log, or stored before it left the log, and so
in 3. What 3 has of later is what the log of 2 does not know; replay writes over it, and who
sent it sends it again, as after a crash.

Why 5 is enough: chunks of two levels that were copied do not fit where the child is newer,
or the parent. If the child is newer than what the parent was made of, it was noted before
it was there; the note is found in 4, or else the parent was stored before 4, and has
changed since it was copied. If the parent is newer, the child has changed since it was
copied. So all chunks of shards that changed are noted, and those that they are made of.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ziggurat_engine.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from ziggurat_engine.region import Shape
from ziggurat_engine.state import State
from ziggurat_engine.store import omezarr
from ziggurat_engine.store.catalog import LABELS, key_of
from ziggurat_engine.store.format import NAME as FORMAT
from ziggurat_engine.store.format import check_format, document
from ziggurat_engine.upkeep import database
from ziggurat_engine.upkeep.check import is_directory
from ziggurat_engine.upkeep.copying import Copier, differing
from ziggurat_engine.upkeep.holding import Found, Holding, around, children
from ziggurat_engine.upkeep.journal import read_log
from ziggurat_engine.upkeep.logcopy import LogCopy
from ziggurat_engine.upkeep.work import run
from ziggurat_engine.vfs import OsFileSystem

UNFINISHED = "a backup that was not finished; run ziggurat-engine backup again"
# How often an image is copied again of which other levels took the place meanwhile.
TRIES = 5
_NOT_COPIED = frozenset(("lock", "tmp", "log", "images", FORMAT))
_SQLITE = b"SQLite format 3\0"


@dataclass
class Backup:
    """What was done. noted: chunks noted as stale in the copy, since they changed meanwhile."""

    images: int = 0
    files_copied: int = 0
    files: int = 0
    bytes_copied: int = 0
    noted: int = 0
    seconds: float = 0.0


def backup(
    path: Path,
    target: Path,
    *,
    log: Path | None = None,
    link: bool = False,
    threads: int = 1,
    tell: Callable[[int], None] = lambda _files: None,
) -> Backup:
    """Makes `target` a copy of the data directory `path`, durable when it returns.

    May run beside a server that uses `path`. `target` is empty, not there, or an earlier
    backup of it that no server has used, of which what did not change is left. link: by hard links.
    Raises NotFound, InvalidArgument for a wrong directory, FailedPrecondition where `target`
    is in use, or `log` not the log that goes with `path`, DataError where `path` can't be
    read, Unavailable where it changes too fast; OSError.
    """
    started = time.monotonic()
    path, target = path.absolute(), target.absolute()
    _check(path, target)
    fs = OsFileSystem()
    check_format(fs, path)
    with ExitStack() as stack:
        fs.make_dirs(target)
        try:
            stack.callback(fs.lock(target / "lock").close)
        except BlockingIOError:
            raise FailedPrecondition(f"{target}: somebody uses this directory") from None
        source = Holding(fs, path, log)
        stack.callback(source.close)
        copy = Holding(fs, target)
        stack.callback(copy.close)
        _check_goes_with(source, copy)
        made = _Making(source, copy, Copier(target / "tmp", link=link), threads, tell)
        made.all()
    made.done.seconds = time.monotonic() - started
    return made.done


def _check(path: Path, target: Path) -> None:
    if not is_directory(path):
        raise NotFound(f"{path}: not a data directory of a server")
    real, other = Path(os.path.realpath(path)), Path(os.path.realpath(target))
    if real.is_relative_to(other) or other.is_relative_to(real):
        raise InvalidArgument(f"{target}: it is inside, or around, {path}", field="target")
    if target.exists() and any(target.iterdir()) and not _is_backup(target):
        raise InvalidArgument(f"{target}: neither empty nor a backup of earlier", field="target")


def _check_goes_with(source: Holding, copy: Holding) -> None:
    """Before anything of an earlier backup is touched: is it of this directory, with this log?"""
    identity = _log_identity(source.log)
    if identity is None:
        raise NotFound(f"{source.log}: there is no log; say with --log where it is")
    with closing(database.read(source.path / database.NAME)) as state:
        known = state.log()
    if known is not None and known[1] and known[0] != identity:
        raise FailedPrecondition(
            f"{source.log} is not the log that {source.path} was last used with, which may hold"
            " acknowledged frames; say with --log where that is"
        )
    if identity == _log_identity(copy.log):
        return
    # A directory may have got another log since.
    theirs = {each.uid for each in copy.images() if isinstance(each, Found)}
    if theirs and not any(
        isinstance(each, Found) and each.uid in theirs for each in source.images()
    ):
        raise InvalidArgument(f"{copy.path}: a backup of another directory", field="target")


def _log_identity(log: Path) -> str | None:
    try:
        return (log / "identity").read_text(errors="replace")
    except FileNotFoundError:
        return None


def _is_backup(path: Path) -> bool:
    try:
        return bool(json.loads((path / FORMAT).read_bytes()).get("backup"))
    except (OSError, ValueError, AttributeError):
        return False


class _Making:
    """One backup on its way."""

    def __init__(
        self,
        source: Holding,
        copy: Holding,
        copier: Copier,
        threads: int,
        tell: Callable[[int], None],
    ) -> None:
        self._source = source
        self._copy = copy
        self._copier = copier
        self._threads = threads
        self._tell = tell
        self.done = Backup()
        # Images that the copied log has records of, by uid.
        self._logged: set[str] = set()

    def all(self) -> None:
        """All six steps."""
        target = self._copy.path
        _replace(target / FORMAT, document(unfinished=UNFINISHED, backup=True))
        _sync_disk(target)
        self._begin()
        log = LogCopy(self._source.log, self._copy.log)
        with closing(log.with_state(self._source.path / database.NAME)) as memory:
            _write(memory, target / database.NAME)
        self._logged = log.images
        self._others()
        self._images()
        with (
            closing(database.read(self._source.path / database.NAME)) as now,
            closing(State.open(target / database.NAME)) as state,
        ):
            self._note(state, now)
        shutil.rmtree(target / "tmp")
        _sync_disk(target)
        _replace(target / FORMAT, document(backup=True))
        _sync_disk(target)

    def _begin(self) -> None:
        """What an earlier backup has of log and database goes."""
        target = self._copy.path
        for name in (database.NAME, f"{database.NAME}-wal", f"{database.NAME}-shm"):
            (target / name).unlink(missing_ok=True)
        shutil.rmtree(target / "log", ignore_errors=True)
        (target / "log").mkdir()
        (target / "images").mkdir(exist_ok=True)
        identity = (self._source.log / "identity").read_bytes()
        (target / "log" / "identity").write_bytes(identity)

    def _others(self) -> None:
        """What else lies in the directory: as files, and databases through SQLite."""
        source, target = self._source.path, self._copy.path
        # Never by links: others may be appended to.
        plain = Copier(target / "tmp", link=False)
        for entry in sorted(source.iterdir()):
            if entry.name in _NOT_COPIED or entry.name.startswith(database.NAME):
                continue
            if entry.is_dir():
                self._run(plain.tree(entry, target / entry.name, _nothing))
            elif not entry.is_file():
                # Sockets, on one of which the server may listen, or gone by now.
                continue
            elif _is_database(entry):
                with closing(database.snapshot(entry)) as memory:
                    (target / entry.name).unlink(missing_ok=True)
                    _write(memory, target / entry.name)
            elif not entry.name.endswith(("-wal", "-shm")):
                self._run([partial(plain.copy, entry, target / entry.name)])

    def _images(self) -> None:
        """Copies all images; those that are not there any more go from the copy, too."""
        groups: dict[str, list[tuple[str, str | None]]] = {}
        for name, labels_of in self._source.catalog.find():
            groups.setdefault(labels_of or name, []).append((name, labels_of))
        for name, labels_of in list(self._copy.catalog.find()):
            if labels_of is None and name not in groups:
                shutil.rmtree(self._copy.path / "images" / key_of(name))
        todo = groups
        for _ in range(TRIES):
            self._run(piece for images in todo.values() for piece in self._group(images))
            todo = {name: images for name, images in todo.items() if not self._fits(images)}
            if not todo:
                self.done.images = sum(map(len, groups.values()))
                return
        raise Unavailable(f"{', '.join(todo)}: replaced again and again meanwhile")

    def _group(self, images: list[tuple[str, str | None]]) -> Iterator[Callable[[], int]]:
        """An image with its labels."""
        top = key_of(images[0][1] or images[0][0])
        source, target = (each.path / "images" for each in (self._source, self._copy))
        left = {f"{LABELS}/zarr.json"}
        for image in images:
            key = key_of(*image)
            found = self._source.find(*image)
            if isinstance(found, Found):
                # Levels that the document does not name are nobody's in the copy.
                names = {array.prefix for array in found.arrays}
                for parent in (source, target):
                    for entry in _directories(parent / key):
                        if entry.isdecimal() and names and f"{key}/{entry}" not in names:
                            left.add(f"{key}/{entry}".removeprefix(f"{top}/"))
                            if parent == target:
                                shutil.rmtree(target / key / entry)
            # Documents of groups say how much there is of what follows: it is copied later.
            for name in ("zarr.json", "frames/zarr.json"):
                left.add(f"{key}/{name}".removeprefix(f"{top}/"))
                # An image that is there has one, or has lost it: the copy's is all there is then.
                if name != "zarr.json" or (source / key / name).exists():
                    self._copier.copy(source / key / name, target / key / name)
        listed = f"{top}/{LABELS}/zarr.json"
        self._copier.copy(source / listed, target / listed)
        yield from self._copier.tree(source / top, target / top, left.__contains__)

    def _fits(self, images: list[tuple[str, str | None]]) -> bool:
        """True where the copied documents name the levels that were copied."""
        for image in images:
            key = key_of(*image)
            now, then = self._source.objects.get(f"{key}/zarr.json"), None
            if now is None:
                # Where only the document is gone the pixels are not to go, too.
                if not (self._source.path / "images" / key).is_dir():
                    shutil.rmtree(self._copy.path / "images" / key, ignore_errors=True)
                continue
            then = self._copy.objects.get(f"{key}/zarr.json")
            if _identity(now) != _identity(then):
                return False
        return True

    def _note(self, state: State, now: State) -> None:
        """Steps 4 and 5; and what was deleted meanwhile is known to be."""
        images = [each for each in self._copy.images() if isinstance(each, Found)]
        uids = {each.uid for each in images}
        for uid in (now.deleted() | self._forgotten(now)) - uids:
            state.save_deleted(uid)
        for note in now.stale():
            if note.image in uids:
                state.mark_stale(note.image, note.level, note.shard, note.chunks)
        by_uid = {each.uid: each for each in images}
        for change in state.changes():
            # Levels that another method was making are not copied.
            image = by_uid.get(change.image)
            levels = range(0)
            if image is not None and image.stored.image.first_array != change.first:
                start = change.first - 1
                levels = range(start, start + len(image.arrays) - 1)
            state.end_change(change.image, levels)
        for image in images:
            for level, chunks in self._changed(image).items():
                self._mark(state, image, level, chunks)

    def _forgotten(self, now: State) -> set[str]:
        """Images that were deleted, and of which nothing is noted any more.

        A server that starts forgets that an image was deleted where its log has nothing of it;
        the copied log is older.
        """
        there = {each.uid for each in self._source.images() if isinstance(each, Found)}
        away = self._logged - there - now.deleted()
        if not away:
            return away
        # What the log still has of one that was not deleted keeps that server from starting, too.
        logged = read_log(OsFileSystem(), self._source.log, beside=True)
        return away - logged.images.keys()

    def _changed(self, image: Found) -> dict[int, set[Shape]]:
        """By level: chunks that do not fit the level above, perhaps."""
        levels = {array.prefix: level for level, array in enumerate(image.arrays)}
        result: dict[int, set[Shape]] = {}
        for prefix, level in levels.items():
            source, target = (each.path / "images" / prefix for each in (self._source, self._copy))
            for first, *names in differing(source, target):
                array = image.arrays[level]
                if first != "c" or not all(name.isdecimal() for name in names):
                    continue
                shard = tuple(map(int, names))
                if len(shard) != len(array.level.shards.cell):
                    continue
                chunks = list(array.level.chunks_of(shard).indices())
                if level + 1 < len(image.arrays):
                    box = around(image, level, array.level.shards.region(shard))
                    some = array.level.chunks.indices(box)
                    result.setdefault(level, set()).update(some)
                if level:
                    below = (child for chunk in chunks for child in children(image, level, chunk))
                    result.setdefault(level - 1, set()).update(below)
        return result

    def _mark(self, state: State, image: Found, level: int, chunks: set[Shape]) -> None:
        by_shard: dict[Shape, list[Shape]] = {}
        for chunk in chunks:
            shard = image.arrays[level].level.shard_of(chunk)
            by_shard.setdefault(shard, []).append(chunk)
        uid, noted = image.noted(level)
        state.mark_all_stale(uid, noted, by_shard)
        self.done.noted += len(chunks)

    def _run(self, pieces: Iterable[Callable[[], int]]) -> None:
        for nbytes in run(pieces, self._threads):
            self.done.files += 1
            self.done.files_copied += nbytes > 0
            self.done.bytes_copied += nbytes
            self._tell(self.done.files)


def _nothing(_name: str) -> bool:
    return False


def _directories(path: Path) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(path) if entry.is_dir()]
    except FileNotFoundError:
        return []


def _identity(data: bytes | None) -> object:
    """What tells the levels that an image's document names from others."""
    try:
        image = json.loads(data or b"")["attributes"][omezarr.ATTRIBUTE]["image"]
        return image["uid"], image.get("first_array", 1)
    except (ValueError, KeyError, TypeError):
        return data


def _is_database(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE


def _write(memory: sqlite3.Connection, path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        memory.backup(db)


def _replace(path: Path, data: bytes) -> None:
    staged = path.with_name(f".{path.name}")
    with open(staged, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(staged, path)


def _sync_disk(directory: Path) -> None:
    """All that was written to the file system of `directory` is durable. OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if libc.syncfs(fd):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(directory))
    finally:
        os.close(fd)
