"""Which pixels does an oblique plane need, and where do its points lie among them?

Point (i, j) of a plane lies at origin + i * spacing * down + j * spacing * across, both
directions of length 1. In pixels of a level this is start + i * row + j * column along each
axis; a plane is cut into boxes of points, and the pixels around the corners of such a
box hold all that lies between: the sum is monotone in i and in j, rounding included.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ziggurat_engine.errors import InvalidArgument, OutOfRange
from ziggurat_engine.images import OpenImage
from ziggurat_engine.kernels.protocol import Points
from ziggurat_engine.reads.conversion import Conversion
from ziggurat_engine.reads.selection import level_for
from ziggurat_engine.region import Region, Shape
from ziggurat_engine.spec import SPATIAL

Interpolation: TypeAlias = Literal["nearest", "linear"]
Vector: TypeAlias = tuple[float, ...]

# Farther away pixels can't be told apart in 64-bit floats.
FAR = float(2**52)
# Of two directions of length 1: the sine of the least angle between them.
LEAST_SINE = 1e-6


@dataclass(frozen=True, slots=True)
class Plane:
    """What is asked for. Vectors have one number for each of z, y, x that the image has.

    origin: the centre of point (0, 0) in axis units. down, across: where rows and columns
    follow each other, of any length. spacing: of neighbouring points, in axis units.
    indices: along t and c, 0 where there is none. level: None: by the spacing.
    """

    origin: Vector
    down: Vector
    across: Vector
    rows: int
    columns: int
    spacing: float
    interpolation: Interpolation = "linear"
    indices: Mapping[str, int] = field(default_factory=dict)
    level: int | None = None
    conversion: Conversion = field(default_factory=Conversion)

    @property
    def most_pixels(self) -> int:
        """No more pixels of the image than these go into it."""
        points = self.rows * self.columns
        return points if self.interpolation == "nearest" else points << len(self.origin)


@dataclass(frozen=True, slots=True)
class Placed:
    """A plane in a level. axes: numbers of the spatial axes. at: the pixel along each other.

    points: all of them, in pixels along `axes`.
    """

    level: int
    axes: Shape
    at: Mapping[int, int]
    points: Points

    def around(self, points: Points, limits: Shape) -> Region:
        """The box of a level of shape `limits` that holds what `points` need; may be empty."""
        offset, shape = [0] * len(limits), [1] * len(limits)
        for axis, place in self.at.items():
            offset[axis] = place
        corners = [points.corner(i, j) for i, j in itertools.product((0, -1), repeat=2)]
        for k, axis in enumerate(self.axes):
            places = [corner[k] for corner in corners]
            low = min(max(math.floor(min(places)), 0), limits[axis] - 1)
            high = min(max(math.floor(max(places)) + 2, low + 1), limits[axis])
            if max(places) < -0.5 or min(places) >= limits[axis] - 0.5:
                high = low
            offset[axis], shape[axis] = low, high - low
        return Region(tuple(offset), tuple(shape))

    def tiles(self, limits: Shape, pixels: int) -> Iterator[Points]:
        """The plane in boxes of points, none of which has or needs many more than `pixels`."""
        return self._tiles(self.points, limits, pixels)

    def _tiles(self, points: Points, limits: Shape, pixels: int) -> Iterator[Points]:
        rows, columns = points.shape
        needs = max(rows * columns, self.around(points, limits).size)
        if needs <= pixels or (rows, columns) == (1, 1):
            yield points
            return
        for half in points.halves():
            yield from self._tiles(half, limits, pixels)


def place(image: OpenImage, plane: Plane) -> Placed:
    """Where the plane lies in the level that is chosen.

    Raises InvalidArgument for what makes no sense, OutOfRange for a level or index that is
    not there; fields are those of ReadPlaneRequest.
    """
    names: list[str] = [axis.name for axis in image.image.axes]
    axes = tuple(k for k, name in enumerate(names) if name in SPATIAL)
    for name in ("origin", "down", "across"):
        _check_vector(name, getattr(plane, name), len(axes))
    for name in ("rows", "columns"):
        if getattr(plane, name) < 1:
            raise InvalidArgument(f"{name} is {getattr(plane, name)}, not at least 1", field=name)
    if not (math.isfinite(plane.spacing) and plane.spacing > 0):
        raise InvalidArgument(
            f"spacing is {plane.spacing}, not finite and above 0", field="spacing"
        )
    plane.conversion.check()
    down, across = _unit("down", plane.down), _unit("across", plane.across)
    cosine = sum(map(float.__mul__, down, across))
    if 1 - cosine * cosine < LEAST_SINE**2:
        raise InvalidArgument(f"across {plane.across} is parallel to down", field="across")
    level = plane.level
    if level is None:
        level = level_for(image, {names[axis]: plane.spacing for axis in axes}, "spacing")
    elif level >= len(image.pyramid.levels):
        raise OutOfRange(
            f"level {level} is not there: {image.image.name!r} has levels 0 to"
            f" {len(image.pyramid.levels) - 1}",
            field="level",
        )
    limits, chosen = image.shape(level), image.pyramid.levels[level]
    at = _indices(names, plane.indices, limits)
    scale = [chosen.scale[axis] for axis in axes]
    origin = zip(plane.origin, [chosen.translation[axis] for axis in axes], scale, strict=True)
    points = Points(
        tuple((o - t) / s for o, t, s in origin),
        tuple(d * plane.spacing / s for d, s in zip(down, scale, strict=True)),
        tuple(a * plane.spacing / s for a, s in zip(across, scale, strict=True)),
        (0, 0),
        (plane.rows, plane.columns),
    )
    for i, j in itertools.product((0, -1), repeat=2):
        if not all(abs(p) <= FAR for p in points.corner(i, j)):
            raise InvalidArgument("origin: the plane reaches too far away", field="origin")
    return Placed(level, axes, at, points)


def _check_vector(name: str, vector: Vector, count: int) -> None:
    if len(vector) != count:
        raise InvalidArgument(
            f"{name} has {len(vector)} numbers for {count} spatial axes", field=name
        )
    if not all(map(math.isfinite, vector)):
        raise InvalidArgument(f"{name} is {vector}, not finite", field=name)


def _unit(name: str, vector: Vector) -> Vector:
    length = math.hypot(*vector)
    if not (0 < length < math.inf):
        raise InvalidArgument(f"{name} is {vector}, which has no direction", field=name)
    return tuple(number / length for number in vector)


def _indices(names: list[str], indices: Mapping[str, int], limits: Shape) -> dict[int, int]:
    for name, index in indices.items():
        field_ = f"indices[{name}]"
        if name not in names or name in SPATIAL:
            raise InvalidArgument(
                f"{field_} is for an axis that the image does not have, or a spatial one",
                field=field_,
            )
        size = limits[names.index(name)]
        if index >= size:
            raise OutOfRange(f"{field_} is {index}, there are {size}", field=field_)
    return {k: indices.get(name, 0) for k, name in enumerate(names) if name not in SPATIAL}
