"""How does an image that others made get into a data directory, to be served in place?

What comes into the directory is a record of where the image lies (store/omezarr.py); the
image itself is only read. Done without a server, as the administrator of its machine: a
client that could name paths could have the server read any file.
"""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

from ziggurat_engine.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    ZigguratError,
)
from ziggurat_engine.foreign.adopt import image_at
from ziggurat_engine.foreign.multiscale import METHODS
from ziggurat_engine.names import check_name
from ziggurat_engine.spec import Image
from ziggurat_engine.store.catalog import Catalog
from ziggurat_engine.vfs import OsFileSystem


def adopt(data: Path, path: str, name: str, *, writable: bool = False, method: str = "") -> Image:
    """Adds the OME-Zarr group at `path` to the catalog of `data`; durable when it returns.

    method: see foreign.adopt.image_at; only with `writable`. InvalidArgument, NotFound,
    UnsupportedVersion and AlreadyExists name what can't be, FailedPrecondition where a server
    uses `data`; nothing is changed then. OSError.
    """
    if method and method not in METHODS:
        raise InvalidArgument(f"--method {method}: not one of {', '.join(METHODS)}", field="method")
    if method and not writable:
        raise InvalidArgument(
            f"--method {method}: only where --writable says that levels are to be made",
            field="method",
        )
    name = check_name(name)
    real = _real(path)
    data = data.resolve()
    if real.is_relative_to(data) or data.is_relative_to(real):
        where = "inside" if real.is_relative_to(data) else "around"
        raise InvalidArgument(f"path {real}: it is {where} the data directory {data}", field="path")
    fs = OsFileSystem()
    try:
        lock = fs.lock(data / "lock")
    except BlockingIOError:
        raise FailedPrecondition(
            f"data {data}: a server uses this directory; stop it first"
        ) from None
    with closing(lock):
        image = image_at(real, name, writable=writable, method=method)
        with closing(Catalog.open(fs, data)) as catalog:
            _check_once(catalog, real)
            catalog.create(image)
    return image


def _real(path: str) -> Path:
    if "://" in path:
        raise InvalidArgument(f"path {path}: only directories of this machine", field="path")
    if not os.path.realpath(path).isprintable():
        raise InvalidArgument(f"path {path!r}: characters that can't be written down", field="path")
    return Path(os.path.realpath(path))


def _check_once(catalog: Catalog, path: Path) -> None:
    """A shard has one owner, and an image one name."""
    for name in catalog.names():
        try:
            adopted = catalog.load(name).image.adopted
        except ZigguratError:
            continue
        if adopted is not None and adopted.path == str(path):
            raise AlreadyExists(f"path {path}: it is adopted already, as {name!r}", field="path")
