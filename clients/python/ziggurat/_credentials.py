"""What does a client show a server, and whom does it believe to be one?

What is not given comes from the environment: ZIGGURAT_TOKEN, ZIGGURAT_CA, ZIGGURAT_CERT,
ZIGGURAT_KEY and ZIGGURAT_INSECURE ("1": a token may go over plain text). Files are read once.
A token never goes over plain text beyond this machine unless that is said to be well.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeAlias

import grpc

from ziggurat._errors import InvalidArgument

Token: TypeAlias = str | Callable[[], str]


class Credentials(NamedTuple):
    """Settings of a connection; pickled with it, the token too.

    tls: whether it is spoken. ca, cert, key: PEM; ca None: whom this machine trusts.
    """

    token: Token | None = None
    tls: bool = False
    ca: bytes | None = None
    cert: bytes | None = None
    key: bytes | None = None

    def channel(self, server: str, options: list[tuple[str, object]]) -> grpc.Channel:
        """A channel to `server`."""
        if not self.tls:
            return grpc.insecure_channel(server, options)
        secret = grpc.ssl_channel_credentials(self.ca, self.key, self.cert)
        return grpc.secure_channel(server, secret, options)

    def metadata(self) -> tuple[tuple[str, str], ...] | None:
        """What goes with a call. InvalidArgument where the token can't be sent."""
        token = self.token() if callable(self.token) else self.token
        if not token:
            return None
        token = token.strip()
        if not (token.isascii() and token.isprintable()) or " " in token:
            raise InvalidArgument("token has characters that no token has", field="token")
        return (("authorization", f"Bearer {token}"),)


NOTHING = Credentials()


def credentials(
    server: str,
    *,
    token: Token | None,
    ca: str | os.PathLike[str] | None,
    cert: str | os.PathLike[str] | None,
    key: str | os.PathLike[str] | None,
    tls: bool | None,
    insecure: bool | None,
) -> Credentials:
    """What the arguments of `connect`, and the environment, come to.

    Raises InvalidArgument, naming the argument, where they make no sense, or a file can't be
    read.
    """
    token = token or os.environ.get("ZIGGURAT_TOKEN") or None
    ca = ca or os.environ.get("ZIGGURAT_CA") or None
    if cert is None and key is None:
        cert, key = (os.environ.get(f"ZIGGURAT_{name}") or None for name in ("CERT", "KEY"))
    if insecure is None:
        insecure = os.environ.get("ZIGGURAT_INSECURE", "").lower() in ("1", "true", "yes")
    if (cert is None) != (key is None):
        raise InvalidArgument(
            "cert and key are needed together", field="key" if key is None else "cert"
        )
    if tls is None:
        tls = ca is not None or cert is not None
    elif not tls:
        ca = cert = key = None
    made = Credentials(token, tls, _read(ca, "ca"), _read(cert, "cert"), _read(key, "key"))
    if token and not (tls or insecure or _is_local(server)):
        raise InvalidArgument(
            f"the token would go to {server} over plain text, where others can read it: give ca"
            " or tls=True, or insecure=True (ZIGGURAT_INSECURE=1) on a network that you trust",
            field="token",
        )
    made.metadata() if isinstance(token, str) else None
    return made


def _read(path: str | os.PathLike[str] | None, field: str) -> bytes | None:
    if path is None:
        return None
    try:
        found = Path(path).read_bytes()
    except OSError as error:
        raise InvalidArgument(f"{field}: {error}", field=field) from None
    if b"-----BEGIN " not in found:
        raise InvalidArgument(f"{field}: {os.fspath(path)} is no PEM file", field=field)
    return found


def _is_local(server: str) -> bool:
    if server.startswith("unix:"):
        return True
    host = server.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
