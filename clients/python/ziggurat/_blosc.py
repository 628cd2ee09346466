"""How does a Blosc frame become pixels? What needs numcodecs, the extra "numcodecs"."""

from __future__ import annotations

from typing import Any

from numcodecs import blosc
from numpy.typing import NDArray


def decompress(frame: memoryview, out: NDArray[Any]) -> None:
    """Decodes `frame` into `out`, contiguous and as large as the frame says it is.

    Raises RuntimeError or ValueError. On this thread unless that is the main one, where
    c-blosc may use its own threads.
    """
    blosc.decompress(frame, out)
