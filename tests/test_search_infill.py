"""Expected gains of hypervolume against differences of hypervolumes, and the coordinates that they are taken in."""

from __future__ import annotations

import itertools

import moocore
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emomc.search.coordinates import Coordinates
from emomc.search.infill import gains, pick_gain
from tests.toys import DENSE_ERROR, toy


@given(seed=st.integers(0, 2**32), n=st.integers(1, 6), m=st.integers(0, 8), objectives=st.integers(2, 4))
def test_a_gain_is_the_difference_of_two_hypervolumes(seed: int, n: int, m: int, objectives: int) -> None:
    """Coarse values, so that points also tie, dominate each other and lie beyond the reference."""
    rng = np.random.default_rng(seed)
    points, archive = (rng.integers(0, 7, (size, objectives)) / 5 for size in (n, m))
    reference = np.ones(objectives)

    def volume(rows: np.ndarray) -> float:
        inside = rows[(rows < reference).all(axis=1)]
        return float(moocore.hypervolume(inside, ref=reference)) if len(inside) else 0.0

    expected = [volume(np.concatenate([archive, point[None]])) - volume(archive) for point in points]
    assert gains(points, archive, reference) == pytest.approx(expected, abs=1e-12)


@given(seed=st.integers(0, 2**32))
def test_a_batch_is_what_greedy_choice_by_full_recomputation_picks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    outcomes, archive, reference = rng.random((3, 7, 3)), rng.random((4, 3)), np.ones(3)
    outcomes[:, 2] = np.nan  # infeasible whatever its error
    believed = outcomes.mean(axis=0)
    picks = pick_gain(outcomes, believed, archive, reference, 4).tolist()
    expected: list[int] = []
    grown = archive
    for _ in range(4):
        means = [
            -1.0
            if row in expected or row == 2
            else np.mean([gains(each[None], grown, reference) for each in outcomes[:, row]])
            for row in range(7)
        ]
        if max(means) <= 0:
            break
        expected.append(int(np.argmax(means)))
        grown = np.concatenate([grown, believed[expected[-1:]]])
    assert picks == expected


def test_what_cannot_gain_is_not_picked() -> None:
    outcomes = np.full((2, 3, 2), 0.9)
    assert not len(pick_gain(outcomes, outcomes[0], np.array([[0.5, 0.5]]), np.ones(2), 3))


def test_coordinates_count_costs_by_ratio_and_losses_above_the_resolution() -> None:
    task = toy().task()
    coordinates = Coordinates.of(task)
    values = np.array([[DENSE_ERROR, 10.0, 100.0], [DENSE_ERROR, 20.0, 100.0], [DENSE_ERROR, 40.0, 100.0]])
    steps = np.diff(coordinates(values), axis=0)
    assert steps[0] == pytest.approx(steps[1]) and steps[0, 1] > 0 and steps[0, 0] == steps[0, 2] == 0
    worse = coordinates(np.array([[DENSE_ERROR + loss, 10.0, 100.0] for loss in (-0.01, 0.0, 1e-5, 0.01, 0.02)]))[:, 0]
    assert worse[0] == worse[1] < worse[2] < worse[3] < worse[4]
    assert worse[2] - worse[1] < 0.1 * (worse[4] - worse[3])  # too small to be seen
    assert all(np.isfinite(worse)) and list(itertools.chain(coordinates.reference)) == [1.02] * 3
