"""How are many LZ4 frames decoded at once on a card? One table of streams for all of them.

Frames lie one after the other in the slot's chunks, each at a multiple of 256; decoded
chunks in its frames. What is not shuffled is decompressed to where it is wanted, all else to
the workspace and unshuffled from there.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ziggurat_engine.kernels.cuda import abi
from ziggurat_engine.kernels.cuda.blosc import Streams
from ziggurat_engine.kernels.cuda.device import Device
from ziggurat_engine.kernels.cuda.memory import MAX_CHUNKS, Ring, Room, Slot
from ziggurat_engine.kernels.cuda.task import Copying
from ziggurat_engine.spec import Array


@dataclass(frozen=True, slots=True)
class Wanted:
    """A frame, and the array that its pixels are to be in.

    done: the card once they are; None where it found the frame damaged; or a DeviceError.
    """

    frame: bytes
    streams: Streams
    out: Array
    done: Future[Device | None] = field(default_factory=Future)


class Decoding:
    """A batch of frames; see Task. Its result: of each of `wanted` whether it is good.

    Each of them gets its own when `done` is set, and from nowhere else: a batch that was given
    up may still end.
    """

    seconds = "decode_seconds"

    def __init__(self, wanted: Sequence[Wanted]) -> None:
        self.wanted = wanted = sorted(wanted, key=lambda each: _group(each.streams))
        self.done: Future[list[bool]] = Future()
        # Which card it came to.
        self.device: Device | None = None
        self.done.add_done_callback(self._tell)
        self._sources = _places([len(each.frame) for each in wanted])
        self._targets = _places([each.streams.nbytes for each in wanted])
        counts = [each.streams.table.size for each in wanted]
        self._first = np.concatenate(([0], np.cumsum(counts)))

    @property
    def nbytes(self) -> int:
        """Of all chunks."""
        return sum(each.streams.nbytes for each in self.wanted)

    def load(self, slot: Slot, copying: Copying) -> None:
        """See Task."""

        def copy(i: int) -> None:
            frame = np.frombuffer(self.wanted[i].frame, np.uint8)
            start = self._sources[i]
            slot.host_chunks[start : start + frame.size] = frame

        copying.each(len(self.wanted), copy)

    def start(self, slot: Slot, ring: Ring) -> None:
        """See Task."""
        device, streams = ring.device, int(self._first[-1])
        self.device = device
        device.copy_in(slot.chunks, slot.host_chunks[: self._sources[-1]], ring.inward)
        launches, tables_bytes = self._tables(slot, ring)
        device.copy_in(slot.tables, slot.host_tables[:tables_bytes], ring.inward)
        device.record(slot.loaded, ring.inward)
        device.wait(ring.compute, slot.loaded)
        for launch in launches:
            device.launch(launch, ring.compute)
        device.copy_out(slot.host_head[: 4 * streams], slot.head, ring.compute)
        device.record(slot.computed, ring.compute)

    def collect(self, slot: Slot, ring: Ring) -> None:
        """See Task."""
        device = ring.device
        device.wait(ring.outward, slot.computed)
        device.copy_out(slot.host_frames[: self._targets[-1]], slot.frames, ring.outward)
        device.record(slot.arrived, ring.outward)

    def finish(self, slot: Slot, ring: Ring, copying: Copying) -> list[bool]:
        """See Task."""
        ring.device.synchronize(slot.arrived)
        bad = slot.host_head[: 4 * int(self._first[-1])].view(np.int32) != 0
        good = [not bad[first:end].any() for first, end in itertools.pairwise(self._first)]

        def copy(i: int) -> None:
            if good[i]:
                wanted, start = self.wanted[i], self._targets[i]
                pixels = slot.host_frames[start : start + wanted.streams.nbytes]
                wanted.out.reshape(-1).view(np.uint8)[:] = pixels

        copying.each(len(self.wanted), copy)
        return good

    def _tables(self, slot: Slot, ring: Ring) -> tuple[list[abi.Launch], int]:
        """Puts streams and frames into the tables; returns what to launch, and the tables' size."""
        streams = np.concatenate([each.streams.table for each in self.wanted])
        streams["source"] += np.repeat(self._sources[:-1], np.diff(self._first))
        streams["target"] += np.repeat(self._targets[:-1], np.diff(self._first))
        frames = np.zeros(len(self.wanted), abi.FRAME)
        frames["target"] = self._targets[:-1]
        frames["nbytes"] = [each.streams.nbytes for each in self.wanted]
        frames["block_bytes"] = [each.streams.block_bytes for each in self.wanted]
        frames["kind"] = 1
        frames_at = abi.stride_of(streams.nbytes)
        end = frames_at + frames.nbytes
        slot.host_tables[: streams.nbytes] = streams.view(np.uint8)
        slot.host_tables[frames_at:end] = frames.view(np.uint8)
        launches = []
        unshuffling = []
        for (typesize, shuffle), group in itertools.groupby(
            range(len(self.wanted)), lambda i: _group(self.wanted[i].streams)
        ):
            members = list(group)
            first, stop = (int(self._first[i]) for i in (members[0], members[-1] + 1))
            launches.append(
                abi.lz4_decompress(
                    stop - first,
                    compressed=slot.chunks,
                    streams=slot.tables + first * abi.STREAM.itemsize,
                    out=ring.shuffled if shuffle else slot.frames,
                    status=slot.head + 4 * first,
                )
            )
            if shuffle:
                unshuffling.append(
                    abi.unshuffle(
                        len(members),
                        int(frames["nbytes"][members].max()),
                        typesize,
                        shuffle,
                        frames=slot.tables + frames_at + members[0] * abi.FRAME.itemsize,
                        shuffled=ring.shuffled,
                        out=slot.frames,
                    )
                )
        return launches + unshuffling, end

    def _tell(self, done: Future[list[bool]]) -> None:
        """What became of the batch is told to all that wait."""
        error = CancelledError() if done.cancelled() else done.exception()
        if error is not None:
            for wanted in self.wanted:
                wanted.done.set_exception(error)
        else:
            for wanted, good in zip(self.wanted, done.result(), strict=True):
                wanted.done.set_result(self.device if good else None)


def fits(wanted: Sequence[Wanted], room: Room) -> bool:
    """Whether a batch has room for these."""
    return (
        len(wanted) <= MAX_CHUNKS
        and sum(each.streams.table.size for each in wanted) <= room.blocks
        and _places([len(each.frame) for each in wanted])[-1] <= room.batch_bytes
        and _places([each.streams.nbytes for each in wanted])[-1] <= room.batch_bytes
    )


def _group(streams: Streams) -> tuple[int, str]:
    """Frames that are unshuffled together; (0, "") where there is nothing to do."""
    shuffled = abi.shuffles(streams.typesize, streams.shuffle)
    return (streams.typesize, streams.shuffle) if shuffled else (0, "")


def _places(sizes: Sequence[int]) -> NDArray[np.int64]:
    """Where runs of these sizes begin, each at a multiple of 256; at the end, where all end."""
    return np.cumsum([0, *map(abi.stride_of, sizes)], dtype=np.int64)
