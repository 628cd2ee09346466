"""How does napari show an image that lies on a server?

    napari ziggurat://127.0.0.1:7447/lab/run-3

An image becomes one multiscale layer a channel, a label image one of labels; the label
images of an image come with it. Every level is a dask array of whole chunks: napari reads
what it shows, of the level that it needs. A layer is as large as the image was when it was
opened; open it again for what has grown since.

napari finds this through napari.yaml. It is not imported here: what it takes are tuples.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ziggurat._client import connect
from ziggurat._errors import InvalidArgument
from ziggurat._image import Image
from ziggurat._values import Channel

SCHEME = "ziggurat://"

# As OME-NGFF names them. napari refuses a layer with a unit that it does not know.
_PREFIX = (
    "yotta|zetta|exa|peta|tera|giga|mega|kilo|hecto|deca"
    "|deci|centi|milli|micro|nano|pico|femto|atto|zepto|yocto"
)
_UNIT = re.compile(
    rf"(?:{_PREFIX})?(?:meter|second)|angstrom|inch|foot|yard|mile|parsec|minute|hour|day"
)

LayerData = tuple[list[Any], dict[str, Any], str]


def reader(path: str | list[str]) -> Callable[[str | list[str]], list[LayerData]] | None:
    """What reads `path`: None where it is no "ziggurat://HOST:PORT/NAME", or are several."""
    return read if isinstance(path, str) and path.startswith(SCHEME) else None


def read(path: str | list[str]) -> list[LayerData]:
    """The layers of the image at "ziggurat://HOST:PORT/NAME", then those of its label images.

    Reads no pixels. Raises InvalidArgument for another path, NotFound, Unavailable.
    """
    server, slash, name = str(path).removeprefix(SCHEME).partition("/")
    if not (isinstance(path, str) and path.startswith(SCHEME) and server and slash and name):
        raise InvalidArgument(
            f'path must be like "ziggurat://host:7447/lab/run-3", got {path!r}', field="path"
        )
    # Left open: the layers read through it as long as they are there.
    client = connect(server)
    image = client.open(name)
    labels = [found for found in client.list(image.name) if found.labels_of == image.name]
    return [layer for found in (image, *labels) for layer in layers(found)]


def layers(image: Image) -> list[LayerData]:
    """(levels, arguments, type) of each layer of `image`, as napari takes them.

    Axis c is what tells layers of an image apart; other axes stay, in their order.
    """
    split = image.kind == "image" and "c" in image.axes
    kept = [k for k, axis in enumerate(image.axes) if not (split and axis == "c")]
    levels = [level.to_dask() for level in map(image.level, range(len(image.levels)))]
    common = {
        "multiscale": True,
        "scale": [image.scale[k] for k in kept],
        "translate": [image.translation[k] for k in kept],
        "axis_labels": [image.axes[k] for k in kept],
        "units": [_unit(image.units[image.axes[k]]) for k in kept],
        "metadata": {"ziggurat": f"{SCHEME}{image.server}/{image.name}"},
    }
    short = image.name.rpartition("/")[2]
    if image.kind == "labels":
        return [(levels, {"name": short, **common}, "labels")]
    if not split:
        return [(levels, {"name": short, **common}, "image")]
    axis = image.axes.index("c")
    found: list[LayerData] = []
    for c in range(image.shape[axis]):
        channel = image.channels[c] if image.channels else Channel()
        shown = {"name": f"{short}: {channel.label or c}", "blending": "additive", **common}
        if image.channels:
            shown["colormap"] = f"#{channel.color}"
        if channel.window is not None:
            shown["contrast_limits"] = channel.window
        chosen = (slice(None),) * axis + (c,)
        found.append(([level[chosen] for level in levels], shown, "image"))
    return found


def _unit(name: str) -> str:
    return name if _UNIT.fullmatch(name) else "pixel"
