"""Images, levels, dask arrays and Zarr arrays of them are indexed as NumPy arrays are."""

from __future__ import annotations

import numpy as np
import pytest
import ziggurat
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

SHAPE = (3, 20, 23)
SPEC = {"shape": SHAPE, "chunk_shape": (2, 8, 8)}


def indices(shape):
    return npst.basic_indices(shape, allow_newaxis=False, allow_ellipsis=True)


def agrees(found, expected):
    """A scalar where no axis is left, as NumPy's is unless the index has an Ellipsis."""
    assert isinstance(found, np.ndarray if np.ndim(expected) else np.generic)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_an_image(make):
    image, pixels = make(**SPEC)

    @settings(max_examples=60)
    @given(indices(SHAPE))
    def check(index):
        agrees(image[index], pixels[index])

    check()


def test_a_level(make):
    image, _ = make(**SPEC)
    level = image.level(1)
    pixels = level[...]

    @settings(max_examples=30)
    @given(indices(level.shape))
    def check(index):
        agrees(level[index], pixels[index])

    check()


def test_a_zarr_array(make):
    zarr = pytest.importorskip("zarr", reason="the extra 'zarr' is not installed")
    image, pixels = make(**SPEC)
    array = zarr.open_array(ziggurat.zarr_store(image), path="0", mode="r")
    # Zarr arrays take no negative steps.
    axes = [
        st.integers(-n, n - 1) | st.slices(n).filter(lambda s: s.step is None or s.step > 0)
        for n in SHAPE
    ]

    @settings(max_examples=30)
    @given(st.tuples(*axes))
    def check(index):
        np.testing.assert_array_equal(array[index], pixels[index])

    check()


@pytest.mark.parametrize("index", [None, (0, None), np.newaxis], ids=str)
def test_newaxis_is_refused_with_a_way_out(make, index):
    image, _ = make(**SPEC)
    with pytest.raises(ziggurat.InvalidArgument, match=r"newaxis.*array that is read"):
        image[index]


def test_what_an_array_says_of_itself(make):
    image, _ = make(voxel_size={"z": 2.0, "y": 0.5, "x": 0.25}, **SPEC)
    level = image.level(0)
    for said in (image, level):
        assert (said.shape, said.ndim, said.size) == (SHAPE, 3, 3 * 20 * 23)
        assert (said.dtype, said.nbytes) == (np.dtype("uint16"), 2 * 3 * 20 * 23)
        assert (said.axes, said.chunks) == ("zyx", (2, 8, 8))
        assert (said.scale, said.translation) == ((2.0, 0.5, 0.25), (0.0, 0.0, 0.0))
    half = image.level(1)
    assert (half.shape, half.scale) == ((3, 10, 12), (2.0, 1.0, 0.5))
    assert half.translation == (0.0, 0.25, 0.125)


def test_a_read_into_part_of_another_array(make):
    image, pixels = make(**SPEC)
    frame = np.zeros((3, 40, 46), ">u2")
    assert image.read(out=frame[:, ::-2, ::2]).base is frame
    np.testing.assert_array_equal(frame[:, ::-2, ::2], pixels)
    assert not frame[:, ::2].any()
    with pytest.raises(ziggurat.InvalidArgument, match=r"\(3, 40, 46\)") as caught:
        image.read(out=frame)
    assert caught.value.field == "out"
