"""How is CUDA C++ compiled where there is neither a card nor a driver?

NVRTC comes as a wheel and needs nothing of the machine. This is its C interface (NVRTC User Guide,
"Basic Usage"), as far as a translation unit with name expressions needs it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import pickle
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.support.kept import kept


class CompileError(Exception):
    """The compiler's log."""


@dataclass(frozen=True)
class Compiled:
    """cubin: machine code. ptx: what it was made of. symbols: of each name, what it is called."""

    cubin: bytes
    ptx: str
    symbols: dict[str, str]


@cache
def _library() -> ctypes.CDLL:
    # Wheels for CUDA 13 keep all libraries in one directory, those for 12 one in each package.
    spec = importlib.util.find_spec("nvidia")
    found = [
        path
        for root in (spec.submodule_search_locations or () if spec else ())
        for path in sorted(Path(root).glob("*/lib/libnvrtc.so.*"))
    ]
    if not found:
        raise FileNotFoundError("no libnvrtc.so in the package nvidia-cuda-nvrtc")
    return ctypes.CDLL(str(found[-1]))


def version() -> tuple[int, int]:
    major, minor = ctypes.c_int(), ctypes.c_int()
    _library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return major.value, minor.value


def compiled(source: str, names: Sequence[str], options: Sequence[str]) -> Compiled:
    """Compiles `names`, unless an earlier run has. Lets go of the GIL; raises CompileError."""
    parts = [repr((version(), names, options)).encode(), source.encode()]

    def make(path: Path) -> None:
        path.write_bytes(pickle.dumps(_compiled(source, names, options)))

    made: Compiled = pickle.loads(kept("nvrtc", parts, make).read_bytes())
    return made


def _compiled(source: str, names: Sequence[str], options: Sequence[str]) -> Compiled:
    library = _library()
    program = ctypes.c_void_p()
    _check(
        library.nvrtcCreateProgram(
            ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None
        )
    )
    try:
        for name in names:
            _check(library.nvrtcAddNameExpression(program, name.encode()))
        given = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
        if library.nvrtcCompileProgram(program, len(options), given):
            raise CompileError(_text(program, "ProgramLog"))
        lowered = {}
        for name in names:
            symbol = ctypes.c_char_p()
            _check(library.nvrtcGetLoweredName(program, name.encode(), ctypes.byref(symbol)))
            lowered[name] = (symbol.value or b"").decode()
        return Compiled(_bytes(program, "CUBIN"), _text(program, "PTX"), lowered)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _text(program: ctypes.c_void_p, what: str) -> str:
    return _bytes(program, what).rstrip(b"\0").decode()


def _bytes(program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(getattr(_library(), f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    data = ctypes.create_string_buffer(size.value)
    _check(getattr(_library(), f"nvrtcGet{what}")(program, data))
    return data.raw


def _check(result: int) -> None:
    if result:
        _library().nvrtcGetErrorString.restype = ctypes.c_char_p
        raise CompileError(_library().nvrtcGetErrorString(result).decode())


# --- what a kernel takes of a multiprocessor


@dataclass
class Taken:
    """registers: of a thread. shared_bytes: of a thread block. stack_bytes: of a thread, in memory
    that lies beyond the caches: what does not fit into registers."""

    registers: int = 0
    shared_bytes: int = 0
    stack_bytes: int = 0


# Of ELF. A section: name, type, flags, address, place, size, link, ...; a symbol: name, ...
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_REGISTERS, _STACK = 0x2F, 0x12  # EIATTR_REGCOUNT, EIATTR_MIN_STACK_SIZE


def taken(cubin: bytes) -> dict[str, Taken]:
    """Of each kernel, by its symbol."""
    (first,), (size, count, names_at) = (
        struct.unpack_from("<Q", cubin, 40),
        struct.unpack_from("<HHH", cubin, 58),
    )
    headers = [_SECTION.unpack_from(cubin, first + i * size) for i in range(count)]
    bodies = [cubin[h[4] : h[4] + h[5]] for h in headers]
    sections = {
        _name(bodies[names_at], h[0]): (h, body) for h, body in zip(headers, bodies, strict=True)
    }
    header, symbols = sections[".symtab"]
    kernels = {
        i: _name(bodies[header[6]], symbol[0])
        for i, symbol in enumerate(_SYMBOL.iter_unpack(symbols))
    }
    found: dict[str, Taken] = {}
    info, at = sections[".nv.info"][1], 0
    while at < len(info):
        # format, attribute, size of what follows; only format 4 has a size.
        form, attribute, length = struct.unpack_from("<BBH", info, at)
        at += 4
        if form != 4:
            continue
        if attribute in {_REGISTERS, _STACK}:
            symbol, value = struct.unpack_from("<II", info, at)
            kernel = found.setdefault(kernels[symbol], Taken())
            if attribute == _REGISTERS:
                kernel.registers = value
            else:
                kernel.stack_bytes = value
        at += length
    for name, kernel in found.items():
        if f".nv.shared.{name}" in sections:
            kernel.shared_bytes = sections[f".nv.shared.{name}"][0][5]
    return found


def _name(table: bytes, at: int) -> str:
    return table[at : table.index(b"\0", at)].decode()
