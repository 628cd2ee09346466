"""What do the levels on disk look like at a glance, without reading a pixel?

One tile a level, side by side: each chunk of the (y, x) plane is a cell, the brighter
the more bytes it takes on average over the other axes; chunks that are absent everywhere
are dark blue. A hole, a level that was built of half of the one below, or a corner that
does not compress is seen at once.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ziggurat_engine.foreign.codecs import Json

_HEIGHT = 256
_MARGIN = 12
_LABEL = 44
_LEAST_WIDTH = 190
_BACKGROUND = (24, 24, 27)
_INK = (228, 228, 231)
_ABSENT = np.array((24, 32, 80), np.float64)
_FULL = np.array((255, 208, 112), np.float64)


def draw(found: Json, path: Path) -> None:
    """Writes the picture of what `inspect(..., maps=True)` found.

    ImportError without pillow, OSError, ValueError for a file type that is unknown.
    """
    from PIL import Image, ImageDraw, ImageFont

    tiles = []
    for level in found["levels"]:
        heat = np.asarray(level.get("map", np.zeros((1, 1))))
        most = heat.max() or 1.0
        share = (heat / most)[..., np.newaxis]
        colour = np.where(share > 0, _FULL * (0.35 + 0.65 * share), _ABSENT)
        picture = Image.fromarray(colour.clip(0, 255).astype(np.uint8))
        rows, columns = [1, *level["shape"]][-2:]
        width = round(min(max(_HEIGHT * columns / rows, 16), 4 * _HEIGHT))
        small = heat.shape[0] <= _HEIGHT and heat.shape[1] <= width
        method = Image.Resampling.NEAREST if small else Image.Resampling.BOX
        tiles.append(picture.resize((width, _HEIGHT), method))
    total = sum(max(tile.width, _LEAST_WIDTH) + _MARGIN for tile in tiles) + _MARGIN
    sheet = Image.new("RGB", (total, _HEIGHT + 2 * _MARGIN + _LABEL), _BACKGROUND)
    at = _MARGIN
    for level, tile in zip(found["levels"], tiles, strict=True):
        sheet.paste(tile, (at, _MARGIN))
        present, expected = level["chunks"]["present"], level["chunks"]["expected"]
        text = (
            f"{level['path']}: {' x '.join(map(str, level['shape']))}\n"
            f"{'?' if present is None else present} of {expected} chunks,"
            f" {level['stored_bytes'] / 1e6:.4g} MB"
        )
        place = (at, _HEIGHT + _MARGIN + 6)
        ImageDraw.Draw(sheet).multiline_text(place, text, _INK, ImageFont.load_default(13))
        at += max(tile.width, _LEAST_WIDTH) + _MARGIN
    sheet.save(path)
