"""What must an accelerator be able to do? One batch call down, one call up.

The engine above never knows which implementation it has. Decoded content and parent
blocks are the same, byte for byte, from every one of them; encoded bytes may differ.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Array, Codec


@dataclass(frozen=True, slots=True)
class Recipe:
    """What settling does to a chunk; the same for all chunks of a level.

    codec: None: nothing is encoded, and every frame is None.
    fill_value: of the level's dtype; a chunk of nothing else is not stored.
    factors: binning to the next level, one number an axis; None at the top level.
    downsampling: the method, a key of reference.METHODS or reference.HALO_METHODS.
    """

    codec: Codec | None
    fill_value: np.generic
    factors: Shape | None
    downsampling: str = "mean"


@dataclass(frozen=True, slots=True)
class Settled:
    """What settling made of one chunk.

    frame: the encoded chunk, bytes or a view of them; None where every pixel is the fill
    value.
    parent: the downsampled block of the chunk's valid pixels, of shape
    ceil(valid / factors), C order; None at the top level.
    """

    frame: bytes | memoryview | None
    parent: Array | None


@dataclass(frozen=True, slots=True)
class Surrounded:
    """A block of a level, and of the pixels around it those that its parent needs too.

    pixels: C-contiguous, native byte order, nothing beyond the level. before: how many pixels
    of `halo` lie in front of the block along each axis, 0 at the level's edge. valid: pixels of
    the block; it begins at a multiple of the factors and ends at one or at the level's edge.
    What `pixels` has more is halo behind it, 0 again at the level's edge.
    """

    pixels: Array
    before: Shape
    valid: Shape


@dataclass(frozen=True, slots=True)
class Points:
    """The points of a box of a plane, in pixels of a level, one number an axis.

    Point (i, j) of the plane lies at (start + i * row) + j * column, in 64-bit floats,
    rounded after each step. first: the (i, j) of the box's first point. shape: its points.
    """

    start: tuple[float, ...]
    row: tuple[float, ...]
    column: tuple[float, ...]
    first: tuple[int, int]
    shape: tuple[int, int]

    def corner(self, i: int, j: int) -> tuple[float, ...]:
        """Where a corner lies; i and j are 0 for the first or -1 for the last row and column."""
        row = self.first[0] + (self.shape[0] - 1 if i else 0)
        column = self.first[1] + (self.shape[1] - 1 if j else 0)
        axes = zip(self.start, self.row, self.column, strict=True)
        return tuple((s + row * r) + column * c for s, r, c in axes)

    def coordinates(self) -> list[np.ndarray[Any, Any]]:
        """For each axis, where all points lie along it: an array of `shape`."""
        rows = np.arange(self.first[0], self.first[0] + self.shape[0], dtype=np.float64)
        columns = np.arange(self.first[1], self.first[1] + self.shape[1], dtype=np.float64)
        axes = zip(self.start, self.row, self.column, strict=True)
        return [(s + rows * r)[:, None] + (columns * c)[None, :] for s, r, c in axes]

    def raised(self, axes: int) -> Points:
        """The same points with so many axes more in front, along which all lie at 0."""
        zeros = (0.0,) * axes
        return replace(
            self, start=zeros + self.start, row=zeros + self.row, column=zeros + self.column
        )

    def halves(self) -> tuple[Points, Points]:
        """The box cut in two across its longer side."""
        (i, j), (rows, columns) = self.first, self.shape
        if rows >= columns:
            half = rows // 2
            parts = ((i, j), (half, columns)), ((i + half, j), (rows - half, columns))
        else:
            half = columns // 2
            parts = ((i, j), (rows, half)), ((i, j + half), (rows, columns - half))
        first, second = (replace(self, first=at, shape=shape) for at, shape in parts)
        return first, second


@dataclass(slots=True)
class KernelTotals:
    """What kernels did since they were made; seconds are of all threads together.

    chunks, raw_bytes: settled, and blocks downsampled. encoded_bytes: of frames; encoding
    includes looking whether all is fill value. downsampled_bytes: of what was read for it.
    cpu_batches: of kernels with devices, those that the CPU did: no device has code for them, or
    one failed.
    """

    chunks: int = 0
    raw_bytes: int = 0
    encoded_bytes: int = 0
    encode_seconds: float = 0.0
    downsampled_bytes: int = 0
    downsample_seconds: float = 0.0
    decoded_bytes: int = 0
    decode_seconds: float = 0.0
    cpu_batches: int = 0


@dataclass(frozen=True, slots=True)
class DeviceTotals:
    """A device that kernels use, and what it did since they were made.

    state: "ready", "paused" (out of memory, tried again later) or "lost" (not before a restart).
    memory_bytes: of its memory, what they hold. failures: batches that it gave back, and what
    else went wrong; last_failure: what the last was.
    """

    name: str
    state: str = "ready"
    memory_bytes: int = 0
    batches: int = 0
    failures: int = 0
    last_failure: str = ""


def halo(downsampling: str, factors: Shape) -> Shape:
    """How far beyond its window, on either side, a method looks along each axis."""
    return tuple(int(downsampling == "gaussian" and f > 1) for f in factors)


class Kernels(Protocol):
    """Encodes, downsamples and decodes chunks; all methods may be called from any thread."""

    @property
    def name(self) -> str:
        """What status shows: "cuda", "cpu" or "reference"."""
        ...

    @property
    def totals(self) -> KernelTotals:
        """What was done so far, for status; a copy."""
        ...

    @property
    def devices(self) -> Sequence[DeviceTotals]:
        """The devices that work for them, for status."""
        ...

    def settle(
        self, chunks: Sequence[Array], valid: Sequence[Shape], recipe: Recipe
    ) -> Generator[Settled, None, None]:
        """Encodes and downsamples a batch; yields in the order of `chunks`.

        chunks: C-contiguous, native byte order, all of the level's chunk shape; pixels
        outside `valid` hold the fill value. valid: how much of each chunk lies within the level,
        from its first pixel on. The arrays are not written to, and must not change until
        the iterator is exhausted or closed; closing it early abandons the rest.
        """
        ...

    def downsample(self, blocks: Sequence[Surrounded], recipe: Recipe) -> Generator[Array]:
        """The parents of `blocks`, each of shape ceil(valid / factors), as `settle` gives them.

        For the methods that look beyond a window, which `settle` refuses to downsample with, and
        for all others; the recipe has factors. However a level is cut into blocks, its
        parent is the same, byte for byte. Otherwise as `settle`.
        """
        ...

    def decode(
        self, frame: bytes, codec: Codec, dtype: np.dtype[np.generic], shape: Shape
    ) -> Array:
        """The chunk that `frame` holds: a new C-contiguous array of `shape`.

        Raises Corrupt where the frame does not decode to exactly that many pixels.
        """
        ...

    def sample(
        self,
        pixels: Array,
        offset: Shape,
        limits: Shape,
        points: Points,
        interpolation: str,
        fill_value: np.generic,
    ) -> Array:
        """The values at points of a plane: an array of `points.shape`, dtype of `pixels`.

        pixels: 3 axes, C order, native byte order: a box of a level that begins at `offset`
        and holds all that is needed. limits: the level's shape. interpolation: "nearest"
        (floor(p + 1/2)) or "linear": a point beyond the centre of the outermost pixel takes
        the value there; weights are products of 64-bit floats, summed in lexicographic order of
        the up to 8 pixels, those of weight 0 left out; integers are rounded half to even, and
        a point in the centre of a pixel has its value. Outside of the pixels, that is where not
        -1/2 <= p < n - 1/2 along each axis, the fill value. Works on the caller's thread.
        """
        ...

    def warm(self, dtypes: Iterable[np.dtype[np.generic]], method: str = "mean") -> None:
        """Makes ready what the first chunk of each of `dtypes` would else wait for."""
        ...

    def close(self) -> None:
        """Frees threads and devices; no other call may be running or follow."""
        ...
