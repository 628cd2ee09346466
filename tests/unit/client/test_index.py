"""Indexing agrees with NumPy, and reads no more than it must."""

import numpy as np
import pytest
import ziggurat
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from ziggurat._index import box_of, select

shapes = st.lists(st.integers(1, 7), min_size=2, max_size=5).map(tuple)


@st.composite
def indexed(draw):
    shape = draw(shapes)
    index = draw(npst.basic_indices(shape, allow_newaxis=False, allow_ellipsis=True))
    return shape, index


@given(indexed())
def test_agrees_with_numpy(case):
    shape, index = case
    array = np.arange(np.prod(shape)).reshape(shape)
    chosen = select(index, shape)
    box = array[tuple(slice(o, o + n) for o, n in zip(chosen.offset, chosen.shape, strict=True))]
    assert box.shape == chosen.shape
    expected = array[index]
    found = chosen.cut(box)
    np.testing.assert_array_equal(found, expected)
    assert np.shape(found) == chosen.result_shape == np.shape(expected)


@pytest.mark.parametrize("index", [np.s_[1:100:40], np.s_[81:0:-40], np.s_[81::-40]], ids=str)
def test_a_step_reads_up_to_its_last_pixel(index):
    chosen = select(index, (100, 3))
    assert (chosen.offset, chosen.shape) == ((1, 0), (81, 3))


def test_no_axis_left_gives_a_scalar():
    found = select((0, -1), (2, 3)).cut(np.array([[5]], np.uint16))
    assert type(found) is np.uint16


@pytest.mark.parametrize("index", [7, -8, (0, 0, 0, 0), np.s_[..., 9]])
def test_outside_is_an_index_error(index):
    with pytest.raises(IndexError) as caught:
        select(index, (7, 4, 4))
    assert isinstance(caught.value, ziggurat.OutOfRange)


@pytest.mark.parametrize(
    "index",
    [True, "a", 1.5, [0, 1], np.array([0]), np.s_[..., ...], np.s_[::0]],
    ids=str,
)
def test_what_is_not_basic_is_refused(index):
    with pytest.raises(ziggurat.InvalidArgument) as caught:
        select(index, (7, 4, 4))
    assert caught.value.field.startswith("index")


def test_newaxis_is_refused_by_name():
    with pytest.raises(ziggurat.InvalidArgument, match=r"index\[1\] is None \(newaxis\)") as caught:
        select((0, None), (7, 4, 4))
    assert caught.value.field == "index[1]"


def test_boxes():
    shape = (5, 6)
    assert box_of(None, None, None, shape).shape == shape
    assert box_of(np.s_[1:3], None, None, shape).offset == (1, 0)
    assert box_of(None, (1, 2), None, shape).shape == (4, 4)
    assert box_of(None, np.array([1, 2]), [2, 2], shape).shape == (2, 2)
    assert box_of(np.s_[3:3, :], None, None, shape).empty


@pytest.mark.parametrize(
    ("arguments", "error", "field"),
    [
        ((np.s_[1], None, None), ziggurat.InvalidArgument, "box"),
        ((np.s_[::2], None, None), ziggurat.InvalidArgument, "box"),
        ((np.s_[::-1], None, None), ziggurat.InvalidArgument, "box"),
        ((np.s_[:], (0, 0), None), ziggurat.InvalidArgument, "box"),
        ((None, (0,), None), ziggurat.InvalidArgument, "offset"),
        ((None, (0, 0.5), None), ziggurat.InvalidArgument, "offset"),
        ((None, (0, 3), (5, 4)), ziggurat.OutOfRange, "offset[1]"),
        ((None, (-1, 0), (1, 1)), ziggurat.OutOfRange, "offset[0]"),
        ((None, None, (1, 1, 1)), ziggurat.InvalidArgument, "shape"),
    ],
)
def test_wrong_boxes(arguments, error, field):
    with pytest.raises(error) as caught:
        box_of(*arguments, (5, 6))
    assert caught.value.field == field
