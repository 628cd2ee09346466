"""How fast is each kernel by itself, as a share of what the card's memory can do?

All inputs lie on the card; what is launched is what a batch of the engine launches. Rates of
memory-bound kernels count what is read and written, and are compared with a plain copy, counted
in the same way. Compressors count raw bytes. Beside them: the CPU's loops and c-blosc, on all
cores, with the same pixels in the host's memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray
from ziggurat_engine.kernels.cpu import CpuKernels
from ziggurat_engine.kernels.cuda import abi
from ziggurat_engine.kernels.protocol import Recipe, Surrounded
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Blosc

from benchmarks._gpu_bench import Poisoned, Sizes, copy_within, cores, queued_seconds, seconds

Row = dict[str, Any]

_DOWNSAMPLING: tuple[tuple[str, str, Shape], ...] = (
    ("uint16", "mean", (2, 2, 2)),
    ("uint16", "mean", (1, 2, 2)),
    ("uint16", "mean", (3, 3, 3)),
    ("uint16", "min", (2, 2, 2)),
    ("uint16", "max", (2, 2, 2)),
    ("uint16", "median", (2, 2, 2)),
    ("uint16", "mode", (2, 2, 2)),
    ("uint16", "stride", (2, 2, 2)),
    ("uint8", "mean", (2, 2, 2)),
    ("uint32", "mode", (2, 2, 2)),
    ("float32", "mean", (2, 2, 2)),
)


class Bench:
    """Camera-like chunks on a card, and room for all that is made of them."""

    def __init__(self, device: Poisoned, sizes: Sizes, pixels: NDArray[np.uint16]) -> None:
        self.device = device
        self.sizes = sizes
        nbytes = math.prod(sizes.chunk) * 2
        self.count = sizes.kernel_bytes // nbytes
        self.stride = abi.stride_of(nbytes)
        self.total = self.count * nbytes
        device.bind()
        self.stream = device.stream()
        self._addresses: list[int] = []
        self.chunks = self.room(self.count * self.stride)
        self._host: list[NDArray[np.uint16]] = []
        self._upload(pixels)

    def room(self, nbytes: int) -> int:
        """Device memory; freed by `close`."""
        self._addresses.append(self.device.allocate(nbytes))
        return self._addresses[-1]

    def _upload(self, pixels: NDArray[np.uint16]) -> None:
        nbytes = math.prod(self.sizes.chunk) * 2
        flat = pixels.reshape(-1).view(np.uint8)
        pinned = self.device.allocate_pinned(nbytes)
        for i in range(self.count):
            start = i * nbytes % (flat.size - nbytes + 1) // 2 * 2
            self._host.append(flat[start : start + nbytes].view(np.uint16))
            pinned[:] = self._host[-1].view(np.uint8)
            self.device.copy_in(self.chunks + i * self.stride, pinned, self.stream)
            self.device.drain()
        self.device.free_pinned(pinned)

    def seconds(self, *launches: abi.Launch) -> float:
        """Of these launches, one behind the other."""

        def queue() -> None:
            for launch in launches:
                self.device.launch(launch, self.stream)

        return queued_seconds(self.device, queue, self.sizes.rounds)

    def c_blosc(self, compressor: str, kind: str, block_bytes: int) -> Row:
        """What c-blosc does with the same pixels, on all cores, a chunk a thread."""
        shuffle = {"byte": blosc.SHUFFLE, "bit": blosc.BITSHUFFLE}[kind]
        codec = (compressor.encode(), Blosc().level, shuffle, block_bytes)

        def size(chunk: NDArray[np.uint16]) -> int:
            return len(blosc.compress(chunk, *codec))

        with ThreadPoolExecutor(cores()) as pool:
            found = sum(pool.map(size, self._host))
            taken = seconds(lambda: list(pool.map(size, self._host)), 1)
        return {
            "c_blosc_bytes_per_second": self.total / taken,
            "c_blosc_ratio": self.total / found,
        }

    def cpu_seconds(self, kind: np.dtype[Any], shape: Shape, method: str, factors: Shape) -> float:
        """Of the CPU's loops, for parents of the same chunks."""
        shape = shape[2:]
        blocks = [
            Surrounded(chunk.view(kind).reshape(shape), (0, 0, 0), shape) for chunk in self._host
        ]
        recipe = Recipe(None, kind.type(0), factors, method)
        cpu = CpuKernels(cores())
        try:
            return seconds(lambda: list(cpu.downsample(blocks, recipe)), 1)
        finally:
            cpu.close()

    def close(self) -> None:
        """Frees all."""
        self.device.drain()
        for address in self._addresses:
            self.device.free(address)

    @contextmanager
    def rooms(self, *sizes: int) -> Iterator[list[int]]:
        """Memory for a while."""
        addresses = [self.device.allocate(nbytes) for nbytes in sizes]
        try:
            yield addresses
        finally:
            self.device.drain()
            for address in addresses:
                self.device.free(address)


def copies(device: Poisoned, sizes: Sizes) -> Row:
    """Bytes per second within the card (read and written), in, out, and both ways at once."""
    nbytes = sizes.copy_bytes
    device.bind()
    one, other = device.stream(), device.stream()
    source, target = device.allocate(nbytes), device.allocate(nbytes)
    inward, outward = device.allocate_pinned(nbytes), device.allocate_pinned(nbytes)
    inward[:] = np.random.default_rng(0).integers(0, 256, nbytes, np.uint8)

    def rate(amount: int, queue: Callable[[], object]) -> float:
        return amount / queued_seconds(device, queue, sizes.rounds)

    def both() -> None:
        device.copy_in(source, inward, one)
        device.copy_out(outward, target, other)

    found = {
        "h2d": rate(nbytes, lambda: device.copy_in(source, inward, one)),
        "device": rate(2 * nbytes, lambda: copy_within(device, target, source, nbytes, one)),
        "d2h": rate(nbytes, lambda: device.copy_out(outward, target, one)),
        "both_ways": rate(2 * nbytes, both),
    }
    for address in (source, target):
        device.free(address)
    for memory in (inward, outward):
        device.free_pinned(memory)
    return found


def downsampling(bench: Bench, ceiling: float) -> list[Row]:
    """Each method; chunks of the same bytes are looked at as another type."""
    rows: list[Row] = []
    valid = bench.room(bench.count * 20)
    parents = bench.room(bench.count * bench.stride)
    for dtype, method, factors in _DOWNSAMPLING:
        kind = np.dtype(dtype)
        z, y, x = bench.sizes.chunk
        shape = abi.five((z, y, x * 2 // kind.itemsize))
        _table(bench, valid, np.tile(np.array(shape, np.int32), bench.count))
        binned = [-(-n // f) for n, f in zip(shape, abi.five(factors), strict=True)]
        parent = math.prod(binned) * kind.itemsize
        batch = abi.Batch(bench.chunks, bench.stride, bench.count, shape, kind)
        launch = abi.downsample(
            batch,
            method,
            abi.five(factors),
            valid=valid,
            parents=parents,
            parent_stride=abi.stride_of(parent),
        )
        moved = bench.total + bench.count * parent
        if method == "stride":
            # Rows that are not looked at are not counted.
            moved = bench.total // math.prod(factors[:-1]) + bench.count * parent
        name = f"downsample {dtype} {method} {'x'.join(map(str, factors))}"
        row = _row(name, moved / bench.seconds(launch), ceiling)
        if bench.sizes.thorough or not rows:
            row["cpu_bytes_per_second"] = moved / bench.cpu_seconds(kind, shape, method, factors)
        rows.append(row)
    return rows


def _table(bench: Bench, address: int, table: NDArray[Any]) -> None:
    data = table.view(np.uint8).reshape(-1)
    pinned = bench.device.allocate_pinned(data.size)
    pinned[:] = data
    bench.device.copy_in(address, pinned, bench.stream)
    bench.device.drain()
    bench.device.free_pinned(pinned)


def shuffling(bench: Bench, ceiling: float) -> list[Row]:
    """Fill detection, both shuffles and back."""
    batch = _batch(bench)
    nbytes = batch.nbytes
    blocks = abi.Blocks(nbytes, abi.block_bytes(nbytes, 64 * 1024))
    differs, table = bench.room(bench.count * 4), bench.room(bench.count * 32)
    shuffled, out = (bench.room(bench.count * bench.stride) for _ in range(2))
    frames = np.zeros(bench.count, abi.FRAME)
    frames["target"] = np.arange(bench.count) * bench.stride
    frames["nbytes"], frames["block_bytes"], frames["kind"] = nbytes, blocks.block_bytes, 1
    _table(bench, table, frames)
    bench.device.fill(differs, 1, bench.count * 4, bench.stream)
    rows = [
        _row(
            "filled",
            bench.total / bench.seconds(abi.filled(batch, np.uint16(0), differs=differs)),
            ceiling,
        )
    ]
    for kind in ("byte", "bit"):
        forth = abi.shuffle(batch, blocks, kind, shuffled=shuffled, differs=differs)
        back = abi.unshuffle(bench.count, nbytes, 2, kind, frames=table, shuffled=shuffled, out=out)
        rows.append(_row(f"shuffle {kind}", 2 * bench.total / bench.seconds(forth), ceiling))
        rows.append(_row(f"unshuffle {kind}", 2 * bench.total / bench.seconds(back), ceiling))
    return rows


def lz4(bench: Bench, block_sizes: Sequence[int]) -> list[Row]:
    """Compression behind both shuffles, what it leaves, and decompression; by block size."""
    rows = []
    batch = _batch(bench)
    for wanted in block_sizes:
        blocks = abi.Blocks(batch.nbytes, abi.block_bytes(batch.nbytes, wanted))
        slot_stride = abi.stride_of(blocks.block_bytes)
        total = bench.count * blocks.count
        size = bench.count * bench.stride
        with bench.rooms(size, total * slot_stride, total * 4, bench.count * 4, size) as room:
            shuffled, slots, csizes, differs, out = room
            bench.device.fill(differs, 1, bench.count * 4, bench.stream)
            for kind in ("byte", "bit"):
                bench.device.launch(
                    abi.shuffle(batch, blocks, kind, shuffled=shuffled, differs=differs),
                    bench.stream,
                )
                compress = abi.lz4_compress(
                    batch,
                    blocks,
                    source=shuffled,
                    slots=slots,
                    slot_stride=slot_stride,
                    csizes=csizes,
                    differs=differs,
                )
                rate = bench.total / bench.seconds(compress)
                found = _fetched(bench, csizes, total)
                name = f"lz4 {kind} {blocks.block_bytes >> 10} KiB"
                row = {"name": name, "raw_bytes_per_second": rate}
                row |= {"ratio": bench.total / int(found.sum())}
                rows.append(row | bench.c_blosc("lz4", kind, blocks.block_bytes))
                rows += _lz4_back(bench, blocks, found, slots, slot_stride, out, name)
                rows.append(
                    _frames(bench, blocks, kind, shuffled, slots, slot_stride, csizes, differs)
                )
    return rows


def _frames(
    bench: Bench,
    blocks: abi.Blocks,
    kind: str,
    source: int,
    slots: int,
    slot_stride: int,
    csizes: int,
    differs: int,
) -> Row:
    """Compressed blocks become frames that lie side by side; counts what is read and written."""
    batch, count = _batch(bench), bench.count
    tables = (count * blocks.count * 4, count * 8, (count + 1) * 8)
    with bench.rooms(*tables, count * abi.frame_bound(blocks)) as (bstarts, sizes, offsets, frames):
        launches = [
            abi.frame_sizes(
                blocks, count, csizes=csizes, differs=differs, bstarts=bstarts, sizes=sizes
            ),
            abi.frame_offsets(count, sizes=sizes, offsets=offsets),
            abi.frame_gather(
                batch,
                blocks,
                compressor="lz4",
                shuffle=kind,
                source=source,
                slots=slots,
                slot_stride=slot_stride,
                csizes=csizes,
                bstarts=bstarts,
                sizes=sizes,
                offsets=offsets,
                frames=frames,
            ),
        ]
        taken = bench.seconds(*launches)
        nbytes = int(_fetched(bench, offsets, 2 * count + 2).view(np.int64)[-1])
    name = f"frames {kind} {blocks.block_bytes >> 10} KiB"
    return {"name": name, "bytes_per_second": 2 * nbytes / taken}


def _lz4_back(
    bench: Bench,
    blocks: abi.Blocks,
    csizes: NDArray[np.int32],
    slots: int,
    slot_stride: int,
    out: int,
    name: str,
) -> list[Row]:
    total = csizes.size
    starts = np.arange(blocks.count) * blocks.block_bytes
    sizes = np.minimum(blocks.nbytes - starts, blocks.block_bytes)
    streams = np.empty(total, abi.STREAM)
    streams["source"] = np.arange(total) * slot_stride
    streams["csize"] = csizes
    streams["target"] = (np.arange(bench.count)[:, None] * bench.stride + starts).reshape(-1)
    streams["size"] = np.tile(sizes, bench.count)
    # Blocks that would not shrink are not in their slots; they are left out.
    streams = streams[streams["csize"] < streams["size"]]
    if not streams.size:
        return []
    with bench.rooms(streams.nbytes, streams.size * 4) as (table, status):
        _table(bench, table, streams)
        launch = abi.lz4_decompress(
            streams.size, compressed=slots, streams=table, out=out, status=status
        )
        rate = int(streams["size"].sum()) / bench.seconds(launch)
        if _fetched(bench, status, streams.size).any():
            raise SystemExit(f"{name}: what the card compressed does not decompress")
    return [{"name": f"{name}, back", "raw_bytes_per_second": rate}]


def zstd(bench: Bench, block_sizes: Sequence[int]) -> list[Row]:
    """Compression by nvCOMP, by block size, behind both shuffles."""
    nvcomp = bench.device.nvcomp
    rows: list[Row] = []
    if nvcomp is None:
        return rows
    batch = _batch(bench)
    for wanted in block_sizes:
        blocks = abi.Blocks(batch.nbytes, min(batch.nbytes, wanted))
        stride = abi.stride_of(nvcomp.most_bytes(blocks.block_bytes))
        total = bench.count * blocks.count
        scratch = nvcomp.scratch_bytes(total, blocks.block_bytes, bench.total)
        sizes = [bench.count * bench.stride, total * stride, *[total * 8] * 4, total * 4, scratch]
        differs = bench.room(bench.count * 4)
        bench.device.fill(differs, 1, bench.count * 4, bench.stream)
        with bench.rooms(*sizes) as room:
            shuffled, slots, sources, lengths, targets, found, statuses, space = room
            starts = np.arange(blocks.count) * blocks.block_bytes
            at = (np.arange(bench.count)[:, None] * bench.stride + starts).reshape(-1)
            most = np.minimum(blocks.nbytes - starts, blocks.block_bytes)
            _table(bench, sources, at.astype(np.uint64) + np.uint64(shuffled))
            _table(bench, lengths, np.tile(most, bench.count).astype(np.uint64))
            _table(bench, targets, (np.arange(total) * stride).astype(np.uint64) + np.uint64(slots))
            for kind in ("byte", "bit"):
                shuffle = abi.shuffle(batch, _cut(blocks), kind, shuffled=shuffled, differs=differs)
                bench.device.launch(shuffle, bench.stream)

                def compress(
                    blocks: abi.Blocks = blocks, total: int = total, scratch: int = scratch
                ) -> None:
                    nvcomp.compress(
                        *(sources, lengths, total, blocks.block_bytes, (space, scratch)),  # noqa: B023
                        *(targets, found, statuses, bench.device.handle(bench.stream)),  # noqa: B023
                    )

                taken = queued_seconds(bench.device, compress, bench.sizes.rounds)
                if _fetched(bench, statuses, total).any():
                    raise SystemExit("nvCOMP reports blocks that it could not compress")
                size = int(_fetched(bench, found, 2 * total).view(np.uint64).sum())
                name = f"zstd {kind} {blocks.block_bytes >> 10} KiB"
                row = {"name": name, "raw_bytes_per_second": bench.total / taken}
                row |= {"ratio": bench.total / size}
                rows.append(row | bench.c_blosc("zstd", kind, blocks.block_bytes))
    return rows


def _cut(blocks: abi.Blocks) -> abi.Blocks:
    """Blocks of a size that the shuffle kernel takes."""
    return abi.Blocks(blocks.nbytes, min(blocks.block_bytes, abi.MAX_BLOCK_BYTES))


def _fetched(bench: Bench, address: int, count: int) -> NDArray[np.int32]:
    pinned = bench.device.allocate_pinned(count * 4)
    bench.device.copy_out(pinned, address, bench.stream)
    bench.device.drain()
    found = pinned.view(np.int32).copy()
    bench.device.free_pinned(pinned)
    return found


def _batch(bench: Bench) -> abi.Batch:
    shape = abi.five(bench.sizes.chunk)
    return abi.Batch(bench.chunks, bench.stride, bench.count, shape, np.dtype("uint16"))


def _row(name: str, rate: float, ceiling: float) -> Row:
    return {"name": name, "bytes_per_second": rate, "of_ceiling": rate / ceiling}
