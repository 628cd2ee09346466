"""Which level does a read mean, and which box of it?

Both may be told in terms that do not need the other: a level by how fine it has to be or
how many pixels may come, a box in pixels of level 0 or in axis units. Such a box is
rounded outward, so that all asked for is covered.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ziggurat_engine.errors import InvalidArgument, OutOfRange
from ziggurat_engine.images import OpenImage
from ziggurat_engine.region import Region

# Of a pixel: so far apart two borders may lie and still count as one.
SAME_BORDER = 1e-6
# Of a distance: so much coarser a level may be and still count as fine enough.
SAME_DISTANCE = 1e-9
# No image reaches so far; numbers beyond it are clipped, so that they can be rounded.
FAR = float(2**60)


@dataclass(frozen=True, slots=True)
class Selection:
    """What a read selects; at most one of the first three, and of the last three.

    level; resolution: by axis, the largest pixel distance that will do; max_voxels: the most
    pixels of the box. None of them: level 0. box: in pixels of `level`; level0_box: in
    pixels of level 0; physical_box: by axis, (start, stop) in axis units. None: all of it.
    """

    level: int | None = None
    resolution: Mapping[str, float] | None = None
    max_voxels: int | None = None
    box: Region | None = None
    level0_box: Region | None = None
    physical_box: Mapping[str, tuple[float, float]] | None = None


def select(image: OpenImage, selection: Selection) -> tuple[int, Region]:
    """The level, and the box in its pixels.

    Raises InvalidArgument for what makes no sense, OutOfRange for what is not there;
    fields are those of ReadRequest.
    """
    _check_together(selection)
    levels = image.pyramid.levels
    if selection.max_voxels is not None:
        return _within(image, selection, selection.max_voxels)
    level = selection.level or 0
    if level >= len(levels):
        raise OutOfRange(
            f"level {level} is not there: {image.image.name!r} has levels 0 to {len(levels) - 1}",
            field="level",
        )
    if selection.resolution is not None:
        level = level_for(image, selection.resolution, "resolution.sizes")
    return level, _box(image, selection, level)


def level_for(image: OpenImage, sizes: Mapping[str, float], field: str) -> int:
    """The coarsest level whose pixels lie at most so far apart, along the axes of `sizes`.

    Where level 0's lie further apart along an axis, that will do. Raises InvalidArgument for
    axes that are not there, and sizes that are not finite and above 0.
    """
    names: list[str] = [axis.name for axis in image.image.axes]
    for name, size in sizes.items():
        _check_axis(names, name, field)
        if not (math.isfinite(size) and size > 0):
            raise InvalidArgument(
                f"{field}[{name}] is {size}, not finite and above 0", field=f"{field}[{name}]"
            )
    levels = image.pyramid.levels
    limits = {
        names.index(name): max(size, levels[0].scale[names.index(name)]) * (1 + SAME_DISTANCE)
        for name, size in sizes.items()
    }
    return max(
        k
        for k, level in enumerate(levels)
        if all(level.scale[axis] <= limit for axis, limit in limits.items())
    )


def _check_together(selection: Selection) -> None:
    chosen = [name for name in ("level", "resolution", "max_voxels") if _given(selection, name)]
    if len(chosen) > 1:
        raise InvalidArgument(f"{chosen[1]} is given together with {chosen[0]}", field=chosen[1])
    boxes = [name for name in ("box", "level0_box", "physical_box") if _given(selection, name)]
    if len(boxes) > 1:
        raise InvalidArgument(
            f"{boxes[1]} is given together with {_shown(boxes[0])}", field=boxes[1]
        )
    if boxes == ["box"] and chosen and chosen != ["level"]:
        raise InvalidArgument(
            f"offset and shape are in pixels of a level that {chosen[0]} has yet to choose:"
            " give level0_box or physical_box",
            field="offset",
        )


def _given(selection: Selection, name: str) -> bool:
    return getattr(selection, name) is not None


def _shown(box: str) -> str:
    return "offset and shape" if box == "box" else box


def _within(image: OpenImage, selection: Selection, most: int) -> tuple[int, Region]:
    if most < 1:
        raise InvalidArgument(f"max_voxels is {most}, not at least 1", field="max_voxels")
    for level in range(len(image.pyramid.levels)):
        region = _box(image, selection, level)
        if region.size <= most:
            return level, region
    raise OutOfRange(
        f"the box has {region.size} pixels in the coarsest level, {level}, more than"
        f" max_voxels = {most}",
        field="max_voxels",
    )


def _box(image: OpenImage, selection: Selection, level: int) -> Region:
    whole = Region.whole(image.shape(level))
    if selection.box is not None:
        image.check_box(level, selection.box)
        return selection.box
    if selection.level0_box is not None:
        try:
            image.check_box(0, selection.level0_box)
        except (InvalidArgument, OutOfRange) as error:
            raise error.below("level0_box") from None
        return _below(image, selection.level0_box, level)
    if selection.physical_box is not None:
        return _covering(image, selection.physical_box, level)
    return whole


def _below(image: OpenImage, box: Region, level: int) -> Region:
    """The pixels of `level` that cover `box` of level 0; where it has none there, the nearest."""
    if image.pyramid.binned(level):
        covered = image.pyramid.project(box, 0, level)
        starts, stops = covered.offset, covered.stop
    else:
        # As a box in axis units: pixels are where scale and translation say.
        starts = tuple(map(math.floor, _borders(image, box.offset, level)))
        stops = tuple(map(math.ceil, _borders(image, box.stop, level)))
    offset, shape = [], []
    for first, last, n, wanted in zip(starts, stops, image.shape(level), box.shape, strict=True):
        # Nothing stays nothing, wherever it lies.
        least = 1 if wanted else 0
        offset.append(min(max(first, 0), n - least))
        shape.append(max(min(last, n) - offset[-1], 1) if wanted else 0)
    return Region(tuple(offset), tuple(shape))


def _borders(image: OpenImage, borders: Sequence[int], level: int) -> Iterator[float]:
    """Where borders of pixels of level 0 lie, in pixels of `level`."""
    first, there = image.pyramid.levels[0], image.pyramid.levels[level]
    for axis, border in enumerate(borders):
        place = (border - 0.5) * first.scale[axis] + first.translation[axis]
        yield _border((place - there.translation[axis]) / there.scale[axis] + 0.5)


def _covering(image: OpenImage, intervals: Mapping[str, tuple[float, float]], level: int) -> Region:
    names: list[str] = [axis.name for axis in image.image.axes]
    whole = Region.whole(image.shape(level))
    offset, shape = list(whole.offset), list(whole.shape)
    for name, (start, stop) in intervals.items():
        field = f"physical_box.intervals[{name}]"
        _check_axis(names, name, "physical_box.intervals")
        if not (math.isfinite(start) and math.isfinite(stop) and start <= stop):
            raise InvalidArgument(
                f"{field} is {start} to {stop}, not finite and in order", field=field
            )
        axis = names.index(name)
        scale = image.pyramid.levels[level].scale[axis]
        origin = image.pyramid.levels[level].translation[axis]
        first = math.floor(_border((start - origin) / scale + 0.5))
        last = max(math.ceil(_border((stop - origin) / scale + 0.5)), first + 1)
        size = shape[axis]
        if last <= 0 or first >= size:
            raise OutOfRange(
                f"{field} is {start} to {stop}, beyond the image, which reaches from"
                f" {origin - scale / 2} to {origin + (size - 0.5) * scale}",
                field=field,
            )
        offset[axis] = max(0, first)
        shape[axis] = min(size, last) - offset[axis]
    return Region(tuple(offset), tuple(shape))


def _border(pixels: float) -> float:
    """In pixels; a whole number where it is next to one."""
    clipped = min(max(pixels, -FAR), FAR)
    nearest = round(clipped)
    return nearest if abs(clipped - nearest) <= SAME_BORDER else clipped


def _check_axis(names: list[str], name: str, field: str) -> None:
    if name not in names:
        raise InvalidArgument(
            f"{field}[{name}] is for an axis that the image ({''.join(names)}) does not have",
            field=f"{field}[{name}]",
        )
