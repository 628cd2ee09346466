"""Does a figure that was sampled over time drift?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# The change has to be so many times its own standard error: less is noise.
SURE = 3.0


@dataclass(frozen=True, slots=True)
class Trend:
    """The straight line through samples. change: along it, from the first to the last.

    error: standard error of `change`. bound: what change is allowed.
    """

    mean: float
    change: float
    error: float
    bound: float

    @property
    def drifts(self) -> bool:
        """More than allowed, and more than noise."""
        return abs(self.change) > max(self.bound, SURE * self.error)


def trend(values: Sequence[float], *, share: float, least: float = 0.0) -> Trend:
    """Of samples at equal distances, at least 3.

    share: of the mean, that the change may be; least: that it may be in any case.
    """
    if len(values) < 3:
        raise ValueError(f"{len(values)} samples have no trend")
    found = np.asarray(values, float)
    time = np.linspace(-0.5, 0.5, len(found))
    change = float(time @ found / (time @ time))
    rest = found - found.mean() - change * time
    error = float(np.sqrt(rest @ rest / (len(found) - 2) / (time @ time)))
    mean = float(found.mean())
    return Trend(mean, change, error, max(share * abs(mean), least))
