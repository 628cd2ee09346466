"""What does the metadata of a group say of its image: where levels lie, how they were made?

OME-NGFF 0.4 and 0.5, the first of the group's multiscales.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, get_args

from ziggurat_engine.errors import InvalidArgument
from ziggurat_engine.foreign.codecs import Json
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import NOT_FOR_LABELS, Downsampling
from ziggurat_engine.store import omezarr

METHODS: tuple[str, ...] = get_args(Downsampling)


class Place(NamedTuple):
    """Where the pixels of a level lie, in axis units."""

    scale: tuple[float, ...]
    translation: tuple[float, ...]


def placed(path: Path, multiscale: Json, level: int, rank: int) -> Place:
    """Scale and translation of a level, of all its transformations one after the other."""
    scale, translation = [1.0] * rank, [0.0] * rank
    dataset = multiscale["datasets"][level].get("coordinateTransformations") or []
    if not any(step.get("type") == "scale" for step in dataset):
        raise InvalidArgument(
            f"path {path}: level {level} has no scale in its coordinateTransformations",
            field="path",
        )
    for step in (*dataset, *(multiscale.get("coordinateTransformations") or ())):
        kind = step.get("type")
        numbers = step.get(kind)
        if kind == "identity":
            continue
        if (
            kind not in ("scale", "translation")
            or not isinstance(numbers, list)
            or len(numbers) != rank
            or not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers)
            or (kind == "scale" and min(numbers) <= 0)
        ):
            raise InvalidArgument(
                f"path {path}: level {level}: coordinateTransformations {step}: a scale above 0 or"
                f" a translation of {rank} numbers is needed",
                field="path",
            )
        if kind == "scale":
            scale = [s * n for s, n in zip(scale, numbers, strict=True)]
            translation = [t * n for t, n in zip(translation, numbers, strict=True)]
        else:
            translation = [t + n for t, n in zip(translation, numbers, strict=True)]
    return Place(tuple(scale), tuple(translation))


def method_of(multiscale: Json, *, is_label: bool) -> str:
    """How the levels were made, where what is said of it is one of our methods; else ""."""
    metadata = multiscale.get("metadata")
    about = metadata if isinstance(metadata, dict) else {}
    for said in (about.get("method"), multiscale.get("type")):
        # There are many gaussians: ours is the one that is described in our words.
        ours = said != "gaussian" or about.get("description") == omezarr.description_of("gaussian")
        if said in METHODS and ours and not (is_label and said in NOT_FOR_LABELS):
            return str(said)
    return ""


def channels_of(attributes: Json, axes: Sequence[str], shape: Shape) -> list[Json]:
    """How channels are shown; nothing where what is said of them does not fit."""
    omero = attributes.get("omero")
    said = omero.get("channels") if isinstance(omero, dict) else None
    if not isinstance(said, list) or "c" not in axes or len(said) != shape[axes.index("c")]:
        return []
    found = []
    for channel in said:
        window = channel.get("window") or {}
        start, end = window.get("start"), window.get("end")
        ordered = isinstance(start, int | float) and isinstance(end, int | float) and start < end
        color = str(channel.get("color") or "")
        found.append(
            {
                "label": str(channel.get("label") or "")[:256],
                "color": color if _is_color(color) else "FFFFFF",
                "window": (start, end) if ordered else None,
            }
        )
    return found


def _is_color(text: str) -> bool:
    return len(text) == 6 and all(digit in "0123456789abcdefABCDEF" for digit in text)
