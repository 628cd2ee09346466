"""Are the chunks that a plane needs those that hold the pixels it is made of, and no others?"""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from ziggurat_engine.kernels.protocol import Points
from ziggurat_engine.reads.crossing import crossed

places = st.one_of(
    st.floats(-40, 40), st.integers(-40, 40).map(float), st.integers(-80, 80).map(lambda n: n / 2)
)
steps = st.one_of(st.floats(-3, 3), st.sampled_from([0.0, 1.0, -1.0, 0.5]))


@st.composite
def planes(draw: st.DrawFn) -> tuple[Points, tuple[int, ...], tuple[int, ...]]:
    """Points, limits and cells along two or three axes."""
    axes = draw(st.integers(2, 3))

    def numbers(one: st.SearchStrategy) -> tuple:
        return tuple(draw(st.lists(one, min_size=axes, max_size=axes)))

    first = draw(st.tuples(st.integers(0, 30), st.integers(0, 30)))
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    points = Points(numbers(places), numbers(steps), numbers(steps), first, shape)
    return points, numbers(st.integers(1, 40)), numbers(st.integers(1, 9))


@given(planes(), st.sampled_from(["nearest", "linear"]))
def test_cells_of_all_pixels(plane, interpolation: str) -> None:
    points, limits, cell = plane
    wanted = set()
    coordinates = np.stack(np.broadcast_arrays(*points.coordinates()), axis=-1)
    for place in coordinates.reshape(-1, len(limits)):
        if not all(-0.5 <= p < n - 0.5 for p, n in zip(place, limits, strict=True)):
            continue
        if interpolation == "nearest":
            ends = [
                {min(int(np.floor(p + 0.5)), n - 1)} for p, n in zip(place, limits, strict=True)
            ]
        else:
            inside = [min(max(p, 0.0), n - 1) for p, n in zip(place, limits, strict=True)]
            ends = [{int(np.floor(p)), int(np.ceil(p))} for p in inside]
        for pixel in itertools.product(*ends):
            wanted.add(tuple(p // c for p, c in zip(pixel, cell, strict=True)))
    assert crossed(points, interpolation, limits, cell) == wanted
