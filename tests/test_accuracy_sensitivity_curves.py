"""Curves behind sensitivities: they are found, and doubting what departs from them brings wrong ones near the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from emomc.accuracy.link import from_link
from emomc.accuracy.predictor_corrected import CorrectedPredictor
from emomc.accuracy.sensitivity_curves import SensitivityCurves
from emomc.genome import Gene, SearchSpace

Doubles = NDArray[np.float64]
SEEDS = st.integers(0, 2**32 - 1)
DENSE = 0.1
SPACE = SearchSpace.full(
    [f"layer{i}" for i in range(10)],
    [Gene("prune_ratio", (0.0, 0.3, 0.5, 0.7, 0.9)), Gene("bit_width", (8, 6, 5, 4, 3, 2))],
)
PRUNING = np.array([1e-5, 0.03, 0.12, 0.34, 0.73])  # cubes of ratios
ROUNDING = 4.0 ** -np.arange(8.0, 2.0, -1.0)


def scales(rng: np.random.Generator, layers: int) -> Doubles:
    return np.asarray(np.exp(rng.normal(size=(layers, 1))))


def alike(rng: np.random.Generator, layers: int = 10) -> Doubles:
    """Layers that differ by factors alone, one for pruning and one for rounding."""
    pruning, rounding = 0.05 * scales(rng, layers) * PRUNING, scales(rng, layers) * ROUNDING
    return np.asarray(pruning[:, :, None] + rounding[:, None, :])


def apart(rng: np.random.Generator, layers: int = 10) -> Doubles:
    """Layers whose curves are the same to different powers."""
    powers = np.exp(0.3 * rng.normal(size=(2, layers, 1)))
    pruning = 0.05 * scales(rng, layers) * PRUNING ** powers[0]
    return np.asarray(pruning[:, :, None] + (scales(rng, layers) * ROUNDING ** powers[1])[:, None, :])


def roughness(table: Doubles) -> Doubles:
    return SensitivityCurves.of(table).roughness


def size(values: Doubles) -> float:
    return float(np.sqrt(np.mean(values**2)))


@given(seed=SEEDS)
def test_layers_that_are_alike_have_none(seed: int) -> None:
    assert size(roughness(alike(np.random.default_rng(seed)))) < 0.02


def test_smooth_layers_that_are_apart_stand_out_from_shared_curves_alone() -> None:
    """Of many such tables; now and then the least squares of one end beside the best curves."""
    found = [roughness(apart(np.random.default_rng(seed))) for seed in range(50)]
    own, shared = np.array([[size(kind) for kind in both] for both in found]).T
    assert np.quantile(own, 0.9) < 0.005 and shared.min() > 0.1


@given(seed=SEEDS)
def test_parts_are_what_pruning_and_rounding_are_of_each_loss(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pruning, rounding = 0.05 * scales(rng, 10) * PRUNING, scales(rng, 10) * ROUNDING
    table = pruning[:, :, None] + rounding[:, None, :]
    parts = SensitivityCurves.of(table).parts.reshape(10, 5, 6, 11)
    assert parts.sum(axis=3) == pytest.approx(np.ones((10, 5, 6)))
    for ratio, width in ((0, 0), (2, 3), (4, 5)):
        assert parts[:, ratio, width, ratio] == pytest.approx(pruning[:, ratio] / table[:, ratio, width], abs=0.02)
        assert parts[:, ratio, width, 5 + width] == pytest.approx(rounding[:, width] / table[:, ratio, width], abs=0.02)


@given(seed=SEEDS, cell=st.tuples(st.integers(0, 9), st.integers(0, 4), st.integers(0, 5)))
def test_a_sensitivity_that_is_off_is_where_the_roughness_is(seed: int, cell: tuple[int, int, int]) -> None:
    table = alike(np.random.default_rng(seed))
    table[cell] *= np.exp(1.0)
    whole = roughness(table).sum(axis=0).reshape(table.shape)
    assert np.unravel_index(np.argmax(whole), table.shape) == cell and whole[cell] > 0.1


def test_what_loses_nothing_has_no_roughness_and_disturbs_none() -> None:
    """Of a layer whose mildest choice is the layer itself the sensitivity is zero, which has no logarithm."""
    table = alike(np.random.default_rng(0))
    table[:, 0, 0] = 0.0
    found = roughness(table).reshape(2, *table.shape)
    assert np.all(found[:, :, 0, 0] == 0) and size(found) < 0.02
    assert np.all(roughness(np.zeros((3, 4, 1, 1))) == 0) and np.all(roughness(np.ones((3, 1, 1, 1))) == 0)


Made = Callable[[np.random.Generator], Doubles]


@pytest.mark.parametrize("made", [alike, apart])
def test_axes_of_length_one_change_nothing(made: Made) -> None:
    table = made(np.random.default_rng(1))
    assert roughness(table[:, None, :, :, None]) == pytest.approx(roughness(table), abs=1e-9)


@pytest.mark.parametrize(("made", "kept"), [(alike, 0.6), (apart, 0.7)])
@given(seed=SEEDS)
@settings(max_examples=15)
def test_taking_roughness_back_brings_the_table_nearer_to_the_truth(made: Made, kept: float, seed: int) -> None:
    """Of the choices that lose most, which 40 random networks tell of, against the same predictor without it."""
    rng = np.random.default_rng(seed)
    truth = made(rng)
    told = truth * np.exp(0.5 * rng.normal(size=truth.shape))
    genomes = SPACE.random(40, rng)
    parts = SPACE.split(genomes)
    losses = truth[np.arange(10), parts[:, :, 0], parts[:, :, 1]].sum(axis=1)
    left = []
    for doubted in (True, False):
        predictor = CorrectedPredictor(SPACE, told, DENSE)
        if not doubted:
            predictor.curves = replace(predictor.curves, roughness=np.zeros((2, 10, 30)))
        predictor.fit(genomes, from_link(np.log(losses), DENSE))
        off = np.log(predictor.table / truth)[truth >= np.median(truth)]
        left.append(float(off.std()))
    assert left[0] < kept * left[1]
