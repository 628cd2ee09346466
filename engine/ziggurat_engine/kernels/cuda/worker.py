"""Who drives a card, and what if it fails? One thread each, and batches that are given back.

A worker keeps up to three batches on their way (task.py). What goes wrong with one gives
that batch back as a DeviceError, to be done by the CPU. Then:

    BadStatus     the card goes on with the next batch
    OutOfMemory   while the ring is being made: all is given back for RETRY_SECONDS, then the
                  ring is tried again; later: as BadStatus
    DeviceLost    all is given back, and the card is not touched again until a restart

Each is counted, and logged when it first happens to a card.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ziggurat_engine.kernels.cuda.decoding import Decoding, Wanted, fits
from ziggurat_engine.kernels.cuda.device import Device
from ziggurat_engine.kernels.cuda.errors import BadStatus, DeviceError, DeviceLost, OutOfMemory
from ziggurat_engine.kernels.cuda.memory import SLOTS, Ring, Room, Slot
from ziggurat_engine.kernels.cuda.task import Copying, Task
from ziggurat_engine.kernels.meter import Meter
from ziggurat_engine.kernels.protocol import DeviceTotals

log = logging.getLogger(__name__)

RETRY_SECONDS = 60.0


class Queue:
    """What the cards are to do; all methods may be called from any thread."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.workers: list[Worker] = []
        self._tasks: deque[Task] = deque()
        self._wanted: deque[Wanted] = deque()
        self._closing = False

    def put(self, item: Task | Wanted) -> None:
        """Sees to it that the item's `done` is set, if only to DeviceError."""
        with self.changed:
            if not self._closing and any(worker.usable for worker in self.workers):
                if isinstance(item, Wanted):
                    self._wanted.append(item)
                else:
                    self._tasks.append(item)
                self.changed.notify_all()
                return
        item.done.set_exception(DeviceError("no card is usable"))

    def take(self, worker: Worker, *, wait: bool) -> Task | None:
        """The next for `worker`; None where there is nothing now, or, waiting, ever again."""
        with self.changed:
            while True:
                if worker.usable:
                    if self._tasks:
                        return self._tasks.popleft()
                    if self._wanted:
                        return self._decoding(worker.room)
                if self._closing or worker.lost or not wait:
                    return None
                self.changed.wait()

    def give_up(self) -> None:
        """Gives back what waits, where no card is left to do it."""
        with self.changed:
            if any(worker.usable for worker in self.workers):
                self.changed.notify_all()
                return
            left: list[Task | Wanted] = [*self._tasks, *self._wanted]
            self._tasks.clear()
            self._wanted.clear()
        for item in left:
            if item.done.set_running_or_notify_cancel():
                item.done.set_exception(DeviceError("no card is usable any more"))

    def close(self) -> None:
        """Lets the workers end, once what is queued is done."""
        with self.changed:
            self._closing = True
            self.changed.notify_all()

    def _decoding(self, room: Room) -> Decoding:
        """All that waits to be decoded, or as much of it as fits; the first always does."""
        batch = [self._wanted.popleft()]
        while self._wanted and fits([*batch, self._wanted[0]], room):
            batch.append(self._wanted.popleft())
        return Decoding(batch)


@dataclass(slots=True)
class _Going:
    task: Task
    slot: Slot
    collected: bool = False


class Worker:
    """The thread of one card. It ends when the queue is closed and empty, or the card lost."""

    def __init__(
        self,
        device: Device,
        queue: Queue,
        room: Room,
        scratch_limit_bytes: int,
        copying: Copying,
        meter: Meter,
        *,
        retry_seconds: float = RETRY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.room = room
        self.lost = False
        self._device = device
        self._queue = queue
        self._scratch_limit = scratch_limit_bytes
        self._copying = copying
        self._meter = meter
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._paused_until = float("-inf")
        # Written by the card's thread alone.
        self._batches = self._failures = 0
        self._last_failure = ""
        self._told: set[type[DeviceError]] = set()
        self._ring: Ring | None = None
        self._free: list[Slot] = []
        self._going: deque[_Going] = deque()
        self.ready = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"card-{len(queue.workers)}", daemon=True
        )
        queue.workers.append(self)

    def start(self) -> None:
        """Begins; `ready` is set once the ring is there, or can't be."""
        self._thread.start()

    def join(self) -> None:
        """Returns when the thread has ended."""
        self._thread.join()

    @property
    def usable(self) -> bool:
        """Whether a batch has a chance here now."""
        return not self.lost and self._clock() >= self._paused_until

    @property
    def totals(self) -> DeviceTotals:
        """What the card did so far."""
        ring = self._ring
        return DeviceTotals(
            name=self._device.name,
            state="lost" if self.lost else "ready" if self.usable else "paused",
            memory_bytes=0 if ring is None else ring.nbytes,
            batches=self._batches,
            failures=self._failures,
            last_failure=self._last_failure,
        )

    # --- the thread

    def _run(self) -> None:
        try:
            self._device.bind()
            self._make_ring()
        except DeviceError as error:
            self._failed(error, batch=False)
        finally:
            self.ready.set()
        try:
            while not self.lost:
                task = self._queue.take(self, wait=not self._going)
                if task is not None:
                    self._begin(task)
                elif not self._going:
                    break
                else:
                    self._advance()
        except BaseException as error:
            # A thread that dies quietly would keep its callers waiting.
            log.exception("the thread of %s ends", self._device.name)
            self._lose(DeviceLost(f"{type(error).__name__}: {error}"))
        self._end()

    def _make_ring(self) -> None:
        if self._ring is None:
            self._ring = Ring(self._device, self.room, self._scratch_limit)
            self._free = list(self._ring.slots)

    def _begin(self, task: Task) -> None:
        """Starts a batch, and lets what is under way take its next step."""
        if not task.done.set_running_or_notify_cancel():
            return
        try:
            self._make_ring()
        except DeviceError as error:
            self._failed(error, batch=False)
            task.done.set_exception(error)
            return
        slot = self._free.pop()
        self._going.append(_Going(task, slot))
        with self._meter.timed(task.seconds):
            self._step(self._going[-1], self._start)
            # Behind the new one's start, so that the card has work while these are waited for.
            for going in [each for each in self._going if each.task is not task]:
                self._step(going, self._collect)
            if len(self._going) == SLOTS:
                self._step(self._going[0], self._finish)

    def _advance(self) -> None:
        """Ends the oldest batch, as nothing else is to be begun."""
        with self._meter.timed(self._going[0].task.seconds):
            for going in list(self._going)[:2]:
                self._step(going, self._collect)
            if self._going:
                self._step(self._going[0], self._finish)

    def _start(self, going: _Going, ring: Ring) -> None:
        going.task.load(going.slot, self._copying)
        going.task.start(going.slot, ring)

    def _collect(self, going: _Going, ring: Ring) -> None:
        if not going.collected:
            going.task.collect(going.slot, ring)
            going.collected = True

    def _finish(self, going: _Going, ring: Ring) -> None:
        self._collect(going, ring)
        result = going.task.finish(going.slot, ring, self._copying)
        self._batches += 1
        self._release(going)
        going.task.done.set_result(result)

    def _step(self, going: _Going, step: Callable[[_Going, Ring], None]) -> None:
        ring = self._ring
        if ring is None or going not in self._going:
            # Given back by a step before.
            return
        try:
            step(going, ring)
        except DeviceError as error:
            self._give_back(going, error)
        except Exception as error:
            # Ours to repair; the pixels are safe with the CPU.
            log.exception("a batch on %s failed", self._device.name)
            self._give_back(going, BadStatus(f"{type(error).__name__}: {error}"))

    def _give_back(self, going: _Going, error: DeviceError) -> None:
        """The batch is not done here. What it has queued must not meet the slot's next one."""
        if not isinstance(error, DeviceLost):
            try:
                self._device.drain()
            except DeviceError as lost:
                error = lost if isinstance(lost, DeviceLost) else DeviceLost(str(lost))
        if isinstance(error, DeviceLost):
            self._lose(error)
        else:
            self._release(going)
            self._failed(error, batch=True)
            going.task.done.set_exception(error)

    def _lose(self, error: DeviceLost) -> None:
        """All that is under way is given back."""
        self._failed(error, batch=True)
        for going in list(self._going):
            self._release(going)
            going.task.done.set_exception(error)

    def _release(self, going: _Going) -> None:
        self._going.remove(going)
        self._free.append(going.slot)

    def _failed(self, error: DeviceError, *, batch: bool) -> None:
        """Counts, tells, and decides whether the card is used on."""
        self._failures += 1
        self._last_failure = f"{type(error).__name__}: {error}"
        then = "the CPU does this batch"
        if isinstance(error, DeviceLost):
            self.lost = True
            then = "it is not used again before a restart"
        elif not batch and isinstance(error, OutOfMemory):
            self._paused_until = self._clock() + self._retry_seconds
            then = f"it is tried again in {self._retry_seconds:g} s"
        elif not batch:
            self.lost = True
            then = "it is not used before a restart"
        if type(error) not in self._told:
            self._told.add(type(error))
            log.warning("%s: %s; %s", self._device.name, self._last_failure, then)
        self._queue.give_up()

    def _end(self) -> None:
        """Frees what there is; a card that is lost frees nothing any more."""
        if self._ring is not None and not self.lost:
            try:
                self._device.drain()
                self._ring.close()
            except DeviceError as error:
                log.warning("%s, at the end: %s", self._device.name, error)
        self._ring = None
