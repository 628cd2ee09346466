"""What does a label image take from the image that it belongs to?

Its name, "<image>/labels/<name>", below which NGFF readers look for it; and whatever of
voxel sizes, chunk shape and factors was not asked for. OME-NGFF 0.5 wants as many levels
as the image has, so that each level has its labels.
"""

from __future__ import annotations

from typing import Any

from ziggurat_engine.errors import InvalidArgument
from ziggurat_engine.names import check_name
from ziggurat_engine.spec import SPATIAL, Axis, Image, ImageSpec, LayoutRequest

GROUP = "labels"


def fitted(spec: ImageSpec, image: Image) -> ImageSpec:
    """`spec`, under its whole name, made to fit the image that it belongs to.

    Raises InvalidArgument, naming the field, where it does not.
    """
    if "/" in spec.name:
        raise _bad("name", f"{spec.name!r} has several segments: labels of an image have one")
    if image.kind == "labels":
        raise _bad("labels_of", f"{image.name!r} is a label image itself")
    of_image = {axis.name: (i, axis) for i, axis in enumerate(image.axes)}
    axes = []
    for k, axis in enumerate(spec.axes):
        if axis.name not in of_image:
            raise _bad(f"axes[{k}].name", f"{image.name!r} has no axis {axis.name}")
        theirs = of_image[axis.name][1]
        if axis.name in SPATIAL and axis.size != theirs.size:
            raise _bad(
                f"axes[{k}].size", f"{axis.size}, but {image.name!r} has {theirs.size} pixels there"
            )
        axes.append(_calibrated(axis, theirs))
    places = [of_image[axis.name][0] for axis in spec.axes]
    # Checked again as a whole: the name is longer now.
    return spec.model_copy(
        update={
            "name": check_name(f"{image.name}/{GROUP}/{spec.name}"),
            "axes": tuple(axes),
            "layout": _layout(spec.layout, image, places),
        }
    )


def _calibrated(axis: Axis, theirs: Axis) -> Axis:
    given = axis.model_fields_set
    if "scale" in given:
        return axis
    update = {"scale": theirs.scale}
    return axis.model_copy(update=update if "unit" in given else update | {"unit": theirs.unit})


def _layout(asked: LayoutRequest, image: Image, places: list[int]) -> LayoutRequest:
    steps = image.layout.factors
    update: dict[str, Any] = {}
    if asked.chunk_shape is None:
        update["chunk_shape"] = tuple(image.layout.chunk_shape[i] for i in places)
    if asked.level_count not in (0, len(steps) + 1):
        raise _bad("layout.level_count", _levels(asked.level_count, image))
    if asked.factors and len(asked.factors) != len(steps):
        raise _bad("layout.factors", _levels(len(asked.factors) + 1, image))
    if not asked.factors:
        # A single level where the image has no other.
        update["factors"] = tuple(tuple(step[i] for i in places) for step in steps)
        update["level_count"] = len(steps) + 1
    return asked.model_copy(update=update)


def _levels(count: int, image: Image) -> str:
    return f"{count} levels, but {image.name!r} has {len(image.layout.factors) + 1}"


def _bad(field: str, what: str) -> InvalidArgument:
    return InvalidArgument(f"{field}: {what}", field=field)
