"""What is kept of measured networks: fronts, their hypervolume, picks spread over them, and the coordinates of both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from emomc.benchmarks.proxies import additive, three
from emomc.search import Ledger, front_of, hypervolume
from emomc.search.coordinates import Coordinates
from emomc.search.front import pick_spread
from emomc.search.reported import reported_front, thinned
from emomc.search.two_stage import two_stage

Doubles = NDArray[np.float64]

points = arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(1, 3)), elements=st.integers(0, 5).map(float))


@given(points)
def test_the_front_is_what_nothing_dominates(values: Doubles) -> None:
    kept = front_of(values)
    expected = {tuple(v) for v in values.tolist() if not any(np.all(w <= v) and np.any(w < v) for w in values)}
    assert {tuple(v) for v in values[kept].tolist()} == expected
    assert len(kept) == len(expected)  # each value once
    assert np.all(np.diff(values[kept][:, 0]) >= 0)


@given(values=points, seed=st.integers(0, 100))
def test_the_infeasible_and_the_unmeasured_are_on_no_front(values: Doubles, seed: int) -> None:
    rng = np.random.default_rng(seed)
    violations = rng.integers(-1, 2, size=(len(values), 2)).astype(float)
    spoilt = values.copy()
    spoilt[rng.random(len(values)) < 0.3, 0] = np.nan
    fine = np.isfinite(spoilt[:, 0]) & (violations <= 0).all(axis=1)
    kept = front_of(spoilt, violations)
    assert np.all(fine[kept])
    assert np.array_equal(np.flatnonzero(fine)[front_of(spoilt[fine])], kept)


@given(arrays(np.int64, (6, 2), elements=st.integers(0, 10)))
def test_hypervolume_is_the_area_of_the_dominated_cells(corners: NDArray[np.int64]) -> None:
    reference = np.array([8.0, 9.0])
    cells = [(x, y) for x in range(8) for y in range(9) if np.any((corners[:, 0] <= x) & (corners[:, 1] <= y))]
    assert hypervolume(corners.astype(float), reference) == pytest.approx(len(cells) / 72)


@given(points, st.integers(-9, 9))
def test_a_box_that_is_moved_holds_the_same_hypervolume(values: Doubles, shift: int) -> None:
    reference, moved = np.full(values.shape[1], 4.0), np.full(values.shape[1], float(shift))
    assert hypervolume(values + moved, reference + moved, moved) == hypervolume(values, reference)


def test_hypervolume_of_three_objectives_has_its_closed_form() -> None:
    reference = np.array([2.0, 4.0, 8.0])
    assert hypervolume(np.array([[1.0, 2.0, 4.0]]), reference) == pytest.approx(1 / 8)
    assert hypervolume(np.array([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]]), reference) == pytest.approx(0.75)
    assert hypervolume(np.zeros((1, 3)), reference) == pytest.approx(1)
    assert hypervolume(reference[None], reference) == 0 == hypervolume(np.zeros((0, 3)), reference)


@settings(max_examples=40)
@given(n=st.integers(0, 9), taken=st.integers(0, 4), count=st.integers(0, 6), seed=st.integers(0, 2**32))
def test_picks_are_the_farthest_one_after_the_other(n: int, taken: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    candidates, others = rng.random((n, 2)), rng.random((taken, 2))
    picks = pick_spread(candidates, others, count).tolist()
    assert len(picks) == len(set(picks)) == min(n, count)
    width = np.ptp(np.concatenate([candidates, others]), axis=0) if n + taken > 1 else np.ones(2)
    chosen = [point / width for point in others]
    for number, pick in enumerate(picks):
        if chosen:
            gaps = [min(np.linalg.norm(c / width - other) for other in chosen) for c in candidates]
            rest = [gap for row, gap in enumerate(gaps) if row not in picks[:number]]
            assert gaps[pick] == pytest.approx(max(rest))
        chosen.append(candidates[pick] / width)


def test_coordinates_measure_costs_by_ratio_and_errors_by_loss() -> None:
    nothing, all_of_it = np.zeros(2), np.ones(2)
    plain = Coordinates(np.array([True, False]), np.array([False, True]), 0.1, 0.002, nothing, all_of_it)
    found = plain(np.array([[0.1, 100.0], [0.1, 200.0], [0.102, 400.0], [0.05, 800.0]]))
    assert np.diff(found[:, 1]) == pytest.approx(np.log(2))
    assert found[0, 0] == found[1, 0] == found[3, 0]  # better than the dense network is no loss
    assert found[2, 0] - found[0, 0] == pytest.approx(np.log(2))  # the resolution doubles what counts as loss


def test_a_lucky_network_takes_no_better_one_off_the_reported_front() -> None:
    """Of four layers alike, all choices: the lucky network is cheaper and measured better than the sound one."""
    proxy = additive(0, 4)
    task = replace(proxy.task(0), samples=256)
    genomes = proxy.space.canonical(np.zeros((3, proxy.space.n_var), dtype=np.int64))
    widths = np.arange(1, proxy.space.n_var, len(proxy.space.genes))
    genomes[1:, widths] = [[2], [4]]  # a sound network, and the lucky one
    measured = np.array([0.08, 0.10, 0.09])
    ledger = Ledger(task, 3, lambda request: measured)
    ledger.measure(genomes, "all")
    assert reported_front(task, ledger).tolist() == [0, 2]
    ledger.estimates = lambda: np.array([0.08, 0.10, 0.11])
    assert reported_front(task, ledger).tolist() == [0, 2, 1]  # by measured error
    assert reported_front(task, ledger, 2).tolist() == [0, 2]  # they dominate most
    ledger.estimates = lambda: np.array([0.08, np.nan, 0.11])
    assert reported_front(task, ledger).tolist() == [0, 2]


def test_of_networks_estimated_to_lose_less_than_a_sample_the_cheapest_is_reported() -> None:
    proxy = additive(0, 4)
    genomes = proxy.space.canonical(np.zeros((2, proxy.space.n_var), dtype=np.int64))
    genomes[1, np.arange(1, proxy.space.n_var, len(proxy.space.genes))] = 3
    for samples, expected in ((100, [1]), (1000, [1, 0])):
        task = replace(proxy.task(0), samples=samples)
        ledger = Ledger(task, 2, lambda request: np.array([0.09, 0.085]))
        ledger.measure(genomes, "all")
        ledger.estimates = lambda: np.array([0.083, 0.086])
        assert reported_front(task, ledger).tolist() == expected


def test_a_thinned_front_keeps_what_dominates_most() -> None:
    """Of 60 measured networks, against the best of 300 random choices; filled up where nothing more is dominated."""
    proxy = three(0)
    task = proxy.task(0)
    ledger = Ledger(task, 60, lambda request: proxy.errors(request.genomes))
    two_stage(task, ledger, 0)
    whole = reported_front(task, ledger)
    of = Coordinates.of(task)
    coordinates = of(task.problem.values(ledger.genomes, ledger.errors)[0])

    def quality(rows: NDArray[np.int64]) -> float:
        return hypervolume(np.maximum(coordinates[rows], 0.0), of.reference)

    kept = reported_front(task, ledger, 12)
    rng = np.random.default_rng(0)
    assert len(whole) > 40 and len(set(kept.tolist())) == 12 and set(kept) < set(whole)
    assert np.all(np.diff(ledger.errors[kept]) >= 0) and kept[0] == whole[0]
    assert quality(kept) > max(quality(rng.choice(whole, 12, replace=False)) for _ in range(300))
    ledger.estimates = lambda: np.full(len(ledger.errors), 0.5)  # beyond what is of interest: nothing is dominated
    assert len(reported_front(task, ledger, 12)) == 12


def test_a_thinned_front_keeps_its_first_row_and_what_dominates_most() -> None:
    values = np.array([[0.3, 9.0], [0.31, 8.9], [0.4, 2.0], [0.9, 1.9]])
    coordinates = Coordinates.of(additive(0).task(0)).spanning(values)
    spanned = coordinates(values)
    assert spanned.min(axis=0) == pytest.approx(0) and spanned.max(axis=0) == pytest.approx(1)
    assert thinned(coordinates, values, 2).tolist() == [0, 2]
    assert thinned(coordinates, values, 4).tolist() == [0, 1, 2, 3]
