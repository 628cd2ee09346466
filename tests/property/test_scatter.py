"""Do the pixels of any box get where NumPy's slices would put them, chunk by chunk, and back?"""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from ziggurat_engine.grid import Grid
from ziggurat_engine.region import Region
from ziggurat_engine.scatter import address_of, gather, scatter

DTYPES = ("uint8", "int16", "uint32", "float64")


@given(data=st.data())
def test_scatter(data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 5))
    sizes = st.integers(1, 9)
    shape = tuple(data.draw(sizes) for _ in range(rank))
    grid = Grid(shape, tuple(data.draw(sizes) for _ in range(rank)))
    offset = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    rest = tuple(map(int.__sub__, shape, offset))
    box = Region(offset, tuple(data.draw(st.integers(1, n)) for n in rest))
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    pixels = np.arange(1, box.size + 1).astype(dtype).reshape(box.shape)
    if data.draw(st.booleans()):
        # Part of a larger array, or none that is contiguous along the last axis.
        step = data.draw(st.integers(1, 2))
        larger = np.zeros([n + 2 for n in box.shape[:-1]] + [step * (box.shape[-1] + 1)], dtype)
        inner = larger[(*(slice(1, 1 + n) for n in box.shape[:-1]), slice(0, None, step))]
        inner = inner[..., : box.shape[-1]]
        inner[...] = pixels
        pixels = inner

    parts = list(grid.plan(box))
    expected = {part.at: np.zeros(grid.cell, dtype) for part in parts}
    for part in parts:
        expected[part.at][part.inside_cell.slices()] = pixels[part.inside_region.slices()]
    made = {part.at: np.zeros(grid.cell, dtype) for part in parts}
    addresses = [address_of(made[part.at]) for part in parts]
    scatter(pixels, parts[0].inside_cell.offset, grid.cell, addresses)
    for at, chunk in expected.items():
        np.testing.assert_array_equal(made[at], chunk)

    there = [data.draw(st.booleans()) for _ in parts]
    back = np.zeros([n + 1 for n in box.shape], dtype)[tuple(map(slice, box.shape))]
    wanted = np.zeros(box.shape, dtype)
    for part, is_there in zip(parts, there, strict=True):
        if is_there:
            inside = part.inside_region.slices()
            wanted[inside] = pixels[inside]
    some = [address * is_there for address, is_there in zip(addresses, there, strict=True)]
    gather(some, parts[0].inside_cell.offset, grid.cell, back)
    np.testing.assert_array_equal(back, wanted)
