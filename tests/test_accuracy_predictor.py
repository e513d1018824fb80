"""Sensitivities and the additive predictor: curves through the probes, a link that is recovered, order that is kept."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from emomc.accuracy.predictor import AdditivePredictor, rank_correlation, refined
from emomc.accuracy.sensitivity import loss_per_distance, plan_probes, sensitivity_table
from emomc.compression import Bank
from emomc.genome import BIT_WIDTH, PRUNE_RATIO, SHARED_VALUES, Gene, SearchSpace

Doubles = NDArray[np.float64]
GENES = (
    Gene(PRUNE_RATIO, (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9)),
    Gene(BIT_WIDTH, (16, 8, 6, 4, 3, 2)),
    Gene(SHARED_VALUES, (0, 16, 4)),
)
SPACE = SearchSpace.full(("a", "b", "c"), GENES)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    rng = np.random.default_rng(0)
    weights = {name: (0.1 * rng.laplace(size=(4, 60))).astype(np.float32) for name in SPACE.layers}
    return Bank.open(tmp_path_factory.mktemp("bank"), weights, SPACE)


# Sensitivities


def test_probes_are_few_and_reach_both_ends_of_each_curve(bank: Bank) -> None:
    probes = plan_probes(bank)
    for layer in range(3):
        for curve in ("prune", "quantize"):
            own = [probe for probe in probes if (probe.layer, probe.curve) == (layer, curve)]
            distortions = [probe.distortion for probe in own]
            entries = bank.distortions[layer, :, 0, 0] if curve == "prune" else bank.distortions[layer, 0]
            assert 2 <= len(own) <= 5 and distortions == sorted(distortions)
            assert (distortions[0], distortions[-1]) == (entries.min(), entries.max())
            for probe in own:
                assert any(bank.variant(layer, t) == probe.variant for t in np.ndindex(*SPACE.shape))


def power_law(layer: int, curve: str, distortion: float) -> float:
    """A straight line in log-log, another one for every curve, less than proportional and more."""
    return (layer + 1) * distortion ** (0.7 if curve == "prune" else 1.2)


def test_where_divergence_is_a_power_of_distortion_every_variant_gets_its_own(bank: Bank) -> None:
    probes = plan_probes(bank)
    table = sensitivity_table(bank, probes, [power_law(p.layer, p.curve, p.distortion) for p in probes])
    for layer, p, q, s in np.ndindex(*table.shape):
        pruned = bank.distortions[layer, p, 0, 0]
        rounded = bank.distortions[layer, p, q, s] - pruned
        lowest = min(probe.distortion for probe in probes if (probe.layer, probe.curve) == (layer, "quantize"))
        if rounded >= lowest:
            expected = power_law(layer, "prune", pruned) + power_law(layer, "quantize", rounded)
            assert table[layer, p, q, s] == pytest.approx(expected, rel=1e-6)
        else:  # below the mildest probe: proportional to the distortion, so no more than at the probe
            excess = table[layer, p, q, s] - power_law(layer, "prune", pruned)
            assert -1e-12 <= excess <= power_law(layer, "quantize", lowest) * (1 + 1e-9)


@given(seed=st.integers(0, 2**32))
def test_the_curves_pass_through_the_probes_and_never_fall(bank: Bank, seed: int) -> None:
    """Measured divergences in any order: a larger distortion never predicts a smaller divergence."""
    probes = plan_probes(bank)
    rng = np.random.default_rng(seed)
    measured = np.exp(rng.uniform(-8, 1, len(probes)))
    table = sensitivity_table(bank, probes, measured.tolist())
    assert np.all(table > 0)
    for layer in range(3):
        order = np.argsort(bank.distortions[layer, :, 0, 0])
        assert np.all(np.diff(table[layer, order, 0, 0]) >= 0)
        order = np.argsort(bank.distortions[layer, 0].ravel())
        assert np.all(np.diff(table[layer, 0].ravel()[order]) >= -1e-12)
        own = {p.distortion: m for p, m in zip(probes, measured, strict=True) if (p.layer, p.curve) == (layer, "prune")}
        highest = 0.0
        for distortion, value in own.items():
            highest = max(highest, value)
            entry = int(np.flatnonzero(bank.distortions[layer, :, 0, 0] == distortion)[0])
            # What is kept is not rounded any further here, so the other curve adds next to nothing.
            assert highest * (1 - 1e-9) <= table[layer, entry, 0, 0] <= highest + 1e-2 * measured.max()


def test_a_network_that_breaks_down_has_a_large_finite_sensitivity(bank: Bank) -> None:
    probes = plan_probes(bank)
    table = sensitivity_table(bank, probes, [np.inf] * len(probes))
    assert np.all(np.isfinite(table)) and table.max() > 10


def test_what_a_distance_costs_is_told_by_all_probes_together() -> None:
    rng, distances = np.random.default_rng(0), np.geomspace(1e-3, 0.5, 200)
    for cost in (0.1, 0.8):
        losses = rng.binomial(256, cost * distances) / 256
        assert loss_per_distance(distances.tolist(), losses.tolist(), 256) == pytest.approx(cost, rel=0.15)


def test_what_a_distance_costs_is_the_usual_where_probes_tell_nothing() -> None:
    assert loss_per_distance([], [], 100) == 0.5
    assert loss_per_distance([1e-6, np.inf, np.nan], [0.0, np.nan, 0.2], 100) == pytest.approx(0.5, rel=1e-4)
    assert 0 < loss_per_distance([0.5, 0.2], [-0.2, -0.1], 100) < 0.5  # better than dense: cheap, not a gain
    far = loss_per_distance([50.0] * 100, [0.9] * 100, 256)  # wrong everywhere, at any distance
    assert far == pytest.approx(0.9, rel=0.01)


def test_a_restricted_space_is_probed_inside_itself(bank: Bank, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {name: (0.1 * rng.laplace(size=(4, 60))).astype(np.float32) for name in SPACE.layers}
    space = SPACE.restrict(BIT_WIDTH, (4, 3)).restrict(PRUNE_RATIO, (0.6,), "b").restrict(SHARED_VALUES, (0,))
    narrowed = Bank.open(tmp_path, weights, space)
    probes = plan_probes(narrowed)
    for probe in probes:
        allowed = itertools.product(*space.allowed[probe.layer])
        assert probe.variant in {narrowed.variant(probe.layer, (p, q, s)) for p, q, s in allowed}
    table = sensitivity_table(narrowed, probes, [probe.distortion for probe in probes])
    for layer, row in enumerate(space.allowed):
        for p, q, s in itertools.product(*row):  # proportional everywhere, so the two parts are the whole
            assert table[layer, p, q, s] == pytest.approx(narrowed.distortions[layer, p, q, s], rel=1e-3)


# The predictor


def table(seed: int = 0) -> Doubles:
    return np.exp(np.random.default_rng(seed).uniform(-9, -1, size=(3, *SPACE.shape)))


def genomes(n: int = 60, seed: int = 0) -> NDArray[np.int64]:
    return SPACE.random(n, np.random.default_rng(seed))


def link(score: Doubles, c: float, g: float, dense: float) -> Doubles:
    return np.asarray(dense + (1 - dense) * (1 - np.exp(-((c * score) ** g))))


def test_the_score_is_the_sum_over_layers() -> None:
    entries, rows = table(), genomes()
    predictor = AdditivePredictor(SPACE, entries, 0.1)
    expected = [sum(entries[(layer, *part)] for layer, part in enumerate(row)) for row in SPACE.split(rows).tolist()]
    assert predictor.score(rows) == pytest.approx(np.array([float(value) for value in expected]), rel=1e-12)


@given(c=st.floats(0.2, 5), g=st.floats(0.3, 2.5), dense=st.floats(0, 0.5), seed=st.integers(0, 2**32))
def test_fitting_recovers_the_link(c: float, g: float, dense: float, seed: int) -> None:
    entries = table(seed)
    predictor = AdditivePredictor(SPACE, entries, dense)
    rows = genomes(80, seed)
    errors = link(predictor.score(rows), c, g, dense)
    inside = (errors - dense > 2e-4 * (1 - dense)) & (errors < 0.999)  # beyond, the link saturates
    predictor.fit(rows[inside], errors[inside])
    if inside.sum() >= 3:
        fresh = genomes(40, seed + 1)
        expected = link(predictor.score(fresh), c, g, dense)
        assert predictor.predict(fresh)[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("fitted", [False, True])
def test_an_additive_surface_is_ranked_perfectly(fitted: bool) -> None:
    predictor = AdditivePredictor(SPACE, table(), 0.08)
    rows = np.unique(genomes(100), axis=0)
    errors = 0.08 + 0.5 * np.tanh(predictor.score(rows))  # increasing, but another link than the predictor's
    if fitted:
        predictor.fit(rows, errors)
    assert rank_correlation(predictor.predict(rows)[0], errors) == 1.0


def test_before_anything_is_measured_predictions_grow_with_the_score_from_the_dense_error() -> None:
    entries = table()
    entries[:, 0, 0, 0] = 0.0
    predictor = AdditivePredictor(SPACE, entries, 0.08)
    rows = genomes(100)
    mean, spread = predictor.predict(rows)
    order = np.argsort(predictor.score(rows))
    assert np.all(np.diff(mean[order]) >= 0) and np.all((mean > 0.08) & (mean < 1)) and np.all(spread > 0)
    assert mean == pytest.approx(link(predictor.score(rows), 1.0, 1.0, 0.08))
    assert predictor.predict(np.zeros((1, SPACE.n_var), np.int64))[0] == pytest.approx([0.08])


@given(seed=st.integers(0, 2**32), n=st.integers(0, 20), low=st.floats(0, 1))
def test_whatever_was_measured_predictions_are_errors_that_grow_with_the_score(seed: int, n: int, low: float) -> None:
    """Noise, failures (NaN), errors below the dense one, all alike: the fit may be poor, its order is kept."""
    rng = np.random.default_rng(seed)
    predictor = AdditivePredictor(SPACE, table(seed), 0.1)
    errors = rng.uniform(low, 1, n)
    errors[rng.random(n) < 0.2] = np.nan
    predictor.fit(genomes(n, seed), errors)
    rows = genomes(50, seed + 1)
    mean, spread = predictor.predict(rows)
    assert np.all((mean >= 0.1) & (mean <= 1)) and np.all(spread >= 0) and np.all(np.isfinite(spread))
    assert np.all(np.diff(mean[np.argsort(predictor.score(rows))]) >= 0)


def test_more_noise_means_more_spread_and_failures_are_left_out() -> None:
    rows, rng = genomes(200), np.random.default_rng(0)
    spreads = []
    for noise in (0.05, 0.4):
        predictor = AdditivePredictor(SPACE, table(), 0.1)
        errors = link(predictor.score(rows) * np.exp(noise * rng.normal(size=len(rows))), 1.0, 1.0, 0.1)
        predictor.fit(np.concatenate([rows, rows[:5]]), np.concatenate([errors, np.full(5, np.nan)]))
        mean, spread = predictor.predict(rows)
        spreads.append(float(spread.mean()))
        inside = float(np.mean(np.abs(mean - errors) <= spread))
        assert 0.5 < inside < 0.9  # about 68 % within one standard deviation
    assert 0 < spreads[0] < spreads[1]


def test_refined_errors_lie_between_prediction_and_measurement_and_many_samples_decide() -> None:
    """A measurement on few samples is trusted less; one that failed stays without a value."""
    rows, rng = genomes(100), np.random.default_rng(0)
    predictor = AdditivePredictor(SPACE, table(), 0.1)
    errors = link(predictor.score(rows) * np.exp(0.3 * rng.normal(size=len(rows))), 1.0, 1.0, 0.1)
    predictor.fit(rows, errors)
    predicted = predictor.predict(rows)[0]
    errors[7] = np.nan
    valid = np.isfinite(errors)
    gaps = []
    for samples in (10, 1000, 10**9):
        estimates = refined(errors, *predictor.predict(rows), 0.1, samples)
        assert np.array_equal(np.isfinite(estimates), valid)
        low, high = np.minimum(errors, predicted)[valid], np.maximum(errors, predicted)[valid]
        assert np.all((estimates[valid] >= low - 1e-12) & (estimates[valid] <= high + 1e-12))
        gaps.append(float(np.abs(estimates - errors)[valid].mean()))
    assert gaps[0] > 2 * gaps[1] > 2 * gaps[2]
    assert gaps[2] < 1e-5


def test_a_network_with_several_dataflows_counts_once() -> None:
    space = SearchSpace.full(SPACE.layers, (*GENES, Gene("dataflow", ("X:Y", "CI:CO"), ordinal=False)))
    rows = space.random(30, np.random.default_rng(0))
    space.split(rows)[:, :, 3] = 0
    errors = np.random.default_rng(1).uniform(0.1, 0.6, len(rows))
    twins = rows[:10].copy()
    space.split(twins)[:, 1, 3] = 1
    once, repeated = (AdditivePredictor(space, table()[..., None], 0.1) for _ in range(2))
    once.fit(rows, errors)
    repeated.fit(np.concatenate([rows, twins]), np.concatenate([errors, errors[:10]]))
    assert once.predict(rows)[0] == pytest.approx(repeated.predict(rows)[0], rel=1e-12)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=25))
def test_rank_correlation_is_kendalls_tau_b(pairs: list[tuple[int, int]]) -> None:
    x, y = (np.array(values, dtype=np.float64) for values in zip(*pairs, strict=True))
    concordance = tied_x = tied_y = 0
    for i, j in itertools.combinations(range(len(x)), 2):
        concordance += int(np.sign(x[i] - x[j]) * np.sign(y[i] - y[j]))
        tied_x += int(x[i] == x[j])
        tied_y += int(y[i] == y[j])
    total = len(x) * (len(x) - 1) // 2
    found = rank_correlation(x, y)
    if total in (tied_x, tied_y):
        assert np.isnan(found)
    else:
        assert found == pytest.approx(concordance / np.sqrt((total - tied_x) * (total - tied_y)))


def test_rank_correlation_of_one_point_is_undefined() -> None:
    assert np.isnan(rank_correlation(np.zeros(1), np.zeros(1)))
