"""Which OME-Zarr images do others write, each with its levels and its metadata?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorstore
import zarr
import zarr.codecs
from numcodecs import LZ4

from tests.support.pixels import marked, reference_cascade

SHAPE = (21, 61, 45)
FACTORS = [(1, 2, 2), (2, 2, 2)]
SCALE = (2.0, 0.5, 0.25)


def pixels() -> np.ndarray:
    return marked(SHAPE, "uint16")


def multiscale(
    factors: Sequence[Sequence[int]] = tuple(FACTORS), axes: str = "zyx", **more: object
) -> dict[str, object]:
    """One entry of multiscales, of levels 0, 1, ... with `factors` between them."""
    scale, translation = list(SCALE), [0.0] * 3
    datasets = []
    for k in range(len(factors) + 1):
        if k:
            step = factors[k - 1]
            translation = [
                t + (f - 1) / 2 * s for t, f, s in zip(translation, step, scale, strict=True)
            ]
            scale = [s * f for s, f in zip(scale, step, strict=True)]
        steps = [{"type": "scale", "scale": list(scale)}]
        if any(translation):
            steps.append({"type": "translation", "translation": list(translation)})
        datasets.append({"path": str(k), "coordinateTransformations": steps})
    said = [{"name": a, "type": "space", "unit": "micrometer"} for a in axes]
    return {"name": "x", "axes": said, "datasets": datasets, **more}


def write_group(path: Path, version: int, entry: dict[str, object], **more: object) -> zarr.Group:
    """A group with one multiscale; of Zarr v2 OME-Zarr 0.4, of v3 0.5."""
    if version == 2:
        attributes = {"multiscales": [{"version": "0.4", **entry}], **more}
    else:
        attributes = {"ome": {"version": "0.5", "multiscales": [entry], **more}}
    return zarr.create_group(path, zarr_format=version, attributes=attributes)


def zarr_python(
    path: Path,
    *,
    version: int = 3,
    factors: Sequence[Sequence[int]] = tuple(FACTORS),
    level0: np.ndarray | None = None,
    said: dict[str, object] | None = None,
    **array: object,
) -> list[np.ndarray]:
    """Levels that are means, as zarr-python stores them; returns them."""
    level0 = pixels() if level0 is None else level0
    entry = multiscale(factors, **({"type": "mean"} if said is None else said))
    group = write_group(path, version, entry)
    levels = reference_cascade(level0, factors)
    settings = {"chunks": (8, 16, 16), "dtype": level0.dtype, **array}
    for k, level in enumerate(levels):
        names = {"dimension_names": list("zyx")} if version == 3 else {}
        made = group.create_array(str(k), shape=level.shape, **names, **settings)
        made[...] = level
    return levels


def uneven(path: Path) -> list[np.ndarray]:
    """Levels of any size and any chunks, that are no downsample of each other."""
    group = write_group(path, 3, multiscale([(1, 2, 2), (1, 2, 2)]))
    levels = []
    for k, (shape, chunks) in enumerate(
        [((7, 60, 45), (3, 17, 13)), ((7, 31, 20), (7, 31, 20)), ((5, 13, 7), (1, 1, 7))]
    ):
        levels.append(marked(shape, "int32", seed=k))
        made = group.create_array(
            str(k), shape=shape, chunks=chunks, dtype="int32", fill_value=k - 1
        )
        made[...] = levels[-1]
        made[: chunks[0]] = k - 1
        levels[-1][: chunks[0]] = k - 1
    return levels


def calibrated(path: Path) -> list[np.ndarray]:
    """What transforms all levels comes after what transforms each."""
    steps = [
        {"type": "scale", "scale": [2.0, 2.0, 2.0]},
        {"type": "translation", "translation": [0.0, 10.0, 0.0]},
    ]
    return zarr_python(path, said={"coordinateTransformations": steps})


def rough(path: Path) -> list[np.ndarray]:
    """Levels of the right shape, made in a way that nobody knows."""
    levels = zarr_python(path, said={"type": "local_mean"})
    for k, level in enumerate(levels[1:], 1):
        levels[k] = level // 2
        zarr.open_array(path / str(k), mode="r+")[...] = levels[k]
    return levels


def with_tensorstore(path: Path) -> list[np.ndarray]:
    """Shards that tensorstore wrote, of big-endian pixels."""
    write_group(path, 3, multiscale())
    inner = [
        {"name": "bytes", "configuration": {"endian": "big"}},
        {"name": "zstd", "configuration": {"level": 1}},
    ]
    sharding = {"chunk_shape": [4, 8, 8], "codecs": inner}
    levels = reference_cascade(pixels(), FACTORS)
    for k, level in enumerate(levels):
        spec = {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": str(path / str(k))},
            "metadata": {
                "shape": level.shape,
                "data_type": "uint16",
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [8, 16, 16]}},
                "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            },
            "create": True,
        }
        tensorstore.open(spec).result().write(level).result()
    return levels


def ome_zarr_py(path: Path, version: str) -> list[np.ndarray]:
    """What ome-zarr-py makes of an image, by its own methods."""
    from ome_zarr import format as formats
    from ome_zarr import writer

    kind = formats.FormatV04() if version == "0.4" else formats.FormatV05()
    group = zarr.create_group(path, zarr_format=2 if version == "0.4" else 3)
    writer.write_image(
        marked((2, 21, 61, 45), "uint16"),
        group,
        axes="czyx",
        fmt=kind,
        storage_options={"chunks": (1, 8, 16, 16)},
    )
    if version == "0.4":
        window = {"min": 0, "max": 65535, "start": 10, "end": 500}
        group.attrs["omero"] = {
            "channels": [{"color": "FF0000", "window": window, "label": "a"}] * 2
        }
    attributes = zarr.open_group(path, mode="r").attrs.asdict()
    (entry,) = attributes.get("ome", attributes)["multiscales"]
    return [zarr.open_array(path / level["path"], mode="r")[...] for level in entry["datasets"]]


STORES: dict[str, Callable[[Path], list[np.ndarray]]] = {
    "v3": zarr_python,
    "v3-sharded": lambda path: zarr_python(path, chunks=(4, 8, 8), shards=(8, 32, 16)),
    "v3-dots": lambda path: zarr_python(
        path, chunk_key_encoding={"name": "default", "separator": "."}
    ),
    "v3-crc": lambda path: zarr_python(
        path, compressors=[zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()]
    ),
    "v3-index-first": lambda path: zarr_python(
        path, chunks=(8, 32, 16), serializer=_sharding(), compressors=None
    ),
    "v3-index-big-endian": lambda path: zarr_python(
        path, chunks=(8, 32, 16), serializer=_sharding("big", "end"), compressors=None
    ),
    "v2": lambda path: zarr_python(path, version=2),
    "v2-fortran": lambda path: zarr_python(path, version=2, order="F", chunks=(5, 7, 9)),
    "v2-big-endian": lambda path: zarr_python(path, version=2, dtype=">u2"),
    "v2-lz4": lambda path: zarr_python(path, version=2, compressors=LZ4()),
    "v2-bool": lambda path: zarr_python(
        path, version=2, dtype="bool", level0=(pixels() > 30_000).astype("u1")
    ),
    "tensorstore": with_tensorstore,
    "ome-zarr-py-0.4": lambda path: ome_zarr_py(path, "0.4"),
    "ome-zarr-py-0.5": lambda path: ome_zarr_py(path, "0.5"),
    "uneven": uneven,
    "calibrated": calibrated,
}


def _sharding(endian: str = "little", location: str = "start") -> zarr.codecs.ShardingCodec:
    return zarr.codecs.ShardingCodec(
        chunk_shape=(4, 8, 8),
        codecs=[zarr.codecs.BytesCodec()],
        index_codecs=[zarr.codecs.BytesCodec(endian=endian), zarr.codecs.Crc32cCodec()],
        index_location=location,
    )
