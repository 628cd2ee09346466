"""What does the benchmark of cards need of a device, and how does it take times?

Times are the host's, around work that is queued and waited for; the median of some rounds
behind one that does not count. Memory is poisoned when it is allocated, and again before
results are compared: what was never written is seen.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ziggurat_engine.kernels.cuda.device import Bytes, Device

POISON = 0xA5


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured. Raw bytes but for `rounds`; chunk: (z, y, x) pixels of uint16."""

    kernel_bytes: int = 1 << 30
    settle_bytes: int = 4 << 30
    copy_bytes: int = 1 << 30
    chunk: tuple[int, int, int] = (32, 128, 256)
    rounds: int = 7
    device_memory_bytes: int = 16 << 30
    batch_bytes: int = 128 << 20
    frames: tuple[int, int, int] = (256, 2048, 2048)
    streams: tuple[int, ...] = (1, 2, 4)
    thorough: bool = True


SMALL = Sizes(
    kernel_bytes=1 << 17,
    settle_bytes=1 << 18,
    copy_bytes=1 << 18,
    chunk=(8, 32, 64),
    rounds=1,
    device_memory_bytes=64 << 20,
    batch_bytes=1 << 18,
    frames=(8, 128, 128),
    streams=(1,),
    thorough=False,
)
"""For trying the program where there is no card: its figures mean nothing."""


class Poisoned:
    """A device whose memory never looks like a result by chance; all else is the device's."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._held: dict[int, int] = {}
        self._pinned: list[Bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def allocate(self, nbytes: int) -> int:
        """See Device."""
        address = self._device.allocate(nbytes)
        self._held[address] = nbytes
        return address

    def allocate_pinned(self, nbytes: int) -> Bytes:
        """See Device."""
        self._pinned.append(self._device.allocate_pinned(nbytes))
        return self._pinned[-1]

    def free(self, address: int) -> None:
        """See Device."""
        del self._held[address]
        self._device.free(address)

    def free_pinned(self, memory: Bytes) -> None:
        """See Device."""
        self._pinned = [each for each in self._pinned if each is not memory]
        self._device.free_pinned(memory)

    def poison(self) -> None:
        """All memory; nothing may be under way."""
        self._device.bind()
        stream = self._device.stream()
        for address, nbytes in self._held.items():
            self._device.fill(address, POISON, nbytes, stream)
        for memory in self._pinned:
            memory[:] = POISON
        self._device.drain()


def copy_within(device: Any, target: int, source: int, nbytes: int, stream: Any) -> None:
    """A plain copy from device memory to device memory: the ceiling of all kernels."""
    if hasattr(device, "copy_within"):
        device.copy_within(target, source, nbytes, stream)
        return
    from cupy.cuda import runtime

    runtime.memcpyAsync(target, source, nbytes, runtime.memcpyDeviceToDevice, stream.ptr)


def cores() -> int:
    """Threads that this process may use at a time."""
    return len(os.sched_getaffinity(0))


def seconds(work: Callable[[], object], rounds: int) -> float:
    """The median of what `work` takes, behind a call that does not count."""
    work()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def queued_seconds(device: Device, queue: Callable[[], object], rounds: int) -> float:
    """The median of what the device takes for what `queue` queues, several times in a row."""
    times = 10 if rounds > 1 else 1

    def work() -> None:
        for _ in range(times):
            queue()
        device.drain()

    return seconds(work, rounds) / times
