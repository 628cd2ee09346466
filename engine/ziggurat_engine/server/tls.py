"""How does the server listen: on what, with TLS or without, and is that safe?

Certificates are looked at again whenever a client connects, and read anew where a file was
replaced. Connections that are open keep what they began with.
"""

from __future__ import annotations

import ipaddress
import logging
import ssl
import threading
from pathlib import Path
from typing import NamedTuple

import grpc

from ziggurat_engine.config import Settings
from ziggurat_engine.errors import InvalidArgument

log = logging.getLogger(__name__)


def check_exposure(settings: Settings) -> None:
    """InvalidArgument where other machines could read along, or do what they like, unasked for."""
    if is_local(settings.listen):
        return
    if settings.tls_cert is None and not settings.allow_plaintext:
        raise InvalidArgument(
            f"listen = {settings.listen} is more than loopback, and there is no TLS: set tls_cert"
            " and tls_key, or allow_plaintext = true where all may read what is said",
            field="listen",
        )
    if settings.auth == "none" and settings.tls_client_ca is None and not settings.allow_anonymous:
        raise InvalidArgument(
            f"listen = {settings.listen} is more than loopback, and everybody may do everything:"
            ' set auth = "token" or tls_client_ca, or allow_anonymous = true',
            field="listen",
        )


def is_local(address: str) -> bool:
    """Whether only this machine can reach it: loopback, or a socket in the file system."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        # A name: it may lead anywhere, tomorrow if not today.
        return False


def listen(server: grpc.Server, settings: Settings) -> str:
    """Has the server listen; the address, with the port that it took.

    OSError where it can't be, InvalidArgument where certificate and key can't be used.
    """
    try:
        if settings.tls_cert is None:
            port = server.add_insecure_port(settings.listen)
        else:
            port = server.add_secure_port(settings.listen, _credentials(settings))
    except RuntimeError as error:
        raise OSError(f"can't listen on {settings.listen}: {error}") from error
    if settings.listen.startswith("unix:"):
        return settings.listen
    host, _, _ = settings.listen.rpartition(":")
    return f"{host}:{port}" if host else settings.listen


class _Pem(NamedTuple):
    cert: bytes
    key: bytes
    client_ca: bytes | None


class Certificates:
    """The files of the settings, as they are now; threads may share it."""

    def __init__(self, cert: Path, key: Path, client_ca: Path | None) -> None:
        self._cert, self._key, self._client_ca = cert, key, client_ca
        self._lock = threading.Lock()
        self._seen = self._look()
        self.pem = self._read()

    def renewed(self) -> _Pem | None:
        """What the files hold if they were replaced since the last call, and can be used."""
        with self._lock:
            try:
                seen = self._look()
                if seen == self._seen:
                    return None
                pem = self._read()
                # What is replaced while it is read may be half of each: the next time, then.
                if self._look() != seen:
                    return None
            except (OSError, InvalidArgument) as error:
                log.error("the old certificate is still in use: %s", error)
                return None
            self._seen, self.pem = seen, pem
            log.info("certificate %s is in use", self._cert)
            return pem

    def _look(self) -> list[tuple[int, int, int]]:
        files = (self._cert, self._key, *([self._client_ca] if self._client_ca else []))
        found = [path.stat() for path in files]
        return [(stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in found]

    def _read(self) -> _Pem:
        # Only to hear what is wrong: gRPC would refuse every connection instead.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self._cert, self._key, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            raise InvalidArgument(
                f"tls_cert = {self._cert} and tls_key = {self._key} can't be used: {error}",
                field="tls_cert",
            ) from None
        client_ca = None
        if self._client_ca is not None:
            client_ca = self._client_ca.read_bytes()
            try:
                context.load_verify_locations(self._client_ca)
            except ssl.SSLError as error:
                raise InvalidArgument(
                    f"tls_client_ca = {self._client_ca} can't be used: {error}",
                    field="tls_client_ca",
                ) from None
        return _Pem(self._cert.read_bytes(), self._key.read_bytes(), client_ca)


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _credentials(settings: Settings) -> grpc.ServerCredentials:
    assert settings.tls_cert is not None
    assert settings.tls_key is not None
    certificates = Certificates(settings.tls_cert, settings.tls_key, settings.tls_client_ca)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        pem = certificates.renewed()
        return None if pem is None else _configuration(pem)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(certificates.pem),
        fetch,  # type: ignore[arg-type]  # None: as before
        require_client_authentication=settings.tls_client_ca is not None,
    )


def _configuration(pem: _Pem) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.cert)], pem.client_ca)
