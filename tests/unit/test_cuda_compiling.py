"""Is what was compiled for a card kept, and compiled again where it cannot be used?"""

from __future__ import annotations

import pwd
from collections.abc import Sequence
from pathlib import Path

import pytest
from ziggurat_engine.kernels.cuda import program
from ziggurat_engine.kernels.cuda.compiling import Code, code_of

MODULE, OTHER = program.MODULES[:2]


class Compiler:
    def __init__(self) -> None:
        self.options: list[tuple[str, ...]] = []

    def __call__(self, source: str, names: Sequence[str], options: Sequence[str]) -> Code:
        assert "__global__" in source
        self.options.append(tuple(options))
        return Code(b"\x7fELF\n\0" + source.encode(), {name: f"_Z{name}" for name in names})


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "cache"))
    return Compiler()


def test_what_was_compiled_is_kept(compiler: Compiler) -> None:
    made = code_of(MODULE, "sm_90", (13, 0), compiler)
    assert code_of(MODULE, "sm_90", (13, 0), compiler) == made
    assert len(compiler.options) == 1
    assert compiler.options[0] == (*program.OPTIONS, "--gpu-architecture=sm_90")


def test_other_cards_compilers_and_modules_have_their_own(compiler: Compiler) -> None:
    code_of(MODULE, "sm_90", (13, 0), compiler)
    code_of(MODULE, "sm_100", (13, 0), compiler)
    code_of(MODULE, "sm_90", (13, 1), compiler)
    assert code_of(OTHER, "sm_90", (13, 0), compiler).symbols.keys() == set(OTHER.kernels)
    assert len(compiler.options) == 4


@pytest.mark.parametrize("damage", [b"", b"short", b"\0" * 1000])
def test_a_damaged_file_is_compiled_anew(compiler: Compiler, tmp_path: Path, damage: bytes) -> None:
    made = code_of(MODULE, "sm_90", (13, 0), compiler)
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_bytes(damage)
    assert code_of(MODULE, "sm_90", (13, 0), compiler) == made
    assert code_of(MODULE, "sm_90", (13, 0), compiler) == made
    assert len(compiler.options) == 2


def test_a_directory_that_cannot_be_written_is_no_error(compiler: Compiler, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the directory should be")
    made = code_of(MODULE, "sm_90", (13, 0), compiler)
    assert code_of(MODULE, "sm_90", (13, 0), compiler) == made
    assert len(compiler.options) == 2


def test_a_user_without_a_home_is_no_error(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("CUPY_CACHE_DIR")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert code_of(MODULE, "sm_90", (13, 0), compiler).symbols.keys() == set(MODULE.kernels)


def test_nothing_is_flushed_to_zero() -> None:
    assert [option for option in program.OPTIONS if "ftz" in option] == ["--ftz=false"]
