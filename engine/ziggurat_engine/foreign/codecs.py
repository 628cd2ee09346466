"""Which of our codecs reads and writes the chunks that a Zarr document describes?

Of a chunk that is none of ours zarr-python has to read it, and the levels above get
DEFAULT, Blosc with zstd at level 1 and bit shuffle.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numcodecs
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

from ziggurat_engine.errors import InvalidArgument
from ziggurat_engine.spec import Blosc, Codec, Gzip, Uncompressed, Zstd

Json = dict[str, Any]

DEFAULT = Blosc()

_V3_SHUFFLES = {"noshuffle": "none", "shuffle": "byte", "bitshuffle": "bit"}
_V2_SHUFFLES = ("none", "byte", "bit")


class Coding(NamedTuple):
    """How chunks become pixels: `reads` is None where only zarr-python can.

    writes: what new levels get. big_endian: the pixels in a frame are. fortran: the first
    axis is the fastest in a frame.
    """

    reads: Codec | None
    writes: Codec
    big_endian: bool = False
    fortran: bool = False


_FOREIGN = Coding(None, DEFAULT)


def of_v2(document: Json, itemsize: int) -> Coding:
    """The coding that a .zarray describes."""
    if document.get("filters"):
        return _FOREIGN
    reads, writes = _v2_codec(document.get("compressor"), itemsize)
    big = str(document["dtype"]).startswith(">")
    return Coding(reads, writes, big, document.get("order", "C") == "F")


def of_v3(codecs: list[Json]) -> Coding:
    """The coding of a chunk, of an inner one in a shard, that codecs of a zarr.json describe."""
    names = [codec["name"] for codec in codecs]
    if not names or names[0] != "bytes" or len(names) > 2:
        return _FOREIGN
    big = (codecs[0].get("configuration") or {}).get("endian") == "big"
    if len(names) == 1:
        return Coding(Uncompressed(), Uncompressed(), big)
    settings = codecs[1].get("configuration") or {}
    match names[1]:
        case "blosc":
            shuffle = _V3_SHUFFLES.get(settings.get("shuffle", ""), "bit")
            return Coding(Blosc(), _blosc(settings, shuffle), big)
        case "zstd":
            codec: Codec = Zstd(level=settings.get("level", 0))
        case "gzip":
            codec = Gzip(level=settings.get("level", 5))
        case _:
            return _FOREIGN
    return Coding(codec, codec, big)


def parse(text: str) -> Codec:
    """The codec of "blosc-lz4", "blosc-zstd:3", "zstd:1", "gzip:5" or "none"; InvalidArgument."""
    kind, _, level = text.partition(":")
    try:
        number = {"level": int(level)} if level else {}
        match kind:
            case "blosc-lz4":
                return Blosc(compressor="lz4", **number)
            case "blosc-zstd" | "blosc":
                return Blosc(**number)
            case "zstd":
                return Zstd(**number)
            case "gzip":
                return Gzip(**number)
            case "none" if not level:
                return Uncompressed()
    except ValueError:
        pass
    raise InvalidArgument(
        f"--codec {text}: not one of blosc-lz4, blosc-zstd, zstd, gzip (each with :LEVEL), none",
        field="codec",
    )


def for_v2(codec: Codec) -> Any:
    """What zarr-python writes into a .zarray for `codec`."""
    match codec:
        case Blosc():
            return numcodecs.Blosc(codec.compressor, codec.level, _V2_SHUFFLES.index(codec.shuffle))
        case Zstd():
            return numcodecs.Zstd(codec.level)
        case Gzip():
            return numcodecs.GZip(codec.level)
        case Uncompressed():
            return None


def for_v3(codec: Codec, itemsize: int) -> Any:
    """What zarr-python writes into a zarr.json for `codec`."""
    match codec:
        case Blosc():
            shuffle: Any = {name: word for word, name in _V3_SHUFFLES.items()}[codec.shuffle]
            return BloscCodec(
                typesize=itemsize,
                cname=codec.compressor,
                clevel=codec.level,
                shuffle=shuffle,
                blocksize=0,
            )
        case Zstd():
            return ZstdCodec(level=codec.level, checksum=False)
        case Gzip():
            return GzipCodec(level=codec.level)
        case Uncompressed():
            return None


def _v2_codec(compressor: Json | None, itemsize: int) -> tuple[Codec | None, Codec]:
    if compressor is None:
        return Uncompressed(), Uncompressed()
    match compressor["id"]:
        case "blosc":
            number = compressor.get("shuffle", 1)
            # Automatic: by bits where pixels are bytes.
            shuffle = ("bit" if itemsize == 1 else "byte") if number < 0 else _V2_SHUFFLES[number]
            return Blosc(), _blosc(compressor, shuffle)
        case "zstd":
            codec: Codec = Zstd(level=compressor.get("level", 1))
        case "gzip":
            codec = Gzip(level=compressor.get("level", 1))
        case _:
            return None, DEFAULT
    return codec, codec


def _blosc(settings: Json, shuffle: str) -> Blosc:
    if settings.get("cname") not in ("zstd", "lz4"):
        return DEFAULT
    return Blosc.model_validate(
        {"compressor": settings["cname"], "level": settings["clevel"], "shuffle": shuffle}
    )
