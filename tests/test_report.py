"""Reading a run folder, choosing a point, numbers for people, and figures."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from emomc.cli import main
from emomc.errors import EmomcError
from emomc.problems import parse_constraint
from emomc.report import ENERGY, LOSS, SIZE, best_within, front_table, knee, percent, plot_run, points, read_run, si
from emomc.report.figures.choices import mildest_first
from emomc.report.figures.front import lowest_so_far
from emomc.report.figures.style import log_ticks
from emomc.report.table import search_facts

GENES = ("prune_ratio", "bit_width", "shared_values", "dataflow")


def write_run(folder: Path, costs: list[tuple[float, float, float]], layers: int = 3, predicted: bool = True) -> Path:
    """A run folder with points of the given (selection error, energy, size); the dense network's error is 0.1."""
    names = [f"block{number}.conv" for number in range(layers)]
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"task": "made-up"}))
    summary = {
        "task": "made-up",
        "accelerator": "published",
        "dense_test": {"error": 0.11, "samples": 1000},
        "dense_selection": {"error": 0.1},
        "reference": {"energy": 1e-3, "size": 1e6},
        "objectives": ["error", "energy", "size", "bit_operations"],
        "rank_correlation": 0.8 if predicted else math.nan,
        "evaluations": 12,
        "points": len(costs),
        "layers": names,
        "genes": list(GENES),
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    choices = itertools.cycle([("0.0", "16", "0", "X:Y"), ("0.9", "2", "4", "CI:CO"), ("0.5", "8", "32", "X:FX")])
    front = [
        {
            "point": f"p{number:02d}",
            "error": error + 0.01,
            "standard_error": 0.002,
            "energy_joule": energy,
            "size_bytes": size,
            "file": f"points/{number}.emomc",
            "difference": error - 0.1,
            "selection_error": error,
            "bit_operations_bit": 1e6,
            **{f"{name}.{gene}": value for name in names for gene, value in zip(GENES, next(choices), strict=True)},
        }
        for number, (error, energy, size) in enumerate(costs)
    ]
    history = [
        {
            "evaluation": number + 1,
            "stage": "prune" if number < 4 else "quantize",
            "round": 1,
            "predicted_error": 0.1 + 0.01 * number if predicted else math.nan,
            "error": 0.1 + 0.012 * number,
            "hypervolume": number / 12,
        }
        for number in range(12)
    ]
    for name, content in (("front.csv", front), ("history.csv", history)):
        with (folder / name).open("w", newline="") as stream:
            if content:
                writer = csv.DictWriter(stream, list(content[0]))
                writer.writeheader()
                writer.writerows(content)
    return folder


FRONT = [(0.100, 5e-5, 9e4), (0.101, 3e-5, 8e4), (0.104, 2e-5, 3e4), (0.12, 1.5e-5, 2.5e4), (0.19, 1.4e-5, 2.4e4)]


@pytest.fixture
def run(tmp_path):
    return read_run(write_run(tmp_path / "run", FRONT))


# --- reading ---


def test_what_was_written_is_read(run):
    point = run.points[2]
    assert (point.name, point.file) == ("p02", "points/2.emomc")
    assert (point.error, point.selection_error, point.loss) == (0.104 + 0.01, 0.104, 0.104 - 0.1)
    assert list(point.costs) == [ENERGY, SIZE, "bit_operations_bit"]
    assert point.costs[SIZE] == 3e4
    assert list(point.genes) == ["block0.conv", "block1.conv", "block2.conv"]
    assert run.points[0].genes["block1.conv"] == dict(zip(GENES, ("0.9", "2", "4", "CI:CO"), strict=True))
    assert run.name_and_unit("bit_operations_bit") == ("bit_operations", "bit")
    assert run.name_and_unit(SIZE) == ("size", "B")
    assert (run.reference(SIZE), run.reference("bit_operations_bit")) == (1e6, None)


def test_an_objective_whose_name_goes_on_from_another_is_told_from_it(run):
    own = {**run.summary, "objectives": ["error", "size", "size_ratio", "error_plus"]}
    found = replace(run, summary=own)
    assert found.name_and_unit("size_ratio") == ("size_ratio", "")
    assert found.name_and_unit("error_plus_s") == ("error_plus", "s")
    assert (found.reference(SIZE), found.reference("size_ratio")) == (1e6, None)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("front.csv", "point,error\np00,0.1\n"),
        ("history.csv", "evaluation,stage\none,prune\n"),
        ("summary.json", "{}"),
        ("summary.json", "{"),
        ("run.json", "[]"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, text):
    folder = write_run(tmp_path / "run", FRONT)
    (folder / name).write_text(text)
    with pytest.raises(EmomcError, match=name.replace(".", r"\.")):
        read_run(folder)


@pytest.mark.parametrize("error", [-0.1, math.nan])
def test_a_dense_error_that_is_no_fraction_is_damage(tmp_path, error):
    folder = write_run(tmp_path / "run", FRONT)
    summary = json.loads((folder / "summary.json").read_text())
    summary["dense_selection"]["error"] = error
    (folder / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(EmomcError, match="expected fractions"):
        read_run(folder)


def test_a_front_that_lost_rows_is_not_shown_as_if_it_were_whole(tmp_path):
    folder = write_run(tmp_path / "run", FRONT)
    whole = (folder / "front.csv").read_text()
    (folder / "front.csv").write_text(whole[: whole.rindex("\n", 0, -1) + 1])
    with pytest.raises(EmomcError, match=rf"{len(FRONT) - 1} points in front.csv, expected {len(FRONT)}.*Repeat"):
        read_run(folder)


@pytest.mark.parametrize("name", ["front.csv", "history.csv", "summary.json"])
def test_an_unfinished_run_is_told_apart(tmp_path, name):
    folder = write_run(tmp_path / "run", FRONT)
    (folder / name).unlink()
    with pytest.raises(EmomcError, match="not finished"):
        read_run(folder)


# --- choosing ---


def test_the_knee_is_where_nothing_is_far_from_the_best(run):
    assert knee(run).name == "p02"


def test_a_point_that_was_lucky_is_not_chosen_for_it(tmp_path):
    """p04 was measured to lose nothing more than p03 does; it is estimated to lose far more."""
    front = [*FRONT[:4], (FRONT[3][0], 1.4e-5, 2.4e4)]
    folder = write_run(tmp_path / "run", front)
    measured = read_run(folder)
    assert best_within(measured, {LOSS: 0.03}).name == "p04"
    assert not any("predicted" in fact for fact in search_facts(measured) if fact.startswith("Knee"))
    with (folder / "front.csv").open(newline="") as stream:
        written = list(csv.DictReader(stream))
    for row, (error, *_) in zip(written, FRONT, strict=True):
        row["estimated_error"] = str(error)
    with (folder / "front.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(written[0]))
        writer.writeheader()
        writer.writerows(written)
    run = read_run(folder)
    assert "estimated_error" not in run.cost_columns
    assert [point.estimated_error for point in run.points] == [error for error, *_ in FRONT]
    assert best_within(run, {LOSS: 0.03}).name == "p03"
    assert any("predicted" in fact for fact in search_facts(run) if fact.startswith("Knee"))


@given(
    st.lists(
        st.tuples(st.floats(0.1, 0.2), st.floats(1e-6, 1e-4), st.integers(1000, 100_000).map(float)),
        min_size=1,
        max_size=8,
        unique=True,
    ),
    st.data(),
)
def test_the_best_within_budgets_is_what_brute_force_finds(tmp_path_factory, costs, data):
    run = read_run(write_run(tmp_path_factory.mktemp("runs") / "run", costs))
    error, energy = data.draw(st.sampled_from(costs))[0], data.draw(st.sampled_from(costs))[1]
    limits = {LOSS: error - 0.1, ENERGY: energy, "bit_operations_bit": 2e6}
    fitting = [cost for cost in costs if cost[0] - 0.1 <= error - 0.1 and cost[1] <= energy]
    if fitting:
        assert best_within(run, limits).costs[SIZE] == min(size for *_, size in fitting)
    else:
        with pytest.raises(EmomcError, match="no point keeps to"):
            best_within(run, limits)


def test_what_to_relax_can_be_typed_back(run):
    with pytest.raises(EmomcError) as caught:
        best_within(run, {LOSS: 0.0005, ENERGY: 2.5e-5})
    lines = str(caught.value).splitlines()[1:]
    assert lines == [
        "  --max-loss 0.40% instead of 0.05% (p02)",
        "  --max-energy 50.0uJ instead of 25.0uJ (p00)",
    ]
    assert best_within(run, {LOSS: 0.0040, ENERGY: 2.5e-5}).name == "p02"


def test_any_objective_of_the_search_can_be_limited_by_command(run):
    def pick(*options: str) -> str:
        done = CliRunner().invoke(main, ["pick", str(run.folder), *options])
        return done.stdout if done.exit_code == 0 else done.stderr

    assert "p02" in pick("--max", "bit_operations=1Mbit", "--max-loss", "0.5%")
    refused = pick("--max", "bit_operations=0.5Mbit")
    suggested = re.search(r"--max (bit_operations=\S+) instead of", refused)
    assert suggested, refused
    assert "point" in pick("--max", suggested[1])
    assert "Did you mean 'bit_operations'" in pick("--max", "bit_operation=3")
    assert "write a number in bit" in pick("--max", "bit_operations=3J")


def test_an_empty_front_says_so(tmp_path):
    run = read_run(write_run(tmp_path / "run", []))
    with pytest.raises(EmomcError, match=r"front of .* is empty"):
        knee(run)
    assert [path.name for path in plot_run(run)] == ["front.png", "hypervolume.png", "predictions.png"]


# --- numbers and tables ---


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (2.024e-5, "J", "20.2 µJ"),
        (7159.0, "B", "7.16 kB"),
        (999.6e-9, "J", "1.00 µJ"),
        (999.4e-9, "J", "999 nJ"),
        (512.0, "B", "512 B"),
        (3e-15, "J", "0.00300 pJ"),
        (0.0, "J", "0.00 J"),
        (40.5e6, "", "40.5 M"),
        (0.9082, "", "0.908"),
        (-0.0529, "", "-0.0529"),
    ],
)
def test_numbers_carry_three_digits_and_a_prefix(value, unit, text):
    assert si(value, unit) == text


@given(st.floats(1e-12, 1e13), st.sampled_from([("size", "B"), ("energy", "J"), ("latency", "s")]))
def test_what_is_written_is_read_as_a_limit(value, objective):
    """Bytes below 1000 are written whole."""
    name, unit = objective
    limit = parse_constraint(f"{name}<={si(value, unit)}").limit
    assert limit == pytest.approx(value, rel=0.006) or (unit == "B" and abs(limit - value) <= 0.5)


@given(st.floats(1e-12, 1e14))
def test_a_printed_number_is_within_half_a_percent(value):
    number, symbol = si(value, "J").split()
    factor = {"p": 1e-12, "n": 1e-9, "µ": 1e-6, "m": 1e-3, "": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    assert float(number) * factor[symbol[:-1]] == pytest.approx(value, rel=5.1e-3)


def test_errors_are_percentages_and_losses_points():
    assert percent(0.0827) == "8.27 %"
    assert points(-0.0005, 0.0012) == "-0.05 ± 0.12"


def test_the_table_states_ratios_of_totals(run):
    out = io.StringIO()
    Console(file=out, width=200).print(front_table(run))
    row = next(line for line in out.getvalue().splitlines() if "p02" in line)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells == [
        "p02 knee", "11.40 %", "+0.40 ± 0.20", "20.0 µJ", "50.0 x", "30.0 kB", "33.3 x", "1.00 Mbit", "points/2.emomc"
    ]  # fmt: skip


def test_a_narrow_table_leaves_out_the_files_alone(run):
    out = io.StringIO()
    Console(file=out, width=95).print(front_table(run, files=False))
    assert "p02 knee" in out.getvalue() and "33.3 x" in out.getvalue() and "points/" not in out.getvalue()


# --- figures ---


@given(st.floats(1e-12, 1e9), st.floats(1.2, 1e9))
def test_ticks_lie_in_range_in_order_and_are_few(low, ratio):
    ticks = log_ticks(low, low * ratio)
    assert ticks == sorted(set(ticks)) and len(ticks) <= 11
    assert all(low <= tick <= low * ratio for tick in ticks)
    assert len(ticks) >= 2 or ratio < 4


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_best_in_two_values_is_what_brute_force_finds(pairs):
    costs, errors = np.array(pairs, dtype=float).T
    expected = [not any(b != a and b[0] <= a[0] and b[1] <= a[1] for b in pairs) for a in pairs]
    assert lowest_so_far(costs, errors).tolist() == expected


def test_choices_go_from_mild_to_aggressive():
    assert mildest_first("prune_ratio", ["0.9", "0.0", "0.5", "0.0"]) == ["0.0", "0.5", "0.9"]
    assert mildest_first("bit_width", ["2", "16", "8"]) == ["16", "8", "2"]
    assert mildest_first("shared_values", ["4", "0", "32"]) == ["0", "32", "4"]
    assert mildest_first("dataflow", ["X:Y", "CI:CO"]) == ["CI:CO", "X:Y"]


@pytest.mark.parametrize(("count", "layers"), [(1, 1), (5, 3), (40, 57)])
def test_figures_are_pictures_with_something_on_them(tmp_path, count, layers):
    costs = [(0.1 + 0.002 * i, 5e-5 * 0.97**i, 9e4 * 0.96**i) for i in range(count)]
    written = plot_run(read_run(write_run(tmp_path / "run", costs, layers)))
    assert [path.name for path in written] == ["front.png", "choices.png", "hypervolume.png", "predictions.png"]
    for path in written:
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            assert 600 <= picture.width <= 4000 and 500 <= picture.height <= 4500
            pixels = np.asarray(picture.convert("L"))
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert (border == 255).all(), f"{path.name} is cut off at its border"
        assert (pixels < 200).mean() > 0.005


def test_without_predictions_none_are_drawn(tmp_path):
    run = read_run(write_run(tmp_path / "run", FRONT, predicted=False))
    assert "predictions.png" not in [path.name for path in plot_run(run)]
