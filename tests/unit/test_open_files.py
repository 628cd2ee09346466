"""How many shards may be kept open, of so many files?"""

from __future__ import annotations

import os
import resource
from typing import Any

import pytest
from ziggurat_engine.config import Settings
from ziggurat_engine.errors import InvalidArgument
from ziggurat_engine.server import files

SIZES: dict[str, Any] = {"max_streams": 8, "max_calls": 4, "settle_workers": 2, "read_threads": 3}
SIZES["max_connections"] = 12
NEEDED = 2 * (8 + 4) + 12 + 3 * 2 + 3 + files.ENGINE


def settings(**more: Any) -> Settings:
    return Settings(data="d", **SIZES | more)


@pytest.mark.parametrize(
    ("limit", "shards"),
    [(NEEDED + 8, 8), (NEEDED + 9, 9), (NEEDED + 256, 256), (NEEDED + 5000, 256)],
)
def test_what_is_left_is_for_shards(limit: int, shards: int) -> None:
    assert files.needed(settings()) == NEEDED
    assert files.needed(settings(shared_memory=False)) == NEEDED - 8 - 4
    assert files.shards_that_fit(settings(), limit) == shards


def test_too_few_names_settings_and_numbers() -> None:
    with pytest.raises(InvalidArgument) as error:
        files.shards_that_fit(settings(), NEEDED + 7)
    for said in (f"{NEEDED + 7} files", str(NEEDED + 8), "max_streams = 8", "max_calls = 4"):
        assert said in error.value.message


def test_a_lower_setting_is_kept() -> None:
    assert files.shards_that_fit(settings(max_open_shards=3), NEEDED + 3) == 3


def test_the_soft_limit_is_raised_to_the_hard_one(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 4000))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: told.append(limits))
    assert files.fitted(settings()).max_open_shards == 256
    assert told == [(4000, 4000)]


def test_more_than_fits_is_clipped_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limit = 300 + len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    fitted = files.fitted(settings())
    assert files.LEAST_SHARDS <= fitted.max_open_shards <= 300 - NEEDED
    assert f"max_open_shards is {fitted.max_open_shards} instead of 256" in caplog.text
