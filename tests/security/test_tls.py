"""Is TLS spoken where it has to be, and only with whom it may?"""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
import ziggurat
from ziggurat_engine.config import load
from ziggurat_engine.errors import InvalidArgument
from ziggurat_engine.security.certificates import make
from ziggurat_engine.server.tls import Certificates, check_exposure, is_local

from tests.security.calls import certificates
from tests.support.command import run
from tests.support.server import ServerProcess, clean_environment

QUICK = {"cache_bytes": "64MiB", "kernels": "reference"}


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of a CA that nobody here trusts."""
    return certificates(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="module")
def mutual(
    pem: dict[str, Path], serve_module: Callable[..., ServerProcess]
) -> Iterator[ServerProcess]:
    """A server that wants a certificate of its clients."""
    server = serve_module(
        tls_cert=pem["server"], tls_key=pem["server_key"], tls_client_ca=pem["ca"], **QUICK
    )
    yield server
    server.stop()


def connected(server: ServerProcess, pem: dict[str, Path], **more) -> ziggurat.Client:
    shown = {"cert": pem["client"], "key": pem["client_key"]}
    return ziggurat.connect(server.address, **{"ca": pem["ca"], **shown, **more})


def test_each_knows_the_other(mutual: ServerProcess, pem: dict[str, Path]) -> None:
    with connected(mutual, pem) as client:
        image = client.create("lab/a", axes="yx", shape=(4, 4), dtype="uint8")
        assert image.read().sum() == 0
    said = (mutual.data / "audit.jsonl").read_text("utf-8")
    assert '"by": "microscope", "key": "certificate:microscope"' in said


def test_health_over_tls(mutual: ServerProcess, pem: dict[str, Path]) -> None:
    """With what is said in options, or in the environment; without, it isn't ready for us."""
    shown = {"cert": pem["client"], "key": pem["client_key"]}
    options = [f"--{name}={path}" for name, path in {"ca": pem["ca"], **shown}.items()]
    assert run("ziggurat-engine", "health", mutual.address, *options).stdout == "SERVING\n"
    environment = {f"ZIGGURAT_{name.upper()}": str(path) for name, path in shown.items()}
    # As in a container, where the server's own settings say what it shows.
    environment["ZIGGURAT_TLS_CERT"] = str(pem["server"])
    said = run("ziggurat-engine", "health", mutual.address, **environment)
    assert said.stdout == "SERVING\n"
    everywhere = mutual.address.replace("127.0.0.1", "0.0.0.0")
    said = run("ziggurat-engine", "health", ZIGGURAT_LISTEN=everywhere, **environment)
    assert said.stdout == "SERVING\n"
    refused = run("ziggurat-engine", "health", mutual.address, "--timeout=5", code=1)
    assert "UNAVAILABLE" in refused.stdout


def test_a_server_of_another_ca(mutual: ServerProcess, pem, stranger) -> None:
    with connected(mutual, pem, ca=stranger["ca"]) as client:
        for refused in (
            client.list,
            lambda: client.create("a", axes="yx", shape=(4, 4), dtype="u1"),
        ):
            with pytest.raises(ziggurat.Unavailable, match="certificate") as caught:
                refused()
            assert caught.value.reason == "TLS_FAILED"


def test_a_client_of_another_ca(mutual: ServerProcess, pem, stranger, tmp_path: Path) -> None:
    """Nor one whose certificate is over, that has none, or that speaks no TLS."""
    shutil.copy(pem["ca"], tmp_path)
    shutil.copy(pem["ca_key"], tmp_path)
    over = certificates(tmp_path, days=-1)
    for client in (
        connected(mutual, pem, cert=stranger["client"], key=stranger["client_key"]),
        connected(mutual, pem, cert=over["client"], key=over["client_key"]),
        ziggurat.connect(mutual.address, ca=pem["ca"]),
        ziggurat.connect(mutual.address),
    ):
        with client, pytest.raises(ziggurat.Unavailable):
            client.list()


def test_a_servers_certificate_is_no_clients(mutual: ServerProcess, pem) -> None:
    shown = {"cert": pem["server"], "key": pem["server_key"]}
    with connected(mutual, pem, **shown) as client, pytest.raises(ziggurat.Unavailable):
        client.list()


def test_another_name_than_the_certificates(mutual: ServerProcess, pem, tmp_path) -> None:
    """127.0.0.2 reaches no server on 127.0.0.1; a name that the certificate lacks does."""
    options = [("grpc.ssl_target_name_override", "elsewhere.example")]
    secret = grpc.ssl_channel_credentials(
        *(pem[name].read_bytes() for name in ("ca", "client_key", "client"))
    )
    with grpc.secure_channel(mutual.address, secret, options) as channel:
        call = channel.unary_unary("/grpc.health.v1.Health/Check")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=60)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_certificates_are_replaced_while_it_runs(serve, tmp_path: Path, stranger) -> None:
    """Expired, then made anew, then half replaced: what was good last is shown on."""
    own = tmp_path / "own"
    pem = certificates(own, days=-1)
    server = serve(tls_cert=pem["server"], tls_key=pem["server_key"], **QUICK)
    with (
        ziggurat.connect(server.address, ca=pem["ca"]) as client,
        pytest.raises(ziggurat.Unavailable, match=r"certificate.*in date"),
    ):
        client.list()
    with ziggurat.connect(server.address, ca=pem["ca"]) as client:
        make(own, hosts=["127.0.0.1"], client="c", days=1)
        assert client.list() == []
        # Connections that are open stay.
        shutil.copy(stranger["server"], pem["server"])
        assert client.list() == []
    with ziggurat.connect(server.address, ca=pem["ca"]) as client:
        assert client.list() == []
    assert "the old certificate is still in use" in server.stderr
    shutil.copy(stranger["server_key"], pem["server_key"])
    with ziggurat.connect(server.address, ca=stranger["ca"]) as client:
        assert client.list() == []


def test_the_command(tmp_path: Path) -> None:
    made = run("ziggurat-engine", "certs", tmp_path / "c", "--host", "storage.lab", "--days", 7)
    assert len(made.stdout.split()) == 6
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "c").iterdir()}
    assert {mode for name, mode in modes.items() if "key" in name} == {0o600}
    assert {mode for name, mode in modes.items() if "key" not in name} == {0o644}
    context = ssl.create_default_context(cafile=tmp_path / "c" / "ca.pem")
    assert len(context.get_ca_certs()) == 1
    before = {path.name: path.read_bytes() for path in (tmp_path / "c").iterdir()}
    make(tmp_path / "c", hosts=["a"], client="b", days=1)
    changed = {
        name for name, data in before.items() if (tmp_path / "c" / name).read_bytes() != data
    }
    assert changed == {
        f"{name}{kind}.pem" for name in ("server", "client") for kind in ("", "-key")
    }
    # Half of a CA is not made whole: those who trust it would never know.
    (tmp_path / "c" / "ca-key.pem").unlink()
    with pytest.raises(InvalidArgument, match="can't be used"):
        make(tmp_path / "c", hosts=["a"], client="b", days=1)


UNSAFE = {
    "plain": ({"listen": "0.0.0.0:0", "auth": "token"}, "allow_plaintext"),
    "anybody": ({"listen": "0.0.0.0:0", "allow_plaintext": True}, "allow_anonymous"),
    "IPv6": ({"listen": "[::]:0", "auth": "token"}, "allow_plaintext"),
    "by name": ({"listen": "storage:0", "auth": "token"}, "allow_plaintext"),
    "everywhere": ({"listen": ":0", "auth": "token"}, "allow_plaintext"),
    "encrypted, for anybody": (
        {"listen": "0.0.0.0:0", "tls_cert": "c", "tls_key": "k"},
        "allow_anonymous",
    ),
}
SAFE = {
    "loopback": {},
    "loopback 6": {"listen": "[::1]:0"},
    "localhost": {"listen": "localhost:0"},
    "socket": {"listen": "unix:/run/ziggurat.sock"},
    "TLS, tokens": {"listen": "0.0.0.0:0", "tls_cert": "c", "tls_key": "k", "auth": "token"},
    "mutual": {"listen": "0.0.0.0:0", "tls_cert": "c", "tls_key": "k", "tls_client_ca": "a"},
    "said so": {"listen": "0.0.0.0:0", "allow_plaintext": True, "allow_anonymous": True},
    "a container": {"listen": "0.0.0.0:0", "allow_plaintext": True, "auth": "token"},
}


@pytest.mark.parametrize(("settings", "wanted"), UNSAFE.values(), ids=UNSAFE)
def test_what_others_could_reach_is_refused(settings: dict, wanted: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(wanted)) as caught:
        check_exposure(load(data="d", **settings))
    assert caught.value.field == "listen"
    assert settings["listen"] in caught.value.message


@pytest.mark.parametrize("settings", SAFE.values(), ids=SAFE)
def test_what_is_safe_or_said_to_be_is_not(settings: dict) -> None:
    check_exposure(load(data="d", **settings))


def test_local_is_no_matter_of_spelling() -> None:
    assert all(map(is_local, ("127.0.0.1:1", "127.8.9.1:1", "[::1]:1", "localhost:1", "unix:a")))
    remote = (
        "0.0.0.0:1",
        "[::]:1",
        "10.0.0.1:1",
        "localhost.example:1",
        "127.0.0.1.nip.io:1",
        "*:1",
    )
    assert not any(map(is_local, remote))


def test_a_start_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    said = run(
        "ziggurat-engine", "serve", "--data", tmp_path / "d", "--listen", "0.0.0.0:0", code=1
    )
    assert "allow_plaintext" in said.stderr
    assert not (tmp_path / "d").exists()


def test_files_that_are_no_pair(pem: dict[str, Path], stranger, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    for cert, key, ca, field in (
        (pem["server"], stranger["server_key"], None, "tls_cert"),
        (tmp_path / "empty", pem["server_key"], None, "tls_cert"),
        (pem["server"], tmp_path / "empty", None, "tls_cert"),
        (pem["server"], pem["server_key"], tmp_path / "empty", "tls_client_ca"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            Certificates(cert, key, ca)
        assert caught.value.field == field
    with pytest.raises(FileNotFoundError):
        Certificates(tmp_path / "none", pem["server_key"], None)


def test_a_socket_in_the_file_system(tmp_path: Path) -> None:
    """Only whoever may open the file can reach it."""
    socket = f"unix:{tmp_path}/z.sock"
    command = [sys.executable, "-m", "ziggurat_engine", "serve", "--data", str(tmp_path / "d")]
    with subprocess.Popen(
        [*command, "--listen", socket],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=clean_environment(),
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"listening on {socket}\n"
            with ziggurat.connect(socket, token="x") as client:
                assert client.list() == []
        finally:
            process.terminate()
    assert process.returncode == 0
