"""Does every device kernel compile for the cards that it is meant for, without card or driver?"""

from __future__ import annotations

import numpy as np
import pytest
from ziggurat_engine.kernels.cuda import abi, program

from tests.contract.kernel_cases import DTYPES
from tests.support import nvrtc

ARCHITECTURES = {"sm_80": "A100", "sm_90": "H100, H200", "sm_100": "B200"}
ELF = b"\x7fELF"
THREADS = 256  # of the largest thread block
# Of a multiprocessor, and of a thread block that asks for no more: of all of these cards.
REGISTERS, SHARED_BYTES = 65536, 48 << 10
STACK_BYTES = 16  # of a thread: a value or two, not an array


# One by one, so that all cores have their share.
@pytest.mark.parametrize("module", program.MODULES, ids=lambda module: module.kernels[0])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kernel_compiles_to_machine_code(architecture: str, module: program.Module) -> None:
    options = (*program.OPTIONS, f"--gpu-architecture={architecture}")
    made = nvrtc.compiled(module.source(), module.kernels, options)
    assert made.cubin.startswith(ELF)
    assert len(set(made.symbols.values())) == len(module.kernels)
    for symbol in made.symbols.values():
        assert symbol.encode() in made.cubin
    # An array that the compiler cannot keep in registers lies in memory, and costs most of the
    # speed; and nothing may be fused.
    assert ".local" not in made.ptx
    assert "fma." not in made.ptx
    assert ".ftz" not in made.ptx
    taken = nvrtc.taken(made.cubin)
    for name, symbol in made.symbols.items():
        kernel = taken[symbol]
        assert kernel.stack_bytes <= STACK_BYTES, name
        assert 0 < kernel.registers * THREADS <= REGISTERS, name
        assert kernel.shared_bytes <= SHARED_BYTES, name


def test_what_does_not_compile_says_why() -> None:
    with pytest.raises(nvrtc.CompileError, match="nothing_like_that"):
        nvrtc.compiled("__global__ void f() { nothing_like_that(); }", ["f"], program.OPTIONS)


def test_every_kernel_is_in_one_module() -> None:
    kernels = [kernel for module in program.MODULES for kernel in module.kernels]
    assert len(set(kernels)) == len(kernels)
    for module in program.MODULES:
        assert all(program.module_of(kernel) is module for kernel in module.kernels)


def test_every_launch_has_its_kernel() -> None:
    for dtype in DTYPES:
        batch = abi.Batch(0, 256, 1, (1, 1, 4, 4, 4), dtype)
        blocks = abi.Blocks(batch.nbytes, 256)
        pointers = {"valid": 0, "parents": 0}
        for method in abi.METHODS:
            for factors in ((1, 1, 1), (1, 2, 2), (2, 2, 2), (3, 2, 1), (2, 3, 3), (3, 3, 3)):
                assert abi.supports(method, dtype, factors)
                launch = abi.downsample(
                    batch, method, abi.five(factors), **pointers, parent_stride=256
                )
                assert launch.kernel in program.module_of(launch.kernel).kernels
        assert program.module_of(abi.filled(batch, dtype.type(0), differs=0).kernel)
        for kind in ("byte", "bit"):
            if abi.shuffles(dtype.itemsize, kind):
                shuffle = abi.shuffle(batch, blocks, kind, shuffled=0, differs=0)
                assert program.module_of(shuffle.kernel)


@pytest.mark.parametrize(
    ("method", "name", "factors"),
    [
        ("gaussian", "uint8", (2, 2)),
        ("mean", "uint8", (4, 1)),
        ("mean", "uint8", (2, 1, 1, 1)),
        ("mean", "uint8", (1, 1, 1, 1, 1, 2)),
        ("mean", "float16", (2, 2)),
        ("mean", "bool", (2, 2)),
        ("mean", "complex64", (2, 2)),
    ],
)
def test_what_no_kernel_does_is_left_to_the_cpu(
    method: str, name: str, factors: tuple[int, ...]
) -> None:
    assert not abi.supports(method, np.dtype(name), factors)
