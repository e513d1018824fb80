"""The `emomc` command as a user meets it: real searches on digits."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from emomc.cli import main
from emomc.cli.progress import shown_progress

LAYERS = ("stem.0", "depthwise.0", "pointwise.0", "residual1.0", "residual2.0", "head.0", "linear")
GENES = ("prune_ratio", "bit_width", "shared_values", "dataflow")
SEARCH = ("search", "digits", "--budget", "16", "--workers", "1")


def good(*arguments: object) -> str:
    """What a command prints that must succeed."""
    done = CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def refused(*arguments: object, code: int = 2) -> str:
    """The message of a command that must fail, and not with an exception."""
    done = CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done.stderr


def fresh(*arguments: object, **environment: str) -> str:
    """What a command prints in a process of its own."""
    program = [sys.executable, "-m", "emomc", *map(str, arguments)]
    own = {**os.environ, **environment}
    return subprocess.run(program, capture_output=True, text=True, check=True, timeout=200, env=own).stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder in which one search has been made; `runs/digits` is its run."""
    folder = tmp_path_factory.mktemp("home")
    before = Path.cwd()
    os.chdir(folder)
    try:
        (folder / "searched.txt").write_text(good(*SEARCH))
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(scope="module")
def run(home) -> Path:
    return home / "runs" / "digits"


def rows(run: Path, name: str = "front.csv") -> list[dict[str, str]]:
    with (run / name).open(newline="") as stream:
        return list(csv.DictReader(stream))


# --- help ---


def test_help_loads_no_heavy_library():
    heavy = ("torch", "pymoo", "matplotlib", "sklearn", "scipy", "joblib")
    program = (
        "import sys; from click.testing import CliRunner; from emomc.cli import main; "
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0; "
        "assert all(CliRunner().invoke(main, [name, '--help']).exit_code == 0 for name in main.commands); "
        f"print(*[name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_command_is_explained_with_an_example():
    overview = good("--help")
    for name in ("tasks", "search", "compress", "show", "plot", "pick", "export", "verify", "cost", "salvage"):
        assert re.search(rf"^  {name} ", overview, re.MULTILINE)
        if name != "tasks":
            assert f"  emomc {name} " in good(name, "--help")


def test_tasks_are_listed_with_their_options():
    text = good("tasks")
    assert re.search(r"cifar10-resnet20.*--data --checkpoint --download", text)
    assert "digits" in text


# --- what a search leaves ---


def test_front_has_the_promised_columns(run):
    head = (run / "front.csv").read_text().splitlines()[0].split(",")
    assert head[:6] == ["point", "error", "standard_error", "energy_joule", "size_bytes", "file"]
    assert head[-len(LAYERS) * len(GENES) :] == [f"{layer}.{gene}" for layer in LAYERS for gene in GENES]


def test_sizes_are_the_bytes_on_disk(run):
    assert rows(run)
    for row in rows(run):
        assert (run / row["file"]).stat().st_size == float(row["size_bytes"])


def test_points_are_distinct_and_in_order_of_their_error_while_searching(run):
    front = rows(run)
    assert [row["point"] for row in front] == [f"p{number:02d}" for number in range(len(front))]
    errors = [float(row["selection_error"]) for row in front]
    assert errors == sorted(errors)
    choices = [tuple(row[f"{layer}.{gene}"] for layer in LAYERS for gene in GENES) for row in front]
    assert len(set(choices)) == len(choices)


def test_search_prints_the_front_the_figures_and_what_comes_next(home, run):
    text = (home / "searched.txt").read_text()
    for row in rows(run):
        assert re.search(rf"{row['point']}.*{100 * float(row['error']):.2f} %.*{row['file']}", text)
    assert "Kendall's tau" in text and "for 16 evaluations" in text and "emomc export" in text
    named = re.search(r"Figures: (.*?\.png)\n?Next", text, re.DOTALL)
    assert named and all((home / path.strip()).is_file() for path in named[1].split(","))


def test_what_comes_next_can_be_pasted_where_the_folder_has_spaces(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("--budget", "2", "--workers", "1", "--method", "magnitude")
    assert "emomc pick 'a b' --max-loss" in good("search", "digits", *options, "--run", "a b")


def test_a_terminal_without_a_micro_sign_shows_the_rest(run):
    shown = fresh("show", run, PYTHONIOENCODING="ascii")
    assert re.search(r"dense .* [\d.]+ \?J", shown) and "p00" in shown


def test_ratios_are_against_the_dense_network(run):
    text, reference = good("show", run), json.loads((run / "summary.json").read_text())["reference"]
    assert reference["size"] == 4 * 21226  # weights, biases and what batch normalisation keeps
    for row in rows(run):
        energy, size = reference["energy"] / float(row["energy_joule"]), reference["size"] / float(row["size_bytes"])
        assert re.search(rf"{row['point']}.* {energy:.1f} x .* {size:.1f} x ", text)


def test_repeating_a_finished_search_changes_nothing(run):
    before = (run / "front.csv").read_bytes()
    good(*SEARCH, "--run", run)
    assert (run / "front.csv").read_bytes() == before


def test_plot_writes_where_it_is_told(run, tmp_path):
    written = good("plot", run, "--out", tmp_path / "figures").split()
    assert [Path(path).name for path in written] == ["front.png", "choices.png", "hypervolume.png", "predictions.png"]
    assert all(Path(path).is_file() for path in written)


# --- choosing ---


def picked(text: str) -> str:
    return re.search(r"^point +(\w+)", text, re.MULTILINE)[1]


def test_pick_keeps_to_a_budget_and_is_best_in_the_rest(run):
    by_size = sorted(rows(run), key=lambda row: float(row["size_bytes"]))
    limit = float(by_size[len(by_size) // 2]["size_bytes"])
    dense = json.loads((run / "summary.json").read_text())["dense_selection"]["error"]
    text = good("pick", run, "--max-size", f"{limit:.0f}B", "--max-energy", "1J")
    fitting = [row for row in by_size if float(row["size_bytes"]) <= limit]
    chosen = next(row for row in rows(run) if row["point"] == picked(text))
    assert chosen in fitting
    best = min(max(float(row["estimated_error"]), dense) for row in fitting)  # less than the dense error is no loss
    assert max(float(chosen["estimated_error"]), dense) == best
    assert chosen["file"] in text


def test_pick_says_what_to_relax(run):
    smallest = min(rows(run), key=lambda row: float(row["size_bytes"]))
    text = refused("pick", run, "--max-size", "100B")
    suggestion = re.search(r"--max-size (\S+) instead of 100B \((\w+)\)", text)
    assert suggestion and suggestion[2] == smallest["point"]
    assert picked(good("pick", run, "--max-size", suggestion[1])) == smallest["point"]


# --- files ---


def test_an_exported_file_gives_the_reported_error_in_a_fresh_process(run, tmp_path):
    point, out = rows(run)[0]["point"], tmp_path / "digits.emomc"
    good("export", run, point, "--out", out)
    text = fresh("verify", run, point, "--file", out)
    assert f"({rows(run)[0]['error']})" in text and "as reported" in text


def test_verify_notices_another_file(run):
    front = rows(run)
    other = next(row for row in front if row["error"] != front[0]["error"])
    text = refused("verify", run, front[0]["point"], "--file", run / other["file"], code=1)
    assert front[0]["point"] in text


def test_a_file_alone_is_verified_and_exported(run, tmp_path):
    file = run / rows(run)[0]["file"]
    text = good("verify", file)
    assert f"({rows(run)[0]['error']})" in text and "encoded again: the same values in" in text
    assert f"{file.stat().st_size} bytes, task digits" in text
    good("export", file, "--out", tmp_path / "digits.pt", "--to", "state-dict")
    assert (tmp_path / "digits.pt").stat().st_size > file.stat().st_size
    assert "has no point 'p00'" in refused("export", file, "p00", "--out", tmp_path / "x.emomc")
    assert f"such as {picked(good('pick', run))}:" in refused("export", run, "--out", tmp_path / "x.emomc")


def test_a_damaged_file_is_not_verified(run, tmp_path):
    data = bytearray((run / rows(run)[0]["file"]).read_bytes())
    data[-1] ^= 1
    (tmp_path / "damaged.emomc").write_bytes(data)
    assert "checksum" in refused("verify", tmp_path / "damaged.emomc")


def test_what_is_damaged_is_named_and_all_else_is_checked(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    damaged, missing = (copy / rows(run)[row]["file"] for row in (0, 1))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    missing.unlink()
    done = CliRunner().invoke(main, ["verify", str(copy)])
    assert done.exit_code == 1
    text = done.output
    names = [row["point"] for row in rows(run)]
    assert f"{names[0]}, {names[1]} of {len(names)} checked differ" in text
    assert text.count("writes the file anew") == 2 and text.count("as reported") == len(names) - 2
    out = tmp_path / "out.emomc"
    assert "checksum" in refused("export", copy, names[0], "--out", out)
    assert not out.exists()
    assert "is what is exported" in refused("export", copy, names[2], "--out", copy / rows(run)[2]["file"], "--force")
    good(*SEARCH, "--run", copy)
    assert "as reported" in good("verify", copy)


def test_a_table_in_a_pipe_keeps_its_rows_whole(run, monkeypatch):
    monkeypatch.setattr("emomc.cli.output._WIDTH_OF_FILES", 60)
    text = good("show", run)
    for row in rows(run):
        assert re.search(rf"{row['point']}.* [nµ]?J .* k?B .*{row['file']}", text)
    assert "…" not in text


def test_export_does_not_replace_a_file_unasked(run, tmp_path):
    out = tmp_path / "kept.emomc"
    out.write_text("precious")
    assert "--force" in refused("export", run, "p00", "--out", out)
    assert out.read_text() == "precious"
    good("export", run, "p00", "--out", out, "--force")
    assert out.read_bytes() == (run / rows(run)[0]["file"]).read_bytes()


def test_cost_of_a_point_is_that_of_the_front(run):
    row = rows(run)[0]
    text = good("cost", "digits", "--run", run, "--point", row["point"])
    value = float(row["energy_joule"]) * 1e6
    shown = [float(total) for total in re.findall(r"│ all .* (\S+) µJ │$", text, re.MULTILINE)]
    assert len(shown) == 2 and shown == pytest.approx([value, value], rel=5e-3)


def test_the_file_of_a_point_costs_what_the_point_costs(run):
    row = rows(run)[0]
    flow = ("--dataflow", "X:Y")
    of_file, of_point = (
        good("cost", run / row["file"], *flow),
        good("cost", "digits", "--point", "p00", "--run", run, *flow),
    )
    assert re.findall(r"│ all .*", of_file) == re.findall(r"│ all .*", of_point)
    assert re.findall("The dense .*", of_file) == re.findall("The dense .*", of_point)


# --- bad input ---


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["search", "digitz"], "Did you mean 'digits'"),
        (["search", "digits", "--objective", "enrgy"], "Did you mean 'energy'"),
        (["search", "digits", "--strategy", "two-stag"], "Did you mean 'two-stage'"),
        (["search", "digits", "--accelerator", "publishd"], "Did you mean 'published'"),
        (["search", "digits", "--constraint", "size<=100kJ"], "constraint 'size<=100kJ'"),
        (["search", "digits", "--max-loss", "5"], "0.5%"),
        (["search", "digits", "--gene", "bits=8"], "bit_width"),
        (["search", "digits", "--gene", "bit_width=1,2"], "expected 2 to 16"),
        (["search", "digits", "--gene", "activation_bits=9"], "expected 2 to 8, or 16"),
        (["search", "digits", "--activation-bits", "eight"], "expected 2 to 8, or 16"),
        (["search", "digits", "--data", "somewhere"], "Its options: checkpoint"),
        (["search", "digits", "--constraint", "latency<=1ms"], "'published' does not tell 'latency'"),
        (["search", "digits", "--objective", "error", "--objective", "idle"], "'published' does not tell 'idle'"),
        (["search", "digits", "--gene", "dataflow=X:YY"], "Did you mean 'X:Y'"),
        (["search", "digits", "--constraint", "energy<=2µJ", "--gene", "bit_width=1"], "expected 2 to 16"),
        (["cost", "digits", "--bits", "8", "--point", "p03"], "--bits is of a dense network"),
        (["cost", "digits", "--run", "nowhere"], "--run goes with --point"),
        (["compress", "digits", "--config", "w4", "--run", "nowhere", "--out", "x"], "--run goes with --point"),
        (["show", "nowhere"], "emomc search TASK --run nowhere"),
        (["pick", "nowhere", "--max-size", "big"], "such as 100kB"),
        (["salvage", "nowhere"], "no store"),
    ],
)
def test_mistakes_are_answered_with_what_to_do(arguments, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert expected in refused(*arguments)


def test_a_mistaken_option_leaves_the_folder_free(tmp_path):
    assert "Did you mean 'X:Y'" in refused(*SEARCH, "--run", tmp_path, "--dataflow", "X:YY")
    assert not (tmp_path / "run.json").exists()


def test_a_search_that_had_no_time_says_so_and_has_nothing_to_export(tmp_path):
    quick = ["--method", "magnitude", "--gene", "bit_width=8", "--gene", "shared_values=0", "--minutes", "1e-9"]
    told = good(*SEARCH, *quick, "--run", tmp_path / "run")
    assert "No network was measured in the time" in told and "--max-loss" not in told
    assert "in the time" in refused("export", tmp_path / "run", "--out", tmp_path / "never.emomc")
    assert "in the time" in refused(*SEARCH, *quick, "--recover", "1steps", "--run", tmp_path / "recovered")


def test_a_folder_of_other_options_is_refused(run):
    assert "seed 0, now it is 1. Choose another folder with --run" in refused(*SEARCH, "--run", run, "--seed", "1")


def test_unknown_points_are_refused(run):
    assert "Did you mean" in refused("export", run, "p0", "--out", "never.emomc")


def test_a_damaged_store_is_named_and_can_be_salvaged(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    data = bytearray((copy / "store.sqlite").read_bytes())
    data[-4096:] = bytes(4096)
    (copy / "store.sqlite").write_bytes(data)
    assert "emomc salvage" in refused(*SEARCH, "--run", copy)
    saved = int(good("salvage", copy).split()[0])
    assert saved > 0
    good(*SEARCH, "--run", copy)
    assert (copy / "front.csv").read_bytes() == (run / "front.csv").read_bytes()


@pytest.mark.slow
def test_ctrl_c_tells_what_is_kept_and_the_repeated_search_ends_the_same(run, tmp_path):
    """The signal comes once the search has measured something; a machine too fast for it fails the test."""
    # A shell's background jobs, and whatever they start, ignore the signal unless told otherwise.
    listening = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code = listening + "from emomc.cli import main; main()"
    program = [sys.executable, "-c", code, *SEARCH, "--run", str(tmp_path)]
    process = subprocess.Popen(program, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("probing"):
            process.send_signal(signal.SIGINT)
            break
    message = process.stderr.read()
    assert process.wait() == 130
    assert "Traceback" not in message
    assert re.search(rf"(\d+) measurements? (is|are) kept in {re.escape(str(tmp_path))}. Repeat the command", message)
    assert not (tmp_path / "front.csv").exists()
    good(*SEARCH, "--run", tmp_path)
    assert (tmp_path / "front.csv").read_bytes() == (run / "front.csv").read_bytes()


def test_without_standard_streams_progress_is_told_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, None)
    with shown_progress(2) as tell:
        tell("searching", 1, 2)
