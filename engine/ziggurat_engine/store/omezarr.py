"""Which documents make a directory of chunks an OME-Zarr image?

    zarr.json        group; attributes "ome" (OME-NGFF 0.5) and "ziggurat"
    0/zarr.json      array of level 0; 1/zarr.json of level 1, and so on; higher numbers
                     once another method made the levels above level 0

zarr-python writes the Zarr v3 metadata and ome-zarr-models checks the NGFF part: what
is ours to know is how a spec.Image is said in their words. An image is loaded back from
the attribute "ziggurat" alone, so that nothing of it passes through other words:

    {"version": 1 or 2, "image": spec.Image as JSON, "streams": [...]}

Version 2 says that levels were replaced ("first_array") or that the image is adopted; all
else is as in version 1.

"streams" is there once a stream was closed: what was known of all the image's streams
when the last of them was (see streams.StreamInfo).

Of an adopted image there is the group's document alone, without "ome": "version" is 2, and
"image" says where its levels lie.
"""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ziggurat_engine.errors import NEWER, Corrupt, UnsupportedVersion
from ziggurat_engine.layout import pyramid_of
from ziggurat_engine.spec import Axis, Blosc, Channel, Codec, Gzip, Image, Uncompressed, Zstd

if TYPE_CHECKING:
    from ome_zarr_models.common.omero import Channel as OmeroChannel
    from ome_zarr_models.v05.image import ImageAttrs
    from ome_zarr_models.v05.image_label import ImageLabelAttrs
    from ome_zarr_models.v05.multiscales import Multiscale
    from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

ATTRIBUTE = "ziggurat"
VERSIONS = (1, 2)

_AXIS_TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
_SHUFFLES: dict[str, Literal["noshuffle", "shuffle", "bitshuffle"]] = {
    "none": "noshuffle",
    "byte": "shuffle",
    "bit": "bitshuffle",
}
_CASCADE = (
    "Each level bins the stored level before it; a window at the edge has the pixels there are."
)
_DOWNSAMPLING = {
    "mean": "The mean of each window; of integers rounded half to even.",
    "median": "The lower median of each window.",
    "mode": "The most frequent pixel of each window, the smallest of several.",
    "min": "The smallest pixel of each window.",
    "max": "The largest pixel of each window.",
    "stride": "The first pixel of each window.",
    "gaussian": "The mean of each window and one pixel around it, with binomial weights"
    " (1 3 3 1 for 2, 1 4 6 4 1 for 3, 1 5 10 10 5 1 for 4); of integers rounded half to even.",
}


def description_of(method: str) -> str:
    """What a downsampling method does, in a sentence or two."""
    return f"{_DOWNSAMPLING[method]} {_CASCADE}"


_loading = threading.Lock()


def _load() -> None:
    """Half a second of imports that only a creation and a change of method need.

    By one thread at a time: modules that import each other in a circle fail where two
    threads begin at different ends of it.
    """
    with _loading:
        import zarr.codecs
        import zarr.storage  # noqa: F401


def documents(image: Image) -> dict[str, bytes]:
    """The metadata of `image`, by path in its group; the group's own document last."""
    if image.adopted is not None:
        return {"zarr.json": _record(image)}
    _load()
    import zarr
    from zarr.codecs import BytesCodec
    from zarr.core.buffer import Buffer
    from zarr.storage import MemoryStore

    content: dict[str, Buffer] = {}
    store = MemoryStore(content)
    attributes = {
        "ome": _ome(image).model_dump(mode="json", by_alias=True, exclude_none=True),
        ATTRIBUTE: _description(image),
    }
    zarr.create_group(store, attributes=attributes)
    layout = image.layout
    for k, level in enumerate(pyramid_of(image).levels):
        zarr.create_array(
            store,
            name=image.array_name(k),
            shape=(image.shape[0], *level.shape[1:]) if image.unbounded else level.shape,
            dtype=image.data_type,
            chunks=layout.chunk_shape,
            shards=layout.shard_shape if layout.sharded else None,
            filters=None,
            serializer=BytesCodec(endian="little"),
            compressors=_compressor(layout.codec, image.dtype.itemsize),
            fill_value=image.dtype.type(image.fill_value),
            dimension_names=[axis.name for axis in image.axes],
        )
    levels = sorted(content.keys() - {"zarr.json"})
    return {path: content[path].to_bytes() for path in [*levels, "zarr.json"]}


def labels_document(old: bytes | None, name: str, *, there: bool) -> bytes:
    """The zarr.json of the group of an image's labels, in which `name` is listed or not.

    old: what it was, None where there is none.
    """
    try:
        document = json.loads(old or b"{}")
        listed = list(document.setdefault("attributes", {}).setdefault("ome", {}).get("labels", []))
    except (ValueError, AttributeError, TypeError):
        # Not a group: nothing of it can be kept.
        document, listed = {"attributes": {"ome": {}}}, []
    others = [label for label in listed if label != name]
    ome = {**document["attributes"]["ome"], "version": "0.5"}
    ome["labels"] = sorted([*others, name]) if there else others
    document |= {"zarr_format": 3, "node_type": "group"}
    document["attributes"]["ome"] = ome
    return json.dumps(document, indent=2).encode()


def read_image(document: bytes, name: str, labels_of: str | None = None) -> Image:
    """The image that the group's zarr.json describes, under the name it lies at now.

    labels_of: the image in which it lies.

    Raises UnsupportedVersion for a description of another version, Corrupt for
    anything else that `documents` does not write; `name` is named in both.
    """
    try:
        described = json.loads(document)["attributes"][ATTRIBUTE]
        version = described["version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Corrupt(f"image {name!r}: its zarr.json was not written by Ziggurat") from error
    if version not in VERSIONS:
        raise UnsupportedVersion(
            f"image {name!r}: described in version {version!r};"
            f" this is for versions up to {VERSIONS[-1]}: {NEWER}"
        )
    try:
        image = Image.model_validate(described["image"])
        pyramid_of(image)
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"image {name!r}: its description does not parse: {error}") from error
    # Directories are moved and copied: where an image lies is what it is called.
    if (image.name, image.labels_of) == (name, labels_of):
        return image
    return image.model_copy(update={"name": name, "labels_of": labels_of})


def _record(image: Image) -> bytes:
    attributes = {ATTRIBUTE: _description(image)}
    document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return json.dumps(document, indent=2).encode()


def replace_levels(document: dict[str, Any], image: Image) -> None:
    """Makes the group's document name the levels of `image` and their method.

    What others have added to it stays, but for a copy of the arrays' metadata, of other arrays.
    """
    _load()
    attributes = document["attributes"]
    new = _multiscale(image).model_dump(mode="json", by_alias=True, exclude_none=True)
    multiscale = attributes["ome"]["multiscales"][0]
    multiscale.update({name: new[name] for name in ("datasets", "type", "metadata")})
    described = attributes[ATTRIBUTE]
    described["version"] = _version(image)
    described["image"].update(_changed(image))
    document.pop("consolidated_metadata", None)


def _description(image: Image) -> dict[str, Any]:
    other = {"first_array"} if image.adopted is not None else {"first_array", "adopted"}
    described = json.loads(image.model_dump_json(exclude=other))
    return {"version": _version(image), "image": described | _changed(image)}


def _version(image: Image) -> int:
    plain = image.first_array == 1 and image.adopted is None
    return VERSIONS[0] if plain else VERSIONS[1]


def _changed(image: Image) -> dict[str, Any]:
    """What a change of method changes."""
    first = {} if image.first_array == 1 else {"first_array": image.first_array}
    return {"downsampling": image.downsampling, **first}


def _compressor(codec: Codec, itemsize: int) -> BloscCodec | GzipCodec | ZstdCodec | None:
    from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

    match codec:
        case Blosc():
            return BloscCodec(
                typesize=itemsize,
                cname=codec.compressor,
                clevel=codec.level,
                shuffle=_SHUFFLES[codec.shuffle],
                blocksize=0,
            )
        case Zstd():
            return ZstdCodec(level=codec.level, checksum=False)
        case Gzip():
            return GzipCodec(level=codec.level)
        case Uncompressed():
            return None


def _ome(image: Image) -> ImageAttrs | ImageLabelAttrs:
    from ome_zarr_models.common.omero import Omero
    from ome_zarr_models.v05.image import ImageAttrs
    from ome_zarr_models.v05.image_label import ImageLabelAttrs
    from ome_zarr_models.v05.image_label_types import Label, Source

    if image.kind == "labels":
        # From IMAGE.ome.zarr/labels/NAME to IMAGE.ome.zarr.
        source = Source(image="../../") if image.labels_of is not None else None
        return ImageLabelAttrs.model_validate(
            {
                "version": "0.5",
                "multiscales": [_multiscale(image)],
                "image-label": Label(source=source),
            }
        )
    extra: dict[str, Any] = {}
    if image.channels:
        channels = [_omero_channel(c, image.dtype) for c in image.channels]
        extra["omero"] = Omero(channels=channels)
    return ImageAttrs(version="0.5", multiscales=[_multiscale(image)], **extra)


def _multiscale(image: Image) -> Multiscale:
    from ome_zarr_models.v05 import axes
    from ome_zarr_models.v05.multiscales import Dataset, Multiscale

    def ome_axis(axis: Axis) -> axes.Axis:
        return axes.Axis(name=axis.name, type=_AXIS_TYPES[axis.name], unit=axis.unit or None)

    return Multiscale(
        name=image.name,
        axes=[ome_axis(axis) for axis in image.axes],
        datasets=tuple(
            Dataset.build(
                path=image.array_name(k), scale=level.scale, translation=level.translation
            )
            for k, level in enumerate(pyramid_of(image).levels)
        ),
        type=image.downsampling,
        metadata={
            "method": image.downsampling,
            "description": description_of(image.downsampling),
        },
    )


def _omero_channel(channel: Channel, dtype: np.dtype[np.generic]) -> OmeroChannel:
    """`window` is not optional there: what the client left open spans the pixel type."""
    from ome_zarr_models.common.omero import Channel as OmeroChannel
    from ome_zarr_models.common.omero import Window

    low, high = (0.0, 1.0)
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype.name)
        low, high = float(bounds.min), float(bounds.max)
    elif channel.window is not None:
        low, high = channel.window
    start, end = channel.window or (low, high)
    fields = {"label": channel.label} if channel.label else {}
    return OmeroChannel(
        color=channel.color,
        window=Window(min=low, max=high, start=start, end=end),
        active=True,
        **fields,
    )
