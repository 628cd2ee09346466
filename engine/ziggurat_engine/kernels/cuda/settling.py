"""How is a batch of chunks settled on a card? Kernels over all of them, frames in one piece back.

The tables that go in beside the chunks: how much of each is valid and, where nvCOMP
compresses, addresses and lengths of all blocks. The head that comes back first: sizes,
offsets and how many blocks went wrong; only then is it known how much there is to copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from ziggurat_engine.kernels.cuda import abi
from ziggurat_engine.kernels.cuda.device import Device
from ziggurat_engine.kernels.cuda.errors import BadStatus
from ziggurat_engine.kernels.cuda.memory import Ring, Slot
from ziggurat_engine.kernels.cuda.plans import Packing, Plan
from ziggurat_engine.kernels.cuda.task import Copying, copied
from ziggurat_engine.kernels.protocol import Settled
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Array


@dataclass(frozen=True, slots=True)
class _Places:
    """Addresses of what a batch needs on the device."""

    valid: int
    parents: int
    frames: int
    sizes: int
    offsets: int
    bad: int
    shuffled: int
    slots: int
    differs: int
    csizes: int
    bstarts: int
    found: int
    statuses: int


def _launches(
    plan: Plan, batch: abi.Batch, fill_value: np.generic, at: _Places
) -> list[abi.Launch]:
    """All kernels of a batch in order; nvCOMP comes between, before `adopt_sizes`."""
    launches = []
    if plan.factors is not None:
        launches.append(
            abi.downsample(
                batch,
                plan.method,
                plan.factors,
                valid=at.valid,
                parents=at.parents,
                parent_stride=plan.parent_stride,
            )
        )
    packing = plan.packing
    if packing is None:
        return launches
    blocks, slots, stride = packing.blocks, at.slots, packing.slot_stride
    launches.append(abi.filled(batch, fill_value, differs=at.differs))
    source = batch.address
    if not blocks.plain and abi.shuffles(batch.dtype.itemsize, packing.shuffle):
        source = at.shuffled
        launches.append(
            abi.shuffle(batch, blocks, packing.shuffle, shuffled=source, differs=at.differs)
        )
    if packing.compressor == "lz4":
        launches.append(
            abi.lz4_compress(
                batch,
                blocks,
                source=source,
                slots=slots,
                slot_stride=stride,
                csizes=at.csizes,
                differs=at.differs,
            )
        )
    else:
        launches.append(
            abi.adopt_sizes(
                blocks,
                batch.count,
                packing.slot_stride,
                found=at.found,
                statuses=at.statuses,
                csizes=at.csizes,
                bad=at.bad,
            )
        )
    launches += [
        abi.frame_sizes(
            blocks,
            batch.count,
            csizes=at.csizes,
            differs=at.differs,
            bstarts=at.bstarts,
            sizes=at.sizes,
        ),
        abi.frame_offsets(batch.count, sizes=at.sizes, offsets=at.offsets),
        abi.frame_gather(
            batch,
            blocks,
            compressor=packing.compressor,
            shuffle=packing.shuffle,
            source=source,
            slots=slots,
            slot_stride=stride,
            csizes=at.csizes,
            bstarts=at.bstarts,
            sizes=at.sizes,
            offsets=at.offsets,
            frames=at.frames,
        ),
    ]
    return launches


class Settling:
    """A batch of at most plan.most chunks; see Task. Its result is a list of Settled."""

    def __init__(
        self, plan: Plan, chunks: Sequence[Array], valid: Sequence[Shape], fill_value: np.generic
    ) -> None:
        self.seconds = "downsample_seconds" if plan.packing is None else "encode_seconds"
        self.plan = plan
        self.chunks = chunks
        self.valid = valid
        self.done: Future[list[Settled]] = Future()
        self._fill_value = fill_value
        # Which card it came to.
        self.device: Device | None = None
        self._tables_bytes = 0
        self._sizes = self._offsets = np.empty(0, np.int64)

    @property
    def nbytes(self) -> int:
        """Of all chunks."""
        return sum(chunk.nbytes for chunk in self.chunks)

    def load(self, slot: Slot, copying: Copying) -> None:
        """See Task."""
        stride = self.plan.stride

        def copy(i: int) -> None:
            pixels = self.chunks[i].reshape(-1).view(np.uint8)
            slot.host_chunks[i * stride : i * stride + pixels.size] = pixels

        copying.each(len(self.chunks), copy)
        valid = np.array([abi.five(each) for each in self.valid], np.int32)
        self._table(slot, 0, valid)

    def start(self, slot: Slot, ring: Ring) -> None:
        """See Task."""
        device, count, packing = ring.device, len(self.chunks), self.plan.packing
        self.device = device
        batch = abi.Batch(slot.chunks, self.plan.stride, count, self.plan.shape, self.plan.dtype)
        size = count * self.plan.stride
        device.copy_in(slot.chunks, slot.host_chunks[:size], ring.inward)
        at = self._places(slot, ring)
        launches = _launches(self.plan, batch, self._fill_value, at)
        scratch = (0, 0)
        if packing is not None and packing.compressor == "zstd":
            scratch = self._scratch(ring, packing)
            self._blocks(slot, ring, packing, launches)
        device.copy_in(slot.tables, slot.host_tables[: self._tables_bytes], ring.inward)
        device.record(slot.loaded, ring.inward)
        device.wait(ring.compute, slot.loaded)
        if packing is not None:
            device.fill(at.differs, 0, count * 4, ring.compute)
            device.fill(at.bad, 0, 4, ring.compute)
        for launch in launches:
            if launch.kernel == "adopt_sizes":
                assert packing is not None
                self._compress(slot, ring, packing, scratch, at)
            device.launch(launch, ring.compute)
        device.copy_out(slot.host_head[: _head_bytes(count)], slot.head, ring.compute)
        device.record(slot.computed, ring.compute)

    def collect(self, slot: Slot, ring: Ring) -> None:
        """See Task. Raises BadStatus where a block or the head is not as it should be."""
        device, count = ring.device, len(self.chunks)
        device.synchronize(slot.computed)
        device.wait(ring.outward, slot.computed)
        if self.plan.factors is not None:
            size = count * self.plan.parent_stride
            device.copy_out(slot.host_parents[:size], slot.parents, ring.outward)
        if self.plan.packing is not None:
            size = self._read_head(slot, self.plan.packing)
            if size:
                device.copy_out(slot.host_frames[:size], slot.frames, ring.outward)
        device.record(slot.arrived, ring.outward)

    def finish(self, slot: Slot, ring: Ring, copying: Copying) -> list[Settled]:
        """See Task."""
        ring.device.synchronize(slot.arrived)
        settled = [Settled(None, None)] * len(self.chunks)

        def copy(i: int) -> None:
            settled[i] = Settled(self._frame(slot, i), self._parent(slot, i))

        copying.each(len(self.chunks), copy)
        return settled

    def _parent(self, slot: Slot, i: int) -> Array | None:
        if self.plan.factors is None:
            return None
        parent: Array = np.empty(self.plan.parent_shape(self.valid[i]), self.plan.dtype)
        start = i * self.plan.parent_stride
        pixels = slot.host_parents[start : start + parent.nbytes]
        parent.reshape(-1).view(np.uint8)[:] = pixels
        return parent

    def _frame(self, slot: Slot, i: int) -> bytes | None:
        if self.plan.packing is None or not self._sizes[i]:
            return None
        start = int(self._offsets[i])
        return copied(slot.host_frames[start : start + int(self._sizes[i])])

    def _read_head(self, slot: Slot, packing: Packing) -> int:
        """Looks at sizes and offsets; returns how many bytes of frames there are."""
        count = len(self.chunks)
        head = slot.host_head[: _head_bytes(count)].view(np.int64).copy()
        sizes, offsets, bad = head[:count], head[count : 2 * count + 1], head[-1:].view(np.uint32)
        if bad[0]:
            raise BadStatus(f"{bad[0]} blocks could not be compressed")
        ends = np.concatenate((offsets[1:], offsets[-1:]))[:count]
        if (
            offsets[0] != 0
            or sizes.min() < 0
            or sizes.max() > packing.frame_bytes
            or (offsets[:-1] + sizes > ends).any()
            or offsets[-1] > slot.host_frames.size
        ):
            raise BadStatus("sizes of frames that can't be")
        self._sizes, self._offsets = sizes, offsets
        return int(offsets[-1])

    def _places(self, slot: Slot, ring: Ring) -> _Places:
        count = len(self.chunks)
        return _Places(
            valid=slot.tables,
            parents=slot.parents,
            frames=slot.frames,
            sizes=slot.head,
            offsets=slot.head + 8 * count,
            bad=slot.head + 8 * (2 * count + 1),
            shuffled=ring.shuffled,
            slots=ring.blocks,
            differs=ring.differs,
            csizes=ring.csizes,
            bstarts=ring.bstarts,
            found=ring.found,
            statuses=ring.statuses,
        )

    # --- zstd

    def _scratch(self, ring: Ring, packing: Packing) -> tuple[int, int]:
        nvcomp = ring.device.nvcomp
        assert nvcomp is not None
        blocks, most = packing.blocks, self.plan.most
        # Of the largest batch: what is taken once does for all that follow.
        need = nvcomp.scratch_bytes(most * blocks.count, blocks.block_bytes, most * blocks.nbytes)
        return ring.scratch(need)

    def _blocks(self, slot: Slot, ring: Ring, packing: Packing, launches: list[abi.Launch]) -> None:
        """Addresses and lengths of all blocks, into the tables."""
        blocks, count = packing.blocks, len(self.chunks)
        shuffled = any(launch.kernel.startswith("shuffle") for launch in launches)
        source = ring.shuffled if shuffled else slot.chunks
        starts = np.arange(blocks.count, dtype=np.uint64) * np.uint64(blocks.block_bytes)
        chunks = np.arange(count, dtype=np.uint64) * np.uint64(self.plan.stride)
        sources = np.uint64(source) + chunks[:, None] + starts
        lengths = np.minimum(np.uint64(blocks.nbytes) - starts, np.uint64(blocks.block_bytes))
        targets = np.arange(count * blocks.count, dtype=np.uint64) * np.uint64(packing.slot_stride)
        at = self._tables(slot, packing)
        self._table(slot, at[0] - slot.tables, sources)
        self._table(slot, at[1] - slot.tables, np.tile(lengths, count))
        self._table(slot, at[2] - slot.tables, np.uint64(ring.blocks) + targets)

    def _tables(self, slot: Slot, packing: Packing) -> tuple[int, int, int]:
        """Where sources, lengths and targets lie, behind `valid`."""
        count = len(self.chunks)
        first = slot.tables + abi.stride_of(count * 20)
        step = abi.stride_of(count * packing.blocks.count * 8)
        return first, first + step, first + 2 * step

    def _compress(
        self, slot: Slot, ring: Ring, packing: Packing, scratch: tuple[int, int], at: _Places
    ) -> None:
        nvcomp = ring.device.nvcomp
        assert nvcomp is not None
        sources, lengths, targets = self._tables(slot, packing)
        nvcomp.compress(
            sources,
            lengths,
            len(self.chunks) * packing.blocks.count,
            packing.blocks.block_bytes,
            scratch,
            targets,
            at.found,
            at.statuses,
            ring.device.handle(ring.compute),
        )

    def _table(self, slot: Slot, start: int, table: Array) -> None:
        found = np.ascontiguousarray(table).reshape(-1).view(np.uint8)
        slot.host_tables[start : start + found.size] = found
        self._tables_bytes = start + found.size


def _head_bytes(count: int) -> int:
    return 8 * (2 * count + 2)
