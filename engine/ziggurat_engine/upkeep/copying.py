"""How is one tree made the same as another, with as little work as possible?

Files are replaced by renames, never changed in place, in both trees: a file with the same
size and time as its copy is that copy. So a second backup copies what was stored since.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

COPY_BYTES = 2**24


class Copier:
    """Copies files to where they should be, by way of `tmp`. For any thread.

    link: by hard links, which takes no space, and no time; on the same file system only.
    """

    def __init__(self, tmp: Path, *, link: bool) -> None:
        self._tmp = tmp
        self._link = link
        tmp.mkdir(parents=True, exist_ok=True)

    def copy(self, source: Path, target: Path) -> int:
        """Makes `target` a copy of `source` as it is now; bytes copied. None there: removes it."""
        try:
            with open(source, "rb") as file:
                status = os.fstat(file.fileno())
                if same(status, _stat(target)):
                    return 0
                target.parent.mkdir(parents=True, exist_ok=True)
                staged = self._tmp / uuid.uuid4().hex
                try:
                    if self._link:
                        # Perhaps a newer version than the one that is open: as good.
                        os.link(source, staged)
                    else:
                        with open(staged, "wb") as copy:
                            shutil.copyfileobj(file, copy, COPY_BYTES)
                        os.chmod(staged, stat.S_IMODE(status.st_mode))
                        os.utime(staged, ns=(status.st_atime_ns, status.st_mtime_ns))
                    os.rename(staged, target)
                except BaseException:
                    staged.unlink(missing_ok=True)
                    raise
                return status.st_size
        except FileNotFoundError:
            target.unlink(missing_ok=True)
            return 0

    def tree(
        self, source: Path, target: Path, left: Callable[[str], bool], below: str = ""
    ) -> Iterator[Callable[[], int]]:
        """Pieces of work that make `target` what `source` is.

        left: by path below, what is left alone in both.
        """
        there = dict(_entries(source))
        for name, is_dir in list(_entries(target)):
            if there.get(name) != is_dir and not left(below + name):
                if is_dir:
                    shutil.rmtree(target / name)
                else:
                    (target / name).unlink()
        for name, is_dir in there.items():
            if left(below + name):
                continue
            if is_dir:
                yield from self.tree(source / name, target / name, left, f"{below}{name}/")
            else:
                yield partial(self.copy, source / name, target / name)


def differing(source: Path, target: Path) -> Iterator[tuple[str, ...]]:
    """Files, by their names below, that are in one of two trees alone or not the same in both."""
    ours, theirs = dict(_entries(source)), dict(_entries(target))
    for name in ours.keys() | theirs.keys():
        if ours.get(name) or theirs.get(name):
            for below in differing(source / name, target / name):
                yield (name, *below)
        elif not same(_stat(source / name), _stat(target / name)):
            yield (name,)


def same(a: os.stat_result | None, b: os.stat_result | None) -> bool:
    """True where size and time of change say that two files are the same."""
    if a is None or b is None:
        return a is b
    return (a.st_size, a.st_mtime_ns) == (b.st_size, b.st_mtime_ns)


def _entries(directory: Path) -> Iterator[tuple[str, bool]]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(directory) as found:
        for entry in found:
            yield entry.name, entry.is_dir(follow_symlinks=False)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None
