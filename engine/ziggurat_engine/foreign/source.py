"""What lies at a path: a Zarr array, or a multiscale image, of which version?

Metadata is read with zarr-python, which knows every version and dialect; what our own
reader needs beyond that (how chunks are named and coded) is taken from the documents.
Nothing here touches pixels.

    PATH                           level 0                 new levels
    group with multiscales         its datasets            paths that follow its own
    group with an array "0"        PATH/0                  PATH/1, PATH/2, ...
    array that is called "0"       PATH                    beside it: PATH/../1, ...
    any other array                PATH                    only with --out
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from ziggurat_engine.errors import InvalidArgument, NotFound, UnsupportedVersion
from ziggurat_engine.foreign.codecs import Coding, Json, of_v2, of_v3
from ziggurat_engine.grid import Grid
from ziggurat_engine.region import Shape
from ziggurat_engine.store.keys import Keys

OME_VERSIONS = ("0.4", "0.5")
_INDEX_CODECS = ["bytes", "crc32c"]


@dataclass(frozen=True, eq=False)
class ZarrArray:
    """One array on disk.

    chunk: pixels that one codec run makes. cell: pixels of an object, a multiple of it.
    dtype: of the pixels, native. fill_value: None where none is defined (Zarr v2).
    indexed: `cell` is a shard whose index we can read.
    """

    path: Path
    version: int
    shape: Shape
    chunk: Shape
    cell: Shape
    dtype: np.dtype[Any]
    fill_value: Any
    keys: Keys
    coding: Coding
    indexed: bool
    dimension_names: tuple[str | None, ...] | None
    document: Json
    handle: Any = field(repr=False)

    @property
    def sharded(self) -> bool:
        """True where an object holds several chunks."""
        return "shard" in self.document

    @property
    def objects(self) -> Grid:
        """The array cut into objects."""
        return Grid(self.shape, self.cell)

    @property
    def chunks(self) -> Grid:
        """The array cut into chunks."""
        return Grid(self.shape, self.chunk)


@dataclass(frozen=True, slots=True)
class Source:
    """An image on disk: levels that are there, and what is said of them.

    group: where new levels go, None where only an array is there. paths: of the levels,
    below the group. multiscales: the first one of the group's, None without.
    """

    levels: tuple[ZarrArray, ...]
    group: Path | None
    paths: tuple[str, ...]
    version: int
    ome_version: str | None
    multiscales: Json | None
    attributes: Json

    @property
    def is_label(self) -> bool:
        """True where pixels are names of objects, that have no mean."""
        return "image-label" in self.attributes


def open_array(path: Path) -> ZarrArray:
    """The array at `path`. NotFound, or InvalidArgument for one that we can't use."""
    try:
        handle = zarr.open_array(path, mode="r")
    except (FileNotFoundError, KeyError):
        raise NotFound(f"{path}: no Zarr array") from None
    except (ValueError, TypeError, NotImplementedError) as error:
        raise InvalidArgument(f"{path}: zarr-python can't open it: {error}", field="path") from None
    version = handle.metadata.zarr_format
    name = "zarr.json" if version == 3 else ".zarray"
    document: Json = json.loads((path / name).read_bytes())
    if version == 2:
        coding = of_v2(document, handle.dtype.itemsize)
        keys = Keys("", document.get("dimension_separator", "."))
        chunk = cell = tuple(document["chunks"])
        indexed = False
        names: Any = handle.attrs.get("_ARRAY_DIMENSIONS")
    else:
        keys = _v3_keys(document["chunk_key_encoding"])
        if document["chunk_grid"]["name"] != "regular":
            raise InvalidArgument(f"{path}: chunks are not a regular grid", field="path")
        cell = chunk = tuple(document["chunk_grid"]["configuration"]["chunk_shape"])
        coding, indexed = of_v3(document["codecs"]), False
        shard = _shard(document["codecs"])
        if shard is not None:
            document["shard"] = shard
            chunk, coding = tuple(shard["chunk_shape"]), of_v3(shard["codecs"])
            indexed = _is_ours(shard)
            if not indexed:
                coding = coding._replace(reads=None)
        names = document.get("dimension_names")
    return ZarrArray(
        path=path,
        version=version,
        shape=tuple(handle.shape),
        chunk=chunk,
        cell=cell,
        dtype=np.dtype(handle.dtype).newbyteorder("="),
        fill_value=handle.fill_value,
        keys=keys,
        coding=coding,
        indexed=indexed,
        dimension_names=tuple(names) if names else None,
        document=document,
        handle=handle,
    )


def open_source(path: Path) -> Source:
    """What lies at `path`; see the table above.

    NotFound, InvalidArgument, UnsupportedVersion for an OME-Zarr of another version.
    """
    path = Path(path).absolute()
    if not path.is_dir():
        raise NotFound(f"{path}: no such directory")
    kind = kind_of(path)
    if kind == "array":
        array = open_array(path)
        if path.name != "0":
            return Source((array,), None, ("0",), array.version, None, None, {})
        if kind_of(path.parent) == "group":
            return open_source(path.parent)
        return _levels(path.parent, array.version, {})
    if kind is None:
        found = ", ".join(str(p.relative_to(path)) for p in itertools.islice(images(path), 3))
        hint = f"; there is {found} in it" if found else ""
        raise NotFound(f"{path}: neither a Zarr array nor a group{hint}")
    version, attributes = group_attributes(path)
    return _levels(path, version, attributes)


def _levels(group: Path, version: int, attributes: Json) -> Source:
    ome = attributes.get("ome", attributes) if version == 3 else attributes
    multiscales = ome.get("multiscales")
    if not multiscales:
        if kind_of(group / "0") != "array":
            found = ", ".join(str(p.relative_to(group)) for p in itertools.islice(images(group), 4))
            raise NotFound(
                f"{group}: a group without multiscales and without an array 0"
                + (f"; name one of its images: {found}" if found else "")
            )
        paths = ["0"]
        while kind_of(group / str(len(paths))) == "array":
            paths.append(str(len(paths)))
        arrays = tuple(open_array(level_at(group, p)) for p in paths)
        return Source(arrays, group, tuple(paths), version, None, None, attributes)
    first = multiscales[0]
    said = str(ome.get("version") or first.get("version") or ("0.5" if version == 3 else "0.4"))
    if said not in OME_VERSIONS:
        raise UnsupportedVersion(f"{group}: OME-Zarr {said}; only 0.4 and 0.5 are known")
    paths = [str(dataset["path"]) for dataset in first["datasets"]]
    places = [level_at(group, p) for p in paths]
    arrays = tuple(open_array(place) for place in places if kind_of(place) == "array")
    if not arrays or kind_of(group / paths[0]) != "array":
        raise NotFound(f"{group}: its level 0, {paths[0]}, is not there")
    return Source(arrays, group, tuple(paths), version, said, first, ome)


def level_at(group: Path, path: str) -> Path:
    """Where a level lies whose dataset has this `path`.

    InvalidArgument where that is not below the group: what is there is not the image's, to be
    read or replaced as one of its levels.
    """
    named = not {"", ".", ".."} & set(path.split("/")) and path.isprintable()
    real = os.path.realpath(group / path) if named else path
    if not named or not Path(real).is_relative_to(os.path.realpath(group)):
        raise InvalidArgument(
            f"path {group}: level {path!r} of its datasets is not below it, but {real!r}",
            field="path",
        )
    return group / path


def kind_of(path: Path) -> str | None:
    """What a directory is: "array", "group", or None where it is nothing of Zarr."""
    try:
        return str(json.loads((path / "zarr.json").read_bytes()).get("node_type"))
    except FileNotFoundError:
        pass
    except (NotADirectoryError, ValueError, AttributeError):
        return None
    if (path / ".zarray").is_file():
        return "array"
    return "group" if (path / ".zgroup").is_file() else None


def group_attributes(path: Path) -> tuple[int, Json]:
    """(Zarr version, attributes) of the group at `path`."""
    try:
        document = json.loads((path / "zarr.json").read_bytes())
        return 3, document.get("attributes") or {}
    except FileNotFoundError:
        pass
    try:
        attributes: Json = json.loads((path / ".zattrs").read_bytes())
    except FileNotFoundError:
        attributes = {}
    return 2, attributes


def images(root: Path, depth: int = 6) -> Iterator[Path]:
    """Multiscale images and arrays 0 below `root`, not those inside of another; breadth first."""
    queue = [(root, 0)]
    while queue:
        path, level = queue.pop(0)
        for entry in sorted(path.iterdir()):
            if entry.name.startswith(".") or not entry.is_dir():
                continue
            kind = kind_of(entry)
            if kind == "array":
                if level == 0:
                    yield entry
                continue
            if kind == "group":
                version, attributes = group_attributes(entry)
                ome = attributes.get("ome", attributes) if version == 3 else attributes
                if ome.get("multiscales") or kind_of(entry / "0") == "array":
                    yield entry
                    # Labels lie within the image that they belong to.
                    if kind_of(entry / "labels"):
                        queue.append((entry / "labels", level + 2))
                    continue
            if level < depth:
                queue.append((entry, level + 1))


def _v3_keys(encoding: Json) -> Keys:
    settings = encoding.get("configuration") or {}
    if encoding["name"] == "v2":
        return Keys("", settings.get("separator", "."))
    return Keys("c", settings.get("separator", "/"))


def _is_ours(shard: Json) -> bool:
    """True where the index of shards is as the engine reads and writes it."""
    index = shard.get("index_codecs", [])
    return (
        [codec["name"] for codec in index] == _INDEX_CODECS
        and (index[0].get("configuration") or {}).get("endian") == "little"
        and shard.get("index_location", "end") == "end"
    )


def _shard(codecs: list[Json]) -> Json | None:
    if len(codecs) == 1 and codecs[0]["name"] == "sharding_indexed":
        configuration: Json = codecs[0]["configuration"]
        return configuration
    return None
