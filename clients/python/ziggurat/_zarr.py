"""How does a program that knows Zarr, and nothing of this library, read an image?"""

from __future__ import annotations

from typing import Any

from ziggurat._errors import InvalidArgument
from ziggurat._extras import extra
from ziggurat._image import Image
from ziggurat._zarrkeys import ZarrKeys


def zarr_store(image: Image, *, exact: bool = False) -> Any:
    """A zarr.abc.store.Store that reads `image` from its server, as OME-Zarr 0.5.

        group = zarr.open_group(ziggurat.zarr_store(image), mode="r")
        group["0"][...]

    Whatever takes a store of zarr-python 3 reads the image as it is now, with what was
    acknowledged and not stored yet. Arrays have the image's chunks, uncompressed; those
    that nobody wrote to are sent like all others, and are listed. The store only reads: use
    `Image.writer` or `Image.store` to write. It may be pickled, and shared by threads.

    exact: wait until what is read above level 0 is exact; else it may be behind writes
        that were just acknowledged.

    Metadata is asked for anew whenever zarr reads a zarr.json: open the array again, and it
    is as long as the image has become. After the image was deleted nothing can be opened,
    and reading an array that is open raises NotFound rather than giving fill value. Label
    images of the image are not in it: they have stores of their own.

    Returns without asking the server. Needs zarr (the extra "zarr"). Raises InvalidArgument
    where `image` is no Image.
    """
    if not isinstance(image, Image):
        raise InvalidArgument(
            f"image must be a ziggurat.Image, got {type(image).__name__}", field="image"
        )
    return extra("zarr", "_zarrstore", "zarr_store").ImageStore(ZarrKeys(image, exact=exact))
