"""Does a JWT count only where the issuer signed it, for us, now, and says what it allows?"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.server
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import jwt
import numpy as np
import pytest
import ziggurat
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms
from ziggurat_engine.config import load
from ziggurat_engine.errors import InvalidArgument, Unauthenticated
from ziggurat_engine.security.caller import Scope
from ziggurat_engine.security.issuer import Issuer
from ziggurat_engine.security.keys import Keys
from ziggurat_proto.v1 import service_pb2

from tests.security.calls import Caller, Guarded, bearer
from tests.support.audit import audited
from tests.support.server import ServerProcess
from tests.support.waiting import until

ISSUER, AUDIENCE = "https://login.example.org", "ziggurat"
SECRETS: dict[str, Any] = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
OTHER = rsa.generate_private_key(65537, 2048)


def jwk(algorithm: str, name: str, secret: Any, **more: Any) -> dict[str, Any]:
    text = get_default_algorithms()[algorithm].to_jwk(secret.public_key())
    return {**json.loads(text), "kid": name, "use": "sig", "alg": algorithm, **more}


KEYS = [jwk(algorithm, algorithm, secret) for algorithm, secret in SECRETS.items()]
PUBLIC = (
    SECRETS["RS256"]
    .public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
)


def claims(**changed: Any) -> dict[str, Any]:
    """Those of a good token; None takes one away."""
    made = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ada",
        "exp": time.time() + 600,
        "scope": "openid ziggurat:write",
        "ziggurat_prefix": "lab/",
        **changed,
    }
    return {name: value for name, value in made.items() if value is not None}


def signed(algorithm: str = "RS256", secret: Any = None, name: str = "", **changed: Any) -> str:
    key = secret or SECRETS[algorithm]
    return jwt.encode(claims(**changed), key, algorithm, headers={"kid": name or algorithm})


def forged(header: dict[str, Any], secret: bytes | None = None) -> str:
    """Put together by hand: libraries refuse to. secret: of an HMAC; None: no signature."""

    def encode(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    body = ".".join(encode(json.dumps(part).encode()) for part in (header, claims()))
    mac = b"" if secret is None else hmac.digest(secret, body.encode(), hashlib.sha256)
    return f"{body}.{encode(mac)}"


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    path.write_text(json.dumps({"keys": KEYS}))
    return path


def settings_of(keys: object) -> dict[str, Any]:
    return {"auth": "token", "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwt_keys": str(keys)}


@pytest.fixture(scope="module")
def issuer(key_file: Path) -> Issuer:
    return Issuer(load(data="d", **settings_of(key_file)))


@pytest.fixture(scope="module")
def trusting(key_file: Path, serve_module: Callable[..., ServerProcess]) -> Iterator[Guarded]:
    """A server that takes JWTs as well as tokens of its own."""
    server = serve_module(cache_bytes="64MiB", kernels="reference", **settings_of(key_file))
    made = Guarded(server)
    yield made
    made.close()
    server.stop()


def test_a_server_takes_both(trusting: Guarded) -> None:
    with trusting.connect() as client:
        client.create("other/run", axes="yx", shape=(4, 4), dtype="uint8")
    with trusting.connect(signed()) as client:
        client.create("lab/run", axes="yx", shape=(4, 4), dtype="uint8")
        assert [image.name for image in client.list()] == ["lab/run"]
        for refused in (
            lambda: client.create("other/b", axes="yx", shape=(4, 4), dtype="uint8"),
            lambda: client.open("other/run"),
            lambda: client.delete("lab/run"),
        ):
            with pytest.raises(ziggurat.PermissionDenied):
                refused()
    with trusting.connect(signed("ES256", scope="ziggurat:admin")) as client:
        client.delete("lab/run")
    said = audited(trusting.server.data / "audit.jsonl", image="lab/run")
    assert {line["key"] for line in said} == {"jwt:ada"}


def test_a_stream_ends_when_it_expires(trusting: Guarded, key_file: Path) -> None:
    with trusting.connect(signed()) as client:
        client.create("lab/stream", axes="yx", shape=(4, 4), dtype="uint8")
    with contextlib.ExitStack() as stack:
        writer = opened(trusting, stack)
        with pytest.raises(ziggurat.Unauthenticated, match="expired"):
            until(lambda: writer.flush() or writer.skip(1), "the writer to be told")
        writer.cancel()


def test_a_writer_goes_on_with_another(trusting: Guarded) -> None:
    """A function gives JWTs: one that is over soon, and then others."""
    leeway = load(data="d").jwt_leeway_seconds
    lives = iter(2.0**n for n in itertools.count())
    opened = False

    def token() -> str:
        # Until a writer is open: on a busy machine one may be over before it is.
        return signed(exp=time.time() + 600 if opened else time.time() - leeway + next(lives))

    with trusting.connect() as client:
        client.create("lab/long", axes="tyx", shape=(0, 4, 4), dtype="uint8", unbounded=True)
    with trusting.connect(signed()) as steady, trusting.connect(token) as client:
        (image,) = until(lambda: asked(client), "a token to reach the server in time")
        (writer,) = until(lambda: asked(client, image), "a writer to be opened in time")
        opened, t = True, 0
        while not writer.reconnects:
            writer.write(np.full((4, 4), t % 256, "uint8"), t=t)
            writer.flush()
            t += 1
        writer.close()
        read = steady.open("lab/long").read()
    assert (read == np.arange(t).astype("uint8")[:, None, None]).all()
    with trusting.connect() as client:
        client.delete("lab/long")


def asked(client: ziggurat.Client, image: Any = None) -> Any:
    """The image, or a writer to it, in a tuple; nothing where the token was over before."""
    with contextlib.suppress(ziggurat.Unauthenticated):
        return (client.open("lab/long") if image is None else image.writer(),)
    return ()


def opened(trusting: Guarded, stack: contextlib.ExitStack) -> ziggurat.Writer:
    """A writer whose JWT is over soon, yet not before it was opened."""
    leeway = load(data="d").jwt_leeway_seconds
    for seconds in (2, 4, 8, 16, 32):
        soon = signed(exp=time.time() - leeway + seconds)
        client = stack.enter_context(trusting.connect(soon))
        with contextlib.suppress(ziggurat.Unauthenticated):
            return client.open("lab/stream").writer()
    raise AssertionError("no writer was opened in time")


HOSTILE: dict[str, Callable[[], str]] = {
    "none": lambda: forged({"alg": "none"}),
    "none, named key": lambda: forged({"alg": "none", "kid": "RS256"}),
    "nOnE": lambda: forged({"alg": "nOnE", "kid": "RS256"}),
    "the public key as a secret": lambda: forged({"alg": "HS256", "kid": "RS256"}, PUBLIC),
    "and its JWK": lambda: forged({"alg": "HS256", "kid": "RS256"}, json.dumps(KEYS[0]).encode()),
    "its own key": lambda: forged({"alg": "RS256", "jwk": jwk("RS256", "x", OTHER)}, b"x"),
    "no algorithm": lambda: forged({"kid": "RS256"}),
    "another key": lambda: signed(secret=OTHER),
    "an unknown key": lambda: signed(name="other"),
    "no key named of several": lambda: jwt.encode(claims(), SECRETS["RS256"], "RS256"),
    "another algorithm of the key": lambda: jwt.encode(
        claims(), SECRETS["RS256"], "RS512", headers={"kid": "RS256"}
    ),
    "a key's name that is a list": lambda: forged({"alg": "RS256", "kid": ["RS256"]}, b""),
    "a path as the key": lambda: forged({"alg": "HS256", "kid": "/dev/null"}, b""),
    "wrong audience": lambda: signed(aud="another"),
    "no audience": lambda: signed(aud=None),
    "wrong issuer": lambda: signed(iss="https://login.example.com"),
    "issuer with a slash": lambda: signed(iss=ISSUER + "/"),
    "no issuer": lambda: signed(iss=None),
    "expired": lambda: signed(exp=time.time() - 100),
    "never expires": lambda: signed(exp=None),
    "expires never": lambda: signed(exp=float("inf")),
    "expires at no time": lambda: signed(exp=float("nan")),
    "is somebody's list": lambda: signed(sub=["ada"]),
    "expires some day": lambda: signed(exp="tomorrow"),
    "not yet": lambda: signed(nbf=time.time() + 100),
    "nobody": lambda: signed(sub=None),
    "nameless": lambda: signed(sub=""),
    "with a name of lines": lambda: signed(sub='a\n{"by": "admin"}'),
    "no prefix": lambda: signed(ziggurat_prefix=None),
    "empty prefix": lambda: signed(ziggurat_prefix=""),
    "prefix that climbs": lambda: signed(ziggurat_prefix="lab/.."),
    "several prefixes": lambda: signed(ziggurat_prefix=["lab", "other"]),
    "other claims": lambda: ".".join(
        (
            signed().split(".")[0],
            signed(scope="ziggurat:admin").split(".")[1],
            signed().split(".")[2],
        )
    ),
    "cut short": lambda: signed().rpartition(".")[0] + ".",
    "dots": lambda: "..",
    "deep": lambda: base64.urlsafe_b64encode(b'{"a":' * 900).decode() + ".e30.e30",
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_what_does_not_count(issuer: Issuer, make: Callable[[], str]) -> None:
    with pytest.raises(Unauthenticated):
        issuer.caller(make())


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_nor_over_a_socket(trusting: Guarded, make: Callable[[], str]) -> None:
    caller = Caller(trusting.channel, bearer(make()))
    found = caller.refused("GetStatus", service_pb2.GetStatusRequest())
    assert (found.code, found.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")


SAID = {
    "words": ("openid ziggurat:read", Scope.READ),
    "the highest": ("ziggurat:write ziggurat:admin ziggurat:read", Scope.ADMIN),
    "a list": (["ziggurat:write", 7], Scope.WRITE),
    "of others": ("admin write ziggurat:root xziggurat:admin ZIGGURAT:ADMIN", Scope.NONE),
    "nothing": ("", Scope.NONE),
    "missing": (None, Scope.NONE),
    "a number": (3, Scope.NONE),
    "an object": ({"ziggurat:admin": True}, Scope.NONE),
}


@pytest.mark.parametrize(("said", "scope"), SAID.values(), ids=SAID)
def test_scopes_are_words(issuer: Issuer, said: Any, scope: Scope) -> None:
    assert issuer.caller(signed(scope=said)).scope is scope


@pytest.mark.parametrize("algorithm", SECRETS)
def test_every_kind_of_key(issuer: Issuer, algorithm: str) -> None:
    caller = issuer.caller(signed(algorithm))
    assert (caller.key, caller.name, caller.prefix) == ("jwt:ada", "ada", "lab")
    assert issuer.caller(signed(algorithm, ziggurat_prefix="/")).prefix == ""
    assert issuer.caller(signed(algorithm, aud=["x", AUDIENCE])).covers("lab/a")


def test_secrets_and_strange_keys_are_no_keys(tmp_path: Path) -> None:
    """A set that shares a secret, or holds what nobody knows, gives none of them."""
    path = tmp_path / "keys.json"
    secret = base64.urlsafe_b64encode(32 * b"k").decode()
    strange = [
        {"kty": "oct", "k": secret, "kid": "shared", "alg": "HS256"},
        {"kty": "new", "kid": "new"},
        {"kid": "empty"},
        "none",
        {"kty": "RSA", "kid": "empty"},
        {"kty": "RSA", "n": 7, "e": [], "kid": "numbers"},
        {"kty": ["RSA"], "kid": "list"},
        {**jwk("RS256", "x", SECRETS["RS256"]), "kid": ["RS256"]},
        jwk("RS256", "encrypts", SECRETS["RS256"], use="enc"),
        jwk("ES256", "good", SECRETS["ES256"]),
    ]
    path.write_text(json.dumps({"keys": strange}))
    issuer = Issuer(load(data="d", **settings_of(path)))
    for bad in (
        jwt.encode(claims(), 32 * b"k", "HS256", headers={"kid": "shared"}),
        signed("RS256", name="encrypts"),
    ):
        with pytest.raises(Unauthenticated):
            issuer.caller(bad)
    # Of one key alone the name may be left out.
    assert issuer.caller(jwt.encode(claims(), SECRETS["ES256"], "ES256")).name == "ada"


class Place(http.server.BaseHTTPRequestHandler):
    """Answers with what the test put there."""

    document: dict[str, Any] | None = None
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/keys")
            self.end_headers()
            return
        self.send_response(500 if self.document is None else 200)
        self.end_headers()
        if self.document is not None:
            self.wfile.write(json.dumps(self.document).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def place() -> Iterator[str]:
    Place.document, Place.asked = {"keys": KEYS[:1]}, 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Place) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/keys"
        server.shutdown()
        thread.join()


def test_keys_are_fetched_again(place: str) -> None:
    """A new key when it is named, a key that is gone after a time, and none while it fails."""
    keys = Keys(place, refresh_seconds=10**6, least_seconds=0)
    assert keys.find("RS256").algorithm_name == "RS256"
    assert Place.asked == 1
    with pytest.raises(Unauthenticated):
        keys.find("ES256")
    Place.document = {"keys": KEYS[1:2]}
    assert keys.find("ES256").algorithm_name == "ES256"
    with pytest.raises(Unauthenticated):
        keys.find("RS256")
    Place.document = None
    with pytest.raises(Unauthenticated):
        keys.find("RS256")
    assert keys.find("ES256").algorithm_name == "ES256"
    Place.document = {"keys": KEYS}
    soon = Keys(place, refresh_seconds=0, least_seconds=0)
    Place.document = {"keys": KEYS[:1]}
    with pytest.raises(Unauthenticated):
        soon.find("ES256")


def test_unknown_names_fetch_nothing_for_a_while(place: str) -> None:
    keys = Keys(place, refresh_seconds=10**6, least_seconds=10**6)
    for _ in range(20):
        with pytest.raises(Unauthenticated):
            keys.find("x")
    assert Place.asked == 1


@pytest.mark.parametrize("document", [None, [], {}, {"keys": 7}, {"keys": [], "x": 2**20 * "x"}])
def test_a_place_without_keys(place: str, document: Any) -> None:
    Place.document = document
    with pytest.raises(Unauthenticated):
        Keys(place, 0, 0).find("RS256")


def test_a_file_that_is_too_deep(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(10**5 * "[")
    with pytest.raises(Unauthenticated):
        Keys(str(tmp_path / "keys"), 0, 0).find("RS256")


def test_only_from_where_the_settings_say(place: str) -> None:
    with pytest.raises(Unauthenticated):
        Keys(place.replace("/keys", "/moved"), 0, 0).find("RS256")
    with pytest.raises(InvalidArgument, match="https"):
        Keys("http://login.example.org/keys", 0)


@pytest.mark.parametrize("lacking", ["jwt_issuer", "jwt_audience", "jwt_keys", "auth"])
def test_settings_go_together(key_file: Path, lacking: str) -> None:
    given = settings_of(key_file)
    del given[lacking]
    with pytest.raises(ValueError, match="jwt_issuer"):
        load(data="d", **given)
