"""Do the documents of an image say what its description says?

The group's attribute "ziggurat" is the truth (store/omezarr.py): what the arrays' documents
say of their chunks follows from it, and `ome` has to be valid OME-NGFF with the levels
that there are. What others added to either is theirs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ziggurat_engine.errors import DataError, NotFound, UnsupportedVersion
from ziggurat_engine.spec import Image
from ziggurat_engine.store import omezarr
from ziggurat_engine.store.catalog import LABELS, key_of
from ziggurat_engine.upkeep.findings import Finding
from ziggurat_engine.upkeep.holding import Found, Holding

_OF_CHUNKS = ("zarr_format", "node_type", "data_type", "chunk_grid")


def check_documents(holding: Holding, found: Found) -> Iterator[Finding]:
    """What is wrong with the documents of an image of ours."""
    image = found.stored.image
    wanted = omezarr.documents(image)
    levels = {f"{image.array_name(k)}/zarr.json": k for k in range(len(found.arrays))}
    for name in wanted:
        key = f"{found.key}/{name}"
        what = wrong(name, holding.objects.get(key), wanted[name], image)
        if what:
            where = holding.where(key)
            yield Finding("metadata", where, what, found.name, levels.get(name))


def wrong(name: str, data: bytes | None, wanted: bytes, image: Image) -> str:
    """What is wrong with a document, in a sentence; "" where nothing is."""
    if data is None:
        return "it is not there"
    try:
        said = json.loads(data)
        expected = json.loads(wanted)
        if name == "zarr.json":
            return _wrong_group(said, image)
        return _wrong_array(said, expected, image)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        return f"it does not parse: {error!r}"


def _wrong_group(said: dict[str, Any], image: Image) -> str:
    from ome_zarr_models.v05.image import ImageAttrs
    from ome_zarr_models.v05.image_label import ImageLabelAttrs
    from pydantic import ValidationError

    if (said["zarr_format"], said["node_type"]) != (3, "group"):
        return "it is not the document of a Zarr v3 group"
    model = ImageLabelAttrs if image.kind == "labels" else ImageAttrs
    try:
        model.model_validate(said["attributes"]["ome"])
    except (KeyError, ValidationError) as error:
        return f"its OME metadata is not valid: {' '.join(str(error).split())[:200]}"
    paths = [each["path"] for each in said["attributes"]["ome"]["multiscales"][0]["datasets"]]
    names = [image.array_name(k) for k in range(len(image.layout.factors) + 1)]
    if paths != names:
        return f"its OME metadata names the arrays {paths}, the image has {names}"
    return ""


def _wrong_array(said: dict[str, Any], wanted: dict[str, Any], image: Image) -> str:
    for name in _OF_CHUNKS:
        if said.get(name) != wanted[name]:
            return f"{name} is {json.dumps(said.get(name))}, not {json.dumps(wanted[name])}"
    shape, expected = said["shape"], wanted["shape"]
    # A crash leaves levels that reach further than the image, until it is written to again.
    longer = image.unbounded and shape[0] >= expected[0] and shape[1:] == expected[1:]
    if shape != expected and not longer:
        return f"shape is {shape}, not {expected}"
    if not _same_number(said["fill_value"], wanted["fill_value"]):
        return f"fill_value is {said['fill_value']!r}, not {wanted['fill_value']!r}"
    if _codecs(said["codecs"]) != _codecs(wanted["codecs"]):
        return f"codecs are {_codecs(said['codecs'])}, not {_codecs(wanted['codecs'])}"
    return ""


def _same_number(a: Any, b: Any) -> bool:
    return bool(a == b) or (str(a).lower() == str(b).lower())


def _codecs(codecs: list[dict[str, Any]]) -> list[Any]:
    """What of codecs decides how chunks are read: not how well they were compressed."""
    found: list[Any] = []
    for codec in codecs:
        settings = codec.get("configuration") or {}
        if codec["name"] == "sharding_indexed":
            inner = _codecs(settings["codecs"])
            place = settings.get("index_location", "end")
            found.append([settings["chunk_shape"], inner, place])
        elif codec["name"] == "bytes":
            found.append(["bytes", settings.get("endian", "little")])
        else:
            found.append(codec["name"])
    return found


def check_frames(holding: Holding, found: Found) -> Iterator[Finding]:
    """Can all that is known of the image's frames be read?"""
    path = holding.where(f"{found.key}/frames")
    try:
        for _ in found.stored.frames.read():
            pass
    except UnsupportedVersion as error:
        yield Finding("version", path, error.message, found.name)
    except NotFound:
        return
    except (DataError, ValueError, IndexError, OverflowError) as error:
        yield Finding("frames", path, str(error), found.name)
    except OSError as error:
        yield Finding("unreadable", path, str(error), found.name)


def check_labels(holding: Holding, image: str, labels: set[str]) -> Iterator[Finding]:
    """Does the group of an image's labels name those that are there?"""
    key = f"{key_of(image)}/{LABELS}/zarr.json"
    data = holding.objects.get(key)
    try:
        listed = json.loads(data or b"{}").get("attributes", {}).get("ome", {}).get("labels", [])
        missing, gone = sorted(labels - set(listed)), sorted(set(listed) - labels)
    except (ValueError, AttributeError, TypeError) as error:
        yield Finding("metadata", holding.where(key), f"it does not parse: {error!r}", image)
        return
    if missing:
        what = f"it does not name the labels {', '.join(missing)}"
        yield Finding("metadata", holding.where(key), what, image)
    if gone:
        what = f"it names labels that are not there: {', '.join(gone)}"
        yield Finding("metadata", holding.where(key), what, image)
