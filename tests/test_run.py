"""Sessions and searches on the real digits task: files, resuming, workers, custom objectives and bad input."""

from __future__ import annotations

import csv
import itertools
import json
import math
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.optimize import minimize

import emomc
from emomc.run.outcome import column_name

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


def test_result_does_not_depend_on_the_number_of_workers(finished: tuple[Path, emomc.Outcome], tmp_path: Path) -> None:
    folder, _ = finished
    with emomc.Session(tmp_path, OPTIONS, workers=2) as session:
        emomc.run_search(session)
    for name in ("front.csv", "history.csv"):
        assert (tmp_path / name).read_text() == (folder / name).read_text()


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


SCRIPT = """
import sys
from pathlib import Path
import emomc
from emomc.run.outcome import column_name
options = emomc.Options("digits", budget=20, seed=3, points=6)
with emomc.Session(sys.argv[1], options, workers=2) as session:
    print("open", flush=True)
    emomc.run_search(session)
"""


@pytest.mark.slow
def test_killed_five_times_at_random_moments_the_front_is_identical(
    finished: tuple[Path, emomc.Outcome], tmp_path: Path
) -> None:
    folder, _ = finished
    moments = random.Random(5)
    kills = 0
    for _ in range(40):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        if kills < 5:
            time.sleep(moments.uniform(0.05, 0.6))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
        if process.wait() == 0:
            break
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
    with pytest.raises(emomc.EmomcError, match="other weights or data"):
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
