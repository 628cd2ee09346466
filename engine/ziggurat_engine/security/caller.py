"""Who calls, and what may they do?

A Caller is what a token, a signed claim or a certificate was found to stand for. Its scope
says which calls it may make, its prefix which images they may be about.
"""

from __future__ import annotations

import enum
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field

from ziggurat_engine.names import check_name


class Scope(enum.IntEnum):
    """What a caller may do; each may do what those before it may."""

    NONE = 0
    """Ask whether the server is ready."""
    READ = 1
    WRITE = 2
    """Make images, write to them and have levels made."""
    ADMIN = 3
    """Delete."""

    @property
    def word(self) -> str:
        """As it is written in commands, files and messages."""
        return self.name.lower()


SCOPES = {scope.word: scope for scope in (Scope.READ, Scope.WRITE, Scope.ADMIN)}


def _for_ever() -> None:
    """A right that nothing ends."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call.

    key: the same for the same caller, and for no other: "token:ID", "jwt:SUBJECT",
    "certificate:NAME" or "anonymous". Limits and counts go by it. name: for people.
    prefix: a path; its image and all below it are the caller's. Empty: all are.
    check: raises Unauthenticated once the right has ended (revoked, expired); cheap, and
    may be called from any thread.
    """

    key: str
    name: str
    scope: Scope
    prefix: str = ""
    check: Callable[[], None] = field(default=_for_ever, compare=False, repr=False)

    def covers(self, name: str) -> bool:
        """Whether the image `name` is the caller's; nothing that climbs out of a path is."""
        if not self.prefix:
            return True
        segments = unicodedata.normalize("NFC", name).split("/")
        own = self.prefix.split("/")
        return segments[: len(own)] == own and not {"", ".", ".."}.intersection(segments)


ANONYMOUS = Caller("anonymous", "anonymous", Scope.ADMIN)
"""Everybody, where the server asks nobody who they are."""


def prefix_of(text: str, field: str = "prefix") -> str:
    """The path that "lab/" or "lab" means; "" and "/" mean all. InvalidArgument for no path."""
    bare = text.removesuffix("/")
    return check_name(bare, field) if bare else ""
