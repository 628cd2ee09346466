"""Did two contenders write the same pixels?"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import zarr


def differences(left: Path, right: Path, levels: range) -> str:
    """In how many pixels these levels of two groups differ, told in words."""
    different = total = 0
    for level in levels:
        if not (right / str(level)).is_dir():
            return f"no level {level}; {different} of {total} pixels differ below it"
        a = zarr.open_array(left / str(level), mode="r")
        b = zarr.open_array(right / str(level), mode="r")
        if a.shape != b.shape:
            return f"level {level} is {b.shape}, not {a.shape}"
        step = a.chunks[0]
        for z in range(0, a.shape[0], step):
            different += int(np.count_nonzero(a[z : z + step] != b[z : z + step]))
        total += math.prod(a.shape)
    return f"{different} of {total} pixels differ" if different else "byte for byte the same"
