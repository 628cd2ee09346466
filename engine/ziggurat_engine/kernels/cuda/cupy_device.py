"""How is a real card driven? By CuPy: its calls of the runtime, of the compiler and the driver.

The only module that imports cupy, and only when a device is asked for. Memory comes straight
from the driver, never from CuPy's pools: what is held is what was asked for. Kernels are
compiled for the card's own architecture when they are first named, as compiling.py has it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ziggurat_engine.kernels.cuda import program
from ziggurat_engine.kernels.cuda.abi import Launch
from ziggurat_engine.kernels.cuda.compiling import Code, code_of
from ziggurat_engine.kernels.cuda.device import Bytes, Event, Stream
from ziggurat_engine.kernels.cuda.errors import BadStatus, DeviceError, DeviceLost, OutOfMemory
from ziggurat_engine.kernels.cuda.nvcomp import load

# cudaError_t: an allocation failed; arguments or resources of one launch were wrong. All others
# are taken for the end: most of them stay with the context, and so with the process.
_OUT_OF_MEMORY = frozenset((2,))
_ONE_CALL = frozenset((1, 9, 98, 200, 209, 218, 500, 701))


def find() -> list[CupyDevice]:
    """The cards that this process may use (CUDA_VISIBLE_DEVICES says which).

    Raises DeviceError, which says why, where there is none or no CuPy.
    """
    try:
        import cupy
    except Exception as error:
        # Not only ImportError: other packages than it was built for show in many ways.
        raise DeviceError(f"CuPy can't be imported: {error}") from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise DeviceError(f"no CUDA device: {error}") from error
    if not count:
        raise DeviceError("no CUDA device")
    return [CupyDevice(number) for number in range(count)]


class CupyDevice:
    """Card `number` of this process; see Device."""

    def __init__(self, number: int) -> None:
        import cupy

        self._cupy = cupy
        self._runtime = cupy.cuda.runtime
        self._number = number
        self._kernels: dict[str, Any] = {}
        with self._told():
            properties = self._runtime.getDeviceProperties(number)
        name = properties["name"]
        self.name: str = name.decode() if isinstance(name, bytes) else str(name)
        self.nvcomp = load()

    def bind(self) -> None:
        """See Device."""
        with self._told():
            self._runtime.setDevice(self._number)

    def allocate(self, nbytes: int) -> int:
        """See Device."""
        with self._told():
            return int(self._runtime.malloc(nbytes))

    def allocate_pinned(self, nbytes: int) -> Bytes:
        """See Device."""
        with self._told():
            address = self._runtime.hostAlloc(nbytes, self._runtime.hostAllocPortable)
        return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))

    def free(self, address: int) -> None:
        """See Device."""
        with self._told():
            self._runtime.free(address)

    def free_pinned(self, memory: Bytes) -> None:
        """See Device."""
        with self._told():
            self._runtime.freeHost(memory.ctypes.data)

    def stream(self) -> Stream:
        """See Device."""
        with self._told():
            return self._cupy.cuda.Stream(non_blocking=True)

    def event(self) -> Event:
        """See Device."""
        with self._told():
            return self._cupy.cuda.Event(block=True, disable_timing=True)

    def copy_in(self, address: int, memory: Bytes, stream: Stream) -> None:
        """See Device."""
        kind = self._runtime.memcpyHostToDevice
        with self._told():
            self._runtime.memcpyAsync(address, memory.ctypes.data, memory.nbytes, kind, stream.ptr)

    def copy_out(self, memory: Bytes, address: int, stream: Stream) -> None:
        """See Device."""
        kind = self._runtime.memcpyDeviceToHost
        with self._told():
            self._runtime.memcpyAsync(memory.ctypes.data, address, memory.nbytes, kind, stream.ptr)

    def fill(self, address: int, value: int, nbytes: int, stream: Stream) -> None:
        """See Device."""
        with self._told():
            self._runtime.memsetAsync(address, value, nbytes, stream.ptr)

    def launch(self, launch: Launch, stream: Stream) -> None:
        """See Device."""
        function = self._kernel(launch.kernel)
        with self._told(), stream:
            function(launch.grid, launch.block, launch.args)

    def record(self, event: Event, stream: Stream) -> None:
        """See Device."""
        with self._told():
            event.record(stream)

    def wait(self, stream: Stream, event: Event) -> None:
        """See Device."""
        with self._told():
            stream.wait_event(event)

    def synchronize(self, event: Event) -> None:
        """See Device."""
        with self._told():
            event.synchronize()

    def drain(self) -> None:
        """See Device."""
        with self._told():
            self._runtime.deviceSynchronize()

    def handle(self, stream: Stream) -> int:
        """See Device."""
        return int(stream.ptr)

    def _kernel(self, name: str) -> Any:
        found = self._kernels.get(name)
        if found is None:
            # Module by module: nobody waits for instantiations that nobody uses.
            module = program.module_of(name)
            cuda = self._cupy.cuda
            with self._told():
                architecture = f"sm_{cuda.Device(self._number).compute_capability}"
                version = cuda.nvrtc.getVersion()
                code = code_of(module, architecture, version, self._compile)
                loaded = cuda.function.Module()
                loaded.load(code.cubin)
                self._kernels.update(
                    (each, loaded.get_function(symbol)) for each, symbol in code.symbols.items()
                )
            found = self._kernels[name]
        return found

    def _compile(self, source: str, names: Sequence[str], options: Sequence[str]) -> Code:
        nvrtc = self._cupy.cuda.nvrtc
        built = nvrtc.createProgram(source, "kernels.cu", (), ())
        try:
            for name in names:
                nvrtc.addNameExpression(built, name)
            try:
                nvrtc.compileProgram(built, tuple(options))
            except nvrtc.NVRTCError as error:
                log = nvrtc.getProgramLog(built)
                raise BadStatus(f"a kernel does not compile: {error}\n{log}") from error
            symbols = {name: nvrtc.getLoweredName(built, name) for name in names}
            return Code(nvrtc.getCUBIN(built), symbols)
        finally:
            nvrtc.destroyProgram(built)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of CUDA as those of this package."""
        try:
            yield
        except self._runtime.CUDARuntimeError as error:
            raise _error_of(error.status, error) from error
        except self._cupy.cuda.driver.CUDADriverError as error:
            raise _error_of(error.status, error) from error
        except self._cupy.cuda.nvrtc.NVRTCError as error:
            raise BadStatus(f"the compiler fails: {error}") from error
        except MemoryError as error:
            raise OutOfMemory(str(error)) from error


def _error_of(status: int, error: Exception) -> DeviceError:
    if status in _OUT_OF_MEMORY:
        return OutOfMemory(str(error))
    if status in _ONE_CALL:
        return BadStatus(str(error))
    return DeviceLost(str(error))
