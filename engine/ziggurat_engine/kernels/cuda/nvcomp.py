"""How does a card compress zstd? With NVIDIA's nvCOMP, where it is installed.

nvCOMP is proprietary and optional: the wheel nvidia-nvcomp-cu12 or -cu13 brings the library,
which is loaded when a device is opened, never before. Its batched C functions are called
with memory, scratch and stream of ours, so that it allocates nothing; what they make
of a block is one standard zstd frame (the "raw" bitstream of its other interfaces).

Blocks are given by tables in device memory: addresses (uint64), lengths (uint64), and for each
block a status (int32), 0 where it went well. A call returns once the work is on the stream.
Its decompressor is not used: what it does with damaged bytes is undefined, says its header.
"""

from __future__ import annotations

import ctypes
from typing import Any

from ziggurat_engine.kernels.cuda.errors import BadStatus

# What it takes as one block; larger ones would need another plan for its scratch as well.
MAX_BLOCK_BYTES = 16 * 2**20
STATUS_BYTES = 4


class _Options(ctypes.Structure):
    """nvcompBatchedZstdCompressOpts_t: 64 bytes that must be 0."""

    _fields_ = (("reserved", ctypes.c_char * 64),)


class Nvcomp:
    """The library; all methods may be called from any thread.

    library: its functions by their C names.
    """

    def __init__(self, library: Any, version: str) -> None:
        self.version = version
        self._library = library
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        self._declare("CompressGetMaxOutputChunkSize", size, _Options, ctypes.POINTER(size))
        self._declare(
            "CompressGetTempSize", size, size, _Options, ctypes.POINTER(size), size, pointer
        )
        self._declare(
            "CompressAsync",
            *(pointer, pointer, size, size, pointer, size, pointer, pointer, _Options),
            *(pointer, pointer),
        )

    def most_bytes(self, block_bytes: int) -> int:
        """The most that a block of so many bytes may become. Works without a card."""
        found = ctypes.c_size_t()
        self._call("CompressGetMaxOutputChunkSize", block_bytes, _Options(), ctypes.byref(found))
        return found.value

    def scratch_bytes(self, blocks: int, block_bytes: int, total_bytes: int) -> int:
        """Device memory that `compress` needs for so many blocks, on the bound device."""
        found = ctypes.c_size_t()
        self._call(
            "CompressGetTempSize",
            *(blocks, block_bytes, _Options(), ctypes.byref(found), total_bytes, None),
        )
        return found.value

    def compress(
        self,
        sources: int,
        lengths: int,
        blocks: int,
        block_bytes: int,
        scratch: tuple[int, int],
        targets: int,
        compressed: int,
        statuses: int,
        stream: int,
    ) -> None:
        """Compresses `blocks` blocks of at most `block_bytes` each, aligned to 4 bytes.

        sources, lengths, targets: tables; each target has room for `most_bytes(block_bytes)`.
        compressed, statuses: tables to be written. scratch: address and size.
        """
        self._call(
            "CompressAsync",
            *(sources, lengths, block_bytes, blocks, *scratch, targets, compressed),
            *(_Options(), statuses, stream),
        )

    def _declare(self, name: str, *types: Any) -> None:
        function = getattr(self._library, f"nvcompBatchedZstd{name}")
        function.argtypes = types
        function.restype = ctypes.c_int

    def _call(self, name: str, *args: Any) -> None:
        status = getattr(self._library, f"nvcompBatchedZstd{name}")(*args)
        if status:
            raise BadStatus(f"nvCOMP: {name} says {status}")


def load() -> Nvcomp | None:
    """The installed nvCOMP; None where there is none, or one that does not fit this code."""
    try:
        from nvidia import libnvcomp
    except ImportError:
        return None
    if not libnvcomp.__version__.startswith("6."):
        return None
    library = libnvcomp.load_library()
    try:
        return None if library is None else Nvcomp(library, libnvcomp.__version__)
    except AttributeError:
        return None
