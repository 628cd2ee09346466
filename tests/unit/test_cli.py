"""Does the command say what is wrong in one line, and start the server as it should?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import ziggurat
from ziggurat_engine.cli import MALLOC
from ziggurat_engine.config import Settings

from tests.support.command import run
from tests.support.server import ServerProcess, clean_environment


def engine(*arguments: object, code: int = 0, **environment: str) -> str:
    done = run("ziggurat-engine", *arguments, code=code, **environment)
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_version_and_help() -> None:
    assert "ziggurat-engine" in engine("--version")
    said = engine("serve", "--help")
    for flag in ("--data", "--listen", "--cache-bytes", "--set", "--config"):
        assert flag in said


def test_every_setting_is_listed() -> None:
    said = engine("settings")
    for name, field in Settings.model_fields.items():
        assert f"{name} = " in said
        assert str(field.description) in said


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "data"),
        (["--data", "d", "--set", "max_streams"], "NAME=VALUE"),
        (["--data", "d", "--set", "max_streams=0"], "max_streams"),
        (["--data", "d", "--set", "no_such=1"], "no_such"),
        (["--data", "d", "--cache-bytes", "some"], "cache_bytes"),
        (["--data", "d", "--config", "none.toml"], "none.toml"),
    ],
    ids=["no-data", "no-equals", "bad-value", "unknown", "bad-size", "no-file"],
)
def test_wrong_usage(arguments: list[str], word: str) -> None:
    assert word in engine("serve", *arguments, code=2)


def test_a_file_that_is_not_toml(tmp_path: Path) -> None:
    (tmp_path / "z.toml").write_text("data = ", "utf-8")
    assert "settings" in engine("serve", "--config", tmp_path / "z.toml", code=2)


def test_a_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("", "utf-8")
    said = engine("serve", "--data", tmp_path / "data", "--listen", "127.0.0.1:0", code=1)
    assert str(tmp_path / "data") in said


def test_an_address_that_is_taken(server: ServerProcess, tmp_path: Path) -> None:
    said = engine("serve", "--data", tmp_path, "--listen", server.address, code=1)
    assert server.address in said


def test_health(serve: Callable[..., ServerProcess]) -> None:
    server = serve()
    assert engine("health", server.address) == "SERVING\n"
    _, _, port = server.address.rpartition(":")
    assert engine("health", ZIGGURAT_LISTEN=f"0.0.0.0:{port}") == "SERVING\n"
    server.stop()
    assert "UNAVAILABLE" in engine("health", server.address, code=1)


def test_settings_from_environment_and_file(tmp_path: Path) -> None:
    toml = tmp_path / "z.toml"
    toml.write_text(f'data = "{tmp_path / "data"}"\ncache_bytes = "16MiB"\n', "utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "ziggurat_engine", "serve"],
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environment(ZIGGURAT_CONFIG=str(toml), ZIGGURAT_LISTEN="127.0.0.1:0"),
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        with ziggurat.connect(address) as client:
            assert client.status().cache.budget_bytes == 16 * 2**20
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
@pytest.mark.parametrize("tuned", [True, False])
def test_malloc_settings(serve: Callable[..., ServerProcess], tuned: bool) -> None:
    """Set by running itself again, in the same process; what was set before stays."""
    server = serve(tune_malloc=tuned)
    environ = Path(f"/proc/{server.process.pid}/environ").read_bytes().decode()
    found = dict(item.split("=", 1) for item in environ.split("\0") if "=" in item)
    assert all((found.get(name) == value) == tuned for name, value in MALLOC.items())
    os.kill(server.process.pid, 0)
