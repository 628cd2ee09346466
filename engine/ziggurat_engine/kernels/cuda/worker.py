"""Who drives a card, and what if it fails? One thread each, and batches that are given back.

A worker keeps up to three batches on their way (task.py). What goes wrong with one gives
that batch back as a DeviceError, to be done by the CPU. Then:

    BadStatus     the card goes on with the next batch
    OutOfMemory   while the ring is being made: all is given back for RETRY_SECONDS, then the
                  ring is tried again; later: as BadStatus
    DeviceLost    all is given back, and the card is not touched again until a restart
    DeviceHung    the same, said by another thread (watching.py): a step takes too long

Each is counted, and logged when it first happens to a card. Whoever takes a batch from those
under way, the card's thread or the other, and only he, sets what became of it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ziggurat_engine.kernels.cuda.decoding import Decoding, Wanted, fits
from ziggurat_engine.kernels.cuda.device import Device
from ziggurat_engine.kernels.cuda.errors import (
    BadStatus,
    DeviceError,
    DeviceHung,
    DeviceLost,
    OutOfMemory,
)
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
                    # Somebody waits for these; and there are never many.
                    if self._wanted:
                        return self._decoding(worker.room)
                    if self._tasks:
                        return self._tasks.popleft()
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
        try:
            return Decoding(batch)
        except BaseException as error:
            for wanted in batch:
                wanted.done.set_exception(BadStatus(f"{type(error).__name__}: {error}"))
            raise


@dataclass(slots=True, eq=False)
class _Going:
    """A batch under way; slot: None before its start."""

    task: Task
    slot: Slot | None = None
    collected: bool = False


class Worker:
    """The thread of one card. It ends when the queue is closed and empty, or the card lost.

    Where a card that was given up answers at last, its thread ends the step that it was at, in
    memory that nothing else uses, and then itself.
    """

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
        self._batches = 0
        self._ring: Ring | None = None
        self._free: list[Slot] = []
        # Guards what follows, and `lost`.
        self._guard = threading.Lock()
        self._failures = 0
        self._last_failure = ""
        self._told: set[type[DeviceError]] = set()
        self._going: deque[_Going] = deque()
        # When the step that the card's thread is at began.
        self._since: float | None = None
        self.ready = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"card-{len(queue.workers)}", daemon=True
        )
        queue.workers.append(self)

    def start(self) -> None:
        """Begins; `ready` is set once the ring is there, or can't be."""
        self._thread.start()

    def join(self) -> None:
        """Returns when the thread has ended, or was given up."""
        self._ended.wait()

    def give_up_after(self, seconds: float) -> None:
        """Gives back all that is under way, where one step of it takes longer than that.

        For any thread but the card's own.
        """
        since = self._since
        if since is None or self._clock() - since < seconds or self.lost:
            return
        self._lose(DeviceHung(f"no answer for {seconds:g} s"))
        self.ready.set()
        self._ended.set()

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
            self._open()
            self.ready.set()
            while not self.lost:
                idle = not self._under_way()
                task = self._queue.take(self, wait=idle)
                if task is not None:
                    self._begin(task)
                elif idle:
                    break
                else:
                    self._advance()
        except BaseException as error:
            # A thread that dies quietly would keep its callers waiting.
            log.exception("the thread of %s ends", self._device.name)
            self._lose(DeviceLost(f"{type(error).__name__}: {error}"))
        finally:
            self.ready.set()
            self._end()
            self._ended.set()

    def _open(self) -> None:
        try:
            with self._answering():
                self._device.bind()
                self._make_ring()
        except DeviceError as error:
            self._failed(error, batch=False)

    def _make_ring(self) -> None:
        if self._ring is None:
            self._ring = Ring(self._device, self.room, self._scratch_limit)
            self._free = list(self._ring.slots)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """The card is expected to be done with what follows in time."""
        self._since = self._clock()
        try:
            yield
        finally:
            self._since = None

    def _begin(self, task: Task) -> None:
        """Starts a batch, and lets what is under way take its next step."""
        if not task.done.set_running_or_notify_cancel():
            return
        going = _Going(task)
        with self._guard:
            self._going.append(going)
        try:
            with self._answering():
                self._make_ring()
        except DeviceError as error:
            if self._take(going):
                self._failed(error, batch=False)
                task.done.set_exception(error)
            return
        with self._meter.timed(task.seconds):
            self._step(going, self._start)
            # Behind the new one's start, so that the card has work while these are waited for.
            for each in self._under_way():
                if each is not going:
                    self._step(each, self._collect)
            if len(all_going := self._under_way()) == SLOTS:
                self._step(all_going[0], self._finish)

    def _advance(self) -> None:
        """Ends the oldest batch, as nothing else is to be begun."""
        for first in self._under_way()[:1]:
            with self._meter.timed(first.task.seconds):
                for going in self._under_way()[:2]:
                    self._step(going, self._collect)
                self._step(first, self._finish)

    def _start(self, going: _Going, ring: Ring) -> None:
        going.slot = self._free.pop()
        going.task.load(going.slot, self._copying)
        going.task.start(going.slot, ring)

    def _collect(self, going: _Going, ring: Ring) -> None:
        if not going.collected:
            assert going.slot is not None
            going.task.collect(going.slot, ring)
            going.collected = True

    def _finish(self, going: _Going, ring: Ring) -> None:
        self._collect(going, ring)
        assert going.slot is not None
        result = going.task.finish(going.slot, ring, self._copying)
        if self._take(going):
            self._batches += 1
            going.task.done.set_result(result)

    def _step(self, going: _Going, step: Callable[[_Going, Ring], None]) -> None:
        ring = self._ring
        if ring is None or self.lost or going not in self._under_way():
            # Given back by a step before.
            return
        try:
            with self._answering():
                step(going, ring)
        except DeviceError as error:
            self._give_back(going, error)
        except Exception as error:
            # Ours to repair; the pixels are safe with the CPU.
            log.exception("a batch on %s failed", self._device.name)
            self._give_back(going, BadStatus(f"{type(error).__name__}: {error}"))

    def _give_back(self, going: _Going, error: DeviceError) -> None:
        """The batch is not done here. What it has queued must not meet the slot's next one."""
        if self.lost:
            return
        if not isinstance(error, DeviceLost):
            try:
                with self._answering():
                    self._device.drain()
            except DeviceError as lost:
                error = lost if isinstance(lost, DeviceLost) else DeviceLost(str(lost))
        if isinstance(error, DeviceLost):
            self._lose(error)
        elif self._take(going):
            self._failed(error, batch=True)
            going.task.done.set_exception(error)

    def _lose(self, error: DeviceLost) -> None:
        """All that is under way is given back."""
        self._failed(error, batch=True)
        with self._guard:
            given_back = list(self._going)
            self._going.clear()
        for going in given_back:
            going.task.done.set_exception(error)

    def _under_way(self) -> list[_Going]:
        """The oldest first."""
        with self._guard:
            return list(self._going)

    def _take(self, going: _Going) -> bool:
        """Takes a batch from those under way, and its slot; False where it was given back."""
        with self._guard:
            if self.lost or going not in self._going:
                return False
            self._going.remove(going)
        if going.slot is not None:
            self._free.append(going.slot)
        return True

    def _failed(self, error: DeviceError, *, batch: bool) -> None:
        """Counts, tells, and decides whether the card is used on."""
        then = "the CPU does this batch"
        with self._guard:
            self._failures += 1
            self._last_failure = failure = f"{type(error).__name__}: {error}"
            if isinstance(error, DeviceLost):
                self.lost = True
                then = "it is not used again before a restart"
            elif not batch and isinstance(error, OutOfMemory):
                self._paused_until = self._clock() + self._retry_seconds
                then = f"it is tried again in {self._retry_seconds:g} s"
            elif not batch:
                self.lost = True
                then = "it is not used before a restart"
            first = type(error) not in self._told
            self._told.add(type(error))
        if first:
            log.warning("%s: %s; %s", self._device.name, failure, then)
        self._queue.give_up()

    def _end(self) -> None:
        """Frees what there is; a card that is lost frees nothing any more."""
        if self._ring is not None and not self.lost:
            try:
                with self._answering():
                    self._device.drain()
                    self._ring.close()
            except DeviceError as error:
                log.warning("%s, at the end: %s", self._device.name, error)
        self._ring = None
