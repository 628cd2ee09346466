"""Where are the C functions of Zstandard and LZ4 that compiled loops may call?

In numcodecs' own extension module, which holds both libraries whole: so that no other copy of
them is needed, and what they write is what numcodecs' c-blosc writes. Where a build of numcodecs
does not show them (it may link or hide them as it likes), `AVAILABLE` is False.

The functions have had these signatures since the first stable releases of their libraries
(zstd.h, lz4.h). A `size_t` and a pointer are integers as wide as a pointer here.
"""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import numcodecs.blosc
from numba import types

from ziggurat_engine.loops import external

_word, _int = types.uintp, types.int32

# name: result, arguments
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    # dst, room, src, n, level -> bytes, or an error above any size
    "ZSTD_compressCCtx": (_word, _word, _word, _word, _word, _word, _int),
    # dst, room, src, n -> bytes, or an error above any size
    "ZSTD_decompressDCtx": (_word, _word, _word, _word, _word, _word),
    # src, dst, n, room, acceleration -> bytes, 0 where there is no room
    "LZ4_compress_fast": (_int, _word, _word, _int, _int, _int),
    # src, dst, n, room -> bytes, negative where the input is no such thing
    "LZ4_decompress_safe": (_int, _word, _word, _int, _int),
}
_CONTEXTS = ("ZSTD_createCCtx", "ZSTD_freeCCtx", "ZSTD_createDCtx", "ZSTD_freeDCtx")


def _find() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(numcodecs.blosc.__file__)
        for name in (*_FUNCTIONS, *_CONTEXTS):
            getattr(library, name)
    except (OSError, AttributeError):
        return None
    return library


_library = _find()

AVAILABLE = _library is not None
"""Whether the functions below can be called."""


def _external(name: str) -> Any:
    return external(name, getattr(_library, name, None), *_FUNCTIONS[name])


zstd_compress = _external("ZSTD_compressCCtx")
zstd_decompress = _external("ZSTD_decompressDCtx")
lz4_compress = _external("LZ4_compress_fast")
lz4_decompress = _external("LZ4_decompress_safe")


class ZstdContexts:
    """What Zstandard works in, made once and used by one thread at a time.

    c-blosc 1 makes them anew for every block, which takes as long as a third of the work.
    `compress` and `decompress` are what the functions above take first. MemoryError.
    """

    __slots__ = ("__weakref__", "compress", "decompress")

    def __init__(self) -> None:
        self.compress = self._made("C")
        self.decompress = self._made("D")

    def _made(self, kind: str) -> int:
        create, free = (getattr(_library, f"ZSTD_{verb}{kind}Ctx") for verb in ("create", "free"))
        create.restype, create.argtypes = ctypes.c_void_p, []
        free.restype, free.argtypes = ctypes.c_size_t, [ctypes.c_void_p]
        made = create()
        if made is None:
            raise MemoryError("no memory for a context of Zstandard")
        weakref.finalize(self, free, made)
        return int(made)
