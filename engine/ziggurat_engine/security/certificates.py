"""How does a laboratory without a certificate authority get certificates?

A CA of its own, and of it one certificate for the server and one for a client: elliptic keys
(P-256), PEM, private keys readable by their owner alone. The CA stays when they are made
anew, so that nobody who trusts it has to be told.

    ca.pem ca-key.pem   server.pem server-key.pem   client.pem client-key.pem
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ziggurat_engine.errors import InvalidArgument
from ziggurat_engine.security.secret_file import replace

CA_DAYS = 3650
# Clocks of instruments are seldom right.
EARLIER = datetime.timedelta(days=1)


class _Issuer(NamedTuple):
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def make(directory: Path, *, hosts: Iterable[str], client: str, days: float) -> list[Path]:
    """Makes certificates for a server called any of `hosts`, and for `client`; what was written.

    days: how long they count; the CA, which is made where there is none, 3650.
    InvalidArgument where the CA that is there can't be used; OSError.
    """
    directory.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    place, place_key = directory / "ca.pem", directory / "ca-key.pem"
    if place.exists() or place_key.exists():
        issuer = _read(place, place_key)
    else:
        issuer = _authority()
        written += _write(directory, "ca", issuer)
    server = _issue(issuer, "Ziggurat server", days, ExtendedKeyUsageOID.SERVER_AUTH, hosts)
    written += _write(directory, "server", server)
    person = _issue(issuer, client, days, ExtendedKeyUsageOID.CLIENT_AUTH, ())
    return written + _write(directory, "client", person)


def _authority() -> _Issuer:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("Ziggurat development CA")
    made = (
        _builder(name, name, key, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
    )
    return _Issuer(made.sign(key, hashes.SHA256()), key)


def _issue(
    issuer: _Issuer,
    name: str,
    days: float,
    purpose: x509.ObjectIdentifier,
    hosts: Iterable[str],
) -> _Issuer:
    key = ec.generate_private_key(ec.SECP256R1())
    public = issuer.key.public_key()
    made = (
        _builder(_name(name), issuer.certificate.subject, key, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
    )
    if names := [_host(host) for host in dict.fromkeys(hosts)]:
        made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return _Issuer(made.sign(issuer.key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: float
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    until = now + datetime.timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, until) - EARLIER)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    try:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
    except ValueError as error:
        raise InvalidArgument(f"client {text!r} can't be a name: {error}", field="client") from None


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass
    try:
        return x509.DNSName(text)
    except ValueError as error:
        raise InvalidArgument(f"host {text!r} can't be a name: {error}", field="host") from None


def _read(certificate: Path, key: Path) -> _Issuer:
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        secret = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise InvalidArgument(f"the CA {certificate}, {key} can't be used: {error}") from None
    if not isinstance(secret, ec.EllipticCurvePrivateKey):
        raise InvalidArgument(f"the CA's key {key} is not an elliptic one")
    if secret.public_key() != found.public_key():
        raise InvalidArgument(f"{key} is not the key of {certificate}")
    return _Issuer(found, secret)


def _write(directory: Path, name: str, made: _Issuer) -> list[Path]:
    key = made.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    paths = [directory / f"{name}-key.pem", directory / f"{name}.pem"]
    replace(paths[0], key)
    replace(paths[1], made.certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    return paths
