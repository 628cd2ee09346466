"""What goes through a ring? One batch, in four steps that the worker takes one after the other.

Between the steps of one batch come steps of others, so that the card copies in, computes
and copies out at the same time. A step only queues work on the device, and waits for what
an earlier one has queued.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from typing import Any, Protocol

from ziggurat_engine.kernels.cuda.device import Bytes
from ziggurat_engine.kernels.cuda.memory import Ring, Slot

# As the C interface has it: bytes without content, to be filled before anybody else sees them.
_new_bytes = ctypes.pythonapi.PyBytes_FromStringAndSize
_new_bytes.argtypes, _new_bytes.restype = (ctypes.c_void_p, ctypes.c_ssize_t), ctypes.py_object
_address_of = ctypes.pythonapi.PyBytes_AsString
_address_of.argtypes, _address_of.restype = (ctypes.py_object,), ctypes.c_void_p


class Task(Protocol):
    """A batch. Its slot is its own from `load` to the end of `finish`.

    Every step may raise DeviceError: the batch is to be done elsewhere.
    """

    @property
    def seconds(self) -> str:
        """The total of KernelTotals that its time is added to."""
        ...

    @property
    def done(self) -> Future[Any]:
        """Gets the result, or a DeviceError."""
        ...

    def load(self, slot: Slot, copying: Copying) -> None:
        """Fills the slot's pinned memory; nothing of the caller's is looked at behind it."""
        ...

    def start(self, slot: Slot, ring: Ring) -> None:
        """Queues copies in, kernels and the head's copy out."""
        ...

    def collect(self, slot: Slot, ring: Ring) -> None:
        """Waits for the head, and queues what else is to come out."""
        ...

    def finish(self, slot: Slot, ring: Ring, copying: Copying) -> Any:
        """Waits for that, and returns the result, which lies in memory of its own."""
        ...


class Copying:
    """Copies between pinned memory and the caller's arrays, on a few threads.

    One thread copies at about a fifth of the rate of PCIe gen5.
    """

    def __init__(self, pool: Executor, threads: int) -> None:
        self._pool = pool
        self._threads = threads

    def each(self, count: int, copy: Callable[[int], object]) -> None:
        """Calls copy(i) for all i below `count`; returns when all are done."""
        step = -(-count // self._threads) or 1

        def some(first: int) -> None:
            for i in range(first, min(first + step, count)):
                copy(i)

        parts = [self._pool.submit(some, first) for first in range(step, count, step)]
        try:
            some(0)
        finally:
            wait(parts)
        for part in parts:
            part.result()


def copied(memory: Bytes) -> bytes:
    """A copy. Other threads run meanwhile, which they do not while `tobytes` copies."""
    made: bytes = _new_bytes(None, memory.size)
    ctypes.memmove(_address_of(made), memory.ctypes.data, memory.size)
    return made
