"""How does a test run the device kernels on a batch of chunks? By the shim, launch by launch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from ziggurat_engine.kernels.cuda import abi
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Array

from tests.support import shim


class Chunks:
    """Chunks of one shape in memory that stands for a device's."""

    def __init__(self, chunks: Sequence[Array], fill: np.generic | None = None) -> None:
        first = chunks[0]
        stride = abi.stride_of(first.nbytes)
        self.memory = shim.empty(len(chunks) * stride)
        for i, chunk in enumerate(chunks):
            assert chunk.shape == first.shape
            assert chunk.dtype == first.dtype
            self.memory[i * stride : i * stride + chunk.nbytes] = bytes_of(chunk)
        self.batch = abi.Batch(
            self.memory.ctypes.data, stride, len(chunks), abi.five(first.shape), first.dtype
        )
        self.differs = table(len(chunks), np.uint32)
        if fill is None:
            self.differs[:] = 1
        else:
            self.differs[:] = 0
            shim.launch(abi.filled(self.batch, fill, differs=address(self.differs)))

    def parents(
        self, valid: Sequence[Shape], factors: Shape, method: str, *, backwards: bool = False
    ) -> list[Array]:
        factors = abi.five(factors)
        extents = table(5 * len(valid), np.int32)
        extents[:] = [n for shape in valid for n in abi.five(shape)]
        shapes = [
            tuple(-(-n // f) for n, f in zip(abi.five(shape), factors, strict=True))
            for shape in valid
        ]
        whole = [-(-n // f) for n, f in zip(self.batch.shape, factors, strict=True)]
        stride = abi.stride_of(math.prod(whole) * self.batch.dtype.itemsize)
        out = shim.empty(len(valid) * stride + 256)
        shim.launch(
            abi.downsample(
                self.batch,
                method,
                factors,
                valid=address(extents),
                parents=address(out),
                parent_stride=stride,
            ),
            backwards=backwards,
        )
        parents = []
        for i, shape in enumerate(shapes):
            nbytes = math.prod(shape) * self.batch.dtype.itemsize
            slot = out[i * stride : (i + 1) * stride]
            assert (slot[nbytes:] == shim.POISON).all(), "written beyond a parent"
            pixels = slot[:nbytes].view(self.batch.dtype).reshape(shape)
            parents.append(pixels.reshape(shape[5 - len(valid[i]) :]))
        assert (out[len(valid) * stride :] == shim.POISON).all()
        return parents

    def frames(
        self, block_bytes: int, shuffle: str, *, align: int = 16, backwards: bool = False
    ) -> list[bytes | None]:
        """Blosc frames with LZ4, None for chunks of nothing but fill value."""
        batch, count = self.batch, self.batch.count
        blocks = abi.Blocks(batch.nbytes, abi.block_bytes(batch.nbytes, block_bytes))
        slot_stride = abi.stride_of(blocks.block_bytes)
        source = self.memory
        if abi.shuffles(batch.dtype.itemsize, shuffle):
            source = self.shuffled(block_bytes, shuffle, backwards=backwards)
        slots = shim.empty(count * blocks.count * slot_stride)
        csizes = table(count * blocks.count, np.int32)
        shim.launch(
            abi.lz4_compress(
                batch,
                blocks,
                source=address(source),
                slots=address(slots),
                slot_stride=slot_stride,
                csizes=address(csizes),
                differs=address(self.differs),
            ),
            backwards=backwards,
        )
        frames, sizes, offsets = gathered(
            self,
            blocks,
            source,
            slots,
            slot_stride,
            csizes,
            compressor="lz4",
            shuffle=shuffle,
            align=align,
        )
        assert all(o % align == 0 for o in offsets)
        if align == 16:
            assert offsets[-1] <= count * abi.frame_bound(blocks)
        for start, end, n in zip(offsets[:-1], offsets[1:], sizes, strict=True):
            assert end - align < start + n <= end
            assert not frames[start + n : end].any(), "what lay on the device before"
        return [
            bytes(frames[o : o + n]) if n else None
            for o, n in zip(offsets[:-1], sizes, strict=True)
        ]

    def shuffled(
        self, block_bytes: int, kind: str, *, backwards: bool = False
    ) -> NDArray[np.uint8]:
        batch = self.batch
        out = shim.empty(batch.count * batch.stride)
        shim.launch(
            abi.shuffle(
                batch,
                abi.Blocks(batch.nbytes, abi.block_bytes(batch.nbytes, block_bytes)),
                kind,
                shuffled=address(out),
                differs=address(self.differs),
            ),
            backwards=backwards,
        )
        return out


def gathered(
    chunks: Chunks,
    blocks: abi.Blocks,
    source: NDArray[np.uint8],
    slots: NDArray[np.uint8],
    slot_stride: int,
    csizes: NDArray[np.int32],
    *,
    compressor: str,
    shuffle: str,
    align: int = 16,
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Compressed blocks -> (frames, their sizes, their offsets)."""
    count = chunks.batch.count
    bstarts = table(count * blocks.count, np.int32)
    sizes, offsets = table(count, np.int64), table(count + 1, np.int64)
    shim.launch(
        abi.frame_sizes(
            blocks,
            count,
            csizes=address(csizes),
            differs=address(chunks.differs),
            bstarts=address(bstarts),
            sizes=address(sizes),
        )
    )
    shim.launch(
        abi.frame_offsets(count, sizes=address(sizes), offsets=address(offsets), align=align)
    )
    frames = shim.empty(int(offsets[-1]) + 256)
    shim.launch(
        abi.frame_gather(
            chunks.batch,
            blocks,
            compressor=compressor,
            shuffle=shuffle,
            source=address(source),
            slots=address(slots),
            slot_stride=slot_stride,
            csizes=address(csizes),
            bstarts=address(bstarts),
            sizes=address(sizes),
            offsets=address(offsets),
            frames=address(frames),
        )
    )
    assert (frames[int(offsets[-1]) :] == shim.POISON).all(), "written beyond the frames"
    return frames, sizes, offsets


def decompressed(
    streams: Sequence[tuple[bytes, int]], *, backwards: bool = False
) -> list[bytes | None]:
    """Each (LZ4 block, size) decompressed, None where the kernel says that it is not good.

    The blocks lie side by side, so what is read or written beyond one is seen.
    """
    entries = np.zeros(len(streams), abi.STREAM)
    source = target = 0
    for entry, (data, size) in zip(entries, streams, strict=True):
        entry["source"], entry["csize"], entry["target"], entry["size"] = (
            source,
            len(data),
            target,
            size,
        )
        source, target = source + len(data), target + size + 1
    # Streams begin anywhere; an array of just their size has ASan see what is read behind it.
    compressed = np.array(bytearray(b"".join(data for data, _ in streams)), np.uint8)
    out = shim.empty(target)
    status = table(len(streams), np.int32)
    shim.launch(
        abi.lz4_decompress(
            len(streams),
            compressed=address(compressed),
            streams=address(entries),
            out=address(out),
            status=address(status),
        ),
        backwards=backwards,
    )
    assert set(status) <= {0, 1}
    found: list[bytes | None] = []
    for entry, bad in zip(entries, status, strict=True):
        start, end = int(entry["target"]), int(entry["target"] + entry["size"])
        assert out[end] == shim.POISON, "written beyond a stream's target"
        found.append(None if bad else out[start:end].tobytes())
    return found


def bytes_of(array: Array) -> NDArray[np.uint8]:
    return np.frombuffer(array.tobytes(), np.uint8)


def table(count: int, dtype: type[np.generic]) -> NDArray[np.generic]:
    """An aligned, poisoned array."""
    return shim.empty(count * np.dtype(dtype).itemsize).view(dtype)


def address(array: NDArray[np.generic]) -> int:
    return int(array.ctypes.data)
