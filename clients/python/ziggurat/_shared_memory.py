"""How do pixels get to a server on this machine, and from it, without a connection?

A writer keeps what is not acknowledged in a ring in a file of memory. A server of the same
user on this machine opens that file too (memory.proto), and messages then say where in it
their pixels lie:

    64 bytes: mark, nonce | free | region | region | region | free
                                 ^ oldest            ^ head

A read of a mebibyte or more gives the server a file for all of the result, from byte 64 on.

Such a file has no name, so that nothing is left of it when both processes are gone, however they
ended; and it can't shrink, so that neither side can pull it away under the other. Linux only:
elsewhere, with a server elsewhere, and whenever anything about it fails, pixels go in messages.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import secrets
import socket
import sys
import threading
from collections.abc import Sequence
from typing import Any, TypeVar, Unpack

import numpy as np
from numpy.typing import NDArray
from ziggurat_proto.v1 import memory_pb2

from ziggurat._encoding import is_local
from ziggurat._wire import Said, encode_region

log = logging.getLogger("ziggurat")

NAME = "ziggurat"
MAGIC = b"ZIGGMEM1"
NONCE_BYTES = 16
# Before the first region; keeps pixels aligned.
HEADER_BYTES = 64
_Kind = TypeVar("_Kind", bound="Memory")

# Below this a message with the pixels in it costs no more.
LEAST_BYTES = 8 * 1024
# The same of results: a file is mapped for each.
LEAST_RESULT_BYTES = 2**20
# What is kept for reads, at most; and how many files.
MOST_KEPT_BYTES = 64 * 2**20
MOST_KEPT = 4
# Memory is had of the system at least so much at a time.
_STEP_BYTES = 2**20


class Memory:
    """A file of memory, and what tells a server of it; `size` bytes with the header."""

    def __init__(self, size_bytes: int) -> None:
        """Raises OSError where the system does not give it; NotImplementedError elsewhere."""
        if sys.platform != "linux":
            raise NotImplementedError("only Linux has it")
        import fcntl  # not on Windows

        self.size = HEADER_BYTES + size_bytes
        nonce = secrets.token_bytes(NONCE_BYTES)
        self._fd = os.memfd_create(NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self._fd, self.size)
            os.pwrite(self._fd, MAGIC + nonce, 0)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, seals)
            self._bytes = np.frombuffer(mmap.mmap(self._fd, self.size), np.uint8)
        except BaseException:
            os.close(self._fd)
            raise
        self.offer = memory_pb2.SharedMemory(
            pid=os.getpid(), fd=self._fd, size_bytes=self.size, nonce=nonce
        )
        # Up to here there is memory behind it. A page that can't be had is an error of
        # posix_fallocate; at the first touch it would be a signal.
        self._backed = HEADER_BYTES

    def view(self, offset: int, nbytes: int) -> NDArray[np.uint8]:
        """Some bytes; copying them releases the interpreter's lock."""
        return self._bytes[offset : offset + nbytes]

    def close(self) -> None:
        """Nobody else can get at it any more; what somebody has stays until they let it go."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def back(self, end: int) -> bool:
        """Has the system give memory up to there; False where it has none."""
        if end > self._backed:
            much = min(max(end - self._backed, _STEP_BYTES), self.size - self._backed)
            try:
                os.posix_fallocate(self._fd, self._backed, much)
            except OSError as error:
                log.debug("no more shared memory: %s", error)
                return False
            self._backed += much
        return True


class Ring(Memory):
    """Room for the regions of one stream; for one thread at a time, but for what `view` gives.

    Slots are freed in the order in which they were taken, as messages are acknowledged; one that
    is freed earlier waits for those before it.
    """

    def __init__(self, size_bytes: int) -> None:
        """Raises as Memory does."""
        super().__init__(size_bytes)
        # Offset and end of each that is taken, in order.
        self._slots: dict[int, int] = {}
        self._head = HEADER_BYTES

    def take(self, nbytes: int) -> int | None:
        """The offset of so much room; None where there is none now, in the ring or in memory."""
        begin = self._head
        oldest = next(iter(self._slots), None)
        if oldest is None:
            begin = HEADER_BYTES
        elif begin <= oldest:
            if begin + nbytes > oldest:
                return None
        elif begin + nbytes > self.size:
            begin = HEADER_BYTES
            if begin + nbytes > oldest:
                return None
        end = begin + nbytes
        if end > self.size or not self.back(end):
            return None
        self._slots[begin] = self._head = end
        return begin

    def free(self, offset: int) -> None:
        """The slot is needed no more."""
        del self._slots[offset]


class Lent:
    """A Region whose pixels lie in a ring; `bytes` gives the message that has them in it.

    pointing: the message that says where they are.
    """

    __slots__ = ("_head", "_nbytes", "_offset", "_ring", "_said", "pointing")

    def __init__(
        self,
        ring: Ring,
        slot: int,
        sequence: int,
        offset: Sequence[int],
        pixels: NDArray[Any],
        **said: Unpack[Said],
    ) -> None:
        """Copies the pixels, of any strides and byte order, into the slot."""
        self._ring, self._offset, self._nbytes = ring, slot, pixels.nbytes
        self._head = sequence, offset, pixels.shape
        self._said = said
        wire = pixels.dtype.newbyteorder("<")
        np.copyto(ring.view(slot, pixels.nbytes).view(wire).reshape(pixels.shape), pixels)
        self.pointing = encode_region(*self._head, b"", shared=(slot, pixels.nbytes), **self._said)

    def __len__(self) -> int:
        return len(self.pointing) + self._nbytes

    def __bytes__(self) -> bytes:
        pixels = self._ring.view(self._offset, self._nbytes)
        return encode_region(*self._head, pixels.data, **self._said)

    def free(self) -> None:
        """Neither side needs the pixels any more."""
        self._ring.free(self._offset)


def ring(server: str, size_bytes: int) -> Ring | None:
    """A ring for a stream to `server`; None where there can't be one, or its use."""
    return _made(Ring, server, size_bytes)


class Kept:
    """Memory for what reads bring, one after the other: pages that are new cost more than reads.

    Any thread may use it; what runs beside another has memory of its own.
    """

    def __init__(self, server: str) -> None:
        self._server = server
        self._lock = threading.Lock()
        # What was used last comes last.
        self._free: list[Memory] = []

    def take(self, size_bytes: int) -> Memory | None:
        """Memory of at least that size; None as of `ring`, and for what is too large to keep."""
        if size_bytes > MOST_KEPT_BYTES:
            return None
        with self._lock:
            fitting = [m for m in self._free if m.size >= HEADER_BYTES + size_bytes]
            if fitting:
                found = min(fitting, key=lambda memory: memory.size)
                self._free.remove(found)
                return found
        made = _made(Memory, self._server, size_bytes)
        # By this process, so that it counts as its memory and not as the server's.
        if made is not None and not made.back(made.size):
            made.close()
            return None
        return made

    def give(self, memory: Memory) -> None:
        """Nobody writes there any more: the next may have it."""
        over = []
        with self._lock:
            self._free.append(memory)
            # Each has its header beside what was asked for.
            while len(self._free) > MOST_KEPT or self._kept_bytes() > MOST_KEPT_BYTES:
                over.append(self._free.pop(0))
        for old in over:
            old.close()

    def _kept_bytes(self) -> int:
        return sum(memory.size - HEADER_BYTES for memory in self._free)


def _made(kind: type[_Kind], server: str, size_bytes: int) -> _Kind | None:
    if not (is_local(server) or server.rpartition(":")[0] == socket.gethostname()):
        return None
    with contextlib.suppress(NotImplementedError):
        try:
            return kind(size_bytes)
        except (OSError, ValueError) as error:
            log.debug("no shared memory: %s", error)
    return None
