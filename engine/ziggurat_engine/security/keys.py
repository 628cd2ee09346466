"""With which keys does an issuer sign now? A JWKS (RFC 7517), from a file or by https.

Keys are bound to one algorithm each: their own, or the usual one of their kind. Only those of
ALGORITHMS count; secrets that the issuer would share (kty "oct") never do.
"""

from __future__ import annotations

import http.client
import json
import logging
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import IO

import jwt

from ziggurat_engine.errors import InvalidArgument, Unauthenticated

log = logging.getLogger(__name__)

ALGORITHMS = frozenset(
    ["EdDSA", *(f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512))]
)
FETCH_SECONDS = 5.0
# Anybody may name a key that is not there.
LEAST_SECONDS = 10.0
MAX_BYTES = 2**20
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The keys come from where the settings say, or not at all."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> None:
        """Never."""


class Keys:
    """The keys at `place`, a path or URL; threads may share it.

    refresh_seconds: after which they are fetched again, by whoever asks then; others go on
    with those that were there. least_seconds: between two fetches at least, also for a key that
    is not known.
    """

    def __init__(
        self, place: str, refresh_seconds: float, least_seconds: float = LEAST_SECONDS
    ) -> None:
        self._place = place
        self._refresh_seconds, self._least_seconds = refresh_seconds, least_seconds
        parts = urllib.parse.urlsplit(place)
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise InvalidArgument(
                f"jwt_keys = {place}: keys over http could be anybody's; use https",
                field="jwt_keys",
            )
        self._remote = parts.scheme in ("http", "https")
        self._lock = threading.Lock()
        self._known: dict[str | None, jwt.PyJWK] = {}
        self._next_refresh = self._next_try = 0.0
        # A start without them is a start: the issuer may be up later.
        self._refresh()

    def find(self, name: str | None) -> jwt.PyJWK:
        """The key that a token names; where it names none, the only one. Unauthenticated."""
        if time.monotonic() >= self._next_refresh and self._lock.acquire(blocking=False):
            try:
                self._refresh()
            finally:
                self._lock.release()
        found = self._of(name)
        if found is None:
            with self._lock:
                # Whoever had the lock before may have brought it.
                if self._of(name) is None and time.monotonic() >= self._next_try:
                    self._refresh()
            found = self._of(name)
        if found is None:
            raise Unauthenticated("the token is signed with a key that its issuer does not have")
        return found

    def _of(self, name: str | None) -> jwt.PyJWK | None:
        known = self._known
        if name is None and len(known) == 1:
            return next(iter(known.values()))
        return known.get(name) if name is not None else None

    def _refresh(self) -> None:
        now = time.monotonic()
        self._next_try = now + self._least_seconds
        self._next_refresh = now + max(self._least_seconds, self._refresh_seconds)
        try:
            known = _parsed(self._read())
        except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
            log.error(
                "jwt_keys = %s can't be had; those known before count: %s", self._place, error
            )
        else:
            self._known = known

    def _read(self) -> bytes:
        if not self._remote:
            return Path(self._place).read_bytes()
        opener = urllib.request.build_opener(_NoRedirect)
        with opener.open(self._place, timeout=FETCH_SECONDS) as answer:
            found: bytes = answer.read(MAX_BYTES + 1)
        if len(found) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        return found


def _parsed(text: bytes) -> dict[str | None, jwt.PyJWK]:
    """The keys that may be used, by their names."""
    document = json.loads(text)
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError("no set of keys (JWKS)")
    known: dict[str | None, jwt.PyJWK] = {}
    for entry in document["keys"]:
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK(entry)
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError) as error:
            log.warning("a key of the issuer is of no use: %s", error)
            continue
        name = key.key_id
        if key.algorithm_name in ALGORITHMS and (name is None or isinstance(name, str)):
            known[name] = key
    return known
