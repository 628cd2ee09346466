"""Does everything in README.md still work?

Its Python blocks are run in order, as one program, against a real server that takes
the place of 127.0.0.1:7447; its commands are looked up in the real command lines.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from ziggurat._commands import cli
from ziggurat_engine.cli import main
from ziggurat_engine.config import Settings

from tests.support.server import ServerProcess

README = Path(__file__).resolve().parents[2] / "README.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[tuple[int, str]]:
    """(line, text) of every block in `language`."""
    text = README.read_text(encoding="utf-8")
    return [
        (text[: found.start()].count("\n") + 2, found[2])
        for found in BLOCK.finditer(text)
        if found[1] == language
    ]


def commands() -> list[str]:
    lines = "\n".join(text for _, text in blocks("sh")).replace("\\\n", " ").splitlines()
    return [line.partition(" #")[0].strip() for line in lines if line.strip()]


def test_python_blocks_run(
    tmp_path: Path, serve: Callable[..., ServerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(tmp_path / "DIR")
    monkeypatch.chdir(tmp_path)
    program: dict[str, Any] = {"__name__": "readme"}
    found = blocks("python")
    assert found
    for line, text in found:
        assert "127.0.0.1:7447" in text or "connect(" not in text
        code = "\n" * (line - 1) + text.replace("127.0.0.1:7447", server.address)
        exec(compile(code, str(README), "exec"), program)


@pytest.mark.parametrize(
    "command", [c for c in commands() if re.match(r"(uv run )?ziggurat", c)], ids=str
)
def test_commands_and_options_are_there(command: str) -> None:
    words = shlex.split(command.removeprefix("uv run "))
    group: click.Command = main if words[0] == "ziggurat-engine" else cli
    assert isinstance(group, click.Group)
    rest = [word for word in words[1:] if not word.startswith("--server")]
    chosen = group.commands[rest.pop(0)]
    while isinstance(chosen, click.Group):
        chosen = chosen.commands[rest.pop(0)]
    known = {option for parameter in chosen.params for option in parameter.opts}
    used = {word.partition("=")[0] for word in rest if word.startswith("--")}
    assert used <= known


def test_settings_of_the_table_are_there() -> None:
    text = README.read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert named
    assert named <= set(Settings.model_fields)


def test_settings_files_are_valid(tmp_path: Path) -> None:
    from ziggurat_engine.config import load

    for number, (_, text) in enumerate(blocks("toml")):
        file = tmp_path / f"{number}.toml"
        file.write_text(text)
        load(file)
