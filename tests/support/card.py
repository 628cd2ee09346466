"""What stands for a card where there is none? The kernels on the CPU, behind streams that dawdle.

Memory is the host's, poisoned when it is allocated. What is queued on a stream is done later:
when an event is waited for that needs it ("late"), at once ("early"), or a few steps at
a time as dice have it (a seed). Only a program that orders its work by events gets the
same bytes from all of them: with "late", a copy whose source was used again too soon brings
what is there now, and what was not waited for is still poison.

Faults: the n-th allocation fails, the n-th launch or copy loses the card, the n-th batch of
nvCOMP has a bad block, a kernel changes a byte of what it makes or does not compile, and a
method does not return before `thaw` is set.
"""

from __future__ import annotations

import ctypes
import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numcodecs import zstd
from ziggurat_engine.kernels.cuda.abi import Launch
from ziggurat_engine.kernels.cuda.device import Bytes, Device
from ziggurat_engine.kernels.cuda.errors import BadStatus, DeviceLost, OutOfMemory
from ziggurat_engine.kernels.cuda.kernels import CudaKernels
from ziggurat_engine.kernels.cuda.nvcomp import Nvcomp

from tests.support import shim


@dataclass
class Faults:
    """Counts from 1; 0: never. `times`: for how many allocations in a row memory is short."""

    out_of_memory_at: int = 0
    out_of_memory_times: int = 1
    lost_at_launch: int = 0
    lost_at_copy: int = 0
    bad_zstd_at: int = 0
    crash_at_launch: int = 0
    crash_at_bind: bool = False
    crash_at_allocation: int = 0
    hangs_at: str = ""
    hangs_after: int = 0
    wrong_kernel: str = ""
    wrong_argument: int = 0
    refused_kernel: str = ""


@dataclass
class Mark:
    """An event: the last record of it, on which stream and behind how much work."""

    stream: Lane | None = None
    position: int = 0


@dataclass
class Lane:
    """A stream: work that is queued, and how much was done or queued so far."""

    number: int
    work: deque[Callable[[], bool]] = field(default_factory=deque)
    queued: int = 0
    done: int = 0


class Card:
    """A Device of the CPU. pace: "late", "early" or a seed.

    deaf: no stream waits for another. meeting: where the first launch waits for others.
    """

    def __init__(
        self,
        *,
        pace: str | int = "late",
        faults: Faults | None = None,
        with_nvcomp: bool = True,
        deaf: bool = False,
        meeting: threading.Barrier | None = None,
        name: str = "Test Card",
    ) -> None:
        self.name = name
        self.faults = faults or Faults()
        self.allocations = self.launches = self.copies = self.zstd_batches = 0
        # What was queued, in order: kernels by name, copies as "in" and "out".
        self.trace: list[str] = []
        self._deaf = deaf
        self._meeting = meeting
        self.lost = False
        self.pace = pace
        self.thaw = threading.Event()
        self._left_to_hang = self.faults.hangs_after
        self.nvcomp = Nvcomp(_Library(self), "6.0.0-test") if with_nvcomp else None
        self.held: dict[int, Bytes] = {}
        self.pinned: dict[int, Bytes] = {}
        self._lanes: list[Lane] = []
        self._dice = random.Random(pace)
        self._threads: set[int] = set()

    # --- Device

    def bind(self) -> None:
        self._hang("bind")
        if self.faults.crash_at_bind:
            raise ZeroDivisionError("a mistake in our own code")
        self._threads.add(threading.get_ident())

    def allocate(self, nbytes: int) -> int:
        self._hang("allocate")
        self._check()
        self._take_memory()
        memory = shim.empty(nbytes)
        self.held[memory.ctypes.data] = memory
        return memory.ctypes.data

    def allocate_pinned(self, nbytes: int) -> Bytes:
        self._check()
        self._take_memory()
        memory = shim.empty(nbytes)
        self.pinned[memory.ctypes.data] = memory
        return memory

    def free(self, address: int) -> None:
        self._check()
        assert not any(lane.work for lane in self._lanes), "freed while work is under way"
        del self.held[address]

    def free_pinned(self, memory: Bytes) -> None:
        self._check()
        del self.pinned[memory.ctypes.data]

    def stream(self) -> Lane:
        self._lanes.append(Lane(len(self._lanes)))
        return self._lanes[-1]

    def event(self) -> Mark:
        return Mark()

    def copy_in(self, address: int, memory: Bytes, stream: Lane) -> None:
        self.trace.append("in")
        self._copy(address, memory.ctypes.data, memory.nbytes, stream)

    def copy_out(self, memory: Bytes, address: int, stream: Lane) -> None:
        self.trace.append("out")
        self._copy(memory.ctypes.data, address, memory.nbytes, stream)

    def copy_within(self, target: int, source: int, nbytes: int, stream: Lane) -> None:
        self._copy(target, source, nbytes, stream)

    def fill(self, address: int, value: int, nbytes: int, stream: Lane) -> None:
        self._check()
        self.within(address, nbytes)
        self.enqueue(stream, lambda: ctypes.memset(address, value, nbytes))

    def launch(self, launch: Launch, stream: Lane) -> None:
        self._hang("launch")
        self._check()
        self.launches += 1
        self.trace.append(launch.kernel)
        if self.launches == 1 and self._meeting is not None:
            self._meeting.wait(60)
        if launch.kernel == self.faults.refused_kernel:
            raise BadStatus("it does not compile")
        if self.launches == self.faults.crash_at_launch:
            raise ZeroDivisionError("a mistake in our own code")
        lost = self.launches == self.faults.lost_at_launch

        def work() -> None:
            if lost:
                self.lost = True
                return
            shim.launch(launch)
            if launch.kernel == self.faults.wrong_kernel:
                # One byte of what it made.
                made = int(launch.args[self.faults.wrong_argument])
                ctypes.memset(made, ctypes.c_uint8.from_address(made).value ^ 1, 1)

        self.enqueue(stream, work)

    def record(self, event: Mark, stream: Lane) -> None:
        self._check()
        event.stream, event.position = stream, stream.queued

    def wait(self, stream: Lane, event: Mark) -> None:
        self._check()
        lane, position = event.stream, event.position
        if lane is not None and not self._deaf:
            self.enqueue(stream, lambda: lane.done >= position, waits=(lane, position))

    def synchronize(self, event: Mark) -> None:
        self._hang("synchronize")
        self._check()
        if event.stream is not None:
            self._force(event.stream, event.position)
        self._check()

    def drain(self) -> None:
        self._hang("drain")
        self._check()
        for lane in self._lanes:
            self._force(lane, lane.queued)
        self._check()

    def handle(self, stream: Lane) -> int:
        return stream.number

    # --- the queues

    def enqueue(
        self, lane: Lane, work: Callable[[], Any], waits: tuple[Lane, int] | None = None
    ) -> None:
        """Queues `work`; one that waits is done once `waits` is."""
        assert threading.get_ident() in self._threads, "a thread that has not bound the card"

        def step() -> bool:
            if waits is not None and waits[0].done < waits[1]:
                return False
            if waits is None and not self.lost:
                work()
            return True

        step.waits = waits  # type: ignore[attr-defined]
        lane.work.append(step)
        lane.queued += 1
        if self.pace == "early":
            for each in self._lanes:
                while self._advance(each):
                    pass
        elif self.pace != "late":
            for _ in range(self._dice.randrange(4)):
                self._advance(self._dice.choice(self._lanes))

    def lane(self, handle: int) -> Lane:
        return self._lanes[handle]

    def _advance(self, lane: Lane) -> bool:
        if not lane.work or not lane.work[0]():
            return False
        lane.work.popleft()
        lane.done += 1
        return True

    def _force(self, lane: Lane, position: int) -> None:
        while lane.done < position:
            waits = lane.work[0].waits  # type: ignore[attr-defined]
            if waits is not None:
                self._force(*waits)
            assert self._advance(lane)

    # --- memory

    def within(self, address: int, nbytes: int) -> None:
        """Fails where these bytes do not lie in one allocation."""
        for memories in (self.held, self.pinned):
            for start, memory in memories.items():
                if start <= address and address + nbytes <= start + memory.nbytes:
                    return
        raise AssertionError(f"{nbytes} bytes at {address:#x} lie in no allocation")

    def _copy(self, target: int, source: int, nbytes: int, stream: Lane) -> None:
        self._check()
        self.within(target, nbytes)
        self.within(source, nbytes)
        self.copies += 1
        lost = self.copies == self.faults.lost_at_copy

        def work() -> None:
            if lost:
                self.lost = True
            else:
                ctypes.memmove(target, source, nbytes)

        self.enqueue(stream, work)

    def _take_memory(self) -> None:
        self.allocations += 1
        if self.allocations == self.faults.crash_at_allocation:
            raise ZeroDivisionError("a mistake in our own code")
        first = self.faults.out_of_memory_at
        if first and first <= self.allocations < first + self.faults.out_of_memory_times:
            raise OutOfMemory("the test says so")

    def _hang(self, method: str) -> None:
        if method == self.faults.hangs_at:
            self._left_to_hang -= 1
            if self._left_to_hang < 0:
                self.thaw.wait()

    def _check(self) -> None:
        if self.lost:
            raise DeviceLost("the test says so")


class _Function:
    """A function of a C library, as ctypes has it."""

    def __init__(self, call: Callable[..., int]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> int:
        return self._call(*args)


class _Library:
    """nvCOMP's functions, on the card's memory: libzstd compresses, when the stream gets there."""

    def __init__(self, card: Card) -> None:
        self._card = card
        prefix = "nvcompBatchedZstd"
        setattr(self, f"{prefix}CompressGetMaxOutputChunkSize", _Function(self._most))
        setattr(self, f"{prefix}CompressGetTempSize", _Function(self._scratch))
        setattr(self, f"{prefix}CompressAsync", _Function(self._compress))

    def _most(self, block_bytes: int, _options: Any, found: Any) -> int:
        found._obj.value = block_bytes + block_bytes // 128 + 512
        return 0

    def _scratch(
        self, blocks: int, block_bytes: int, _options: Any, found: Any, total: int, _stream: Any
    ) -> int:
        assert blocks * block_bytes >= total
        found._obj.value = blocks * 64
        return 0

    def _compress(
        self,
        sources: int,
        lengths: int,
        block_bytes: int,
        blocks: int,
        scratch: int,
        scratch_bytes: int,
        targets: int,
        compressed: int,
        options: Any,
        statuses: int,
        stream: int,
    ) -> int:
        card = self._card
        card.within(scratch, scratch_bytes)
        assert scratch_bytes >= blocks * 64
        assert bytes(options) == bytes(64)
        card.zstd_batches += 1
        bad = card.zstd_batches == card.faults.bad_zstd_at

        def work() -> None:
            table = [_array(at, "u8", blocks) for at in (sources, lengths, targets, compressed)]
            status = _array(statuses, "i4", blocks)
            for i, (source, length, target, _) in enumerate(zip(*table, strict=True)):
                assert source % 4 == 0
                assert length <= block_bytes
                frame = zstd.compress(_array(int(source), "u1", int(length)), 1)
                card.within(int(target), len(frame))
                _array(int(target), "u1", len(frame))[:] = np.frombuffer(frame, "u1")
                table[3][i] = len(frame)
                status[i] = 12 if bad and i == blocks - 1 else 0

        card.enqueue(card.lane(stream), work)
        return 0


def _array(address: int, dtype: str, count: int) -> np.ndarray[Any, Any]:
    size = count * np.dtype(dtype).itemsize
    memory = (ctypes.c_uint8 * size).from_address(address)
    return np.frombuffer(memory, dtype)


def kernels_on(*cards: Device, **changes: Any) -> CudaKernels:
    """Kernels on these cards, or on a sound one; `changes` of what CudaKernels takes."""
    settings = {
        "threads": 2,
        "device_memory_bytes": 32 * 2**20,
        "batch_bytes": 2**20,
        "timeout_seconds": 600.0,
        **changes,
    }
    return CudaKernels(cards or (Card(),), **settings)
