"""What does a read ask for, and what will its answer be like?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from ziggurat_engine.cache import Extents
from ziggurat_engine.grid import Grid
from ziggurat_engine.images import OpenImage
from ziggurat_engine.reads.conversion import Conversion
from ziggurat_engine.reads.lattice import Lattice
from ziggurat_engine.reads.planes import Placed, Plane
from ziggurat_engine.reads.projection import Method, Projection
from ziggurat_engine.reads.selection import Selection
from ziggurat_engine.region import Region, Shape
from ziggurat_engine.spec import Array


@dataclass(frozen=True, slots=True)
class Read:
    """What a read asks for, in the order in which it is done.

    steps: one number >= 1 an axis; (): all pixels. project: a method and names of axes.
    if_newer_than: the revision of an earlier answer. frames: whole chunks may come as stored.
    """

    selection: Selection = field(default_factory=Selection)
    steps: Shape = ()
    project: tuple[Method, tuple[str, ...]] | None = None
    conversion: Conversion = field(default_factory=Conversion)
    if_newer_than: int | None = None
    frames: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What a read will bring; stale and revision as it began.

    region: the box in pixels of `level`. lattice: its pixels that are taken. shape, dtype: of
    the result. revision: one less than the image's where stale: the answer will change
    though nobody writes. modified: False where there is nothing newer to bring. frames: parts
    may be Frames.
    """

    image: OpenImage
    level: int
    region: Region
    lattice: Lattice
    projection: Projection | None
    conversion: Conversion
    shape: Shape
    dtype: np.dtype[np.generic]
    stale: bool
    revision: int
    modified: bool
    frames: bool

    @property
    def nbytes(self) -> int:
        """Of the result."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def chunks(self) -> int:
        """How many chunks are looked at for it."""
        return self.lattice.chunks(self.grid)

    @property
    def extents(self) -> Extents:
        """What of each chunk is looked at, in what decodes alone."""
        return Extents(self.grid.cell, self.region, self.image.block_pixels)

    @property
    def grid(self) -> Grid:
        """The chunks of the level."""
        return self.image.pyramid.levels[self.level].chunks


@dataclass(frozen=True, slots=True)
class PlaneAnswer:
    """What a read of a plane will bring; region: of the level, what it is made of."""

    image: OpenImage
    plane: Plane
    placed: Placed
    region: Region
    dtype: np.dtype[np.generic]
    stale: bool
    revision: int
    modified: Literal[True] = True

    @property
    def level(self) -> int:
        """Which one was chosen."""
        return self.placed.level


class Frame(NamedTuple):
    """A chunk of `shape` pixels as it is stored, of which a part is the first ones."""

    data: bytes
    shape: Shape


Payload: TypeAlias = Array | Frame


class Piece(NamedTuple):
    """A part of one of many answers. number: which one. first: none of it came before.

    payload: None where there is none.
    """

    number: int
    answer: Answer
    first: bool
    box: Region
    payload: Payload | None
