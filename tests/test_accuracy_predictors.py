"""Predictors that learn: each must come closer to a known truth, tell how sure it is, and be chosen for its ranking."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from emomc.accuracy.link import from_link, to_link
from emomc.accuracy.predictor import AdditivePredictor, Predictor, rank_correlation
from emomc.accuracy.predictor_choice import ChosenPredictor, _lead, _ranked, default_predictors
from emomc.accuracy.predictor_corrected import CorrectedPredictor
from emomc.accuracy.predictor_learned import LearnedPredictor, gaussian_process, ridge, trees
from emomc.accuracy.predictor_twice import TwiceCorrectedPredictor
from emomc.accuracy.sensitivity_curves import SensitivityCurves
from emomc.genome import Gene, SearchSpace

SPACE = SearchSpace.full(
    [f"layer{i}" for i in range(6)], [Gene("prune_ratio", (0.0, 0.3, 0.6, 0.9)), Gene("bit_width", (8, 4, 2))]
)
DENSE = 0.1
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]


def believed() -> Doubles:
    steps = np.arange(4)[:, None] * 1.2 + np.arange(3)[None, :]
    return np.asarray(1e-3 * np.exp(steps)[None] * np.linspace(0.5, 2, 6)[:, None, None])


def truth(genomes: Integers) -> Doubles:
    """Layers are more or less sensitive than believed, each by a factor of its own."""
    factors = np.exp(np.array([1.5, -1.5, 1.0, -1.0, 0.7, -0.7]))[:, None, None]
    layer = np.arange(6)[None, :]
    return np.asarray((believed() * factors)[(layer, *np.moveaxis(SPACE.split(genomes), 2, 0))].sum(axis=1))


def errors(genomes: Integers) -> Doubles:
    return from_link(np.log(truth(genomes)), DENSE)


def networks(n: int, seed: int) -> Integers:
    return SPACE.random(n, np.random.default_rng(seed))


@given(error=st.floats(0.1001, 0.99), samples=st.sampled_from([None, 500]))
def test_the_link_goes_there_and_back(error: float, samples: int | None) -> None:
    links, variance = to_link(np.array([error]), DENSE, samples)
    least = DENSE + (0.9 / samples if samples else 1e-7)
    assert from_link(links, DENSE) == pytest.approx([max(error, least)], rel=1e-6)
    assert (variance > 0).all() == (samples is not None)


def test_sampling_variance_of_the_link_is_that_of_repeated_measurements() -> None:
    """Draws of a loss of 5 % on 2,000 samples, where only samples that change count."""
    rng = np.random.default_rng(0)
    drawn = rng.binomial(2000, 0.05 * 0.9, 4000) / 2000
    spread = float(to_link(DENSE + drawn, DENSE)[0].std())
    told = float(np.sqrt(to_link(np.array([DENSE + 0.045]), DENSE, 2000)[1][0]))
    assert told == pytest.approx(spread, rel=0.15)


def made(kind: str) -> Predictor:
    if kind == "additive":
        return AdditivePredictor(SPACE, believed(), DENSE)
    if kind == "corrected":
        return CorrectedPredictor(SPACE, believed(), DENSE)
    if kind == "corrected twice":
        return TwiceCorrectedPredictor(CorrectedPredictor(SPACE, believed(), DENSE))
    regressor = {"ridge": ridge, "gaussian process": gaussian_process, "trees": trees}[kind]()
    return LearnedPredictor(SPACE, believed(), DENSE, None, regressor)


LEARNING = ("corrected", "corrected twice", "ridge", "gaussian process", "trees")


@pytest.mark.parametrize("kind", LEARNING)
def test_learning_corrects_wrong_sensitivities(kind: str) -> None:
    """Ranks unseen networks better than the additive predictor, which keeps the order of wrong sensitivities."""
    seen, unseen = networks(80, 0), networks(300, 1)
    plain, learned = made("additive"), made(kind)
    for predictor in (plain, learned):
        predictor.fit(seen, errors(seen))
    before, after = (rank_correlation(each.predict(unseen)[0], errors(unseen)) for each in (plain, learned))
    assert after > before + 0.02
    if kind == "corrected":
        assert after > 0.93


@pytest.mark.parametrize("kind", ["additive", *LEARNING])
def test_unfitted_and_failed_measurements_leave_usable_predictions(kind: str) -> None:
    predictor, rows = made(kind), networks(30, 2)
    for measured in (np.full(30, np.nan), np.where(np.arange(30) < 10, np.nan, errors(rows))):
        predictor.fit(rows, measured)
        mean, spread = predictor.predict(rows)
        assert np.all((mean >= DENSE) & (mean <= 1)) and np.all(spread >= 0) and np.all(np.isfinite(spread))


def test_distances_teach_more_than_counted_errors() -> None:
    """On few samples counts are coarse, the distance is not."""
    rng = np.random.default_rng(0)
    seen, unseen, samples = networks(60, 3), networks(300, 4), 200
    counted = DENSE + rng.binomial(samples, errors(seen) - DENSE) / samples
    taus = []
    for distances in (None, truth(seen)):
        predictor = CorrectedPredictor(SPACE, believed(), DENSE, samples)
        predictor.fit(seen, counted, distances)
        taus.append(rank_correlation(predictor.predict(unseen)[0], errors(unseen)))
    assert taus[1] > taus[0]


def test_errors_tell_which_layers_distances_cost_most() -> None:
    """Distances are exact but say nothing of what they cost, which differs by layer: both have to be learned."""
    rng, samples = np.random.default_rng(2), 2000
    cost = np.exp(np.array([0.8, -0.8, 0.8, -0.8, 0.8, -0.8]))

    def lost(rows: Integers) -> Doubles:
        parts = (believed() * cost[:, None, None])[(np.arange(6)[None, :], *np.moveaxis(SPACE.split(rows), 2, 0))]
        return from_link(np.log(parts.sum(axis=1)), DENSE)

    told = believed() * np.exp(np.array([1.5, 1.5, -1.5, -1.5, 1.0, -1.0]))[:, None, None]
    far = believed()
    seen, unseen = networks(60, 11), networks(300, 12)
    counted = DENSE + rng.binomial(samples, lost(seen) - DENSE) / samples
    distances = far[(np.arange(6)[None, :], *np.moveaxis(SPACE.split(seen), 2, 0))].sum(axis=1)
    taus = []
    once, first = (CorrectedPredictor(SPACE, told, DENSE, samples) for _ in range(2))
    for predictor in (once, TwiceCorrectedPredictor(first)):
        predictor.fit(seen, counted, distances)
        taus.append(rank_correlation(predictor.predict(unseen)[0], lost(unseen)))
    assert taus[1] > max(taus[0] + 0.02, 0.93)


def test_curves_behind_sensitivities_are_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """That takes a second for a real network, and predictors are fitted after every round."""
    find, found = SensitivityCurves.of, []
    monkeypatch.setattr(SensitivityCurves, "of", lambda table: found.append(table) or find(table))
    predictor, rows = TwiceCorrectedPredictor(CorrectedPredictor(SPACE, believed(), DENSE, 2000)), networks(30, 13)
    for stop in (10, 20, 30):
        predictor.fit(rows[:stop], errors(rows[:stop]), truth(rows[:stop]))
    assert len(found) == 1


def test_the_corrected_table_comes_closer_to_the_truth() -> None:
    predictor, seen = CorrectedPredictor(SPACE, believed(), DENSE), networks(100, 5)
    predictor.fit(seen, errors(seen))
    factors = np.log(predictor.table / believed()).mean(axis=(1, 2))
    assert np.corrcoef(factors, [1.5, -1.5, 1.0, -1.0, 0.7, -0.7])[0, 1] > 0.9


class Fixed:
    """Predicts by a rule and learns nothing."""

    def __init__(self, sign: float) -> None:
        self._sign = sign

    def fit(self, genomes: Integers, errors: Doubles, distances: Doubles | None = None) -> None: ...

    def predict(self, genomes: Integers) -> tuple[Doubles, Doubles]:
        return 0.5 + self._sign * (errors(genomes) - 0.5), np.full(len(genomes), 0.3)


def test_the_one_that_ranked_best_before_measuring_is_used() -> None:
    rows = networks(60, 6)
    others = {"right": Fixed(1), "wrong": Fixed(-1)}
    chosen = ChosenPredictor(TwiceCorrectedPredictor(CorrectedPredictor(SPACE, believed(), DENSE)), others, DENSE)
    assert chosen.name == "corrected"
    for stop in range(8, 61, 8):
        chosen.fit(rows[:stop], errors(rows[:stop]))
    assert chosen.name == "right"
    assert chosen.rank_correlations["right"] == 1.0 and chosen.rank_correlations["wrong"] == -1.0
    mean, spread = chosen.predict(rows)
    assert np.array_equal(mean, Fixed(1).predict(rows)[0])
    assert np.all(spread < 0.3)  # it was never off, so it is believed more than it claims


class Noisy:
    """Right but for noise of its own."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def fit(self, genomes: Integers, errors: Doubles, distances: Doubles | None = None) -> None: ...

    def predict(self, genomes: Integers) -> tuple[Doubles, Doubles]:
        return errors(genomes) + self._rng.normal(0, 0.1, len(genomes)), np.full(len(genomes), 0.1)


def test_a_predictor_that_was_luckier_is_not_taken_for_a_better_one() -> None:
    """Nine others just as good: the luckiest of them ranks better, by what luck explains."""
    ahead = changed = 0
    for trial in range(20):
        others = {f"other {number}": Noisy(100 * trial + number) for number in range(9)}
        chosen = ChosenPredictor(TwiceCorrectedPredictor(CorrectedPredictor(SPACE, believed(), DENSE)), others, DENSE)
        chosen._predictors["corrected"] = Noisy(100 * trial + 9)
        chosen.fit(networks(30, trial), errors(networks(30, trial)))
        ahead += max(chosen.rank_correlations.values()) > chosen.rank_correlations["corrected"] + 0.02
        changed += chosen.name != "corrected"
    assert ahead >= 15 and changed <= 1


def test_a_lead_is_the_difference_of_rank_correlations_over_its_standard_error() -> None:
    """Against the spread of the difference over many sets of networks."""
    found, leads = [], []
    for trial in range(400):
        measured = errors(networks(40, trial))
        predicted = [Noisy(2 * trial + number).predict(networks(40, trial))[0] for number in range(2)]
        ranked = [_ranked(each, measured) for each in predicted]
        difference = np.subtract(*(each.sum() / (40 * 39) for each in ranked))
        assert difference == pytest.approx(np.subtract(*(rank_correlation(each, measured) for each in predicted)))
        found.append(difference)
        leads.append(_lead(*ranked))
    assert np.std(leads) == pytest.approx(1, abs=0.15)  # standard errors are right on average
    assert np.corrcoef(found, leads)[0, 1] > 0.95
    assert _lead(np.ones((9, 9)), -np.ones((9, 9))) == np.inf and _lead(np.ones((9, 9)), np.ones((9, 9))) == 0


class Half:
    """Exact above a loss of 0.3, and off by a quarter of the loss below it; claims an eighth of the loss."""

    def fit(self, genomes: Integers, errors: Doubles, distances: Doubles | None = None) -> None: ...

    def predict(self, genomes: Integers) -> tuple[Doubles, Doubles]:
        loss = errors(genomes) - DENSE
        sign = np.where(genomes.sum(axis=1) % 2, 1, -1)
        return DENSE + loss * (1 + np.where(loss < 0.3, 0.25, 0) * sign), 0.125 * loss


def test_spreads_are_calibrated_among_networks_of_similar_loss() -> None:
    """Off by two spreads where little is lost, by none where much is lost: neither factor may stand for both."""
    rows = networks(4000, 9)
    rows = np.concatenate([rows[errors(rows) < DENSE + 0.1][:30], rows[errors(rows) > DENSE + 0.7][:30]])
    chosen = ChosenPredictor(TwiceCorrectedPredictor(CorrectedPredictor(SPACE, believed(), DENSE)), {}, DENSE)
    chosen._predictors["corrected"] = Half()
    chosen.fit(rows, errors(rows))
    loss, (_, spread) = errors(rows) - DENSE, chosen.predict(rows)
    factor = spread / (0.125 * loss)
    assert factor[:30].mean() > 1.5 and factor[30:].mean() < 0.6


def test_what_sampling_explains_does_not_count_against_a_prediction() -> None:
    rows, rng, samples = networks(64, 10), np.random.default_rng(1), 256
    counted = DENSE + rng.binomial(samples, errors(rows) - DENSE) / samples
    exact = {"right": Fixed(1)}
    spreads = []
    for told in (samples, None):
        chosen = ChosenPredictor(
            TwiceCorrectedPredictor(CorrectedPredictor(SPACE, believed(), DENSE)), exact, DENSE, told
        )
        chosen._predictors["corrected"] = Exact()
        chosen.fit(rows, counted)
        spreads.append(chosen.predict(rows)[1].mean())
    assert spreads[0] < 0.6 * spreads[1]


class Exact:
    """Knows every error, and claims a hundredth."""

    def fit(self, genomes: Integers, errors: Doubles, distances: Doubles | None = None) -> None: ...

    def predict(self, genomes: Integers) -> tuple[Doubles, Doubles]:
        return errors(genomes), np.full(len(genomes), 0.01)


def test_a_search_predicts_better_as_it_measures() -> None:
    predictor = default_predictors(SPACE, believed(), DENSE, None)
    rows, unseen = networks(64, 7), networks(200, 8)
    before = rank_correlation(predictor.predict(unseen)[0], errors(unseen))
    for stop in (16, 40, 64):
        predictor.fit(rows[:stop], errors(rows[:stop]))
    assert rank_correlation(predictor.predict(unseen)[0], errors(unseen)) > max(before, 0.9)
