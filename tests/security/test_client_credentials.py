"""What does the client show, to whom, and what does it refuse to show?"""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import ziggurat

from tests.security.calls import Guarded
from tests.support.command import run

NAMES = ("TOKEN", "CA", "CERT", "KEY", "INSECURE")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(f"ZIGGURAT_{name}", raising=False)


@pytest.mark.parametrize("server", ["storage", "10.0.0.1:1", "localhost.example:1", "[fe80::1]:1"])
def test_a_token_stays_off_the_network_in_plain_text(server: str, monkeypatch) -> None:
    with pytest.raises(ziggurat.InvalidArgument, match="plain text") as caught:
        ziggurat.connect(server, token="secret")
    assert caught.value.field == "token"
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("ZIGGURAT_TOKEN", "secret")
    with pytest.raises(ziggurat.InvalidArgument):
        ziggurat.connect(server)
    for allowed in ({"insecure": True}, {"tls": True}):
        ziggurat.connect(server, **allowed).close()
    monkeypatch.setenv("ZIGGURAT_INSECURE", "1")
    ziggurat.connect(server).close()
    with pytest.raises(ziggurat.InvalidArgument):
        ziggurat.connect(server, insecure=False)


@pytest.mark.parametrize("server", ["127.0.0.1:1", "localhost", "[::1]:1", "unix:/none"])
def test_on_this_machine_it_may(server: str) -> None:
    ziggurat.connect(server, token="secret").close()


def test_files_are_looked_at_at_once(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("nothing")
    for field, arguments in {
        "ca": {"ca": tmp_path / "none"},
        "key": {"cert": tmp_path / "x"},
        "cert": {"key": tmp_path / "x"},
    }.items():
        with pytest.raises(ziggurat.InvalidArgument) as caught:
            ziggurat.connect("127.0.0.1:1", **arguments)
        assert caught.value.field == field
    with pytest.raises(ziggurat.InvalidArgument, match="no PEM"):
        ziggurat.connect("127.0.0.1:1", ca=tmp_path / "x")


@pytest.mark.parametrize("token", ["a b", "a\nb", "sch\u00f6n", "a\0"])
def test_what_can_be_no_token(token: str) -> None:
    with pytest.raises(ziggurat.InvalidArgument) as caught:
        ziggurat.connect("127.0.0.1:1", token=token)
    assert caught.value.field == "token"


def test_without_a_token_the_error_says_so(guarded: Guarded) -> None:
    with (
        ziggurat.connect(guarded.address) as client,
        pytest.raises(ziggurat.Unauthenticated, match="a token is needed"),
    ):
        client.list()


def test_a_function_is_asked_each_time(guarded: Guarded) -> None:
    asked = []

    def token() -> str:
        asked.append(1)
        return guarded.admin_token if len(asked) > 1 else "old"

    with ziggurat.connect(guarded.address, token=token) as client:
        with pytest.raises(ziggurat.Unauthenticated):
            client.list()
        assert client.list()


def test_handles_carry_it_to_other_processes(guarded: Guarded) -> None:
    with guarded.connect(guarded.people["reader"]) as client:
        copy = pickle.loads(pickle.dumps(client.open("lab/run")))
        assert (copy.read() == 1).all()


def test_every_call_shows_it(guarded: Guarded) -> None:
    """What the stubs of _rpc.py are made for."""
    with guarded.connect() as client:
        image = client.open("lab/run")
        image.read()
        image.read_stack([(0, 0)], (4, 4))
        image.frames()
        image.build_pyramid().wait()
        image.writer("shows").close()
        cube = client.create("lab/cube", axes="zyx", shape=(4, 8, 8), dtype="uint8")
        cube.plane(origin=(0, 0, 0), down=(0, 1, 0), across=(0, 0, 1), shape=(4, 4), spacing=1)
        client.delete("lab/cube")
        client.status()


def test_the_command_shows_it(guarded: Guarded, tmp_path: Path) -> None:
    """From the environment or a file; on the command line others would see it."""
    server = f"--server={guarded.address}"
    told = run("ziggurat", server, "ls", ZIGGURAT_TOKEN=guarded.people["reader"])
    assert "lab/run" in told.stdout
    assert "other" not in told.stdout
    file = tmp_path / "token"
    file.write_text(f"{guarded.people['reader']}\n")
    told = run("ziggurat", server, f"--token-file={file}", "rm", "--yes", "lab/run", code=1)
    assert "Error: 'reader' has scope read; admin is needed" in told.stderr
