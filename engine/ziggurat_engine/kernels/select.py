"""Which kernels does this machine get?"""

from __future__ import annotations

import logging

from ziggurat_engine.errors import FailedPrecondition, InvalidArgument
from ziggurat_engine.kernels.protocol import Kernels

log = logging.getLogger(__name__)

DEVICE_MEMORY_BYTES = 4 * 2**30
DEVICE_BATCH_BYTES = 64 * 2**20
# More than compiling kernels takes on a busy machine, which is part of a first batch.
DEVICE_TIMEOUT_SECONDS = 120.0


def select(
    name: str,
    threads: int,
    *,
    device_memory_bytes: int = DEVICE_MEMORY_BYTES,
    device_batch_bytes: int = DEVICE_BATCH_BYTES,
    device_timeout_seconds: float = DEVICE_TIMEOUT_SECONDS,
) -> Kernels:
    """The kernels of that name; "auto" is the fastest that works here.

    name: "auto", "cuda", "cpu" or "reference". threads: how many the kernels may start beside
    one for each device. device_memory_bytes, device_batch_bytes: of each CUDA device, what
    may be held, and raw pixels that go there at a time. device_timeout_seconds: how long one may
    leave a batch without an answer.
    Raises InvalidArgument for another name, where threads < 1 or the memory has no room for a
    batch; FailedPrecondition where "cuda" is asked for and there is no usable device.
    """
    if name in ("auto", "cuda"):
        # Imported when asked for: CuPy takes a second, and is an extra.
        from ziggurat_engine.kernels.cuda.cupy_device import find
        from ziggurat_engine.kernels.cuda.errors import DeviceError

        try:
            devices = find()
        except DeviceError as error:
            if name == "cuda":
                raise FailedPrecondition(f"kernels = cuda: {error}") from error
            log.info("no CUDA: %s", error)
        else:
            from ziggurat_engine.kernels.cuda.kernels import CudaKernels

            kernels = CudaKernels(
                devices,
                threads,
                device_memory_bytes=device_memory_bytes,
                batch_bytes=device_batch_bytes,
                timeout_seconds=device_timeout_seconds,
            )
            lost = [device for device in kernels.devices if device.state == "lost"]
            if name == "cuda" and len(lost) == len(devices):
                kernels.close()
                raise FailedPrecondition(f"kernels = cuda: {lost[0].name}, {lost[0].last_failure}")
            return kernels
    if name in ("auto", "cpu"):
        from ziggurat_engine.kernels.cpu import CpuKernels  # the compiler takes a second to import

        return CpuKernels(threads)
    if name == "reference":
        from ziggurat_engine.kernels.reference import ReferenceKernels

        return ReferenceKernels()
    raise InvalidArgument(
        f"kernels {name!r} are not one of auto, cuda, cpu, reference", field="kernels.name"
    )
