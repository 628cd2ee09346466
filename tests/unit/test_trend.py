"""Is a drift told from noise?"""

import numpy as np
import pytest

from benchmarks._trend import trend


@pytest.mark.parametrize(
    ("values", "share", "least", "drifts"),
    [
        ([5.0] * 10, 0.0, 0.0, False),
        (list(range(10)), 0.05, 0.0, True),
        (list(range(9, -1, -1)), 0.05, 0.0, True),
        ([100 + 0.1 * k for k in range(10)], 0.05, 0.0, False),
        ([100 + k for k in range(10)], 0.05, 0.0, True),
        ([100 + k for k in range(10)], 0.05, 10.0, False),
        ([100, 400, 90, 420, 110, 380, 105, 440], 0.05, 0.0, False),
    ],
)
def test_a_drift_is_more_than_allowed_and_more_than_noise(values, share, least, drifts):
    assert trend(values, share=share, least=least).drifts is drifts


def test_change_is_that_of_the_line_and_its_error_that_of_noise():
    dice = np.random.default_rng(0)
    found = [trend(np.linspace(10, 14, 50) + dice.normal(0, 2, 50), share=0.0) for _ in range(2000)]
    assert np.mean([line.change for line in found]) == pytest.approx(4, abs=0.1)
    assert np.std([line.change for line in found]) == pytest.approx(
        np.mean([line.error for line in found]), rel=0.1
    )


def test_two_samples_have_no_trend():
    with pytest.raises(ValueError, match="2 samples"):
        trend([1, 2], share=0.1)
