"""What can a check find, what does it mean, and what is to be done?

The kinds are data: `check --json` prints their words, docs/troubleshooting.md lists them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from ziggurat_engine.region import Shape


class Kind(NamedTuple):
    """defect: something is not as it should be; else it is only said. remedy: what to do."""

    defect: bool
    meaning: str
    remedy: str


_RESTORE = "restore it from a backup"
_REPAIR = "ziggurat-engine repair"

KINDS: dict[str, Kind] = {
    "shard": Kind(
        True,
        "a shard's index is broken: none of its chunks can be read",
        f"{_REPAIR}; what lies at level 0 comes back from a backup only",
    ),
    "chunk": Kind(
        True,
        "a chunk does not decode to the pixels it should have",
        f"{_REPAIR}; what lies at level 0 comes back from a backup only",
    ),
    "missing": Kind(
        True,
        "a chunk is not there, though the level above has pixels that were made of it",
        f"{_RESTORE}; or make the levels without it: ziggurat build --force",
    ),
    "level": Kind(
        True,
        "a chunk above level 0 is not what the level below makes of it",
        f"{_REPAIR} --pixels",
    ),
    "unreadable": Kind(
        True,
        "the disk refuses to read it",
        f"look after the disk, then {_RESTORE}",
    ),
    "metadata": Kind(True, "a document is missing, broken or says something else", _REPAIR),
    "image": Kind(
        True, "an image's own document can't be used, so that it is not served", _RESTORE
    ),
    "frames": Kind(True, "what is known of an image's frames can't be read", _RESTORE),
    "version": Kind(
        True,
        "it was written by a newer Ziggurat",
        "use that version, or a later one; nothing is wrong with it",
    ),
    "state": Kind(True, "the state database is broken or missing", _RESTORE),
    "log": Kind(
        True,
        "the log is damaged before what was durable: the server refuses to start",
        f"{_RESTORE}, log and data together",
    ),
    "log-missing": Kind(
        True,
        "acknowledged frames are not where they should be: the server refuses to start",
        "put back what is missing; or start with accept_loss, and do without them",
    ),
    "unfinished": Kind(True, "a backup that was not finished", "run the backup again"),
    "torn": Kind(
        False,
        "the log ends in the middle of what was never acknowledged",
        "nothing: the next start cuts it",
    ),
    "stale": Kind(
        False,
        "what is noted to be made anew of the level below",
        "nothing: the server makes it, or does when it is asked for",
    ),
    "busy": Kind(
        False,
        "it was written to all the while, and could not be compared",
        "check again when it is quiet",
    ),
    "absent": Kind(
        False,
        "an adopted image is not where it was",
        "mount its disk; or ziggurat rm, which forgets it",
    ),
    "leftover": Kind(
        False,
        "nothing needs it: of a write that a crash ended, or not written by Ziggurat",
        "nothing; what lies in tmp goes at the next start",
    ),
    "quarantined": Kind(
        False,
        "repair put it aside",
        "remove it once it is not needed any more",
    ),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a check says. kind: one of KINDS. path: absolute.

    image, level, chunk: where it is in pixels' terms, as far as that is known.
    """

    kind: str
    path: str
    what: str
    image: str = ""
    level: int | None = None
    chunk: Shape | None = None

    @property
    def defect(self) -> bool:
        """True where something is not as it should be."""
        return KINDS[self.kind].defect

    @property
    def remedy(self) -> str:
        """What to do."""
        return KINDS[self.kind].remedy

    def as_json(self) -> dict[str, Any]:
        """As `check --json` prints it."""
        return {
            "kind": self.kind,
            "defect": self.defect,
            "path": self.path,
            "image": self.image or None,
            "level": self.level,
            "chunk": None if self.chunk is None else list(self.chunk),
            "what": self.what,
            "remedy": self.remedy,
        }

    def __str__(self) -> str:
        return f"{self.kind}: {self.path}: {self.what}"
