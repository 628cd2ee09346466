"""What memory does a batch use, on the card and on the host? All of it is taken once.

A ring has three slots, so that one batch is on its way in while another is computed and a
third is on its way out. What only the computing stream touches, the workspace, is there
once: batches are computed one after the other.

For batches of C raw bytes (Room.batch_bytes):

    slot, device and pinned   chunks C, parents C / 2, frames C, and tables
    workspace, device         shuffled C, slots 5/4 C, tables; scratch of nvCOMP where it is used
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ziggurat_engine.kernels.cuda import abi
from ziggurat_engine.kernels.cuda.device import Bytes, Device, Event, Stream
from ziggurat_engine.kernels.cuda.errors import BadStatus

SLOTS = 3
LEAST_BATCH_BYTES = 2**16
MAX_CHUNKS = 4096
"""In a batch."""
_VALID_BYTES = 5 * 4
_ADDRESS_BYTES = 8


@dataclass(frozen=True, slots=True)
class Room:
    """How much a batch may hold of everything, all of it from `batch_bytes`.

    batch_bytes: raw bytes of chunks, by their strides; a multiple of 64 KiB.
    """

    batch_bytes: int

    @property
    def blocks(self) -> int:
        """Compressed blocks, or streams of frames."""
        return self.batch_bytes // 4096 + MAX_CHUNKS

    @property
    def parents_bytes(self) -> int:
        """Downsampled blocks; more only where hardly anything is binned."""
        return self.batch_bytes // 2

    @property
    def slots_bytes(self) -> int:
        """Blocks as the compressor leaves them, with gaps."""
        return self.batch_bytes * 5 // 4

    @property
    def frames_bytes(self) -> int:
        """Finished frames, or decoded chunks."""
        return self.batch_bytes + 64 * MAX_CHUNKS

    @property
    def tables_bytes(self) -> int:
        """What goes to the device beside pixels: see settling.py and decoding.py."""
        settling = MAX_CHUNKS * _VALID_BYTES + 3 * self.blocks * _ADDRESS_BYTES
        decoding = self.blocks * abi.STREAM.itemsize + MAX_CHUNKS * abi.FRAME.itemsize
        return _up(max(settling, decoding)) + 4 * 256

    @property
    def head_bytes(self) -> int:
        """What comes back first: sizes, offsets and a count, or statuses."""
        return _up(max((2 * MAX_CHUNKS + 2) * 8, 4 * self.blocks))

    @property
    def slot_bytes(self) -> int:
        """Of one slot, on the device and on the host alike."""
        return (
            self.batch_bytes
            + self.tables_bytes
            + self.parents_bytes
            + self.frames_bytes
            + self.head_bytes
        )

    @property
    def workspace_bytes(self) -> int:
        """Of the workspace, without scratch."""
        tables = MAX_CHUNKS * 4 + self.blocks * (4 + 4 + 8 + 4)
        return self.batch_bytes + self.slots_bytes + tables + 8 * 256

    @property
    def device_bytes(self) -> int:
        """All that a ring takes of a card."""
        return SLOTS * self.slot_bytes + self.workspace_bytes


def fit(batch_bytes: int, device_bytes: int) -> Room | None:
    """Room for batches of at most `batch_bytes` in so much device memory; None where there is none.

    Halved until the ring takes no more than three quarters of it: nvCOMP needs scratch.
    """
    size = batch_bytes // LEAST_BATCH_BYTES * LEAST_BATCH_BYTES
    while size >= LEAST_BATCH_BYTES:
        room = Room(size)
        if room.device_bytes <= device_bytes * 3 // 4:
            return room
        size = size // 2 // LEAST_BATCH_BYTES * LEAST_BATCH_BYTES
    return None


class Slot:
    """The memory of a batch, and the events that say how far it is.

    Addresses for the device; `host_*` are the same on the host, pinned.
    """

    def __init__(self, device: Device, room: Room, taken: _Taken) -> None:
        self.chunks = taken.device(room.batch_bytes)
        self.tables = taken.device(room.tables_bytes)
        self.parents = taken.device(room.parents_bytes)
        self.frames = taken.device(room.frames_bytes)
        self.head = taken.device(room.head_bytes)
        self.host_chunks = taken.pinned(room.batch_bytes)
        self.host_tables = taken.pinned(room.tables_bytes)
        self.host_parents = taken.pinned(room.parents_bytes)
        self.host_frames = taken.pinned(room.frames_bytes)
        self.host_head = taken.pinned(room.head_bytes)
        # Recorded behind the copies in; behind the kernels and the head; behind the copies out.
        self.loaded: Event = device.event()
        self.computed: Event = device.event()
        self.arrived: Event = device.event()


class Ring:
    """A device's slots, workspace and streams. Raises OutOfMemory, holding nothing then.

    reserve_bytes: what the workspace's scratch may have beside.
    """

    def __init__(self, device: Device, room: Room, scratch_limit_bytes: int) -> None:
        self.device = device
        self.room = room
        self._taken = taken = _Taken(device)
        self._scratch_limit = scratch_limit_bytes
        self._scratch = (0, 0)
        blocks = room.blocks
        try:
            self.slots = [Slot(device, room, taken) for _ in range(SLOTS)]
            self.shuffled = taken.device(room.batch_bytes)
            self.blocks = taken.device(room.slots_bytes)
            self.differs = taken.device(MAX_CHUNKS * 4)
            self.csizes = taken.device(blocks * 4)
            self.bstarts = taken.device(blocks * 4)
            self.found = taken.device(blocks * 8)
            self.statuses = taken.device(blocks * 4)
            self.inward: Stream = device.stream()
            self.compute: Stream = device.stream()
            self.outward: Stream = device.stream()
        except BaseException:
            taken.free()
            raise

    @property
    def nbytes(self) -> int:
        """Device memory held now."""
        return self._taken.device_bytes

    def scratch(self, nbytes: int) -> tuple[int, int]:
        """Scratch of at least so many bytes: address and size; kept for what comes later.

        Taken anew where an earlier batch needed less: that happens once a layout. Raises
        BadStatus where it is more than the limit, OutOfMemory where the card has no more.
        """
        if nbytes > self._scratch_limit:
            raise BadStatus(
                f"nvCOMP wants {nbytes} bytes of scratch, device_memory_bytes leaves"
                f" {self._scratch_limit}"
            )
        if nbytes > self._scratch[1]:
            if self._scratch[0]:
                # Earlier batches may be using it.
                self.device.drain()
                self._taken.give_back(*self._scratch)
                self._scratch = (0, 0)
            self._scratch = (self._taken.device(nbytes), nbytes)
        return self._scratch

    def close(self) -> None:
        """Frees everything; nothing may be under way."""
        self._taken.free()


class _Taken:
    """What was allocated, so that all of it can be freed."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._addresses: dict[int, int] = {}
        self._pinned: list[Bytes] = []

    @property
    def device_bytes(self) -> int:
        return sum(self._addresses.values())

    def device(self, nbytes: int) -> int:
        address = self._device.allocate(nbytes)
        self._addresses[address] = nbytes
        return address

    def pinned(self, nbytes: int) -> Bytes:
        self._pinned.append(self._device.allocate_pinned(nbytes))
        return self._pinned[-1]

    def give_back(self, address: int, _nbytes: int) -> None:
        del self._addresses[address]
        self._device.free(address)

    def free(self) -> None:
        for address in self._addresses:
            self._device.free(address)
        for memory in self._pinned:
            self._device.free_pinned(memory)
        self._addresses.clear()
        self._pinned.clear()


def most_chunks(room: Room, stride: int, parent_stride: int) -> int:
    """How many chunks of these strides there is room for, without their frames; maybe 0.

    parent_stride: 0 without parents.
    """
    most = min(MAX_CHUNKS, room.batch_bytes // stride)
    return min(most, room.parents_bytes // parent_stride) if parent_stride else most


def _up(nbytes: int) -> int:
    return math.ceil(nbytes / 256) * 256
