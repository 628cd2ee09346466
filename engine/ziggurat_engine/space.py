"""Is there room on the disks for anything new?

A full disk is met before it is full: below the reserve no write is begun, so that what
was accepted can still be stored and the state database still be written. Removing
images, or anything else, opens the door again.
"""

from __future__ import annotations

import contextlib
import errno
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ziggurat_engine.errors import DiskFull
from ziggurat_engine.vfs import FileSystem

LOOK_SECONDS = 0.1
# Of a small disk the reserve is this part at most.
MOST_OF_DISK = 0.02


USES = ("data", "log")


class Disk(NamedTuple):
    """A file system. use: what the engine has there, one of USES."""

    use: str
    free_bytes: int
    total_bytes: int


class Space:
    """The file systems of two directories, data and log; may be used from any thread.

    reserve_bytes: what is to stay free on each, or 2 % of it where that is less.
    """

    def __init__(self, fs: FileSystem, directories: Sequence[Path], reserve_bytes: int) -> None:
        self._fs = fs
        self._directories = directories
        self._reserve_bytes = reserve_bytes
        self._lock = threading.Lock()
        self._looked = float("-inf")
        self._full: tuple[Path, int, int] | None = None

    def check(self) -> None:
        """Raises DiskFull where less than the reserve is free, as of 0.1 s ago at most.

        OSError where a file system can't be asked.
        """
        with self._lock:
            now = time.monotonic()
            if now - self._looked >= LOOK_SECONDS:
                self._full = self._look()
                self._looked = now
            full = self._full
        if full is not None:
            path, free, reserve = full
            raise DiskFull(
                f"{free >> 20} MiB are free at {path}; no write begins below {reserve >> 20} MiB",
                errno=errno.ENOSPC,
                path=path,
                free_bytes=free,
                reserve_bytes=reserve,
            )

    def disks(self) -> list[Disk]:
        """As of now, of those that can be asked."""
        found = []
        for use, directory in zip(USES, self._directories, strict=True):
            with contextlib.suppress(OSError):
                found.append(Disk(use, *self._fs.disk_space(directory)))
        return found

    def _look(self) -> tuple[Path, int, int] | None:
        for directory in self._directories:
            free, total = self._fs.disk_space(directory)
            reserve = min(self._reserve_bytes, int(total * MOST_OF_DISK))
            if free < reserve:
                return directory, free, reserve
        return None
