"""What does a card have to do for us? Memory, streams, events, copies and launches.

`Device` is all that batches (settling.py, decoding.py) know of a card, so that they run on
anything that keeps these promises; `CupyDevice` (cupy_device.py) is one that does. Work on a
stream is done in order; between streams, and between a stream and the host, only events order it.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ziggurat_engine.kernels.cuda.abi import Launch
from ziggurat_engine.kernels.cuda.nvcomp import Nvcomp

Bytes: TypeAlias = NDArray[np.uint8]
Stream: TypeAlias = Any
"""What the device made; nobody else looks into it."""
Event: TypeAlias = Any
"""As Stream."""


class Device(Protocol):
    """A card. One thread at a time works with it, having called `bind` once.

    All methods may raise DeviceLost; an error of earlier work on a stream may come with
    any of them.
    """

    @property
    def name(self) -> str:
        """What status shows, such as "NVIDIA H200"."""
        ...

    @property
    def nvcomp(self) -> Nvcomp | None:
        """What compresses zstd on this card, where it is installed."""
        ...

    def bind(self) -> None:
        """The calling thread works with this card from now on."""
        ...

    def allocate(self, nbytes: int) -> int:
        """The address of device memory, aligned to 256 bytes. Raises OutOfMemory."""
        ...

    def allocate_pinned(self, nbytes: int) -> Bytes:
        """Host memory that copies may use while the host goes on. Raises OutOfMemory."""
        ...

    def free(self, address: int) -> None:
        """Gives memory of `allocate` back; nothing may be using it."""
        ...

    def free_pinned(self, memory: Bytes) -> None:
        """Gives memory of `allocate_pinned` back; nobody may look at it any more."""
        ...

    def stream(self) -> Stream:
        """A queue of work that does not wait for any other."""
        ...

    def event(self) -> Event:
        """A mark that can be recorded again and again."""
        ...

    def copy_in(self, address: int, memory: Bytes, stream: Stream) -> None:
        """Pinned memory to the device; it must not change until the copy is done."""
        ...

    def copy_out(self, memory: Bytes, address: int, stream: Stream) -> None:
        """Device memory to pinned memory, which holds nothing of use until it is done."""
        ...

    def fill(self, address: int, value: int, nbytes: int, stream: Stream) -> None:
        """Sets bytes of device memory to `value`."""
        ...

    def launch(self, launch: Launch, stream: Stream) -> None:
        """Runs a kernel of program.py; the first launch of a module compiles it."""
        ...

    def record(self, event: Event, stream: Stream) -> None:
        """The event comes once all work is done that `stream` has now."""
        ...

    def wait(self, stream: Stream, event: Event) -> None:
        """What `stream` gets from now on waits for the event, as last recorded."""
        ...

    def synchronize(self, event: Event) -> None:
        """Blocks until the event, as last recorded, has come."""
        ...

    def drain(self) -> None:
        """Blocks until all work is done, of all streams. Raises DeviceLost where it failed."""
        ...

    def handle(self, stream: Stream) -> int:
        """The cudaStream_t, for libraries."""
        ...
