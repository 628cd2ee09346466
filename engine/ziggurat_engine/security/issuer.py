"""Is this JWT the issuer's, meant for this server, in date, and what does it allow?

Its claims are those of docs/security.md. What is not said is not allowed: a JWT without a
scope of ours, or without the claim for its prefix, opens nothing.
"""

from __future__ import annotations

import time
from typing import Any

import jwt

from ziggurat_engine.config import Settings
from ziggurat_engine.errors import InvalidArgument, Unauthenticated
from ziggurat_engine.security.caller import SCOPES, Caller, Scope, prefix_of
from ziggurat_engine.security.keys import Keys

MARK = "ziggurat:"
MAX_SUBJECT = 256


class Issuer:
    """The issuer of the settings; threads may share it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keys = Keys(settings.jwt_keys, settings.jwt_keys_seconds)

    def caller(self, text: str) -> Caller:
        """Whom a JWT stands for. Unauthenticated."""
        claims = self._claims(text)
        subject = claims["sub"]
        if not 1 <= len(subject) <= MAX_SUBJECT or not subject.isprintable():
            raise Unauthenticated("the token's claim sub can't be a name")
        scope, prefix = self._scope(claims), self._prefix(claims)
        until = float(claims["exp"]) + self._settings.jwt_leeway_seconds

        def check() -> None:
            if time.time() >= until:
                raise Unauthenticated(f"the token of {subject!r} has expired", expired="true")

        return Caller(f"jwt:{subject}", subject, scope, prefix, check)

    def _claims(self, text: str) -> dict[str, Any]:
        settings = self._settings
        try:
            header = jwt.get_unverified_header(text)
            name = header.get("kid")
            key = self._keys.find(name if isinstance(name, str) else None)
            # The key's own, not what the token says of itself.
            if header.get("alg") != key.algorithm_name:
                raise Unauthenticated("the token is not signed as its key signs")
            found: dict[str, Any] = jwt.decode(
                text,
                key,
                algorithms=[key.algorithm_name],
                issuer=settings.jwt_issuer,
                audience=settings.jwt_audience,
                leeway=settings.jwt_leeway_seconds,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("the token has expired", expired="true") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise Unauthenticated(f"the token does not count: {error}") from None
        return found

    def _scope(self, claims: dict[str, Any]) -> Scope:
        said = claims.get(self._settings.jwt_scope_claim, "")
        words = said.split() if isinstance(said, str) else said if isinstance(said, list) else []
        known = {MARK + word: scope for word, scope in SCOPES.items()}
        return max((known[word] for word in words if word in known), default=Scope.NONE)

    def _prefix(self, claims: dict[str, Any]) -> str:
        claim = self._settings.jwt_prefix_claim
        said = claims.get(claim)
        if not isinstance(said, str) or not said:
            raise Unauthenticated(f"the token has no claim {claim!r}: a path, or '/' for all")
        try:
            return prefix_of(said)
        except InvalidArgument:
            raise Unauthenticated(f"the token's claim {claim!r} is no path") from None
