"""Sessions and searches on the real digits task: files, resuming, workers, custom objectives and bad input."""

from __future__ import annotations

import csv
import itertools
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.moo.sms import SMSEMOA
from pymoo.optimize import minimize

import emomc
from emomc.problems.tasks.cache import cache_folder
from emomc.run import startcache
from emomc.run.outcome import COLUMNS, column_name
from emomc.search import STRATEGIES, Ledger, SearchTask
from emomc.search.two_stage import Schedule, two_stage
from tests.searches import search

BUDGET = 20
OPTIONS = emomc.Options("digits", budget=BUDGET, seed=3, points=6)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, emomc.Outcome]:
    """A finished search with one worker."""
    folder = tmp_path_factory.mktemp("finished")
    with emomc.Session(folder, OPTIONS, workers=1) as session:
        return folder, emomc.run_search(session)


@pytest.fixture
def warm(finished: tuple[Path, emomc.Outcome], tmp_path: Path) -> Path:
    """A new folder with the measurements of the finished search, which other searches of the task may use."""
    shutil.copy(finished[0] / "store.sqlite", tmp_path)
    return tmp_path


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "front.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_sizes_in_the_front_are_bytes_on_disk(finished: tuple[Path, emomc.Outcome]) -> None:
    folder, outcome = finished
    assert len(outcome.points) >= 3
    for point, row in zip(outcome.points, rows(folder), strict=True):
        on_disk = (folder / row["file"]).stat().st_size
        assert on_disk == float(row["size_bytes"]) == point.objectives["size_bytes"]


def test_the_front_is_measured_on_the_test_split(finished: tuple[Path, emomc.Outcome]) -> None:
    _, outcome = finished
    assert {point.measurement.samples for point in outcome.points} == {400}
    assert outcome.dense.samples == 400
    for point in outcome.points:
        assert point.measurement.difference == pytest.approx(point.measurement.error - outcome.dense.error, abs=1e-12)


def test_columns_of_the_front(finished: tuple[Path, emomc.Outcome]) -> None:
    folder, _ = finished
    columns = list(rows(folder)[0])
    assert columns[:6] == ["point", "error", "standard_error", "energy_joule", "size_bytes", "file"]
    assert {"stem.0.prune_ratio", "linear.bit_width", "linear.shared_values", "linear.dataflow"} <= set(columns)


def test_search_spends_its_budget_on_different_networks(finished: tuple[Path, emomc.Outcome]) -> None:
    _, outcome = finished
    assert len(outcome.evaluations) == BUDGET
    hypervolumes = [each.hypervolume for each in outcome.evaluations]
    assert all(0 <= low <= high <= 1 for low, high in itertools.pairwise(hypervolumes))
    assert hypervolumes[-1] > 0.5


@pytest.mark.parametrize("strategy", ["two-stage", "published"])  # the second one predicts nothing
def test_the_front_is_all_that_is_not_beaten_in_error_or_in_what_is_believed(strategy: str, warm: Path) -> None:
    """Against the history: what is measured is on the front, or a network there is no worse, in either sense."""
    kept: list[Ledger] = []

    def keeping(task: SearchTask, ledger: Ledger, seed: int) -> None:
        kept.append(ledger)
        STRATEGIES[strategy](task, ledger, seed)

    with emomc.Session(warm, replace(OPTIONS, points=1000), workers=1) as session:
        outcome = emomc.run_search(session, keeping)
        dense, space = session.dense, session.space
    feasible = [each for each in outcome.evaluations if each.violation <= 0]
    assert feasible
    assert len({each.genome for each in outcome.evaluations}) == BUDGET
    estimates = {}
    if strategy == "two-stage":
        assert kept[0].estimates is not None
        estimates = dict(zip(map(tuple, kept[0].genomes.tolist()), kept[0].estimates(), strict=True))
        least = dense.error + 1 / dense.samples  # losses of less than a sample count as equal
        believed = {each.genome: max(float(estimates[each.genome]), least) for each in feasible}
        assert all(dense.error < each < 1 for each in believed.values())
    else:  # closer networks than any that lost a sample count as equally close
        visible = [e.distance for e in outcome.evaluations if e.error > dense.error + 1.5 / dense.samples]
        believed = {each.genome: max(each.distance, min(visible)) for each in feasible}
    measured = {}
    for each in feasible:
        costs = (each.objectives["energy_joule"], each.objectives["size_bytes"])
        measured[each.genome] = [(each.error, *costs), (believed[each.genome], *costs)]
    decoded = {each.genome: space.decode(np.array(each.genome)) for each in feasible}
    reported = [point.configuration for point in outcome.points]
    front = [seen for genome, seen in measured.items() if decoded[genome] in reported]
    assert len(front) == len(outcome.points)
    named = {repr(decoded[genome]): genome for genome in measured}
    for point in outcome.points:
        genome = named[repr(point.configuration)]
        assert point.selection_error == measured[genome][0][0]
        told = estimates[genome] if strategy == "two-stage" else point.selection_error
        assert point.estimated_error == told
    for sense in (0, 1):  # error, what is believed
        for network in measured.values():
            assert any(all(a <= b for a, b in zip(point[sense], network[sense], strict=True)) for point in front)
    for point in front:
        beaten = [
            any(o[sense] != point[sense] and np.all(np.array(o[sense]) <= point[sense]) for o in measured.values())
            for sense in (0, 1)
        ]
        assert not all(beaten)


@pytest.mark.slow
def test_result_does_not_depend_on_the_number_of_workers(finished: tuple[Path, emomc.Outcome], tmp_path: Path) -> None:
    folder, _ = finished
    for workers in (4, 2):  # the processes of the first run serve the second one
        own = tmp_path / str(workers)
        with emomc.Session(own, OPTIONS, workers=workers) as session:
            known = len(session._store)
            emomc.run_search(session)
            assert len(session._store) >= known + BUDGET  # measured, not found
        for name in ("front.csv", "history.csv"):
            assert (own / name).read_text() == (folder / name).read_text()


def test_a_repeated_search_measures_nothing_again(finished: tuple[Path, emomc.Outcome]) -> None:
    folder, _ = finished
    before = (folder / "front.csv").read_text()
    with emomc.Session(folder, OPTIONS, workers=1) as session:
        count = len(session._store)
        emomc.run_search(session)
        assert len(session._store) == count
    assert (folder / "front.csv").read_text() == before


def test_a_lost_file_is_written_again(finished: tuple[Path, emomc.Outcome]) -> None:
    folder, outcome = finished
    lost = folder / outcome.points[0].file
    content = lost.read_bytes()
    lost.unlink()
    with emomc.Session(folder, OPTIONS, workers=1) as session:
        emomc.run_search(session)
    assert lost.read_bytes() == content


# --- what runs start from ---


def probed(folder: Path, **given: object) -> tuple[int, emomc.Session]:
    """A session that was opened and closed, and how many probes it made itself."""
    told: list[tuple[int, int]] = []

    def tell(what: str, done: int, total: int) -> None:
        if what == "probing layers":
            told.append((done, total))

    session = emomc.Session(folder, **{"options": OPTIONS, "workers": 1, "progress": tell, **given})  # type: ignore[arg-type]
    session.close()
    return told[-1][1] - told[0][0], session


@pytest.fixture
def starts(
    finished: tuple[Path, emomc.Outcome], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Where what runs start from is kept, in a cache that shares everything else; nothing is there yet."""
    folder = tmp_path_factory.mktemp("cache")
    for entry in cache_folder().iterdir():
        if entry.name != "starts":
            (folder / entry.name).symlink_to(entry)
    monkeypatch.setenv("EMOMC_CACHE", str(folder))
    return folder / "starts"


def test_a_second_run_probes_nothing_and_starts_from_the_same(starts: Path, tmp_path: Path) -> None:
    made, first = probed(tmp_path / "first")
    again, second = probed(tmp_path / "second")
    assert made > 40 and again == 0
    assert first.dense == second.dense
    assert np.array_equal(first.sensitivities, second.sensitivities)
    for file in starts.iterdir():  # a damaged one is not used but made again
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    assert probed(tmp_path / "third")[0] == made
    assert probed(tmp_path / "fourth")[0] == 0


@pytest.mark.slow
def test_other_settings_images_or_variants_are_probed_anew(starts: Path, tmp_path: Path) -> None:
    task = emomc.load_task("digits")
    selection = task.splits.selection
    few = emomc.Split(selection.stored[:64], selection.targets[:64], selection.normalisation)
    others: tuple[dict[str, object], ...] = (
        {"settings": emomc.Settings(strengths=(1.0,))},
        {"task": replace(task, splits=replace(task.splits, selection=few))},
        {"options": replace(OPTIONS, genes={"bit_width": (8, 4)})},
    )
    for number, given in enumerate(({}, *others)):
        assert probed(tmp_path / str(number), **given)[0] > 20
    assert probed(tmp_path / "same")[0] == 0


def test_starts_not_used_for_long_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startcache, "KEPT", 3)
    for number in range(4):
        startcache.write_start(tmp_path, [str(number)], {str(number): {"distance": number}})
        for file in tmp_path.iterdir():  # a day passes
            os.utime(file, (file.stat().st_atime, file.stat().st_mtime - 86400))
        assert startcache.read_start(tmp_path, ["0"]) == {"0": {"distance": 0}}
    assert startcache.read_start(tmp_path, ["1"]) == {}
    assert [bool(startcache.read_start(tmp_path, [each])) for each in "0123"] == [True, False, True, True]


def test_an_interrupted_search_keeps_its_history_and_goes_on(
    finished: tuple[Path, emomc.Outcome], tmp_path: Path
) -> None:
    folder, _ = finished

    def interrupt(what: str, done: int, total: int) -> None:
        if what == "searching" and done >= 8:
            raise KeyboardInterrupt

    session = emomc.Session(tmp_path, OPTIONS, workers=1, progress=interrupt)
    with pytest.raises(KeyboardInterrupt), session:
        emomc.run_search(session)
    assert len((tmp_path / "history.csv").read_text().splitlines()) >= 9
    with emomc.Session(tmp_path, OPTIONS, workers=1) as again:
        emomc.run_search(again)
    assert (tmp_path / "front.csv").read_text() == (folder / "front.csv").read_text()


@pytest.mark.slow
def test_killed_five_times_at_random_moments_the_front_is_identical(
    finished: tuple[Path, emomc.Outcome], tmp_path: Path
) -> None:
    """Each search is a process of its own, forked from one that has imported torch, to save that time."""
    folder, _ = finished
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.searches"])
    moments = random.Random(5)
    kills = 0
    for _ in range(40):
        receiver, sender = processes.Pipe(duplex=False)
        process = processes.Process(target=search, args=(str(tmp_path), OPTIONS, sender))
        process.start()
        sender.close()
        assert receiver.recv() == "open"
        if kills < 5:
            process.join(moments.uniform(0.05, 0.6))
            if process.is_alive():
                process.kill()
                kills += 1
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert kills == 5
    assert (tmp_path / "front.csv").read_text() == (folder / "front.csv").read_text()


def test_any_pymoo_algorithm_runs_on_the_measured_problem(warm: Path) -> None:
    with emomc.Session(warm, OPTIONS, workers=1) as session:
        start = session.space.random(6, np.random.default_rng(0))
        algorithm = NSGA2(pop_size=6, sampling=start, **emomc.genome_operators(session.space))
        result = minimize(session.problem, algorithm, ("n_gen", 2), seed=1)
    population = result.pop.get("F")
    assert population.shape[1] == 3
    assert np.isfinite(population).all()


def test_another_pymoo_algorithm_makes_the_rounds_of_a_search(warm: Path) -> None:
    """As docs/search.md shows it."""
    started: list[int] = []

    def smsemoa(initial: np.ndarray, operators: dict[str, object]) -> SMSEMOA:
        started.append(len(initial))
        return SMSEMOA(pop_size=len(initial), sampling=initial, **operators)

    with emomc.Session(warm, replace(OPTIONS, budget=8), workers=1) as session:
        outcome = emomc.run_search(session, partial(two_stage, schedule=Schedule(algorithm=smsemoa, generations=2)))
    assert started and len(outcome.evaluations) == 8 and outcome.points


@emomc.objective("bit_operations", unit="bit")
def bit_operations(batch: emomc.Batch) -> np.ndarray:
    """Bits of the weights that multiplications read."""
    return (batch.macs * batch.values("bit_width") * (1 - batch.values("prune_ratio"))).sum(axis=1)


def test_a_custom_objective_is_searched_and_written(warm: Path) -> None:
    options = replace(OPTIONS, budget=12)
    with emomc.Session(warm, options, objectives=["error", bit_operations], workers=1) as session:
        outcome = emomc.run_search(session)
    values = [point.objectives["bit_operations_bit"] for point in outcome.points]
    assert "bit_operations_bit" in rows(warm)[0]
    errors = [each.error for each in outcome.evaluations]
    assert min(errors) < 0.1
    assert len(set(values)) > 1


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda batch: np.full(len(batch.genomes), np.nan), "must be a finite number"),
        (lambda batch: np.zeros((len(batch.genomes), 2)), "returned an array of shape"),
    ],
)
def test_a_broken_objective_is_named(warm: Path, function: object, message: str) -> None:
    broken = emomc.Objective("broken", "", function)  # type: ignore[arg-type]
    session = emomc.Session(warm, OPTIONS, objectives=["error", broken], workers=1)
    with session, pytest.raises(emomc.EmomcError, match=f"'broken' .*{message}"):
        emomc.run_search(session)


def test_the_columns_of_the_files_are_known(finished: tuple[Path, emomc.Outcome]) -> None:
    for name in ("front.csv", "history.csv"):
        with (finished[0] / name).open(newline="") as stream:
            columns = set(next(csv.reader(stream)))
        assert {each for each in columns if "." not in each} <= COLUMNS


def test_constraints_hold_on_the_front(warm: Path) -> None:
    options = replace(OPTIONS, constraints=("size<=6kB",))
    with emomc.Session(warm, options, workers=1) as session:
        outcome = emomc.run_search(session)
    assert outcome.points
    assert max(point.objectives["size_bytes"] for point in outcome.points) <= 6000


def least_size(finished: tuple[Path, emomc.Outcome]) -> int:
    with emomc.Session(finished[0], OPTIONS, workers=1) as session:
        return math.ceil(session.costs.least("size"))


def test_limits_that_no_network_can_meet_are_refused_before_anything_is_measured(
    finished: tuple[Path, emomc.Outcome], warm: Path
) -> None:
    least = least_size(finished)
    unmet = replace(OPTIONS, constraints=(f"size<={least - 2}B",))
    with pytest.raises(emomc.EmomcError, match=r"size<=\d+B cannot be met: the least .* has is \d+B\. Raise the limit"):
        emomc.Session(warm, unmet, workers=1)
    fitting = replace(OPTIONS, constraints=(f"size<={least}B",))
    with emomc.Session(warm, fitting, workers=1) as session:
        assert session.problem.n_ieq_constr == 2


def test_where_nothing_meets_the_constraints_the_closest_network_tells_by_how_much(
    finished: tuple[Path, emomc.Outcome], warm: Path
) -> None:
    limit = float(least_size(finished))  # met by a network that has lost its accuracy
    options = replace(OPTIONS, budget=10, constraints=(f"size<={limit}B", "energy<=1J"))
    with emomc.Session(warm, options, workers=1) as session:
        outcome = emomc.run_search(session)
    assert not outcome.points and len(outcome.evaluations) == 10
    unmet = {each["constraint"]: each for each in json.loads((warm / "summary.json").read_text())["unmet"]}
    sizes = [entry.objectives["size_bytes"] for entry in outcome.evaluations]
    assert "size" in unmet and "energy" not in unmet
    assert (unmet["size"]["unit"], unmet["size"]["limit"]) == ("B", limit)
    assert any(unmet["size"]["value"] == pytest.approx(size) for size in sizes)
    assert unmet["size"]["value"] < np.median(sizes)


def test_five_objectives_are_searched_together(warm: Path) -> None:
    names = ("error", "energy", "size", "traffic", "latency")
    options = replace(OPTIONS, budget=16, accelerator="generic-45nm", objectives=names)
    with emomc.Session(warm, options, workers=1) as session:
        outcome = emomc.run_search(session)
    assert len(outcome.evaluations) == 16 and outcome.points
    wanted = {column_name("traffic", "B"), column_name("latency", "s")}
    assert wanted <= set(outcome.points[0].objectives)


def test_a_budget_in_minutes_ends_the_search(warm: Path) -> None:
    with emomc.Session(warm, replace(OPTIONS, minutes=0.0), workers=1) as session:
        outcome = emomc.run_search(session)
    assert outcome.evaluations == ()
    assert outcome.points == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, "seed 3, now it is 4"),
        ({"max_loss": 0.2}, "max_loss 0.1"),
        ({"method": "published", "genes": {"shared_values": (0,)}}, "Choose another folder"),
    ],
)
def test_a_folder_of_another_run_is_refused(
    finished: tuple[Path, emomc.Outcome], change: dict[str, object], message: str
) -> None:
    folder, _ = finished
    with pytest.raises(emomc.EmomcError, match=message):
        emomc.Session(folder, replace(OPTIONS, **change), workers=1)  # type: ignore[arg-type]


def test_a_folder_of_other_weights_is_refused(finished: tuple[Path, emomc.Outcome]) -> None:
    folder, _ = finished
    task = emomc.load_task("digits")
    task.module.linear.bias.data += 0.5  # type: ignore[union-attr, operator]
    with pytest.raises(emomc.EmomcError, match="other weights, data or error"):
        emomc.Session(folder, OPTIONS, task=task, workers=1)


def test_a_folder_in_use_is_refused(finished: tuple[Path, emomc.Outcome]) -> None:
    folder, _ = finished
    with emomc.Session(folder, OPTIONS, workers=1), pytest.raises(emomc.EmomcError, match="in use by another process"):
        emomc.Session(folder, OPTIONS, workers=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "digit"}, "Did you mean 'digits'"),
        ({"accelerator": "publishd"}, "published"),
        ({"dataflows": ("X:X",)}, "X:Y"),
        ({"objectives": ("error", "enrgy")}, "Did you mean 'energy'"),
        ({"method": "magnitud"}, "Did you mean 'magnitude'"),
        ({"genes": {"bits": (4,)}}, "unknown gene 'bits'"),
        ({"constraints": ("size<=6uJ",)}, "size is in B, not in J"),
    ],
)
def test_unknown_names_suggest_the_nearest(warm: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(emomc.EmomcError, match=message):
        emomc.Session(warm, replace(OPTIONS, **change), workers=1).close()  # type: ignore[arg-type]
