"""Is data of others decoded only as far as it may become, and looked for only where it lies?

Each chunk of an array that zarr-python wrote is replaced by one that says, or becomes, more; and
by links. What is whole is read as before.
"""

from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import pytest
import zarr
from ziggurat_engine.errors import Corrupt, InvalidArgument
from ziggurat_engine.foreign.reader import open_reader
from ziggurat_engine.foreign.source import open_array
from ziggurat_engine.region import Region
from ziggurat_engine.store.handles import ShardHandles

PIXELS = np.arange(64 * 64, dtype="uint16").reshape(64, 64)
WHOLE = Region((0, 0), (32, 32))
# What a bomb becomes; reading it must not take an eighth of that.
HUGE = 256 * 2**20


def read(path: Path) -> np.ndarray:
    handles = ShardHandles(8)
    try:
        found = open_reader(open_array(path), handles).read(WHOLE)
    finally:
        handles.close()
    assert found is not None
    return found


def refused(path: Path, match: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises((Corrupt, OSError), match=match):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < HUGE / 8
    finally:
        tracemalloc.stop()


def v2(path: Path, compressor: Any, filters: Any = None) -> Path:
    """An array whose filter keeps our own reader from it, where it has one; its first chunk."""
    array = zarr.create_array(
        path, shape=(64, 64), chunks=(32, 32), dtype="uint16", zarr_format=2,
        compressors=compressor, filters=filters,
    )  # fmt: skip
    array[:] = PIXELS
    return path / "0.0"


DELTA = [numcodecs.Delta("uint16")]
CODECS = {
    "blosc": numcodecs.Blosc("lz4"),
    "zstd": numcodecs.Zstd(1),
    "lz4": numcodecs.LZ4(),
    "zlib": numcodecs.Zlib(9),
    "gzip": numcodecs.GZip(9),
    "bz2": numcodecs.BZ2(9),
    "lzma": numcodecs.LZMA(preset=1),
}
zeros: dict[str, bytes] = {}


def bomb(name: str) -> bytes:
    """A small file that becomes HUGE."""
    if name not in zeros:
        if name == "lz4":
            zeros[name] = struct.pack("<i", HUGE) + bytes(1000)
        elif name == "bz2":
            # Its streams may follow each other, and it is slow.
            zeros[name] = CODECS[name].encode(bytes(2**24)) * (HUGE >> 24)
        else:
            zeros[name] = bytes(CODECS[name].encode(np.zeros(HUGE, "uint8")))
    return zeros[name]


@pytest.mark.parametrize("filters", [None, DELTA], ids=["plain", "filtered"])
@pytest.mark.parametrize("name", CODECS)
def test_a_chunk_that_becomes_too_much(tmp_path: Path, name: str, filters: Any) -> None:
    chunk = v2(tmp_path / "a", CODECS[name], filters)
    assert np.array_equal(read(tmp_path / "a"), PIXELS[:32, :32])
    assert len(bomb(name)) < HUGE / 100
    chunk.write_bytes(bomb(name))
    refused(tmp_path / "a", r"more|expected|becomes|than")


def test_a_zstd_frame_that_declares_nothing(tmp_path: Path) -> None:
    """Blocks of 128 KiB of one byte, four bytes each."""
    chunk = v2(tmp_path / "a", CODECS["zstd"], DELTA)
    blocks = [(2**17 << 3 | 2 | (k == 4095)).to_bytes(3, "little") + b"\0" for k in range(4096)]
    chunk.write_bytes(b"\x28\xb5\x2f\xfd\x00\x58" + b"".join(blocks))
    refused(tmp_path / "a", "zstd that becomes")


@pytest.mark.parametrize("filters", [None, DELTA], ids=["plain", "filtered"])
def test_a_file_of_any_size(tmp_path: Path, filters: Any) -> None:
    """A terabyte that is a hole: nothing of it is read."""
    chunk = v2(tmp_path / "a", None, filters)
    os.truncate(chunk, 2**40)
    refused(tmp_path / "a", "bytes")


def test_compressed_data_in_compressed_data_is_not_read(tmp_path: Path) -> None:
    v2(tmp_path / "a", numcodecs.Zlib(9), [numcodecs.Delta("uint16"), numcodecs.BZ2(1)])
    with pytest.raises(InvalidArgument, match="bz2, zlib, one in the other"):
        read(tmp_path / "a")


@pytest.mark.parametrize("location", ["start", "end"])
def test_a_chunk_of_a_shard(tmp_path: Path, location: Any) -> None:
    """The index at the start is zarr-python's to read, that at the end ours."""
    from zarr.codecs import BytesCodec, GzipCodec, ShardingCodec

    path = tmp_path / "a"
    shards = ShardingCodec(
        chunk_shape=(16, 16), codecs=[BytesCodec(), GzipCodec()], index_location=location
    )
    array = zarr.create_array(
        path, shape=(64, 64), chunks=(32, 32), dtype="uint16", serializer=shards, compressors=None
    )
    array[:] = PIXELS
    assert np.array_equal(read(path), PIXELS[:32, :32])
    shard = path / "c" / "0" / "0"
    data = bytearray(shard.read_bytes())
    size = 4 * 16 + 4
    body = data[size:] if location == "start" else data[:-size]
    index = np.frombuffer(bytes(data[:64] if location == "start" else data[-size:-4]), "<u8").copy()

    def replaced(offset: int, nbytes: int, end: bytes) -> None:
        index[2:4] = offset, nbytes
        packed = index.tobytes() + google_crc32c.value(index.tobytes()).to_bytes(4, "little")
        shard.write_bytes(packed + body + end if location == "start" else body + end + packed)

    before = size if location == "start" else 0
    small = bytes(CODECS["gzip"].encode(np.zeros(2**24, "uint8")))
    replaced(before + len(body), len(small), small)
    refused(path, "gzip")
    replaced(2**40, 100, b"")
    refused(path, "does not lie|of an object of")


LINKS = {"plain": None, "filtered": DELTA}


@pytest.mark.parametrize("filters", LINKS.values(), ids=LINKS)
def test_a_link_out_of_the_image_is_not_followed(tmp_path: Path, filters: Any) -> None:
    chunk = v2(tmp_path / "a", None, filters)
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(2048))
    chunk.unlink()
    chunk.symlink_to(secret)
    refused(tmp_path / "a", "a link leads out of")
    chunk.unlink()
    chunk.symlink_to("1.1")
    assert np.array_equal(read(tmp_path / "a"), PIXELS[32:, 32:]), "one within is"


def test_a_link_to_a_directory_of_shards(tmp_path: Path) -> None:
    path = tmp_path / "a"
    array = zarr.create_array(
        path, shape=(64, 64), chunks=(16, 16), shards=(32, 32), dtype="uint16"
    )
    array[:] = PIXELS
    assert np.array_equal(read(path), PIXELS[:32, :32])
    (path / "c").rename(tmp_path / "elsewhere")
    (path / "c").symlink_to(tmp_path / "elsewhere")
    refused(path, "a link leads out of")


def test_a_pipe_holds_nobody_up(tmp_path: Path) -> None:
    chunk = v2(tmp_path / "a", None)
    chunk.unlink()
    os.mkfifo(chunk)
    with pytest.raises((Corrupt, OSError)):
        read(tmp_path / "a")
