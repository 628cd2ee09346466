"""Frames are placed, cut and laid out as the wire wants them."""

import numpy as np
import pytest
import ziggurat
from hypothesis import given
from hypothesis import strategies as st
from ziggurat._frames import payload_of, place_frame, strips

SHAPE = (4, 2, 5, 64, 48)
U2 = np.dtype("uint16")


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=5).map(tuple),
    st.sampled_from([1, 2, 8]),
    st.integers(1, 3000),
)
def test_strips_cover_once(shape, itemsize, strip_bytes):
    count = np.zeros(shape, int)
    for offset, extent in strips(shape, itemsize, strip_bytes):
        count[tuple(slice(o, o + n) for o, n in zip(offset, extent, strict=True))] += 1
        nbytes = np.prod(extent) * itemsize
        assert nbytes <= max(1.5 * strip_bytes, itemsize)
    assert (count == 1).all()


@pytest.mark.parametrize(
    ("shape", "first", "number"),
    [
        ((2304, 2304), (256, 2304), 9),
        ((2048, 2048), (256, 2048), 8),
        ((1, 137, 147), (1, 137, 147), 1),
        ((100, 137, 147), (32, 137, 147), 4),
        ((3, 1024, 1024), (1, 512, 1024), 6),
        ((1, 3_000_000), (1, 524288), 6),
    ],
    ids=str,
)
def test_strips_of_about_one_mebibyte(shape, first, number):
    found = list(strips(shape, 2, 2**20))
    assert (found[0][1], len(found)) == (first, number)


@pytest.mark.parametrize(
    ("frame", "place", "whole", "offset"),
    [
        ((64, 48), {"t": 3, "c": 1, "z": 2}, (1, 1, 1, 64, 48), (3, 1, 2, 0, 0)),
        ((5, 64, 48), {"t": 1}, (1, 1, 5, 64, 48), (1, 0, 0, 0, 0)),
        ((10, 8), {"y": 54, "x": 40}, (1, 1, 1, 10, 8), (0, 0, 0, 54, 40)),
        ((48,), {"y": np.int64(3)}, (1, 1, 1, 1, 48), (0, 0, 0, 3, 0)),
        (SHAPE, {}, SHAPE, (0,) * 5),
    ],
    ids=str,
)
def test_a_frame_takes_the_last_axes(frame, place, whole, offset):
    array, at = place_frame(np.zeros(frame, U2), place, "tczyx", SHAPE, U2)
    assert (array.shape, at) == (whole, offset)


@pytest.mark.parametrize(
    ("frame", "place", "axes", "error", "field"),
    [
        (np.zeros((64, 48)), {}, "tczyx", ziggurat.InvalidArgument, "frame"),
        (np.zeros((64, 48), "i2"), {}, "tczyx", ziggurat.InvalidArgument, "frame"),
        (np.zeros((1,) * 6, U2), {}, "tczyx", ziggurat.InvalidArgument, "frame"),
        (np.uint16(3), {}, "tczyx", ziggurat.InvalidArgument, "frame"),
        (np.zeros((64, 48), U2), {"t": 4}, "tczyx", ziggurat.OutOfRange, "t"),
        (np.zeros((64, 48), U2), {"z": -1}, "tczyx", ziggurat.OutOfRange, "z"),
        (np.zeros((65, 48), U2), {}, "tczyx", ziggurat.OutOfRange, "y"),
        (np.zeros((64, 48), U2), {"x": 1}, "tczyx", ziggurat.OutOfRange, "x"),
        (np.zeros((64, 48), U2), {"z": 1.5}, "tczyx", ziggurat.InvalidArgument, "z"),
    ],
)
def test_what_does_not_fit_is_refused(frame, place, axes, error, field):
    with pytest.raises(error) as caught:
        place_frame(frame, place, axes, SHAPE, U2)
    assert caught.value.field == field


def test_an_axis_the_image_lacks_is_refused():
    with pytest.raises(ziggurat.InvalidArgument) as caught:
        place_frame(np.zeros((4, 4), U2), {"t": 0}, "yx", (4, 4), U2)
    assert caught.value.field == "t"


@pytest.mark.parametrize("layout", ["C", "F", "big-endian", "strided"])
def test_payload_is_little_endian_c_order(layout):
    array = np.arange(48, dtype="<u2").reshape(6, 8)
    expected = array[1:4, 2:8].tobytes()
    given_ = {
        "C": array,
        "F": np.asfortranarray(array),
        "big-endian": array.astype(">u2"),
        "strided": np.repeat(array, 2, axis=1)[:, ::2],
    }[layout]
    assert bytes(payload_of(given_, (1, 2), (3, 6))) == expected


def test_payload_of_whole_rows_is_no_copy():
    array = np.zeros((6, 8), "<u2")
    view = payload_of(array, (2, 0), (3, 8))
    array[2, 0] = 0x0102
    assert bytes(view[:2]) == b"\x02\x01"
