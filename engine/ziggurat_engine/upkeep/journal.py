"""Can all that the log holds be read, and is it wanted by what is there?

The same reading as at a start (log/replay.py), which writes nothing. Beside a server
segments are freed and records are half written: damage counts where it is found at the
same place twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ziggurat_engine.errors import Corrupt, UnsupportedVersion
from ziggurat_engine.log import segment
from ziggurat_engine.log.replay import Chain
from ziggurat_engine.log.segment import Segment
from ziggurat_engine.upkeep.findings import Finding
from ziggurat_engine.vfs import FileSystem

TRIES = 5
_OURS = re.compile(r"lock|identity|[0-9]+\.log")


@dataclass
class Logged:
    """What the log holds. images: by uid, the position behind the last record of each."""

    identity: str = ""
    records: int = 0
    images: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def live(fs: FileSystem, directory: Path) -> list[Segment]:
    """The segments that hold what was not released, by number. Corrupt, UnsupportedVersion."""
    found = (each for each in segment.find(fs, directory) if each.header is not None)
    return sorted(
        (
            Segment(each.path, each.header.number, each.header.salt, each.header.nbytes)
            for each in found
            if each.header is not None and each.header.state is segment.State.LIVE
        ),
        key=lambda each: each.number,
    )


def read_log(fs: FileSystem, directory: Path, *, beside: bool) -> Logged:
    """Reads all records; one in memory. beside: a server uses it."""
    before: object = None
    for _ in range(TRIES):
        logged = Logged()
        try:
            _read(fs, directory, logged)
        except UnsupportedVersion as error:
            path = error.details.get("path", str(directory))
            logged.findings.append(Finding("version", path, error.message))
        except Corrupt as error:
            path = error.details.get("path", str(directory))
            logged.findings.append(Finding("log", path, error.message))
            place = (path, error.details.get("position"))
            if beside and place != before:
                before = place
                continue
        except FileNotFoundError as error:
            if beside and fs.is_dir(directory):
                continue
            logged.findings.append(Finding("log-missing", str(directory), str(error)))
        except OSError as error:
            logged.findings.append(Finding("unreadable", str(directory), str(error)))
        break
    else:
        what = "the log was written to all the while"
        logged.findings = [Finding("busy", str(directory), what)]
    if beside:
        # What is being appended looks torn.
        logged.findings = [each for each in logged.findings if each.kind != "torn"]
    return logged


def _read(fs: FileSystem, directory: Path, logged: Logged) -> None:
    logged.findings.extend(_strangers(fs, directory))
    if fs.exists(directory / "identity"):
        logged.identity = fs.read_file(directory / "identity").decode(errors="replace")
    chain = Chain(fs, live(fs, directory))
    for replayed in chain.records():
        logged.records += 1
        logged.images[replayed.record.image.hex()] = replayed.position
    if chain.torn is not None:
        what = (
            f"the log ends at position {chain.torn.position}; {chain.torn.lost} records behind"
            " it were never acknowledged as durable"
        )
        logged.findings.append(Finding("torn", str(chain.torn.path), what))


def _strangers(fs: FileSystem, directory: Path) -> Iterator[Finding]:
    for entry in fs.list_dir(directory):
        if entry.is_dir or not _OURS.fullmatch(entry.name):
            yield Finding("leftover", str(directory / entry.name), "not a file of the log")
