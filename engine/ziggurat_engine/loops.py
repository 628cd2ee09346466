"""How does a function become loops that run without the interpreter's lock?

Numba compiles it when it is first called, and keeps that on disk for the next process.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import numba
import numpy as np
from llvmlite import binding
from numba import types

from ziggurat_engine.region import Shape

_F = TypeVar("_F", bound=Callable[..., Any])
Vector: TypeAlias = np.ndarray[Any, Any]
Five: TypeAlias = tuple[int, int, int, int, int]

_AXES = 5


def compiled(function: _F) -> _F:
    """Compiled on first use for the types it meets; runs without the GIL.

    Division by zero is not looked for (no window is empty), which lets loops become vectors.
    What is kept on disk is looked up by the file of the function alone: who changes one that it
    calls, in another file, removes __pycache__ while developing.
    """
    try:
        decorated = numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # there is no folder to keep compiled code in: a read-only install
        decorated = numba.njit(nogil=True, error_model="numpy")(function)
    return cast(_F, decorated)


def external(name: str, function: Any, result: Any, *arguments: Any) -> Any:
    """A C function that compiled loops may call.

    function: as ctypes loaded it; None where it is not there, and may not be called. result,
    arguments: numba's types; a pointer is an integer as wide.
    """
    # By a name of ours: the compiler's table of names is one for the whole process. Code that
    # was kept on disk is bound to the name, and finds the function wherever it is today.
    symbol = f"ziggurat_{name}"
    if function is not None:
        binding.add_symbol(symbol, ctypes.cast(function, ctypes.c_void_p).value)
    return types.ExternalFunction(symbol, result(*arguments))


def five(numbers: Shape, front: int = 1) -> Five:
    """One number for each of five axes: `front` where `numbers` has none."""
    return cast(Five, (front,) * (_AXES - len(numbers)) + tuple(numbers))


def run(kernel: Callable[..., Any], *arguments: object) -> Any:
    """Calls a compiled function."""
    try:
        return kernel(*arguments)
    except OSError:  # compiled just now, but a full disk could not keep that for later
        return kernel(*arguments)


_compiling = threading.Lock()
_ready: set[tuple[str, np.dtype[np.generic]]] = set()


def once(what: str, dtype: np.dtype[np.generic], compile_: Callable[[], object]) -> None:
    """Calls `compile_` where that was not done for (what, dtype); the compiler takes one at a time.

    The threads that come meanwhile wait for it.
    """
    if (what, dtype) in _ready:
        return
    with _compiling:
        if (what, dtype) not in _ready:
            compile_()
            _ready.add((what, dtype))
