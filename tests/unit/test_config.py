"""Where do settings come from, which wins, and what is refused?"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from pydantic import ValidationError
from ziggurat_engine import log
from ziggurat_engine.config import SEGMENT_OVERHEAD_BYTES, Settings, load
from ziggurat_engine.region import Region
from ziggurat_engine.vfs import OsFileSystem
from ziggurat_engine.writes.frames import pack
from ziggurat_engine.writes.streamtable import MAX_STREAM_ID_BYTES

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
    ("cache_bytes", "8KiB"),
    ("log_segment_bytes", "32000001"),
    ("log_segment_bytes", "2KiB"),
    ("log_segment_bytes", "4GiB"),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_refused(name: str, value: str) -> None:
    with pytest.raises(ValidationError) as error:
        load(data="d", **{name: value})
    assert [e["loc"] for e in error.value.errors()] == [(name,)]


TOGETHER = [
    ({"log_segment_bytes": "16MiB"}, "max_message_bytes"),
    ({"max_message_bytes": "256MiB"}, "log_segment_bytes"),
    ({"log_segment_bytes": "2GiB"}, "max_log_bytes"),
    ({"max_log_bytes": "512MiB"}, "log_segment_bytes"),
    ({"chunk_target_bytes": "128MiB"}, "max_chunk_bytes"),
    ({"max_chunk_bytes": "1MiB"}, "chunk_target_bytes"),
    ({"shard_target_bytes": "1MiB"}, "chunk_target_bytes"),
]


@pytest.mark.parametrize(("given", "other"), TOGETHER)
def test_what_cannot_work_together_is_refused_by_both_names(
    given: dict[str, str], other: str
) -> None:
    with pytest.raises(ValidationError) as error:
        load(data="d", **given)
    (name,) = given
    assert name in str(error.value)
    assert other in str(error.value)


@pytest.mark.parametrize("segment_bytes", [64 * 2**10, 2**24 + 64])
def test_the_smallest_segment_holds_the_largest_record(tmp_path: Path, segment_bytes: int) -> None:
    """As much metadata as can be said is part of the message, and the rest is pixels."""
    message = segment_bytes - SEGMENT_OVERHEAD_BYTES
    settings = load(data="d", log_segment_bytes=segment_bytes, max_message_bytes=message)
    said = pack(2**63 - 1, "m" * settings.max_metadata_bytes)
    pixels = bytes(message - settings.max_metadata_bytes)
    box = Region((2**40,) * 5, (2**20,) * 5)
    record = log.Region(bytes(16), "s" * MAX_STREAM_ID_BYTES, 2**62, box, said)
    with closing(
        log.Log.open(OsFileSystem(), tmp_path / "log", segment_bytes=settings.log_segment_bytes)
    ) as opened:
        assert list(opened.replay()) == []
        opened.append(record, pixels)
    with pytest.raises(ValidationError, match="max_message_bytes"):
        load(data="d", log_segment_bytes=segment_bytes, max_message_bytes=message + 1)


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
    unitless |= {"max_streams", "max_calls", "max_batch_boxes", "max_images", "max_connections"}
    unitless |= {"audit_log_files", "metrics_prefixes", "trace_ratio", "max_read_chunks"}
    for name, field in Settings.model_fields.items():
        if field.annotation in (int, float):
            assert name in unitless or name.endswith(("_seconds", "_bytes")), name


def test_quotas_come_from_a_table_or_from_text(tmp_path: Path) -> None:
    toml = tmp_path / "ziggurat.toml"
    toml.write_text('data = "d"\n[[quotas]]\nprefix = "lab/a/"\nmax_stored_bytes = "2TiB"\n')
    (quota,) = load(toml).quotas
    assert (quota.prefix, quota.max_stored_bytes) == ("lab/a", 2 * 2**40)
    assert quota.max_streams is None
    (quota,) = load(data="d", quotas='[{"prefix": "", "max_images": 3}]').quotas
    assert (quota.prefix, quota.max_images) == ("", 3)


WRONG = {
    "max_streams = 65": {"quotas": [{"prefix": "lab", "max_streams": 65}]},
    "there is one already": {"quotas": [{"prefix": "a"}, {"prefix": "a/"}]},
    "prefix '../a'": {"quotas": [{"prefix": "../a"}]},
    "max_message_bytes": {"max_inflight_bytes": "1MiB"},
    "first_message_seconds": {"stream_idle_seconds": 1},
    "Extra inputs": {"quotas": [{"prefix": "a", "max_stored": 3}]},
}


@pytest.mark.parametrize(("said", "settings"), WRONG.items(), ids=WRONG)
def test_limits_that_contradict_each_other(said: str, settings: dict) -> None:
    with pytest.raises(ValidationError) as error:
        load(data="d", **settings)
    assert said in str(error.value)
