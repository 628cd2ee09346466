"""How is each device kernel called: its name, its grid, its arguments, what lies where in memory?

The only place that knows both the layout of a batch and the signatures in the `.cu` files. A
function below makes the `Launch` of one kernel; whoever has a device runs it on a stream.

A batch is N chunks of one shape in one device buffer, chunk i at `i * stride` bytes:

    chunks    N x chunk_stride     pixels, native byte order; bytes beyond a chunk's end: any
    valid     N x 5 int32          how much of each chunk lies within the level, five axes
    differs   N uint32             0: nothing but fill value. Zeroed before `filled`
    parents   N x parent_stride    dense, C order, of shape ceil(valid / factors)
    shuffled  N x chunk_stride     each Blosc block shuffled in place of itself
    slots     N x blocks x slot_stride  compressed blocks
    csizes    N x blocks int32     bytes of a slot that count; the block's own size where it is raw
    bstarts   N x blocks int32     where each block begins, from its frame's start
    sizes     N int64              bytes of a frame, 0 for a chunk of nothing but fill value
    offsets   (N + 1) int64        where each frame begins in `frames`; the last: bytes in all
    frames    offsets[N] bytes     finished frames in the order of the chunks

Shapes are brought to five axes by axes of one pixel in front (`five`); the last three may be
binned. Every buffer begins at a multiple of 256 bytes, and every stride is a multiple of 16,
so that 16-byte loads and stores are aligned. All kernels of a batch go on one stream, in the
order in which they are defined here; none needs dynamic shared memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ziggurat_engine.errors import InvalidArgument
from ziggurat_engine.region import Shape

Pointer: TypeAlias = int
"""An address on the device (or, for the tests' shim, of the host)."""
Dim3: TypeAlias = tuple[int, int, int]

MAX_CHUNKS = 65535  # a grid's second axis
MAX_BLOCK_BYTES = 65536  # positions in a block are kept in 16 bits
MAX_FRAME_BYTES = 2**31 - 1
MAX_CHUNK_BYTES = MAX_FRAME_BYTES - 2**20  # a frame's headers and gaps are far below 1 MiB
FACTORS = (1, 2, 3)
FOLDS = ("mean", "min", "max")
RANKS = ("median", "mode")
CAPACITIES = (4, 8, 12, 27)  # pixels of a window that there are kernels of RANKS for
METHODS = (*FOLDS, *RANKS, "stride")

_THREADS = 256
_WARP = 32
_TILE = 2048  # elements that one thread block shuffles
_UNSIGNED = {1: "u8", 2: "u16", 4: "u32", 8: "u64"}
_FLOAT = {4: "float", 8: "double"}
_COMPRESSORS = {"lz4": 1, "zstd": 4}


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel, ready to go: `args` are NumPy scalars of the sizes that its parameters have."""

    kernel: str
    grid: Dim3
    block: Dim3
    args: tuple[np.generic, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Chunks on the device. shape: of a chunk, five axes. address and stride: see above."""

    address: Pointer
    stride: int
    count: int
    shape: Shape
    dtype: np.dtype[np.generic]

    @property
    def nbytes(self) -> int:
        """Of one chunk."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Blocks:
    """How the chunks of a batch are cut: chunk bytes and bytes of a block; the last is shorter.

    plain: a chunk is one frame of its codec as it is (`nbytes` == `block_bytes`), not a Blosc
    frame.
    """

    nbytes: int
    block_bytes: int
    plain: bool = False

    @property
    def count(self) -> int:
        """Blocks of a chunk."""
        return -(-self.nbytes // self.block_bytes)


def five(shape: Shape) -> Shape:
    """`shape` with axes of one pixel in front; also for `valid` and `factors`."""
    return (1,) * (5 - len(shape)) + tuple(shape)


def supports(method: str, dtype: np.dtype[np.generic], factors: Shape) -> bool:
    """Whether `downsample` has a kernel for that; where not, the CPU has one."""
    sizes = _FLOAT if dtype.kind == "f" else _UNSIGNED
    return (
        method in METHODS
        and dtype.kind in "iuf"
        and dtype.itemsize in sizes
        and len(factors) <= 5
        and five(factors)[:2] == (1, 1)
        and set(factors) <= set(FACTORS)
    )


def stride_of(nbytes: int) -> int:
    """The stride of chunks, parents or slots that have `nbytes`."""
    return _up(nbytes, 256)


def block_bytes(chunk_bytes: int, wanted: int) -> int:
    """The size of a chunk's Blosc blocks: `wanted`, or the chunk where that is smaller.

    wanted: a multiple of 256 of at most MAX_BLOCK_BYTES; InvalidArgument if not.
    """
    if not 256 <= wanted <= MAX_BLOCK_BYTES or wanted % 256:
        raise InvalidArgument(
            f"Blosc blocks are multiples of 256 up to {MAX_BLOCK_BYTES} bytes, got {wanted}",
            field="block_bytes",
        )
    return min(chunk_bytes, wanted)


def frame_bound(blocks: Blocks) -> int:
    """What `offsets` advances by for one Blosc frame, at most; for `align` of 16.

    A plain frame may be as long as its slot.
    """
    return _up(blocks.nbytes + 16, 16)


def downsample(
    batch: Batch,
    method: str,
    factors: Shape,
    *,
    valid: Pointer,
    parents: Pointer,
    parent_stride: int,
) -> Launch:
    """Parents of all chunks; where every factor is 1, copies of their valid pixels.

    factors: five axes; `supports` has to hold.
    """
    shape, dtype = batch.shape, batch.dtype
    if all(f == 1 for f in factors):
        method = "stride"
    n0, n1, n2, n3, n4 = shape
    f2, f3, f4 = factors[2:]
    rows = n0 * n1 * -(-n2 // f2) * -(-n3 // f3)
    pointers = (
        np.uint64(batch.address),
        np.int64(batch.stride),
        np.uint64(parents),
        np.int64(parent_stride),
        np.uint64(valid),
        *map(np.int32, shape),
        np.int32(f2),
        np.int32(f3),
    )
    # Bits that kernels invert: signed pixels become unsigned ones of the same order, and a maximum
    # is a minimum then.
    top, every = 1 << (8 * dtype.itemsize - 1), (1 << (8 * dtype.itemsize)) - 1
    flip = 0
    if method != "stride":
        flip ^= top if dtype.kind == "i" else 0
        flip ^= (top if dtype.kind == "f" else every) if method == "max" else 0
    args = (*pointers, np.uint64(flip))
    if method in RANKS:
        capacity = next(n for n in CAPACITIES if n >= f2 * f3 * f4)
        more = np.int32(f4), np.int32(RANKS.index(method)), np.int32(dtype.kind == "f")
        name = f"rank_of<{_UNSIGNED[dtype.itemsize]}, {capacity}>"
        return _per_chunk(name, rows * -(-n4 // f4), batch.count, (*args, *more))
    kernel = "MIN" if method == "max" else method.upper()
    pixel = (_FLOAT if dtype.kind == "f" and method != "stride" else _UNSIGNED)[dtype.itemsize]
    name = f"fold<{pixel}, {kernel}, {f4}>"
    windows = windows_of_thread(dtype.itemsize, f4)
    threads = rows * -(-n4 // (f4 * windows))
    return _per_chunk(name, threads, batch.count, args)


def windows_of_thread(itemsize: int, factor: int) -> int:
    """Windows along x that one thread of `fold` makes of its 16-byte loads."""
    return max(1, 16 // itemsize // (2 if factor == 2 else 1))


def filled(batch: Batch, fill_value: np.generic, *, differs: Pointer) -> Launch:
    """Sets differs[i] to 1 where chunk i has a pixel with other bits than the fill value's."""
    bits = np.full(8 // batch.dtype.itemsize, fill_value, batch.dtype).view(np.uint64)[0]
    # A thread that sees no difference reads 16 times 16 bytes.
    threads = -(-batch.nbytes // 256)
    args = (
        np.uint64(batch.address),
        np.int64(batch.stride),
        np.int64(batch.nbytes),
        bits,
        np.uint64(differs),
    )
    return _per_chunk("filled", threads, batch.count, args)


def shuffles(itemsize: int, shuffle: str) -> bool:
    """Whether `shuffle` has anything to do; if not, `chunks` are what is compressed."""
    return shuffle == "bit" or (shuffle == "byte" and itemsize > 1)


def shuffle(
    batch: Batch, blocks: Blocks, kind: str, *, shuffled: Pointer, differs: Pointer
) -> Launch:
    """Byte or bit shuffle of every block; chunks of nothing but fill value are left out.

    kind: "byte" or "bit". The shuffled bytes have the strides of the chunks.
    """
    size = batch.dtype.itemsize
    args = (
        np.uint64(batch.address),
        np.uint64(shuffled),
        np.int64(batch.stride),
        np.int64(blocks.nbytes),
        np.int32(blocks.block_bytes),
        np.uint64(differs),
    )
    tiles = -(-blocks.block_bytes // (size * _TILE))
    grid = (blocks.count * tiles, batch.count, 1)
    return Launch(f"shuffle<{size}, {_shuffle_name(kind)}>", grid, (_THREADS, 1, 1), args)


def lz4_compress(
    batch: Batch,
    blocks: Blocks,
    *,
    source: Pointer,
    slots: Pointer,
    slot_stride: int,
    csizes: Pointer,
    differs: Pointer,
) -> Launch:
    """Every block to its slot, or its csize to the block's size where it would not shrink.

    source: `shuffled`, or `chunks` where nothing is shuffled. slot_stride: at least the size
    of a block.
    """
    args = (
        np.uint64(source),
        np.int64(batch.stride),
        np.int64(blocks.nbytes),
        np.int32(blocks.block_bytes),
        np.uint64(slots),
        np.int64(slot_stride),
        np.uint64(csizes),
        np.uint64(differs),
    )
    return Launch("lz4_compress", (blocks.count, batch.count, 1), (_WARP, 1, 1), args)


def adopt_sizes(
    blocks: Blocks,
    count: int,
    slot_stride: int,
    *,
    found: Pointer,
    statuses: Pointer,
    csizes: Pointer,
    bad: Pointer,
) -> Launch:
    """Makes csizes of what another compressor reports for the same slots.

    count: chunks. found: count * blocks uint64, in bytes; none is above slot_stride. statuses: as
    many int32, 0 is good, or 0 for none. bad: one uint32, zeroed before; how many blocks are
    not good, and nothing may be made of the batch unless it is 0.
    """
    total = count * blocks.count
    args = (
        np.uint64(found),
        np.uint64(statuses),
        np.int64(blocks.nbytes),
        np.int32(blocks.block_bytes),
        np.int64(slot_stride),
        np.int32(blocks.plain),
        np.int32(total),
        np.uint64(csizes),
        np.uint64(bad),
    )
    return Launch("adopt_sizes", (-(-total // _THREADS), 1, 1), (_THREADS, 1, 1), args)


def frame_sizes(
    blocks: Blocks,
    count: int,
    *,
    csizes: Pointer,
    differs: Pointer,
    bstarts: Pointer,
    sizes: Pointer,
) -> Launch:
    """The size of every frame, and where its blocks begin."""
    args = (
        np.uint64(csizes),
        np.int64(blocks.nbytes),
        np.int32(blocks.block_bytes),
        np.int32(blocks.plain),
        np.uint64(differs),
        np.uint64(bstarts),
        np.uint64(sizes),
    )
    return Launch("frame_sizes", (count, 1, 1), (_THREADS, 1, 1), args)


def frame_offsets(count: int, *, sizes: Pointer, offsets: Pointer, align: int = 16) -> Launch:
    """Where every frame begins: at multiples of `align`, a power of two of at least 16."""
    args = (np.uint64(sizes), np.int32(count), np.int32(align), np.uint64(offsets))
    return Launch("frame_offsets", (1, 1, 1), (_THREADS, 1, 1), args)


def frame_gather(
    batch: Batch,
    blocks: Blocks,
    *,
    compressor: str,
    shuffle: str,
    source: Pointer,
    slots: Pointer,
    slot_stride: int,
    csizes: Pointer,
    bstarts: Pointer,
    sizes: Pointer,
    offsets: Pointer,
    frames: Pointer,
) -> Launch:
    """Finished frames, without gaps but for zeros up to `align`.

    compressor: "lz4" or "zstd". shuffle: "none", "byte" or "bit", what `source` was made with.
    After it `frames` holds offsets[count] bytes to be copied to the host in one piece; frame i
    is its bytes [offsets[i], offsets[i] + sizes[i]).
    """
    size = batch.dtype.itemsize
    shuffled = {"none": 0x00, "byte": 0x01, "bit": 0x04}[shuffle] if shuffles(size, shuffle) else 0
    args = (
        np.uint64(batch.address),
        np.uint64(source),
        np.int64(batch.stride),
        np.uint64(slots),
        np.int64(slot_stride),
        np.uint64(csizes),
        np.uint64(bstarts),
        np.uint64(sizes),
        np.uint64(offsets),
        np.int64(blocks.nbytes),
        np.int32(blocks.block_bytes),
        np.int32(size),
        np.int32(0x10 | shuffled | _COMPRESSORS[compressor] << 5),
        np.int32(blocks.plain),
        np.uint64(frames),
    )
    return Launch("frame_gather", (blocks.count, batch.count, 1), (_THREADS, 1, 1), args)


STREAM = np.dtype([("source", "<i8"), ("csize", "<i8"), ("target", "<i8"), ("size", "<i8")])
"""One compressed stream for `lz4_decompress`: csize bytes at `source` in `compressed` give
size bytes at `target` in `out`; csize == size: they are copied. The host has checked that both
ranges lie within their buffers and that the targets do not overlap; a size is below 2^31."""

FRAME = np.dtype([("target", "<i8"), ("nbytes", "<i8"), ("block_bytes", "<i8"), ("kind", "<i8")])
"""One chunk for `unshuffle`: nbytes at `target`, a multiple of 16, in both buffers, shuffled by
blocks of block_bytes; kind 0: it is copied as it is, 1: unshuffled."""


def lz4_decompress(
    count: int, *, compressed: Pointer, streams: Pointer, out: Pointer, status: Pointer
) -> Launch:
    """Decompresses `count` STREAMs, whatever their bytes are.

    status: count int32; 0: good, else the stream is not valid LZ4 of exactly `size` bytes, and
    its target holds anything. Nothing is read or written outside of a stream's ranges.
    """
    args = (
        np.uint64(compressed),
        np.uint64(streams),
        np.int32(count),
        np.uint64(out),
        np.uint64(status),
    )
    return Launch("lz4_decompress", (-(-count // 4), 1, 1), (4 * _WARP, 1, 1), args)


def unshuffle(
    count: int,
    largest: int,
    itemsize: int,
    kind: str,
    *,
    frames: Pointer,
    shuffled: Pointer,
    out: Pointer,
) -> Launch:
    """Undoes `shuffle` for `count` FRAMEs, of which the largest has `largest` bytes.

    itemsize: 1, 2, 4 or 8, the frames' typesize. kind: "byte" or "bit". A frame's last bytes
    beyond a multiple of its typesize are copied, as c-blosc does.
    """
    args = (np.uint64(frames), np.uint64(shuffled), np.uint64(out))
    # Blocks need not be whole tiles, so this is a guess; the kernel goes on until all is done.
    grid = (min(-(-largest // (itemsize * _TILE)), 65535), count, 1)
    return Launch(f"unshuffle<{itemsize}, {_shuffle_name(kind)}>", grid, (_THREADS, 1, 1), args)


def _per_chunk(name: str, threads: int, count: int, args: tuple[Any, ...]) -> Launch:
    return Launch(name, (-(-threads // _THREADS), count, 1), (_THREADS, 1, 1), args)


def _shuffle_name(kind: str) -> str:
    return {"byte": "BYTES", "bit": "BITS"}[kind]


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
