"""Which format has a data directory, and may this version use it?

    DIR/format.json   {"format": "ziggurat", "version": 1}

A directory without it is of version 1. Images, log and state database have versions of
their own; this one is for what is between them: a directory that it does not name, or a
rule about two of them. A backup that is not finished says so here, so that no server
takes it for whole; one that is says that, until a server uses it: then it is a data
directory like any other, and no backup may replace it.
"""

from __future__ import annotations

import json
from pathlib import Path

from ziggurat_engine.errors import NEWER, Corrupt, UnsupportedVersion
from ziggurat_engine.vfs import FileSystem

NAME = "format.json"
VERSION = 1
# What `repair` puts aside, by its path in the directory.
QUARANTINE = "quarantine"


def check_format(fs: FileSystem, directory: Path) -> bool:
    """True where it is a backup that no server has used.

    UnsupportedVersion for a directory of a newer Ziggurat, Corrupt for what is none. OSError.
    """
    path = directory / NAME
    try:
        data = fs.read_file(path)
    except FileNotFoundError:
        return False
    try:
        said = json.loads(data)
        version, unfinished, backup = said["version"], said.get("unfinished"), said.get("backup")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Corrupt(f"{path}: not the format of a data directory") from error
    if version != VERSION:
        raise UnsupportedVersion(
            f"{path}: the directory has format {version!r}; this server knows {VERSION}: {NEWER}"
        )
    if unfinished:
        raise Corrupt(f"{path}: {unfinished}")
    return bool(backup)


def claim(fs: FileSystem, directory: Path) -> None:
    """As check_format, by a server that uses the directory from now on."""
    if not check_format(fs, directory):
        return
    staged = directory / f".{NAME}"
    if fs.exists(staged):
        fs.remove(staged)
    file = fs.create(staged)
    try:
        file.write(document())
        file.sync()
    finally:
        file.close()
    fs.rename(staged, directory / NAME)
    fs.sync_dir(directory)


def document(*, unfinished: str = "", backup: bool = False) -> bytes:
    """What the file says. unfinished: why nobody may use the directory yet."""
    said: dict[str, object] = {"format": "ziggurat", "version": VERSION}
    if backup:
        said["backup"] = True
    if unfinished:
        said["unfinished"] = unfinished
    return json.dumps(said).encode()
