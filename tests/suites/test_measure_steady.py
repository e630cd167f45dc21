"""What is called a drift, where the truth is known."""

import numpy as np
import pytest

from suites.measure.steady import WINDOW_CALLS, drift_of


def bent(n: int, size: float) -> np.ndarray:
    """Calls that get faster ever more slowly, without noise: no line follows them."""
    return 10.0 * (1 + size * np.exp(-3 * np.linspace(0, 1, n)))


@pytest.mark.parametrize("n", [18, 24, 48, 200])
def test_drift_without_noise_is_significant_however_short_and_bent(n):
    found = drift_of(bent(n, 1.0), tolerance=0.05)
    assert found.change < -0.2
    assert found.significant


def test_drift_of_a_few_per_cent_in_a_handful_of_calls_is_not_significant():
    found = drift_of(bent(24, 0.2), tolerance=0.05)
    assert -0.15 < found.change < -0.05
    assert not found.significant


def test_drift_of_thirds_that_overlap_is_not_significant_where_their_calls_are_few():
    calls = bent(24, 1.0)
    calls[-1] = calls[0]  # one call as slow as ever
    assert not drift_of(calls, tolerance=0.05).significant


def test_drift_of_slow_noise_is_hardly_ever_called():
    random = np.random.default_rng(0)
    noise = random.standard_normal((500, 36))
    for call in range(1, 36):
        noise[:, call] = 0.9 * noise[:, call - 1] + np.sqrt(1 - 0.81) * noise[:, call]
    called = [drift_of(np.exp(0.05 * each), tolerance=0.05).significant for each in noise]
    assert np.mean(called) < 0.02


def test_drift_of_fewer_calls_than_two_windows_is_unknown():
    found = drift_of(np.linspace(1, 9, 3 * WINDOW_CALLS - 1), tolerance=0.05)
    assert (found.change, found.significant) == (0.0, False)
