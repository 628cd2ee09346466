"""Where do settings come from, which wins, and what is refused?"""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from ziggurat_engine.config import Settings, load

MIB = 2**20


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"ZIGGURAT_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)


def test_only_the_directory_is_required() -> None:
    with pytest.raises(ValidationError) as error:
        load()
    assert [e["loc"] for e in error.value.errors()] == [("data",)]
    settings = load(data="d")
    assert settings.data == Path("d")
    assert settings.listen == "127.0.0.1:7447"
    assert settings.cache_bytes >= 256 * MIB


def test_flags_over_environment_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml = tmp_path / "ziggurat.toml"
    toml.write_text(
        'data = "file"\nlisten = "file:1"\ncache_bytes = "1MiB"\nmax_streams = 3\n', "utf-8"
    )
    monkeypatch.setenv("ZIGGURAT_LISTEN", "environment:2")
    monkeypatch.setenv("ZIGGURAT_CACHE_BYTES", "2 MiB")
    settings = load(toml, data=None, cache_bytes="3MiB")
    assert settings.data == Path("file")
    assert settings.listen == "environment:2"
    assert settings.cache_bytes == 3 * MIB
    assert settings.max_streams == 3
    # The file of one call is not seen by the next.
    assert load(data="d").max_streams == 64


SIZES = {"512": 512, "512B": 512, "64KiB": 2**16, "1.5 MiB": 3 * 2**19, "2GB": 2 * 10**9}


@pytest.mark.parametrize(("text", "number"), SIZES.items())
def test_sizes_have_units(text: str, number: int) -> None:
    assert load(data="d", max_read_bytes=text).max_read_bytes == number


BAD = [
    ("cache_bytes", "0"),
    ("cache_bytes", "-1"),
    ("cache_bytes", "many"),
    ("max_streams", "0"),
    ("settle_idle_seconds", "0"),
    ("settle_idle_seconds", "-1"),
    ("keepalive_seconds", "0"),
    ("keepalive_timeout_seconds", "inf"),
    ("drain_seconds", "soon"),
    ("kernels", "quantum"),
    ("tune_malloc", "perhaps"),
    ("no_such_setting", "1"),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_refused(name: str, value: str) -> None:
    with pytest.raises(ValidationError) as error:
        load(data="d", **{name: value})
    assert [e["loc"] for e in error.value.errors()] == [(name,)]


def test_a_file_that_is_not_there_or_not_toml(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.toml", data="d")
    (tmp_path / "bad.toml").write_text("data = ", "utf-8")
    with pytest.raises(ValueError, match="Invalid value"):
        load(tmp_path / "bad.toml")


def test_settings_are_frozen_and_described() -> None:
    settings = load(data="d")
    with pytest.raises(ValidationError):
        settings.listen = "elsewhere:1"
    assert all(field.description for field in Settings.model_fields.values())


def test_numbers_say_their_unit() -> None:
    unitless = {"max_open_shards", "kernel_threads", "settle_workers", "read_threads"}
    unitless |= {"max_streams", "max_calls"}
    for name, field in Settings.model_fields.items():
        if field.annotation in (int, float):
            assert name in unitless or name.endswith(("_seconds", "_bytes")), name
