"""Does docs/limits.md say of each limit what config.py does?"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import ByteSize
from ziggurat_engine.config import Quota, Settings, load

PAGE = Path(__file__).parents[2] / "docs" / "limits.md"
ROW = re.compile(r"^\| `(\w+)` \| (?:([^|]+) \| )?([^|]+) \|$", re.MULTILINE)


def rows() -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for name, default, meaning in ROW.findall(PAGE.read_text("utf-8")):
        found.setdefault(name, []).append((default, meaning))
    return found


def shown(value: object) -> str:
    if isinstance(value, ByteSize):
        return value.human_readable().replace(".0", "")
    if isinstance(value, int) and value >= 10_000:
        return f"{value:,}".replace(",", " ")
    return f"{value:g}"


def test_every_row_is_what_the_settings_say() -> None:
    for name, said in rows().items():
        wanted = []
        if name in Settings.model_fields:
            field = Settings.model_fields[name]
            wanted.append((shown(field.default), field.description))
        if name in Quota.model_fields:
            wanted.append(("", Quota.model_fields[name].description))
        assert sorted(said) == sorted(wanted), name


def test_every_limit_has_a_row() -> None:
    limits = {name for name in Settings.model_fields if name.startswith("max_")}
    # Of the engine's own work, not of what clients ask for.
    limits -= {"max_log_bytes", "max_open_shards"}
    assert limits | set(Quota.model_fields) <= set(rows())


def test_the_example_is_taken(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    toml = tmp_path / "ziggurat.toml"
    toml.write_text(f'data = "d"\n{example}')
    assert [quota.prefix for quota in load(toml).quotas] == ["lab", "lab/anna"]
