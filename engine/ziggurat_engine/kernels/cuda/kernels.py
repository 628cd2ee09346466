"""How do cards take part in settling and reading? Batches for them, and the CPU for all else.

Chunks of one shape are cut into batches, each goes to the first card that is free, and
results come back in order. What no card has code for, and what a card gives back, is done by
the compiled loops of cpu.py: the caller can't tell, but by time. What a card first makes of
each kind of batch, and of frame, is compared with what the CPU makes of it (trust.py).
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import replace

import numpy as np

from ziggurat_engine.errors import Corrupt, FailedPrecondition, InvalidArgument
from ziggurat_engine.kernels import codec
from ziggurat_engine.kernels.cpu import METHODS, CpuKernels
from ziggurat_engine.kernels.cuda.blosc import parse
from ziggurat_engine.kernels.cuda.decoding import Wanted, fits
from ziggurat_engine.kernels.cuda.device import Device
from ziggurat_engine.kernels.cuda.errors import BadStatus, DeviceError, WrongResult
from ziggurat_engine.kernels.cuda.memory import fit
from ziggurat_engine.kernels.cuda.plans import Plan, plan_for
from ziggurat_engine.kernels.cuda.settling import Settling
from ziggurat_engine.kernels.cuda.task import Copying
from ziggurat_engine.kernels.cuda.trust import Trust
from ziggurat_engine.kernels.cuda.watching import Watch
from ziggurat_engine.kernels.cuda.worker import RETRY_SECONDS, Queue, Worker
from ziggurat_engine.kernels.meter import Meter
from ziggurat_engine.kernels.protocol import (
    DeviceTotals,
    KernelTotals,
    Points,
    Recipe,
    Settled,
    Surrounded,
)
from ziggurat_engine.kernels.reference import method_for
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Array, Blosc, Codec

log = logging.getLogger(__name__)

# Batches of one caller that a card may be at, or have done: what a ring holds at a time.
AHEAD = 3
# So many chunks have to be wanted at a time for a card to decode them: one alone comes
# sooner from the thread that wants it.
DECODE_TOGETHER = 8
# Frames of a kind that the CPU decodes as well before a card is believed.
DECODE_PROOFS = 16
COPY_THREADS = 4


class CudaKernels:
    """Kernels on cards, with the CPU behind them; see Kernels.

    threads: of the CPU's kernels. device_memory_bytes: of each card, what may be held.
    batch_bytes: raw pixels of a batch; less where the memory asks for it, or
    InvalidArgument where that has no room for the smallest. timeout_seconds: what a step of a
    batch may take before its card is given up.
    """

    name = "cuda"

    def __init__(
        self,
        devices: Sequence[Device],
        threads: int,
        *,
        device_memory_bytes: int,
        batch_bytes: int,
        timeout_seconds: float,
        decode_together: int = DECODE_TOGETHER,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        room = fit(batch_bytes, device_memory_bytes)
        if room is None:
            raise InvalidArgument(
                f"device_memory_bytes = {device_memory_bytes} and device_batch_bytes ="
                f" {batch_bytes} leave no room for a batch",
                field="device_memory_bytes",
            )
        if not devices:
            raise FailedPrecondition("no CUDA device")
        self._room = room
        self._meter = Meter()
        self._cpu = CpuKernels(threads, self._meter)
        self._nvcomp = devices[0].nvcomp
        self._decode_together = decode_together
        self._queue = Queue()
        copiers = min(threads, COPY_THREADS)
        self._copiers = ThreadPoolExecutor(copiers, thread_name_prefix="copy")
        copying = Copying(self._copiers, copiers)
        # Held while something is compiled ahead: the engine closes without waiting for `warm`.
        self._warming = threading.Lock()
        self._closing = False
        # Guards what follows.
        self._lock = threading.Lock()
        self._decoding = 0
        self._settles = Trust("settles", 1)
        self._decodes = Trust("decodes", DECODE_PROOFS)
        self._workers = [
            Worker(
                device,
                self._queue,
                room,
                device_memory_bytes - room.device_bytes,
                copying,
                self._meter,
                retry_seconds=retry_seconds,
            )
            for device in devices
        ]
        self._watch = Watch(self._workers, timeout_seconds)
        self._watch.start()
        for worker in self._workers:
            worker.start()
        for worker in self._workers:
            worker.ready.wait()
        for device, totals in zip(devices, self.devices, strict=True):
            log.info(
                "%s: %s, %d MiB held, batches of %d KiB; zstd by %s",
                totals.name,
                totals.state,
                totals.memory_bytes >> 20,
                room.batch_bytes >> 10,
                f"nvCOMP {device.nvcomp.version}" if device.nvcomp else "the CPU",
            )

    @property
    def batch_bytes(self) -> int:
        """Raw pixels of a batch, as it came to be."""
        return self._room.batch_bytes

    @property
    def compresses_zstd(self) -> bool:
        """Whether cards do, that is, whether nvCOMP is installed."""
        return self._nvcomp is not None

    @property
    def totals(self) -> KernelTotals:
        """See Kernels.totals. Seconds are of the cards' threads, and of the CPU's."""
        return self._meter.totals

    @property
    def devices(self) -> Sequence[DeviceTotals]:
        """See Kernels.devices."""
        return [worker.totals for worker in self._workers]

    def settle(
        self, chunks: Sequence[Array], valid: Sequence[Shape], recipe: Recipe
    ) -> Generator[Settled, None, None]:
        """See Kernels.settle. At most AHEAD batches are ahead of the consumer.

        Raises InvalidArgument for an unknown method.
        """
        method_for(recipe, METHODS)
        return self._settle(zip(chunks, valid, strict=True), recipe)

    def downsample(self, blocks: Sequence[Surrounded], recipe: Recipe) -> Generator[Array]:
        """See Kernels.downsample; at work as `settle` is."""
        if recipe.factors is None or recipe.downsampling not in METHODS:
            return self._cpu.downsample(blocks, recipe)
        return self._downsample(blocks, replace(recipe, codec=None))

    def decode(
        self, frame: bytes, codec_: Codec, dtype: np.dtype[np.generic], shape: Shape
    ) -> Array:
        """See Kernels.decode. On a card where many are wanted at a time, and it has code for it."""
        with self._together() as together:
            if together >= self._decode_together and isinstance(codec_, Blosc):
                out: Array = np.empty(shape, dtype)
                streams = parse(frame, out.nbytes)
                if streams is not None:
                    wanted = Wanted(frame, streams, out)
                    if fits([wanted], self._room) and self._decoded(wanted, codec_):
                        self._meter.add(decoded_bytes=out.nbytes)
                        return out
        return self._cpu.decode(frame, codec_, dtype, shape)

    def sample(
        self,
        pixels: Array,
        offset: Shape,
        limits: Shape,
        points: Points,
        interpolation: str,
        fill_value: np.generic,
    ) -> Array:
        """See Kernels.sample; the CPU's."""
        return self._cpu.sample(pixels, offset, limits, points, interpolation, fill_value)

    def warm(self, dtypes: Iterable[np.dtype[np.generic]], method: str = "mean") -> None:
        """See Kernels.warm. Settles a chunk of each, and compiles what the CPU needs as well."""
        kinds = list(dtypes)
        self._cpu.warm(kinds, method)
        if method not in METHODS:
            return
        for dtype in kinds:
            chunk: Array = np.arange(4096).astype(dtype).reshape(16, 16, 16)
            for compressor in ("lz4", "zstd"):
                recipe = Recipe(Blosc(compressor=compressor), dtype.type(0), (2, 2, 2), method)
                if self._plan(chunk, recipe) is None:
                    continue
                with self._warming:
                    if self._closing:
                        return
                    list(self.settle([chunk], [chunk.shape], recipe))

    def close(self) -> None:
        """Waits for the threads to end, and frees what they hold. `warm` may be running.

        The thread of a card that does not answer is left behind.
        """
        self._closing = True
        with self._warming:
            pass
        self._queue.close()
        for worker in self._workers:
            worker.join()
        self._watch.stop()
        self._copiers.shutdown()
        self._cpu.close()

    # --- batches

    def _settle(
        self, pairs: Iterator[tuple[Array, Shape]], recipe: Recipe
    ) -> Generator[Settled, None, None]:
        first = next(pairs, None)
        if first is None:
            return
        pairs = itertools.chain([first], pairs)
        plan = self._plan(first[0], recipe)
        batches = (
            self._on_cpu(pairs, recipe) if plan is None else self._batches(pairs, plan, recipe)
        )
        with closing(batches) as results:
            yield from results

    def _downsample(self, blocks: Iterable[Surrounded], recipe: Recipe) -> Generator[Array]:
        # At a level's edges blocks are smaller; those of one shape make a batch.
        for _, alike in itertools.groupby(blocks, lambda block: block.pixels.shape):
            pairs = ((block.pixels, block.valid) for block in alike)
            with closing(self._settle(pairs, recipe)) as results:
                for settled in results:
                    assert settled.parent is not None
                    yield settled.parent

    def _plan(self, chunk: Array, recipe: Recipe) -> Plan | None:
        plan = plan_for(chunk.shape, chunk.dtype, recipe, self._room, self._nvcomp)
        return plan if self._settles.allows(plan) else None

    def _on_cpu(
        self, pairs: Iterable[tuple[Array, Shape]], recipe: Recipe
    ) -> Generator[Settled, None, None]:
        self._meter.add(cpu_batches=1)
        return self._cpu.settle_pairs(pairs, recipe)

    def _batches(
        self, pairs: Iterator[tuple[Array, Shape]], plan: Plan, recipe: Recipe
    ) -> Generator[Settled, None, None]:
        going: deque[Settling] = deque()
        try:
            while some := list(itertools.islice(pairs, plan.most)):
                if len(going) == AHEAD:
                    yield from self._results(going.popleft(), recipe)
                chunks, valid = zip(*some, strict=True)
                going.append(Settling(plan, chunks, valid, recipe.fill_value))
                self._queue.put(going[-1])
            while going:
                yield from self._results(going.popleft(), recipe)
        finally:
            for batch in going:
                batch.done.cancel()
            wait([batch.done for batch in going])

    def _results(self, batch: Settling, recipe: Recipe) -> Generator[Settled, None, None]:
        try:
            results = batch.done.result()
            self._prove(batch, results, recipe)
        except DeviceError as error:
            if isinstance(error, BadStatus):
                self._settles.fail(batch.plan)
            pairs = zip(batch.chunks, batch.valid, strict=True)
            with closing(self._on_cpu(pairs, recipe)) as again:
                yield from again
            return
        self._meter.add(
            chunks=len(results),
            raw_bytes=batch.nbytes,
            encoded_bytes=sum(len(each.frame or b"") for each in results),
            downsampled_bytes=0 if batch.plan.factors is None else batch.nbytes,
        )
        yield from results

    # --- the first of each kind

    def _prove(self, batch: Settling, results: Sequence[Settled], recipe: Recipe) -> None:
        """Compares a card's first batch of a plan with what the CPU makes.

        Raises DeviceError where it differs.
        """
        if not self._settles.allows(batch.plan):
            raise DeviceError("refused since it was queued")
        if self._settles.proven(batch.plan, batch.device):
            return
        right = all(map(_right, batch.chunks, batch.valid, results, itertools.repeat(recipe)))
        self._settles.judge(batch.plan, batch.device, right=right)
        if not right:
            raise self._blamed(batch.device, batch.plan)

    def _blamed(self, card: Device | None, kind: object) -> DeviceError:
        error = WrongResult(str(kind))
        for worker in self._workers:
            if worker.drives(card):
                worker.blame(error)
        return error

    # --- decoding

    @contextmanager
    def _together(self) -> Iterator[int]:
        """How many chunks are being decoded now, this one too."""
        with self._lock:
            self._decoding += 1
            together = self._decoding
        try:
            yield together
        finally:
            with self._lock:
                self._decoding -= 1

    def _decoded(self, wanted: Wanted, codec_: Codec) -> bool:
        """Whether a card has put the frame's pixels into its array."""
        kind = (wanted.streams.typesize, wanted.streams.shuffle)
        if not self._decodes.allows(kind):
            return False
        self._queue.put(wanted)
        try:
            card = wanted.done.result()
        except (DeviceError, CancelledError) as error:
            if isinstance(error, BadStatus):
                self._decodes.fail(kind)
            self._meter.add(cpu_batches=1)
            return False
        if card is None or not self._decodes.allows(kind):
            return False
        if not self._decodes.proven(kind, card):
            right = _decoded_right(wanted, codec_)
            self._decodes.judge(kind, card, right=right)
            if not right:
                self._blamed(card, kind)
                self._meter.add(cpu_batches=1)
            return right
        return True


def _decoded_right(wanted: Wanted, codec_: Codec) -> bool:
    """Whether what a card decoded is what the CPU decodes."""
    try:
        pixels = codec.decode(wanted.frame, codec_, wanted.out.dtype, wanted.out.shape)
    except Corrupt:
        return False
    return pixels.tobytes() == wanted.out.tobytes()


def _right(chunk: Array, valid: Shape, settled: Settled, recipe: Recipe) -> bool:
    """Whether what a card made of a chunk is what the CPU makes of it."""
    if recipe.codec is not None:
        if settled.frame is None:
            bits = np.dtype(f"u{chunk.itemsize}")
            fill = np.asarray(recipe.fill_value, chunk.dtype).view(bits)
            if (chunk.view(bits) != fill).any():
                return False
        else:
            try:
                back = codec.decode(bytes(settled.frame), recipe.codec, chunk.dtype, chunk.shape)
            except Corrupt:
                return False
            if back.tobytes() != chunk.tobytes():
                return False
    if recipe.factors is not None:
        assert settled.parent is not None
        wanted = METHODS[recipe.downsampling](chunk, valid, recipe.factors)
        return settled.parent.tobytes() == wanted.tobytes()
    return True
