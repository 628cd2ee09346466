"""How is what is broken put aside, durably, before anything takes its place?

    DIR/quarantine/images/lab/run.ome.zarr/0/c/0/0/1.5f3a9c01        the object as it was
                                              .../1.5f3a9c01.json    what is known of it

Names end with a checksum of the content: putting aside again what is there already
changes nothing, and nothing that is there is ever replaced or removed. Both files appear
whole, by a rename, and are durable before the object is touched.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import google_crc32c

from ziggurat_engine.store.format import QUARANTINE
from ziggurat_engine.store.objects import LocalStore
from ziggurat_engine.vfs import FileSystem, ReadFile

COPY_BYTES = 4 * 2**20


class Quarantine:
    """Puts aside objects of the data directory `path`; one process at a time."""

    def __init__(self, fs: FileSystem, path: Path) -> None:
        self._fs = fs
        self._path = path
        self._store = LocalStore(fs, path / QUARANTINE, path / "tmp")
        self._made = False

    def put(self, file: Path, note: dict[str, Any]) -> str | None:
        """A copy of `file` and what is known of it are in quarantine, durably, when it returns.

        Returns where, relative to the quarantine; None where there is no such file. OSError: the
        file can't be read, or there is no room; nothing has changed.
        """
        try:
            source = self._fs.open_read(file)
        except FileNotFoundError:
            return None
        if not self._made:
            self._fs.make_dirs(self._path / QUARANTINE)
            self._made = True
        with closing(source):
            checksum = 0
            for piece in _pieces(source):
                checksum = google_crc32c.extend(checksum, piece)
            key = f"{file.relative_to(self._path)}.{checksum:08x}"
            if self._store.get(f"{key}.json") is None:
                self._store.put(key, _pieces(source))
                known = {"version": 1, "path": str(file.relative_to(self._path)), **note}
                self._store.put(f"{key}.json", [json.dumps(known, indent=2).encode()])
        return key


def _pieces(file: ReadFile) -> Iterator[bytes]:
    for offset in range(0, file.size, COPY_BYTES):
        yield file.pread(min(COPY_BYTES, file.size - offset), offset)
