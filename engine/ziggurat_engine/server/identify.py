"""How does a call say who makes it?

By metadata `authorization: Bearer TOKEN`, with a token of the data directory, or a JWT of
the issuer that the settings name. Where no token is asked for, by its TLS certificate, or
not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc

from ziggurat_engine.config import Settings
from ziggurat_engine.errors import InvalidArgument, Unauthenticated
from ziggurat_engine.security.audit import AuditLog
from ziggurat_engine.security.caller import ANONYMOUS, Caller, Scope
from ziggurat_engine.security.tokens import MARK, TokenFile, Tokens

if TYPE_CHECKING:
    from ziggurat_engine.security.issuer import Issuer

# gRPC itself takes 8 KiB of metadata, or a little more.
MAX_TOKEN_BYTES = 8192

Identify: TypeAlias = Callable[[grpc.ServicerContext], Caller]


def identifier(settings: Settings) -> Identify:
    """Who makes a call, by these settings.

    Raises as TokenFile.read does; InvalidArgument where JWTs count, and can't be read.
    """
    if settings.auth == "none":
        return _by_certificate
    tokens = Tokens(TokenFile(settings.data))
    issuer = _issuer(settings) if settings.jwt_issuer else None

    def by_token(context: grpc.ServicerContext) -> Caller:
        text = bearer(context)
        if text.startswith(MARK):
            return tokens.caller(text)
        if issuer is not None:
            return issuer.caller(text)
        raise Unauthenticated("the token is not one that this server takes")

    return by_token


def _issuer(settings: Settings) -> Issuer:
    try:
        from ziggurat_engine.security.issuer import Issuer
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.split(".")[0] == "ziggurat_engine":
            raise
        raise InvalidArgument(
            f"{missing.name} is missing; jwt_issuer needs pip install 'ziggurat-engine[jwt]'",
            field="jwt_issuer",
        ) from None
    return Issuer(settings)


def first_token(settings: Settings) -> str | None:
    """The token of a new administrator, where tokens are needed and there never was any."""
    if settings.auth == "none":
        return None
    text = TokenFile(settings.data).first()
    if text is not None:
        AuditLog.of(settings).record(
            "token.create", by="server", key="server", origin="start", result="OK", name="admin"
        )
    return text


def bearer(context: grpc.ServicerContext) -> str:
    """The token that comes with a call. Unauthenticated."""
    found = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
    if not found:
        raise Unauthenticated("a token is needed: metadata 'authorization: Bearer TOKEN'")
    scheme, _, text = str(found[0]).partition(" ")
    if len(found) > 1 or scheme.lower() != "bearer" or not text or len(text) > MAX_TOKEN_BYTES:
        raise Unauthenticated("the metadata 'authorization' is not 'Bearer TOKEN'")
    return text.strip()


def _by_certificate(context: grpc.ServicerContext) -> Caller:
    shown: Any = context.auth_context().get("x509_common_name")
    if not shown:
        return ANONYMOUS
    name = shown[0].decode("utf-8", "replace")
    return Caller(f"certificate:{name}", name, Scope.ADMIN)
