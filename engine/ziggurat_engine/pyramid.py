"""What are the resolution levels of an image, and how do their chunks relate?

Level k + 1 is level k binned by `factors`; its shape is ceil(shape / factors). Every
level has the same chunk and shard shape, and chunks are divisible by the factors, so
each chunk's downsampled block lies within one parent chunk, apart from its siblings'.

The centre of pixel 0 of level 0 is the origin. Binning by F in all moves the centre
of pixel 0 to the mean of the centres of the F pixels it stands for:
scale = F * s and translation = (F - 1) / 2 * s (OME-NGFF 0.5, multiscales).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ziggurat_engine.grid import Grid
from ziggurat_engine.region import Region, Shape


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution level; everything has one number an axis.

    chunks, shards: the level cut into chunks and into shards (pixels both).
    factors: binning from the level before, all 1 for level 0.
    scale, translation: in axis units.
    """

    chunks: Grid
    shards: Grid
    factors: Shape
    scale: tuple[float, ...]
    translation: tuple[float, ...]

    @property
    def shape(self) -> Shape:
        """Pixels along each axis."""
        return self.chunks.shape

    def shard_of(self, chunk: Shape) -> Shape:
        """The shard that holds `chunk`."""
        return tuple(
            i * c // s for i, c, s in zip(chunk, self.chunks.cell, self.shards.cell, strict=True)
        )

    def shards_of(self, cells: Sequence[Collection[int]]) -> list[Collection[int]]:
        """The shards that hold chunks, both as indices along each axis, each with each."""
        steps = [s // c for c, s in zip(self.chunks.cell, self.shards.cell, strict=True)]
        return [
            axis if step == 1 else dict.fromkeys(i // step for i in axis)
            for axis, step in zip(cells, steps, strict=True)
        ]

    def chunks_of(self, shard: Shape) -> Region:
        """The chunk indices of `shard` that lie within the level."""
        return self.chunks.touched(self.shards.region(shard))


@dataclass(frozen=True, slots=True)
class Pyramid:
    """All levels of an image, level 0 first."""

    levels: tuple[Level, ...]

    @classmethod
    def build(
        cls,
        shape: Shape,
        scale: Sequence[float],
        chunk_shape: Shape,
        shard_shape: Shape,
        factors: Sequence[Shape],
    ) -> Pyramid:
        """`factors[k]` leads from level k to level k + 1."""
        ones = (1,) * len(shape)
        levels, binned = [], ones
        for step in (ones, *factors):
            shape = tuple(-(-n // f) for n, f in zip(shape, step, strict=True))
            binned = tuple(b * f for b, f in zip(binned, step, strict=True))
            levels.append(
                Level(
                    Grid(shape, chunk_shape),
                    Grid(shape, shard_shape),
                    step,
                    tuple(b * s for b, s in zip(binned, scale, strict=True)),
                    tuple((b - 1) / 2 * s for b, s in zip(binned, scale, strict=True)),
                )
            )
        return cls(tuple(levels))

    def parent_of(self, level: int, chunk: Shape) -> tuple[Shape, Region]:
        """The chunk of `level` + 1 that holds the downsampled block of `chunk`, and where.

        The box is counted from the parent chunk's first pixel.
        """
        below, above = self.levels[level].chunks, self.levels[level + 1]
        sizes = zip(chunk, below.cell, below.shape, above.factors, above.chunks.cell, strict=True)
        found = []
        # As `project` would say, with plain integers: asked for each chunk that is stored.
        for i, length, limit, f, parent in sizes:
            start, stop = i * length // f, -(-min((i + 1) * length, limit) // f)
            found.append((start // parent, start % parent, stop - start))
        index, offset, shape = zip(*found, strict=True)
        return index, Region(offset, shape)

    def binned(self, level: int) -> bool:
        """True where each pixel of `level`, too, stands for a box of pixels of level 0.

        Levels that others made may leave out the last window of an edge, which only their
        scale can say; or be resized by numbers that are not whole.
        """
        for below, above in itertools.pairwise(self.levels[: level + 1]):
            sizes = zip(below.shape, above.shape, below.scale, above.scale, strict=True)
            for (n, m, s, t), f in zip(sizes, above.factors, strict=True):
                same = abs(t / s - f) < 1e-6 * f
                if m != -(-n // f) and not (same and fits(n, m, f)):
                    return False
        return True

    def project(self, region: Region, level: int, target: int) -> Region:
        """The pixels of `target` that share a pixel of level 0 with `region` of `level`."""
        offset, stop = list(region.offset), list(region.stop)
        if target < level:
            for step in range(level, target, -1):
                factors = self.levels[step].factors
                limits = self.levels[step - 1].shape
                offset = [o * f for o, f in zip(offset, factors, strict=True)]
                stop = [min(s * f, n) for s, f, n in zip(stop, factors, limits, strict=True)]
        else:
            for step in range(level + 1, target + 1):
                factors = self.levels[step].factors
                offset = [o // f for o, f in zip(offset, factors, strict=True)]
                stop = [-(-s // f) for s, f in zip(stop, factors, strict=True)]
        return Region(tuple(offset), tuple(b - a for a, b in zip(offset, stop, strict=True)))


def found_factor(before: int, after: int) -> int:
    """The factor that leads from `before` pixels to `after`, as far as shapes tell."""
    f = max(1, round(before / after))
    return f if fits(before, after, f) else max(1, -(-before // after))


def fits(before: int, after: int, factor: int) -> bool:
    """True where binning `before` pixels leaves `after`, the last window cut or left out."""
    return after in (-(-before // factor), before // factor)
