"""The solvable proxy: its own referee, and how much of its exact front strategies find."""

from __future__ import annotations

import numpy as np
import pytest

from emomc.benchmarks.proxy import proxy
from emomc.search import front_of


@pytest.mark.parametrize("seed", range(3))
def test_the_exact_front_is_that_of_full_enumeration(seed: int) -> None:
    surface = proxy(seed, n_layers=4)
    everything = surface.space.every()
    assert len(everything) == 8**4
    problem = surface.task().problem
    values = problem.values(everything, surface.errors(everything))[0]
    expected = values[front_of(values)]
    found = np.stack([-np.expm1(-surface.front[:, 0]), surface.front[:, 1]], axis=1)
    assert np.unique(found.round(12), axis=0) == pytest.approx(np.unique(expected.round(12), axis=0))
    assert surface.quality(everything) == pytest.approx(1)
    worst = everything[np.argmax(values[:, 0])][None]
    assert surface.quality(worst) == 0
    assert 0 < surface.quality(everything[::5]) < 1


def test_estimates_are_off_by_the_noise_that_was_asked_for() -> None:
    for noise in (0.0, 0.5, 1.0):
        surface = proxy(n_layers=400, noise=noise)
        ratio = np.log(surface.estimate / surface.loss)
        assert ratio.std() == pytest.approx(noise, rel=0.05, abs=1e-12)
        assert abs(ratio.mean()) < 0.1
