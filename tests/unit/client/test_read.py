"""Reads land in one array; an answer that does not fit is never taken for pixels."""

import grpc
import numpy as np
import pytest
import ziggurat
from numcodecs import blosc
from ziggurat._answers import image_info
from ziggurat._encoding import is_local, put_encoding
from ziggurat_proto.v1 import read_pb2

from tests.unit.client.support import RpcFailure, fake_image, image_message, part

DATA = np.random.default_rng(3).integers(0, 60000, (2, 5, 9, 13), np.uint16)


@pytest.fixture
def image():
    return fake_image("czyx", DATA, DATA[..., ::2, ::2])


def test_what_the_server_says(image):
    info = image_info(image_message("czyx", (DATA,), channels=[{"label": "a"}, {"label": "b"}]))
    assert (info.shape, info.dtype, info.units) == (
        DATA.shape,
        np.dtype("uint16"),
        ("", "micrometer", "micrometer", "micrometer"),
    )
    assert info.channels == (ziggurat.Channel("a"), ziggurat.Channel("b"))
    assert info.layout.codec == ziggurat.Zstd(3)
    assert image.voxel_size == {"c": 0.5, "z": 0.5, "y": 0.5, "x": 0.5}
    assert image.levels[1].factors == (1, 1, 2, 2)
    assert (image.ndim, len(image), image.nbytes) == (4, 2, DATA.nbytes)
    assert "lab/a" in repr(image)
    assert "czyx" in repr(image.level(1))


@pytest.mark.parametrize(
    "index",
    [np.s_[0, 1], np.s_[..., 2:11:3], np.s_[1, -1, 3, 4], np.s_[:, 1:1], np.s_[-1, ..., -1]],
    ids=str,
)
def test_indexing(image, index):
    found = image[index]
    np.testing.assert_array_equal(found, DATA[index])
    assert type(found) is type(DATA[index])
    assert found.dtype == DATA.dtype


def test_only_the_box_is_read(image):
    image[1, 2:4, :, 3]
    (request,) = image._connection.reads
    assert (list(request.offset), list(request.shape)) == ([1, 2, 0, 3], [1, 2, 9, 1])
    image[0:0]
    assert len(image._connection.reads) == 1


def test_levels_and_arrays(image):
    view = image.level(1)
    assert (view.shape, view.ndim, view.size) == ((2, 5, 5, 7), 4, 350)
    np.testing.assert_array_equal(view[...], DATA[..., ::2, ::2])
    np.testing.assert_array_equal(np.asarray(view), DATA[..., ::2, ::2])
    np.testing.assert_array_equal(view.read(np.s_[1:]), DATA[1:, ..., ::2, ::2])
    assert np.asarray(image, np.float32).dtype == np.float32
    np.testing.assert_array_equal(np.array(list(image)), DATA)
    with pytest.raises(ValueError, match="copy"):
        np.asarray(image, copy=False)
    with pytest.raises(ziggurat.OutOfRange, match="level 2"):
        image.level(2)


def test_fetch_says_whether_it_is_stale(image):
    assert not image.fetch().stale
    found = image.fetch(offset=(0, 0, 1, 1), shape=(1, 1, 2, 2), level=1)
    assert found.stale
    assert (found.level, found.offset) == (1, (0, 0, 1, 1))


@pytest.mark.parametrize(
    "out",
    [
        np.zeros(DATA.shape, np.uint16),
        np.zeros(DATA.shape, ">u2"),
        np.zeros(DATA.shape[::-1], np.uint16).T,
        np.zeros((2, 5, 9, 26), np.uint16)[..., ::2],
    ],
    ids=["plain", "big-endian", "F", "strided"],
)
def test_out_is_filled_in_place(image, out):
    assert image.read(out=out) is out
    np.testing.assert_array_equal(out, DATA)


def read_only():
    array = np.zeros(DATA.shape, np.uint16)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "out",
    [np.zeros((2, 5, 9), np.uint16), np.zeros(DATA.shape, np.int16), [1], read_only()],
    ids=["shape", "dtype", "no array", "read-only"],
)
def test_out_that_does_not_fit(image, out):
    with pytest.raises(ziggurat.InvalidArgument) as caught:
        image.read(out=out)
    assert caught.value.field == "out"
    assert image._connection.reads == []


def header(**changes):
    said = {
        "level": 0,
        "data_type": "DATA_TYPE_UINT16",
        "offset": [0, 0],
        "shape": [4, 6],
    } | changes
    return read_pb2.ReadResponse(header=read_pb2.ReadHeader(**said)).SerializeToString()


WHOLE = part((0, 0), np.zeros((4, 6), np.uint16))


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([], "no header"),
        ([WHOLE], "no header"),
        ([header()], "24 pixels"),
        ([header(), part((0, 0), np.zeros((2, 6), np.uint16))], "12 pixels"),
        ([header(), header()], "second header"),
        ([header(shape=[4, 5]), WHOLE], "not what was asked"),
        ([header(offset=[0, 1]), WHOLE], "not what was asked"),
        ([header(level=1), WHOLE], "refresh"),
        ([header(data_type="DATA_TYPE_INT16"), WHOLE], "refresh"),
        ([header(), part((1, 0), np.zeros((4, 6), np.uint16))], "outside"),
        ([header(), part((0,), np.zeros(4, np.uint16))], "for 2 axes"),
        ([header(), part((0, 0), np.zeros((4, 6), np.uint8))], "24 bytes for 24 pixels"),
        ([header(), WHOLE, WHOLE], "-24 pixels"),
        ([header(), b"\xff\xff"], "not a ReadResponse"),
    ],
)
def test_an_answer_that_does_not_fit(answers, said):
    image = fake_image("yx", np.zeros((4, 6), np.uint16))
    image._connection.answers = answers
    with pytest.raises(ziggurat.ServerError, match=said):
        image.read()


def frame(pixels, **said):
    encoded = {"payload": blosc.compress(pixels, b"lz4", 1), "frame_shape": pixels.shape}
    found = read_pb2.ReadPart(**({"offset": [0, 0], "shape": [4, 6]} | encoded | said))
    return read_pb2.ReadResponse(part=found).SerializeToString()


CHUNK = np.arange(64, dtype=np.uint16).reshape(8, 8)


@pytest.mark.parametrize("shape", [(4, 6), (8, 8)])
def test_encoded_chunks(shape):
    image = fake_image("yx", np.zeros(shape, np.uint16))
    image._connection.answers = [header(shape=shape), frame(CHUNK, shape=shape)]
    np.testing.assert_array_equal(image.read(encoding="blosc"), CHUNK[: shape[0], : shape[1]])


@pytest.mark.parametrize(
    "said",
    [
        {"payload": b"abc"},
        {"payload": blosc.compress(CHUNK[1:], b"lz4", 1)},
        {"payload": blosc.compress(CHUNK, b"lz4", 1)[:-1]},
        {"payload": blosc.compress(CHUNK, b"lz4", 1)[:16] + b"\xff" * 90},
        {"frame_shape": (8, 8, 1)},
        {"frame_shape": (3, 8)},
        {"frame_shape": (64, 1)},
    ],
)
def test_an_encoded_chunk_that_does_not_fit(said):
    image = fake_image("yx", np.zeros((4, 6), np.uint16))
    image._connection.answers = [header(), frame(CHUNK, **said)]
    with pytest.raises(ziggurat.ServerError):
        image.read(encoding="blosc")


@pytest.mark.parametrize(
    ("server", "local"),
    [
        ("127.0.0.1:7447", True),
        ("[::1]:7447", True),
        ("localhost:1", True),
        ("unix:/run/z", True),
        ("10.0.0.7:7447", False),
        ("microscope:7447", False),
    ],
)
def test_who_is_asked_for_pixels(server, local):
    assert is_local(server) is local
    for encoding, asked_for in (("auto", not local), ("raw", False), ("blosc", True)):
        message = read_pb2.ReadRequest()
        put_encoding(message, encoding, server)
        assert message.encoding == (read_pb2.ENCODING_BLOSC if asked_for else 0)


def test_an_encoding_that_nobody_knows(image):
    with pytest.raises(ziggurat.InvalidArgument) as caught:
        image.read(encoding="zip")
    assert caught.value.field == "encoding"
    with pytest.raises(TypeError, match="level"):
        image.level(1).read(level=0)


def test_an_error_in_mid_read():
    image = fake_image("yx", np.zeros((4, 6), np.uint16))
    failure = RpcFailure(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "over the limit of 3", "LIMIT_EXCEEDED"
    )
    image._connection.answers = [header(), failure]
    with pytest.raises(ziggurat.LimitExceeded, match="limit of 3"):
        image[...]


def test_dask(image):
    pytest.importorskip("dask.array")
    lazy = image.level(0).to_dask()
    assert (lazy.shape, lazy.dtype) == (DATA.shape, DATA.dtype)
    np.testing.assert_array_equal(lazy[1, 2:4].compute(scheduler="sync"), DATA[1, 2:4])
