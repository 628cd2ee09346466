"""How are bits of elements brought apart into planes, and back, in few instructions?

What _shuffle says of bits, for 512 elements at a time. Eight matrices of 8 by 8 bits lie in a
vector of 64 bytes. A processor with GFNI multiplies matrices of bits: the unit matrix times one
is that one turned. One with AVX-512 VBMI puts the bytes of two vectors in any order. Those that
have both take a third of the time of loops over words, or less; for all others nothing is done
here (`AVAILABLE` is False).

Planes are written and read by whole lines of the cache: they often begin at such distances
that their lines can't all be in the nearest cache together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from ziggurat_engine.loops import Vector, compiled

# As the compiler will use them: of this processor, unless it was told otherwise.
_FEATURES = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
AVAILABLE = {"+avx512f", "+avx512bw", "+avx512vbmi", "+gfni"}.issubset(_FEATURES)

# Bytes of a plane that are made at a time, of 8 elements each.
STEP = 64

_MULTIPLY = "llvm.x86.vgf2p8affineqb.512"
_BYTE, _INDEX, _WORD = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_BYTES = ir.VectorType(_BYTE, 64)
_WORDS = ir.VectorType(_WORD, 8)


# Of these two Numba wants to know what each is given, by name.
def _code_to_planes(_typing: Any, itemsize: Any, _source: Any, _target: Any, _step: Any) -> Any:
    size = itemsize.literal_value

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        _, source, target, step = arguments
        pixels = _loaded(builder, source, ir.Constant(step.type, 64), 8 * size)
        planes = []
        for j in range(size):
            vectors = []
            for k in range(0, 8 * size, size):
                matrices = _part(builder, pixels[k : k + size], j)
                rows = _shuffled(builder, _turned(builder, matrices), _across)
                vectors.append(builder.bitcast(rows, _WORDS))
            planes += [builder.bitcast(row, _BYTES) for row in _exchanged(builder, vectors)]
        _store(builder, planes, target, step)
        return context.get_dummy_value()

    return types.void(itemsize, types.uintp, types.uintp, types.uintp), generate


def _code_from_planes(_typing: Any, itemsize: Any, _source: Any, _step: Any, _target: Any) -> Any:
    size = itemsize.literal_value

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        _, source, step, target = arguments
        planes = _loaded(builder, source, step, 8 * size)
        parts = []
        for j in range(size):
            rows = [builder.bitcast(row, _WORDS) for row in planes[8 * j : 8 * j + 8]]
            of_byte = []
            for vector in _exchanged(builder, rows):
                matrices = _shuffled(builder, builder.bitcast(vector, _BYTES), _across)
                of_byte.append(_turned(builder, matrices))
            parts.append(of_byte)
        pixels = []
        for k in range(8):
            pixels += _joined(builder, [[of_byte[k]] for of_byte in parts])
        _store(builder, pixels, target, ir.Constant(step.type, 64))
        return context.get_dummy_value()

    return types.void(itemsize, types.uintp, types.uintp, types.uintp), generate


# _planes_of(itemsize, source, target, step): of 512 elements at `source` the planes, 64 bytes each,
# `step` bytes apart at `target`. _elements_of(itemsize, source, step, target): the inverse.
_planes_of: Any = intrinsic(prefer_literal=True)(_code_to_planes)
_elements_of: Any = intrinsic(prefer_literal=True)(_code_from_planes)

if AVAILABLE:

    @compiled
    def to_planes(pixels: Vector, itemsize: int, planes: Vector) -> int:
        """As _shuffle.shuffle_bits, for whole steps; returns how far: bytes of each plane."""
        m = pixels.size // (8 * itemsize)
        whole = m // STEP * STEP
        source, target = pixels.ctypes.data, planes.ctypes.data
        for g in range(0, whole, STEP):
            at = source + 8 * itemsize * g
            if itemsize == 1:
                _planes_of(1, at, target + g, m)
            elif itemsize == 2:
                _planes_of(2, at, target + g, m)
            elif itemsize == 4:
                _planes_of(4, at, target + g, m)
            else:
                _planes_of(8, at, target + g, m)
        return whole

    @compiled
    def from_planes(planes: Vector, itemsize: int, pixels: Vector) -> int:
        """The inverse of `to_planes`; returns as much."""
        m = pixels.size // (8 * itemsize)
        whole = m // STEP * STEP
        source, target = planes.ctypes.data, pixels.ctypes.data
        for g in range(0, whole, STEP):
            at = target + 8 * itemsize * g
            if itemsize == 1:
                _elements_of(1, source + g, m, at)
            elif itemsize == 2:
                _elements_of(2, source + g, m, at)
            elif itemsize == 4:
                _elements_of(4, source + g, m, at)
            else:
                _elements_of(8, source + g, m, at)
        return whole

else:

    @compiled
    def to_planes(pixels: Vector, itemsize: int, planes: Vector) -> int:  # noqa: ARG001
        """Nothing was done."""
        return 0

    @compiled
    def from_planes(planes: Vector, itemsize: int, pixels: Vector) -> int:  # noqa: ARG001
        """Nothing was done."""
        return 0


def _part(builder: Any, vectors: list[Any], j: int) -> Any:
    """Byte j of 64 elements, which the vectors hold."""
    while len(vectors) > 1:
        order = _order([2 * k + j % 2 for k in range(64)])
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [builder.shuffle_vector(*pair, order) for pair in pairs]
        j //= 2
    return vectors[0]


def _joined(builder: Any, parts: list[list[Any]]) -> list[Any]:
    """64 elements out of their bytes: each part holds one byte of all of them."""
    if len(parts) == 1:
        return parts[0]
    even, odd = _joined(builder, parts[::2]), _joined(builder, parts[1::2])
    made = []
    for pair in zip(even, odd, strict=True):
        for first in (0, 32):
            order = _order([first + k // 2 + 64 * (k % 2) for k in range(64)])
            made.append(builder.shuffle_vector(*pair, order))
    return made


def _across(k: int) -> int:
    """Byte i of word g from where byte g of word i was."""
    return k % 8 * 8 + k // 8


def _backward(k: int) -> int:
    """The bytes of each word in the other order."""
    return k ^ 7


def _turned(builder: Any, matrices: Any) -> Any:
    """Each of eight matrices with rows and columns exchanged.

    The instruction makes of each word of its two vectors: bit i of byte k is the parity of
    byte k of the first and byte 7 - i of the second. The first one is the unit matrix.
    """
    kind = ir.FunctionType(_BYTES, (_BYTES, _BYTES, _BYTE))
    multiply = builder.module.globals.get(_MULTIPLY) or ir.Function(builder.module, kind, _MULTIPLY)
    unit = ir.Constant(_BYTES, [1 << k % 8 for k in range(64)])
    backward = _shuffled(builder, matrices, _backward)
    return builder.call(multiply, (unit, backward, ir.Constant(_BYTE, 0)))


def _exchanged(builder: Any, vectors: list[Any]) -> list[Any]:
    """Of eight vectors of eight words: word k of vector i becomes word i of vector k."""
    vectors = list(vectors)
    for s in (1, 2, 4):
        upper = [8 + k - s if k & s else k for k in range(8)]
        lower = [8 + k if k & s else k + s for k in range(8)]
        for i in range(8):
            if not i & s:
                pair = vectors[i], vectors[i + s]
                vectors[i] = builder.shuffle_vector(*pair, _order(upper))
                vectors[i + s] = builder.shuffle_vector(*pair, _order(lower))
    return vectors


def _shuffled(builder: Any, vector: Any, origin: Callable[[int], int]) -> Any:
    """A vector whose byte k is byte `origin(k)` of this one."""
    undefined = ir.Constant(_BYTES, ir.Undefined)
    return builder.shuffle_vector(vector, undefined, _order([origin(k) for k in range(64)]))


def _order(indices: list[int]) -> Any:
    return ir.Constant(ir.VectorType(_INDEX, len(indices)), indices)


def _loaded(builder: Any, address: Any, step: Any, count: int) -> list[Any]:
    """Vectors, each `step` bytes behind the one before."""
    return [builder.load(_place(builder, address, step, i), align=1) for i in range(count)]


def _store(builder: Any, vectors: list[Any], address: Any, step: Any) -> None:
    for i, vector in enumerate(vectors):
        builder.store(vector, _place(builder, address, step, i), align=1)


def _place(builder: Any, address: Any, step: Any, number: int) -> Any:
    at = builder.add(address, builder.mul(step, ir.Constant(step.type, number)))
    return builder.inttoptr(at, _BYTES.as_pointer())
