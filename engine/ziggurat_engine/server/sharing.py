"""How does the server get at memory that a client on its machine shares with it?

A client of the same user in the same PID namespace offers, when it opens a stream or reads a
box, a file of memory that it holds open (memory.proto). It is reached as /proc/PID/fd/FD, mapped
for as long as the call lasts, and read where a Region names a part of it, or given the result.

What a client says of itself is not believed. Only files without a name that the kernel
calls "memfd:ziggurat" are opened at all; then the owner has to be the server's own user, the
seals have to keep it from shrinking (so that reading the mapping can't fail), and its first
bytes have to be those that the client told: a client elsewhere, whose numbers mean another
process here, does not know them. Whatever does not fit is no error: pixels come in messages.

A client may change what the server is about to read. So every part is copied into memory of
the server's own, once, before anything looks at it: what gets a checksum in the log is what is
written there, and what is done with pixels never depends on reading them twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import os
import stat
import sys
from typing import NamedTuple

import numpy as np
from ziggurat_proto.v1 import memory_pb2

from ziggurat_engine.config import Settings
from ziggurat_engine.errors import FailedPrecondition, InvalidArgument, LimitExceeded, OutOfRange
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Array

log = logging.getLogger(__name__)

MAGIC = b"ZIGGMEM1"
NONCE_BYTES = 16
HEADER_BYTES = len(MAGIC) + NONCE_BYTES
# As large as messages are, at least.
SMALL_PART_BYTES = 2**20
# Where the result of a read begins.
RESULT_BYTES = 64
# As the kernel tells of a file that memfd_create made with that name.
LINK = "/memfd:ziggurat (deleted)"


class Limits(NamedTuple):
    """max_memory_bytes: of one client's memory; 0: none is taken.

    max_region_bytes: of a part; setting: what it comes from. max_message_bytes: of a message.
    """

    max_memory_bytes: int
    max_region_bytes: int
    setting: str
    max_message_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """By the settings."""
        most = settings.max_shared_memory_bytes if settings.shared_memory else 0
        # What is taken in counts beside the cache: a part of a small one, as messages are.
        share = max(SMALL_PART_BYTES, settings.cache_bytes // 16)
        message = settings.max_message_bytes
        if share < message:
            return cls(most, share, "cache_bytes", message)
        return cls(most, message, "max_message_bytes", message)


class SharedMemory:
    """A client's memory, until `close`; for one thread at a time."""

    def __init__(self, memory: mmap.mmap, limits: Limits) -> None:
        self._memory = memory
        self._size = len(memory)
        self._pixels = np.frombuffer(memory, np.uint8)
        self.max_region_bytes = limits.max_region_bytes
        self._setting = limits.setting
        # Used again for each part: pages that are new would cost more than the copy.
        self._own = np.empty(0, np.uint8)

    def read(self, offset: int, nbytes: int) -> memoryview:
        """A copy of a part, good until the next; the client's memory is not looked at again.

        Raises OutOfRange, LimitExceeded, naming the field.
        """
        if nbytes > self.max_region_bytes:
            raise LimitExceeded(
                f"region.shared_bytes is {nbytes}, more than {self.max_region_bytes}, which"
                f" {self._setting} allows",
                field="region.shared_bytes",
                limit=self._setting,
                value=self.max_region_bytes,
                asked=nbytes,
            )
        if not HEADER_BYTES <= offset <= self._size - nbytes:
            raise OutOfRange(
                f"region.shared_offset: bytes {offset} to {offset + nbytes} are not within"
                f" {HEADER_BYTES} to {self._size} of the shared memory",
                field="region.shared_offset",
            )
        if self._own.nbytes < nbytes:
            self._own = np.empty(nbytes, np.uint8)
        own = self._own[:nbytes]
        # Without the interpreter's lock.
        np.copyto(own, self._pixels[offset : offset + nbytes])
        return own.data

    def result(self, shape: Shape, dtype: np.dtype[np.generic]) -> Array:
        """Where a result goes; to be let go of before `close`."""
        wire = dtype.newbyteorder("<")
        return np.ndarray(shape, wire, self._memory, RESULT_BYTES)

    def close(self) -> None:
        """Lets go of it."""
        del self._pixels
        # A result that an error still holds goes with it.
        with contextlib.suppress(BufferError):
            self._memory.close()


def pixels_in(
    memory: SharedMemory | None, payload: memoryview, offset: int, nbytes: int
) -> memoryview:
    """The pixels of a Region that says so much, good until the next; raises as `read` does.

    InvalidArgument where it has pixels as well, FailedPrecondition where no memory is shared.
    """
    if payload.nbytes:
        raise InvalidArgument(
            f"region.payload has {payload.nbytes} bytes beside {nbytes} of shared memory",
            field="region.payload",
        )
    if memory is None:
        raise FailedPrecondition(
            "region.shared_bytes: no memory is shared in this call", field="region.shared_bytes"
        )
    return memory.read(offset, nbytes)


def attach(
    offer: memory_pb2.SharedMemory, limits: Limits, *, result_bytes: int | None = None
) -> SharedMemory | None:
    """The memory that a client offers; None where it can't or may not be had.

    result_bytes: so many are to be written there.
    """
    try:
        return _attached(offer, limits, result_bytes)
    except (_RefusedError, OSError, ValueError) as error:
        log.debug("no memory is shared with process %d: %s", offer.pid, error)
        return None


class _RefusedError(Exception):
    """Why it may not be had."""


def _attached(
    offer: memory_pb2.SharedMemory, limits: Limits, result_bytes: int | None
) -> SharedMemory:
    if sys.platform != "linux":
        raise _RefusedError("only Linux has it")
    if not HEADER_BYTES < offer.size_bytes <= limits.max_memory_bytes:
        raise _RefusedError(f"{offer.size_bytes} bytes, max is {limits.max_memory_bytes}")
    path = f"/proc/{offer.pid}/fd/{offer.fd}"
    # Opening anything else might wait, or do something.
    if os.readlink(path) != LINK:
        raise _RefusedError(f"{path} is no memory of a client")
    needed = offer.size_bytes if result_bytes is None else RESULT_BYTES + result_bytes
    if needed > offer.size_bytes:
        raise _RefusedError(f"{offer.size_bytes} bytes for a result of {result_bytes}")
    access = os.O_RDONLY if result_bytes is None else os.O_RDWR
    file = os.open(path, access | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        kept = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        if fcntl.fcntl(file, fcntl.F_GET_SEALS) & kept != kept:
            raise _RefusedError("it could shrink")
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise _RefusedError(f"it is user {found.st_uid}'s")
        if found.st_size != offer.size_bytes:
            raise _RefusedError(f"it has {found.st_size} bytes, not {offer.size_bytes}")
        if len(offer.nonce) != NONCE_BYTES or os.pread(file, HEADER_BYTES, 0) != (
            MAGIC + offer.nonce
        ):
            raise _RefusedError("it begins with something else")
        if result_bytes is None:
            memory = mmap.mmap(file, needed, prot=mmap.PROT_READ)
        else:
            # All pages will be touched: one by one that would cost more than the pixels.
            memory = mmap.mmap(file, needed, mmap.MAP_SHARED | mmap.MAP_POPULATE)
    finally:
        os.close(file)
    return SharedMemory(memory, limits)
