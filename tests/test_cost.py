"""`emomc cost`: what is printed adds up, and is what the models' tables hold."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from emomc import coding
from emomc.cli import main
from emomc.compression.activations import InputQuantizer
from emomc.errors import EmomcError
from emomc.export import Compressor, load, shrink_file
from emomc.hardware import CostAxes, accelerators, load_accelerator
from emomc.network import trace
from emomc.problems.tasks import load_task
from emomc.problems.tasks.networks import mobilenet_v1
from emomc.report.costs import LayerChoice, network_cost
from tests.toys import layer

LAYERS = [layer("first", 12), layer("second", 20), layer("third", 12)]
CHOICES = [LayerChoice(0.5, 8, 0, None, 3000.0), LayerChoice(0.0, 4, 16), LayerChoice(0.9, 2, 0, "CI:CO")]
ZEROS = [0.0, 0.4, 0.7]
PHYSICAL = [name for name in accelerators() if name not in ("published", "emomc-fpga")]


def run(*arguments: object, of: object = "digits") -> str:
    done = CliRunner().invoke(main, ["cost", str(of), *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def total(text: str) -> float:
    """Joules of the whole network, as the first table shows them."""
    number, unit = re.findall(r"│ all .* (\S+) ([nµm]?J) │$", text, re.MULTILINE)[0]
    return float(number) * {"nJ": 1e-9, "µJ": 1e-6, "mJ": 1e-3, "J": 1.0}[unit]


def inputs_of(module: torch.nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """What each layer with quantized inputs is fed with, rounded."""
    fed: dict[str, torch.Tensor] = {}
    for name, part in module.named_modules():
        if isinstance(part, InputQuantizer):
            part.register_forward_hook(lambda _, inputs, output, name=name: fed.update({name: output}))
    module(images)
    return {name.rpartition(".")[0]: output for name, output in fed.items()}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Half of all input channels gone, 4-bit weights, 8-bit maps; the same shrunk."""
    pytest.importorskip("torch_pruning", reason="shrinking is an extra")
    large, small = (tmp_path_factory.mktemp("files") / name for name in ("large.emomc", "small.emomc"))
    wanted = {"*": {"granularity": "channel", "prune_ratio": 0.5, "bit_width": 4, "activation_bits": 8}}
    Compressor(load_task("digits")).compress(wanted, large, method="magnitude", split="validation")
    shrink_file(large, small)
    return large, small


@pytest.mark.parametrize("name", accelerators())
def test_items_add_up_to_the_tables_entry_exactly(name: str) -> None:
    model = load_accelerator(name)
    cost = network_cost(model, LAYERS, CHOICES, 16, ZEROS)
    for row, choice, zeros in zip(cost.layers, CHOICES, ZEROS, strict=True):
        coded = None if choice.coded_bits is None else np.full((1, 1, 1, 1), choice.coded_bits)
        axes = CostAxes(
            [choice.prune_ratio], [choice.bit_width], [choice.shared_values], (row.dataflow,), coded, 16, [zeros]
        )
        tables = {metric: float(values.item()) for metric, values in model.tables([row.layer], axes).items()}
        assert reduce(add, row.items.values()) == row.metrics["energy"] == tables["energy"]
        assert row.metrics == tables
        assert sum(row.levels.values()) == pytest.approx(tables["energy"], rel=1e-12)
    assert cost.metrics["energy"] == sum(row.metrics["energy"] for row in cost.layers)
    assert sum(cost.levels.values()) == pytest.approx(cost.metrics["energy"], rel=1e-12)
    if "peak_memory" in cost.metrics:
        assert cost.metrics["peak_memory"] == max(row.metrics["peak_memory"] for row in cost.layers)


@pytest.mark.parametrize("name", PHYSICAL)
def test_a_layer_without_dataflow_runs_on_the_best(name: str) -> None:
    model = load_accelerator(name)
    first, _, third = network_cost(model, LAYERS, CHOICES).layers
    assert first.energies[first.dataflow] == min(first.energies.values()) == first.metrics["energy"]
    assert third.dataflow == "CI:CO" and third.metrics["energy"] == third.energies["CI:CO"]
    assert 0 < (third.utilization or 0) <= 1


@pytest.mark.parametrize("name", PHYSICAL)
def test_the_array_is_as_busy_as_its_layers_weighed_by_their_time(name: str) -> None:
    cost = network_cost(load_accelerator(name), LAYERS, CHOICES)
    macs, busy = zip(*((row.layer.macs, row.utilization) for row in cost.layers), strict=True)
    assert cost.utilization == pytest.approx(
        sum(macs) / sum(count / share for count, share in zip(macs, busy, strict=True))
    )


def test_a_dataflow_that_is_not_offered_is_refused() -> None:
    with pytest.raises(EmomcError, match="FY:Y"):
        network_cost(load_accelerator("published"), LAYERS, [LayerChoice(dataflow="FY:Y")] * 3)


def test_detail_of_one_accelerator() -> None:
    text = run("--accelerator", "edge-systolic", "--bits", 8, "--activation-bits", 8)
    assert max(map(len, text.splitlines())) <= 110
    shown = re.findall(r"│ all .* (\S+ \S+J) │$", text, re.MULTILINE)
    assert len(shown) == 2 and shown[0] == shown[1]
    for column in ("dram", "off chip", "time", "memory", "PEs busy"):
        assert column in text


def test_fewer_activation_bits_cost_less() -> None:
    wide, narrow = (run("--accelerator", "edge-systolic", "--bits", 8, "--activation-bits", bits) for bits in (16, 8))
    energies = [float(re.findall(r"│ all .* (\S+) µJ │$", text, re.MULTILINE)[0]) for text in (wide, narrow)]
    assert energies[1] < energies[0]


def test_two_accelerators_side_by_side_with_a_figure(tmp_path: Path) -> None:
    """Each column holds what the accelerator's own table shows; the figure is a PNG of some size."""
    figure = tmp_path / "cost.png"
    names = ("eyeriss-65nm", "edge-systolic")
    text = run("--accelerator", names[0], "--accelerator", names[1], "--dataflow", "X:Y", "--plot", figure)
    both = re.search(r"│ all +│ +(\S+ \S+) │ +│ +(\S+ \S+) │ +│$", text, re.MULTILINE)
    assert both is not None
    for name, shown in zip(names, both.groups(), strict=True):
        alone = re.search(r"│ all .* (\S+ \S+J) │$", run("--accelerator", name, "--dataflow", "X:Y"), re.MULTILINE)
        assert alone is not None and alone[1] == shown
    assert figure.read_bytes().startswith(b"\x89PNG") and figure.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--accelerator", "eyeris-65nm"], "eyeriss-65nm"),
        (["--dataflow", "X:YY"], "Did you mean 'X:Y'"),
        (["--activation-bits", "17"], "at most 16 bits"),
        (["--accelerator", "npu-coded", "--bits", "16"], "multiplies"),
    ],
)
def test_mistakes_are_named(arguments: list[str], expected: str) -> None:
    done = CliRunner().invoke(main, ["cost", "digits", *arguments], catch_exceptions=False)
    assert done.exit_code == 2 and expected in done.stderr


@pytest.mark.parametrize("name", ["published", "npu-coded", "eyeriss-65nm"])
def test_a_file_costs_what_its_layers_hold(name: str, files: tuple[Path, Path]) -> None:
    """Of either file, against the model asked layer by layer about what a decoded layer is fed with and holds."""
    model, images = load_accelerator(name), load_task("digits").splits.calibration.inputs[:64]
    flow, totals = model.dataflows[0], []
    for path in files:
        module, file = load(path), coding.read_network(path)
        fed = inputs_of(module, images)
        expected = 0.0
        for each in trace(module, images[:1]).layers:
            weight = file.tensor(each.name).integers
            running = each.with_inputs(int(weight.any(axis=(0, *range(2, weight.ndim))).sum()))
            expected += sum(
                model.breakdown(
                    running,
                    1 - np.count_nonzero(weight) / running.weight_count,
                    4,
                    0,
                    flow,
                    coded_bits=8 * len(file.blobs[each.name]),
                    activation_bits=8,
                    input_sparsity=float((fed[each.weight.removesuffix(".weight")] == 0).double().mean()),
                ).values()
            )
        totals.append(total(run("--accelerator", name, "--dataflow", flow, of=path)))
        assert totals[-1] == pytest.approx(expected, rel=5e-3)
    assert totals[1] < 0.8 * totals[0]


def test_a_file_beside_accelerators_with_a_figure_and_the_dense_network(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    names = ("--accelerator", "published", "--accelerator", "edge-systolic")
    dense = [line for line in run(*names).splitlines() if line.startswith("The dense network")]
    for path in files:
        text = run(*names, "--plot", tmp_path / "cost.png", of=path)
        assert [line for line in text.splitlines() if line.startswith("The dense network")] == dense
        assert str(path) in text and "off chip" in text and "Feature maps count as full" not in text
        assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")


def test_zeros_of_a_file_are_measured_where_its_task_is_known(tmp_path: Path) -> None:
    """A file of one's own task, whose network is in the file: without the task no zeros are counted."""
    own = replace(load_task("digits"), name="mine", factory=None)
    made = Compressor(own).compress("w8", tmp_path / "mine.emomc", method="magnitude", split="validation")
    flow = ("--accelerator", "eyeriss-65nm", "--dataflow", "FY:Y")
    full, counted = run(*flow, of=made.path), run(*flow, "--task", "digits", of=made.path)
    assert "Feature maps count as full" in full and "Feature maps count as full" not in counted
    assert total(counted) < total(full)


def test_what_does_not_go_with_a_file_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    for arguments, expected in (
        ([files[0], "--bits", "8"], "--bits, --point and --run go with a task"),
        (["digits", "--task", "digits"], "--task goes with a file"),
        ([tmp_path / "nowhere.emomc"], "nowhere.emomc"),
    ):
        done = CliRunner().invoke(main, ["cost", *map(str, arguments)], catch_exceptions=False)
        assert done.exit_code == 2 and expected in done.stderr


def test_mobilenet_has_the_published_layers() -> None:
    """Howard et al. 2017, table 1: 13 depthwise and 13 pointwise layers; 1000 classes and 4.2 M weights there."""
    network = trace(mobilenet_v1().eval(), torch.zeros(1, 3, 32, 32))
    depthwise = [each for each in network.layers if each.calls[0].G > 1]
    assert (len(network.layers), len(depthwise)) == (28, 13)
    widths = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    pointwise = sum(before * after for before, after in itertools.pairwise(widths))
    assert network.weight_count == 3 * 32 * 9 + 9 * sum(widths[:-1]) + pointwise + 1024 * 10
    assert network.layers[-2].calls[0].OX == 2
