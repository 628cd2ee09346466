"""Is nvCOMP called as it wants to be? As far as that shows without a card."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from ziggurat_engine.kernels.cuda.errors import BadStatus
from ziggurat_engine.kernels.cuda.nvcomp import load

from tests.support.card import Card


def pretend(monkeypatch: pytest.MonkeyPatch, version: str, library: object) -> None:
    """A module nvidia.libnvcomp of that version."""
    found = ModuleType("nvidia.libnvcomp")
    found.__version__ = version  # type: ignore[attr-defined]
    found.load_library = lambda: library  # type: ignore[attr-defined]
    parent = ModuleType("nvidia")
    parent.libnvcomp = found  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nvidia", parent)
    monkeypatch.setitem(sys.modules, "nvidia.libnvcomp", found)


def test_what_does_not_fit_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "7.0.0", object())
    assert load() is None
    pretend(monkeypatch, "6.0.0", None)
    assert load() is None
    # A library without the functions.
    pretend(monkeypatch, "6.0.0", object())
    assert load() is None


def test_a_status_of_the_library_is_an_error() -> None:
    nvcomp = Card().nvcomp
    assert nvcomp is not None
    library = nvcomp._library
    library.nvcompBatchedZstdCompressGetTempSize = lambda *_: 1000
    with pytest.raises(BadStatus, match="CompressGetTempSize says 1000"):
        nvcomp.scratch_bytes(1, 65536, 65536)


def test_the_installed_library_is_understood() -> None:
    pytest.importorskip("nvidia.libnvcomp", reason="nvCOMP is an extra")
    nvcomp = load()
    assert nvcomp is not None
    for block_bytes in (1, 4096, 65536, 16 * 2**20):
        assert block_bytes < nvcomp.most_bytes(block_bytes) < 1.1 * block_bytes + 600
