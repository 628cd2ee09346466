"""Which tokens are there, and what is one worth?

A token is "zgt_ID_SECRET": 64 bits that name it, and 256 random bits. tokens.json in the data
directory, readable by its owner alone, holds what each may do and a salted SHA-256 of it.
(A secret that nobody chose can't be guessed, so that a slow hash would only slow calls.)

    {"format": 1, "tokens": [{"id", "name", "scope", "prefix", "created", "expires",
                              "salt", "hash"}, ...]}

Times are seconds since the Unix epoch; expires: null for never. Who changes the file holds
a lock and replaces it. A server needs no word: it looks whether there is a new one when it is
asked for a token that it does not know, and every RELOAD_SECONDS while it is asked.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import hmac
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ziggurat_engine.errors import (
    AlreadyExists,
    Corrupt,
    InvalidArgument,
    NotFound,
    Unauthenticated,
    UnsupportedVersion,
)
from ziggurat_engine.security.caller import SCOPES, Caller, Scope, prefix_of
from ziggurat_engine.security.secret_file import replace

log = logging.getLogger(__name__)

FORMAT = 1
MARK = "zgt_"
RELOAD_SECONDS = 1.0
MAX_NAME = 64


class Token(BaseModel):
    """What the file has of one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    name: str
    scope: str
    prefix: str
    created: float
    expires: float | None
    salt: str = Field(repr=False)
    hash: str = Field(repr=False)

    @property
    def expired(self) -> bool:
        """Whether its time is over."""
        return self.expires is not None and time.time() >= self.expires


class TokenFile:
    """The tokens of a data directory, for those who change them. Processes may share it."""

    def __init__(self, data: Path) -> None:
        self.path = data / "tokens.json"

    def read(self) -> list[Token]:
        """All tokens, also those that expired; none where there is no file.

        Raises Corrupt, UnsupportedVersion, OSError.
        """
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return []
        return _parsed(text, self.path)

    def create(
        self, name: str, scope: Scope, prefix: str = "", expires: float | None = None
    ) -> tuple[Token, str]:
        """A new token, and what its owner has to say, which is kept nowhere.

        Durable when it returns. InvalidArgument, AlreadyExists for the name, OSError.
        """
        if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
            raise InvalidArgument(f"name {name!r} is not 1 to {MAX_NAME} letters", field="name")
        spoken, salt = secrets.token_urlsafe(32), secrets.token_hex(16)
        token = Token(
            id=secrets.token_hex(8),
            name=name,
            scope=scope.word,
            prefix=prefix_of(prefix),
            created=time.time(),
            expires=expires,
            salt=salt,
            hash=_hash(salt, spoken),
        )
        with self._changed() as tokens:
            if any(other.name == name for other in tokens):
                raise AlreadyExists(f"there is a token {name!r}; revoke it first", field="name")
            tokens.append(token)
        return token, f"{MARK}{token.id}_{spoken}"

    def revoke(self, which: str) -> Token:
        """Forgets the token with that id or name; durable when it returns. NotFound, OSError."""
        with self._changed() as tokens:
            for token in tokens:
                if which in (token.id, token.name):
                    tokens.remove(token)
                    return token
            raise NotFound(f"there is no token {which!r}", field="token")

    def first(self) -> str | None:
        """Makes the token "admin" where there never was any; what is to be told, once."""
        if self.path.exists():
            return None
        return self.create("admin", Scope.ADMIN)[1]

    @contextlib.contextmanager
    def _changed(self) -> Iterator[list[Token]]:
        """What is left in the list is written, unless something is raised."""
        with self.path.with_suffix(".lock").open("ab") as lock:
            os.fchmod(lock.fileno(), 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            tokens = self.read()
            yield tokens
            content = {"format": FORMAT, "tokens": [token.model_dump() for token in tokens]}
            replace(self.path, json.dumps(content, indent=1).encode())


class _Seen(NamedTuple):
    """A file's identity; what is replaced has another one."""

    inode: int
    size: int
    changed: int


class Tokens:
    """The tokens of a running server; threads may share it. Raises as TokenFile.read does."""

    def __init__(self, file: TokenFile) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._seen = self._look()
        # The file of which the log says that it can't be read.
        self._told: _Seen | None = None
        self._known = {token.id: token for token in file.read()}
        self._next = time.monotonic() + RELOAD_SECONDS

    def caller(self, text: str) -> Caller:
        """Whom the token stands for. Unauthenticated, which does not say what is wrong."""
        ident, _, spoken = text.removeprefix(MARK).partition("_")
        token = self._now().get(ident)
        if token is None:
            # Perhaps it was made just now.
            token = self._now(at_once=True).get(ident)
        # As long for an id that nobody has.
        wanted, salt = (token.hash, token.salt) if token else ("", "")
        if not hmac.compare_digest(_hash(salt, spoken), wanted) or token is None:
            raise Unauthenticated("the token is not known, or was revoked")
        if token.expired:
            raise _expired(token)
        check = functools.partial(self._check, token)
        return Caller(f"token:{token.id}", token.name, SCOPES[token.scope], token.prefix, check)

    def _check(self, token: Token) -> None:
        if self._now().get(token.id) != token:
            raise Unauthenticated(f"token {token.name!r} was revoked")
        if token.expired:
            raise _expired(token)

    def _now(self, *, at_once: bool = False) -> dict[str, Token]:
        if at_once or time.monotonic() >= self._next:
            with self._lock:
                if at_once or time.monotonic() >= self._next:
                    self._reload()
                    self._next = time.monotonic() + RELOAD_SECONDS
        return self._known

    def _reload(self) -> None:
        seen = self._seen
        try:
            # Before it is read: what replaces it meanwhile is seen the next time.
            seen = self._look()
            if seen != self._seen:
                self._known = {token.id: token for token in self._file.read()}
                self._seen = seen
        except Exception:  # somebody edited it: what counted before counts until that is mended
            if seen is None or seen != self._told:
                self._told = seen
                log.exception("tokens can't be read; those that were known still count")

    def _look(self) -> _Seen | None:
        try:
            found = self._file.path.stat()
        except FileNotFoundError:
            return None
        return _Seen(found.st_ino, found.st_size, found.st_mtime_ns)


def _expired(token: Token) -> Unauthenticated:
    return Unauthenticated(f"token {token.name!r} has expired", expired="true")


def _hash(salt: str, spoken: str) -> str:
    return hashlib.sha256(f"{salt}:{spoken}".encode("utf-8", "replace")).hexdigest()


def _parsed(text: bytes, path: Path) -> list[Token]:
    try:
        content = json.loads(text)
        if isinstance(content, dict) and content.get("format", 0) > FORMAT:
            raise UnsupportedVersion(f"{path} was written by a newer Ziggurat")
        tokens = [Token.model_validate(token) for token in content["tokens"]]
        if unknown := {token.scope for token in tokens} - SCOPES.keys():
            raise Corrupt(f"{path} has the scopes {sorted(unknown)}")
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise Corrupt(f"{path} is not a file of tokens: {error}") from None
    return tokens
