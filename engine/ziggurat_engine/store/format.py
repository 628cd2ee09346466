"""Which format has a data directory, and may this version use it?

    DIR/format.json   {"format": "ziggurat", "version": 1}

A directory without it is of version 1. Images, log and state database have versions of
their own; this one is for what is between them: a directory that it does not name, or a
rule about two of them. A backup that is not finished says so here, so that no server
takes it for whole.
"""

from __future__ import annotations

import json
from pathlib import Path

from ziggurat_engine.errors import Corrupt, UnsupportedVersion
from ziggurat_engine.vfs import FileSystem

NAME = "format.json"
VERSION = 1
# What `repair` puts aside, by its path in the directory.
QUARANTINE = "quarantine"


def check_format(fs: FileSystem, directory: Path) -> None:
    """UnsupportedVersion for a directory of a newer Ziggurat, Corrupt for what is none. OSError."""
    path = directory / NAME
    try:
        data = fs.read_file(path)
    except FileNotFoundError:
        return
    try:
        said = json.loads(data)
        version, unfinished = said["version"], said.get("unfinished")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Corrupt(f"{path}: not the format of a data directory") from error
    if version != VERSION:
        raise UnsupportedVersion(
            f"{path}: the directory has format {version!r}; this server knows {VERSION}:"
            " use the version of Ziggurat that wrote it, or a later one"
        )
    if unfinished:
        raise Corrupt(f"{path}: {unfinished}")


def document(unfinished: str = "") -> bytes:
    """What the file says. unfinished: why nobody may use the directory yet."""
    said = {"format": "ziggurat", "version": VERSION}
    if unfinished:
        said["unfinished"] = unfinished
    return json.dumps(said).encode()
