"""Which names are safe as paths, and which are refused?"""

from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ziggurat_engine.errors import InvalidArgument
from ziggurat_engine.names import MAX_SEGMENT_BYTES, MAX_SEGMENTS, check_name

GOOD = [
    "a",
    "lab/2026/run-3",
    "UPPER case (copy) #1",
    "a.b.c",
    "a_b",
    "zarr",
    "console",
    "com10",
    "\u00e9chantillon/\u7d30\u80de",
    "a" * MAX_SEGMENT_BYTES,
    "/".join("a" * MAX_SEGMENTS),
]
BAD = {
    "empty": "",
    "slash": "/",
    "absolute": "/a",
    "trailing-slash": "a/",
    "double-slash": "a//b",
    "dot": ".",
    "parent": "..",
    "parent-inside": "a/../b",
    "hidden": "a/.b",
    "underscore": "_a",
    "trailing-dot": "a.",
    "trailing-space": "a /b",
    "leading-space": " a",
    "backslash": "a\\b",
    "colon": "c:a",
    "star": "a*",
    "question": "a?",
    "quote": 'a"',
    "pipe": "a|b",
    "less": "a<b",
    "nul": "a\0",
    "tab": "a\tb",
    "line": "a\nb",
    "delete": "a\x7f",
    "bidi": "a\u202eb",
    "surrogate": "a\ud800",
    "suffix": "a.zarr",
    "suffix-ome": "a.ome.ZARR/b",
    "document": "a/zarr.json",
    "device": "con",
    "device-extension": "aux.tif",
    "device-number": "lab/LPT1",
    "long": "a" * (MAX_SEGMENT_BYTES + 1),
    "long-bytes": "\u7d30" * (MAX_SEGMENT_BYTES // 3 + 1),
    "many": "/".join("a" * (MAX_SEGMENTS + 1)),
}


@pytest.mark.parametrize("name", GOOD)
def test_good(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", BAD.values(), ids=BAD)
def test_bad(name: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        check_name(name, "spec.name")
    assert error.value.field == "spec.name"
    assert len(error.value.message) < 400


def test_normal_form() -> None:
    assert check_name("e\u0301/\u212b") == "\u00e9/\u00c5"


@given(st.text(max_size=40))
def test_what_passes_is_safe(name: str) -> None:
    try:
        found = check_name(name)
    except InvalidArgument:
        return
    assert found == unicodedata.normalize("NFC", name) == check_name(found)
    for path in (PurePosixPath(found), PureWindowsPath(found)):
        assert not path.is_absolute()
        assert not path.drive
        assert "/".join(path.parts) == found
        assert ".." not in path.parts
