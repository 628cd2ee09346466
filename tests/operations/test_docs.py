"""Do the pages of docs say all that there is to say, and lead nowhere wrong?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from ziggurat_engine.config import Settings
from ziggurat_engine.errors import ZigguratError
from ziggurat_engine.upkeep.findings import KINDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("deployment", "sizing", "backup", "troubleshooting")


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text("utf-8")


def reasons(kind: type[ZigguratError] = ZigguratError) -> Iterator[str]:
    yield kind.reason
    for below in kind.__subclasses__():
        yield from reasons(below)


def rows(text: str) -> dict[str, list[str]]:
    """The rows of all tables, by their first cell."""
    found = {}
    for line in text.splitlines():
        if line.startswith("| "):
            first, *rest = [cell.strip() for cell in line.strip("|").split("|")]
            found[first] = rest
    return found


def test_every_reason_of_an_error_has_an_entry():
    table = rows(page("troubleshooting"))
    for reason in reasons():
        assert reason in table, f"docs/troubleshooting.md says nothing of {reason}"
        assert all(table[reason])


def test_every_kind_of_finding_has_its_entry():
    table = rows(page("troubleshooting"))
    for kind, said in KINDS.items():
        assert table[kind] == [said.meaning, said.remedy], kind


@pytest.mark.parametrize("name", PAGES)
def test_settings_exist(name):
    """What looks like a setting with a unit is one."""
    for word in re.findall(r"`([a-z_]+_(?:bytes|seconds))`", page(name)):
        assert word in Settings.model_fields, word


@pytest.mark.parametrize("name", PAGES)
def test_the_readme_leads_there(name):
    assert f"docs/{name}.md" in (ROOT / "README.md").read_text("utf-8")
