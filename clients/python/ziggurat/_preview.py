"""What does the pyramid of an image look like at a glance?

One picture: the middle slice of each level side by side, all at the same height, with
the level's shape and voxel size below. The contrast of each channel is that of the
finest level shown whole, between two percentiles, and the same for all levels, so that
a level that was computed wrongly is seen at once. Of a level too large to fetch, the
centre is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ziggurat._image import Image
from ziggurat._level import LevelView

if TYPE_CHECKING:  # pillow is an extra
    from PIL.Image import Image as Picture

Floats: TypeAlias = NDArray[np.floating[Any]]

MAX_SIDE = 4096
MAX_CHANNELS = 6
PERCENTILES = (0.5, 99.7)

_MARGIN = 12
_LABEL_HEIGHT = 44
_MIN_WIDTH = 190
_BACKGROUND = (24, 24, 27)
_INK = (228, 228, 231)
_PALETTE = ("00FF00", "FF00FF", "00FFFF", "FFFF00", "FF8000", "8080FF")


@dataclass(frozen=True, slots=True)
class _Slice:
    """The middle of one level. pixels: (C, Y, X). whole: all of y and x is there."""

    view: LevelView
    pixels: Floats
    whole: bool


def render(image: Image, path: str | Path, *, height: int = 384) -> None:
    """Writes the picture as PNG (or whatever the name of `path` says).

    height: of each level's tile in pixels; the width follows the voxel size. Reads one
    slice of at most MAX_SIDE x MAX_SIDE pixels a level and channel.
    Raises the errors of a read, OSError, ImportError without pillow and ValueError for
    an unknown file type.
    """
    from PIL import Image as pictures  # noqa: N813  the module, not the class

    slices = [_middle(image.level(level.index)) for level in image.levels]
    finest = next((s for s in slices if s.whole), slices[-1])
    ranges = [_contrast(plane) for plane in finest.pixels]
    colors = _colors(image, len(finest.pixels))
    tiles = [_tile(s, ranges, colors, height) for s in slices]
    width = sum(max(tile.width, _MIN_WIDTH) + _MARGIN for tile in tiles) + _MARGIN
    sheet = pictures.new("RGB", (width, height + 2 * _MARGIN + _LABEL_HEIGHT), _BACKGROUND)
    at = _MARGIN
    for part, tile in zip(slices, tiles, strict=True):
        sheet.paste(tile, (at, _MARGIN))
        _label(sheet, (at, height + _MARGIN + 6), part, image)
        at += max(tile.width, _MIN_WIDTH) + _MARGIN
    sheet.save(path)


def _middle(view: LevelView) -> _Slice:
    """The middle of t and z, all channels up to MAX_CHANNELS, the centre of y and x."""
    box = []
    for axis, size in zip(view.axes, view.shape, strict=True):
        if axis in "yx":
            low = max(0, (size - MAX_SIDE) // 2)
            box.append(slice(low, min(size, low + MAX_SIDE)))
        elif axis == "c":
            box.append(slice(0, min(size, MAX_CHANNELS)))
        else:
            box.append(slice(size // 2, size // 2 + 1))
    pixels = view.read(tuple(box))
    # Values beyond float32 would become infinite.
    kind = np.float64 if pixels.dtype == np.float64 else np.float32
    planes: Floats = pixels.reshape(-1, *pixels.shape[-2:]).astype(kind)
    return _Slice(view, planes, pixels.shape[-2:] == view.shape[-2:])


def _contrast(plane: Floats) -> tuple[float, float]:
    finite = plane[np.isfinite(plane)]
    if not finite.size:
        return 0.0, 1.0
    with np.errstate(all="ignore"):
        low, high = (float(v) for v in np.percentile(finite, PERCENTILES))
    if low == high:
        # A few bright pixels on a flat ground, or nothing at all.
        low, high = float(finite.min()), float(finite.max())
    return low, high if high > low else low + 1


def _colors(image: Image, count: int) -> list[tuple[int, ...]]:
    given = [channel.color for channel in image.channels[:count]]
    if count == 1:
        given = given or ["FFFFFF"]
    elif not given or set(given) == {"FFFFFF"}:
        given = list(_PALETTE[:count])
    return [tuple(int(color[k : k + 2], 16) for k in (0, 2, 4)) for color in given]


def _tile(
    part: _Slice,
    ranges: Sequence[tuple[float, float]],
    colors: Sequence[tuple[int, ...]],
    height: int,
) -> Picture:
    """The slice in colour, `height` pixels high and as wide as its voxels say."""
    from PIL import Image as pictures  # noqa: N813  the module, not the class

    rows, columns = part.pixels.shape[-2:]
    light = np.zeros((rows, columns, 3), np.float32)
    for plane, (low, high), color in zip(part.pixels, ranges, colors, strict=True):
        with np.errstate(all="ignore"):  # infinite pixels, and ranges wider than a float
            shown = np.nan_to_num((plane - low) / (high - low), posinf=1.0, neginf=0.0)
        light += shown.clip(0, 1)[..., np.newaxis] * np.array(color, np.float32)
    picture = pictures.fromarray(light.clip(0, 255).astype(np.uint8))
    dy, dx = part.view.scale[-2:]
    # An extreme aspect ratio must not ask for an endless picture.
    width = round(min(max(height * columns * dx / (rows * dy), 16), 8 * height))
    method = pictures.Resampling.NEAREST if rows < height else pictures.Resampling.BOX
    return picture.resize((width, height), method)


def _label(sheet: Picture, at: tuple[int, int], part: _Slice, image: Image) -> None:
    from PIL import ImageDraw, ImageFont

    view = part.view
    sizes = " x ".join(map(str, view.shape))
    spatial = [(a, s) for a, s in zip(view.axes, view.scale, strict=True) if a in "zyx"]
    voxel = " x ".join(f"{size:.4g}" for _, size in spatial)
    lines = [f"level {view.index}: {sizes}", f"{voxel} {image.units['x']}".strip()]
    if not part.whole:
        lines[1] += f"; centre {part.pixels.shape[-2]} x {part.pixels.shape[-1]}"
    ImageDraw.Draw(sheet).multiline_text(at, "\n".join(lines), _INK, ImageFont.load_default(13))
