"""A server that begins to replay its log once a file `go` lies in its data directory.

python tests/support/held_server.py serve --data DIR ...
"""

from __future__ import annotations

import time
from pathlib import Path

from ziggurat_engine import cli
from ziggurat_engine.vfs import FileSystem, OsFileSystem, ReadFile


class HeldFs(OsFileSystem):
    """The second time that a file of the log is opened to be read is the replay's."""

    def __init__(self) -> None:
        self._opened: set[Path] = set()

    def open_read(self, path: Path) -> ReadFile:
        if path.parent.name == "log":
            while path in self._opened and not (path.parents[1] / "go").exists():
                time.sleep(0.02)
            self._opened.add(path)
        return super().open_read(path)


def files() -> FileSystem:
    return HeldFs()


if __name__ == "__main__":
    cli.main(prog_name="ziggurat-engine", obj=files)
