"""Is every level of a pyramid that was built offline the exact cascade, whatever the layout?"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ziggurat_engine.errors import InvalidArgument
from ziggurat_engine.offline.build import Wish, build

from tests.support.pixels import DTYPES, difference, marked, reference_cascade, same_bytes


@st.composite
def cases(draw):
    axes = draw(st.sampled_from(["yx", "zyx", "czyx", "tczyx"]))
    small = {"t": 3, "c": 2, "z": 13, "y": 40, "x": 33}
    shape = tuple(draw(st.integers(1, small[a])) for a in axes)
    chunk = tuple(draw(st.integers(1, 3 if a in "tc" else 17)) for a in axes)
    version = draw(st.sampled_from([2, 3]))
    shards = None
    if version == 3 and draw(st.booleans()):
        shards = tuple(c * draw(st.integers(1, 3)) for c in chunk)
    step = st.tuples(*(st.just(1) if a in "tc" else st.integers(1, 4) for a in axes))
    new = draw(st.none() | st.tuples(*(st.sampled_from([1, 2, 4, 6, 8]) for _ in axes)))
    return {
        "shape": shape,
        "chunks": chunk,
        "shards": shards,
        "version": version,
        "dtype": draw(st.sampled_from(DTYPES)),
        "fill": draw(st.sampled_from([0, 1, 7])),
        "factors": tuple(draw(st.lists(step.filter(lambda s: max(s) > 1), min_size=1, max_size=3))),
        "axes": axes,
        "new": new,
        "threads": draw(st.integers(1, 3)),
        "memory": draw(st.sampled_from([2**30, 2**20])),
        "seed": draw(st.integers(0, 9)),
    }


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases())
def test_every_level_is_the_cascade(case):
    level0 = marked(case["shape"], case["dtype"], seed=case["seed"])
    # A corner that is not stored.
    level0[tuple(slice(n // 2, None) for n in case["shape"])] = case["fill"]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "a.zarr")
        group = zarr.create_group(path, zarr_format=case["version"])
        group.create_array(
            "0",
            shape=case["shape"],
            chunks=case["chunks"],
            shards=case["shards"],
            dtype=case["dtype"],
            fill_value=case["fill"],
        )[...] = level0
        wish = Wish(
            axes=case["axes"],
            factors=case["factors"],
            levels=len(case["factors"]) + 1,
            chunks=case["new"],
            threads=case["threads"],
            memory=case["memory"],
        )
        try:
            built = build(path, wish)
        except InvalidArgument as error:
            # The chunks drawn may be too large for it: it says so and leaves nothing behind.
            if error.field != "memory" or (path / "1").exists():
                raise
            return
        expected = reference_cascade(level0, case["factors"][: built.made])
        for (name, shape), wanted in zip(built.levels, expected, strict=True):
            found = np.asarray(zarr.open_array(path / name, mode="r")[...])
            assert shape == wanted.shape
            assert same_bytes(found, wanted), f"{name}: {difference(found, wanted)}"
        assert built.peak_pixel_bytes <= built.planned_bytes <= case["memory"]
