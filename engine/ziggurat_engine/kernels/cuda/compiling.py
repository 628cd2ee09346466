"""How does a module become machine code for a card? By NVRTC, with our options and no others.

Not by CuPy's RawModule: it appends -ftz=true, and of two the last one counts, so that numbers
next to zero would become zero, other than in the reference. What was compiled is kept in a file
under the hash of all that it depends on, in CUPY_CACHE_DIR as CuPy's own kernels; where that
cannot be written each process compiles for itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ziggurat_engine.kernels.cuda import program


@dataclass(frozen=True, slots=True)
class Code:
    """cubin: machine code for one architecture. symbols: what each kernel is called in it."""

    cubin: bytes
    symbols: dict[str, str]


Compile: TypeAlias = Callable[[str, Sequence[str], Sequence[str]], Code]
"""(source, names of kernels, options) -> their code."""


def code_of(
    module: program.Module, architecture: str, version: tuple[int, int], compile_: Compile
) -> Code:
    """The module's code, compiled unless an earlier process did.

    architecture: such as "sm_90". version: of the compiler.
    """
    source = module.source()
    options = (*program.OPTIONS, f"--gpu-architecture={architecture}")
    key = repr((source, module.kernels, options, version)).encode()
    directory = _directory()
    if directory is None:
        return compile_(source, module.kernels, options)
    path = directory / f"ziggurat-{hashlib.sha256(key).hexdigest()[:40]}.cubin"
    kept = _read(path)
    if kept is not None and kept.symbols.keys() == set(module.kernels):
        return kept
    code = compile_(source, module.kernels, options)
    _write(path, code)
    return code


def _directory() -> Path | None:
    try:
        return Path(os.environ.get("CUPY_CACHE_DIR") or "~/.cupy/kernel_cache").expanduser()
    except RuntimeError:  # a user without a home, as in a container
        return None


# A file: SHA-256 of what follows (32 bytes), the symbols as a line of JSON, the machine code.


def _read(path: Path) -> Code | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    digest, body = data[:32], data[32:]
    if hashlib.sha256(body).digest() != digest:
        return None
    symbols, _, cubin = body.partition(b"\n")
    return Code(cubin, json.loads(symbols))


def _write(path: Path, code: Code) -> None:
    body = json.dumps(code.symbols).encode() + b"\n" + code.cubin
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, ignore_cleanup_errors=True) as work:
            made = Path(work, path.name)
            made.write_bytes(hashlib.sha256(body).digest() + body)
            made.replace(path)
    except OSError:  # a read-only or full file system, say: the next process compiles again
        return
