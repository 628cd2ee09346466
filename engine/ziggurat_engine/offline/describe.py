"""What do readers learn of the new levels, and what stays as it was?

    Zarr v3   zarr.json of the group, attributes.ome (OME-NGFF 0.5)
    Zarr v2   .zattrs of the group (OME-NGFF 0.4)

An image that has multiscales keeps all that is said in them, and of channels, units and
whatever others added; only `datasets` gets new entries, of those that were made. An image
without gets multiscales of one entry. Consolidated metadata, which readers take for the
truth, is brought up to date in the group and in the groups above. The arrays' documents
come from zarr-python.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BytesCodec
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from ziggurat_engine.foreign.codecs import Json, for_v2, for_v3
from ziggurat_engine.foreign.source import Source, kind_of
from ziggurat_engine.offline.plan import NewLevel, Plan
from ziggurat_engine.offline.stage import replace_file
from ziggurat_engine.pyramid import found_factor
from ziggurat_engine.store import omezarr

_TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}


def array_documents(plan: Plan, level: NewLevel) -> dict[str, bytes]:
    """The metadata of a new level, by name of the file in its directory."""
    content: dict[str, Buffer] = {}
    base, rank = plan.base, len(level.shape)
    settings: dict[str, Any] = {
        "shape": level.shape,
        "chunks": plan.chunk,
        "fill_value": base.fill_value,
        "filters": None,
        "chunk_key_encoding": {
            "name": "v2" if not base.keys.prefix else "default",
            "separator": base.keys.separator,
        },
    }
    dtype = base.dtype.newbyteorder("<")
    if base.version == 2:
        zarr.create_array(
            MemoryStore(content),
            zarr_format=2,
            dtype=dtype,
            order="C",
            compressors=for_v2(plan.codec),
            **settings,
        )
        content.pop(".zattrs", None)
        names = base.dimension_names
        if names and len(names) == rank:
            attributes = json.dumps({"_ARRAY_DIMENSIONS": list(names)}).encode()
            return {name: data.to_bytes() for name, data in content.items()} | {
                ".zattrs": attributes
            }
    else:
        zarr.create_array(
            MemoryStore(content),
            zarr_format=3,
            dtype=dtype,
            shards=plan.cell if plan.cell != plan.chunk else None,
            serializer=BytesCodec(endian="little" if dtype.itemsize > 1 else None),
            compressors=for_v3(plan.codec, dtype.itemsize),
            dimension_names=base.dimension_names or list(plan.axes),
            **settings,
        )
    return {name: data.to_bytes() for name, data in content.items()}


def multiscales(source: Source, plan: Plan, name: str, scale: Sequence[float], unit: str) -> Json:
    """The group's multiscales as they are once the new levels are there."""
    made = [
        {
            "path": level.path,
            "coordinateTransformations": [
                {"type": "scale", "scale": list(level.scale)},
                {"type": "translation", "translation": list(level.translation)},
            ],
        }
        for level in plan.levels
    ]
    if source.multiscales is not None:
        kept = source.multiscales["datasets"][: plan.keep]
        return {**source.multiscales, "datasets": [*kept, *made]}
    rank = len(plan.axes)
    first = list(scale or (1.0,) * rank)
    said: Json = {
        "name": name,
        "axes": [
            {"name": a, "type": _TYPES[a], **({"unit": unit} if unit and a in "zyx" else {})}
            for a in plan.axes
        ],
        "datasets": [*_kept(source, plan, first), *made],
        "type": plan.method,
        "metadata": {"method": plan.method, "description": omezarr.description_of(plan.method)},
    }
    return {"version": "0.4", **said} if source.version == 2 else said


def write_group(group: Path, source: Source, multiscale: Json) -> None:
    """Replaces the group's document; makes a group of a directory that is none. OSError."""
    if source.version == 2:
        if not (group / ".zgroup").exists():
            replace_file(group / ".zgroup", b'{\n  "zarr_format": 2\n}')
        path = group / ".zattrs"
        attributes = json.loads(path.read_bytes()) if path.exists() else {}
        attributes["multiscales"] = [multiscale, *attributes.get("multiscales", [])[1:]]
        replace_file(path, _text(attributes))
        return
    path = group / "zarr.json"
    document: Json = (
        json.loads(path.read_bytes())
        if path.exists()
        else {"zarr_format": 3, "node_type": "group", "attributes": {}}
    )
    attributes = document.setdefault("attributes", {})
    ome: Json | None = attributes.get("ome")
    if ome is None and "multiscales" in attributes:
        ome = attributes
    if ome is None:
        ome = {"version": "0.5"}
        attributes["ome"] = ome
    ome["multiscales"] = [multiscale, *ome.get("multiscales", [])[1:]]
    replace_file(path, _text(document))


def name_axes(source: Source, axes: str) -> None:
    """Gives arrays of Zarr v3 that have no dimension_names, as 0.5 asks, those of the image."""
    for array in source.levels:
        if array.version == 3 and not array.dimension_names:
            path = array.path / "zarr.json"
            document = json.loads(path.read_bytes())
            replace_file(path, _text({**document, "dimension_names": list(axes)}))


def reconsolidate(group: Path, levels: Sequence[str]) -> None:
    """Brings consolidated metadata of `group`, and of the groups above, up to date. OSError."""
    below = [group / path for path in levels]
    directory = group
    while kind_of(directory) == "group":
        consolidated = directory / ".zmetadata"
        if consolidated.exists():
            document = json.loads(consolidated.read_bytes())
            for path in (group, *below):
                for name in (".zgroup", ".zarray", ".zattrs"):
                    if (path / name).exists():
                        key = (path / name).relative_to(directory).as_posix()
                        document["metadata"][key] = json.loads((path / name).read_bytes())
            replace_file(consolidated, _text(document))
        root = directory / "zarr.json"
        if root.exists():
            document = json.loads(root.read_bytes())
            kept = document.get("consolidated_metadata")
            if kept:
                for path in below if directory == group else (group, *below):
                    inner = json.loads((path / "zarr.json").read_bytes())
                    inner.pop("consolidated_metadata", None)
                    kept["metadata"][path.relative_to(directory).as_posix()] = inner
                replace_file(root, _text(document))
        directory = directory.parent


def _kept(source: Source, plan: Plan, scale: list[float]) -> list[Json]:
    """Levels that were there without metadata."""
    translation = [0.0] * len(scale)
    found = []
    for k in range(plan.keep):
        if k:
            before, after = source.levels[k - 1].shape, source.levels[k].shape
            factors = [found_factor(n, m) for n, m in zip(before, after, strict=True)]
            translation = [
                t + (f - 1) / 2 * s for t, f, s in zip(translation, factors, scale, strict=True)
            ]
            scale = [s * f for s, f in zip(scale, factors, strict=True)]
        steps: list[Json] = [
            {"type": "scale", "scale": scale},
            {"type": "translation", "translation": translation},
        ]
        found.append({"path": source.paths[k], "coordinateTransformations": steps})
    return found


def _text(document: Json) -> bytes:
    def plain(value: object) -> object:
        if isinstance(value, np.generic):
            return value.item()
        raise TypeError(f"{value!r} is not JSON")

    return json.dumps(document, indent=2, default=plain).encode()
