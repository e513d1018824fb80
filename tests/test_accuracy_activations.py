"""Zeros in layers' inputs, against hooks that count them, and their way into the costs of a session."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from emomc.accuracy import ZERO_IMAGES, input_sparsity
from emomc.errors import EmomcError
from emomc.hardware import CostAxes, load_accelerator
from emomc.network import trace
from emomc.problems.tasks import load_task
from emomc.run import Options, Session

INPUTS = torch.randn(5, 3, 9, 9, generator=torch.Generator().manual_seed(3)).clamp(min=-0.4).add(0.4)


class Shared(nn.Module):
    """One convolution called twice on different maps, a functional linear operator, and grouped channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.again = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.weight = nn.Parameter(torch.randn(2, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.first(x))
        x = functional.relu(self.again(functional.max_pool2d(x, 2)))
        x = functional.relu(self.again(x) - 0.5)
        return functional.linear(x.mean((2, 3)), weight=self.weight)


def test_fractions_are_those_that_hooks_count() -> None:
    torch.manual_seed(0)
    module = Shared().eval()
    found = input_sparsity(module, trace(module, INPUTS[:1]), INPUTS)
    seen: dict[str, list[torch.Tensor]] = defaultdict(list)
    for name in ("first", "again"):
        getattr(module, name).register_forward_pre_hook(lambda _, args, name=name: seen[name].append(args[0].flatten()))
    with torch.no_grad():
        module(INPUTS)
    assert [len(maps) for maps in seen.values()] == [1, 2]
    expected = [float((torch.cat(seen[name]) == 0).double().mean()) for name in ("first", "again")]
    assert found[:2] == pytest.approx(expected, abs=1e-12)
    assert 0.2 < found[0] < 0.5, "noise cut off at -0.4"
    assert found.shape == (3,)


def test_a_layer_that_is_not_called_is_named() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
    network = trace(module, INPUTS[:1])
    module.forward = module[0].forward  # type: ignore[method-assign]
    with pytest.raises(EmomcError, match="'2' is not called"):
        input_sparsity(module, network, INPUTS)


def test_nothing_is_changed_and_threads_do_not_matter() -> None:
    task = load_task("digits")
    network = trace(task.module, task.example_input)
    before = {name: tensor.clone() for name, tensor in task.module.state_dict().items()}
    images, _ = next(task.splits.calibration.batches(ZERO_IMAGES))
    threads = torch.get_num_threads()
    found = input_sparsity(task.module, network, images)
    torch.set_num_threads(2)
    try:
        assert np.array_equal(found, input_sparsity(task.module, network, images))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(before[name], tensor) for name, tensor in task.module.state_dict().items())


@pytest.mark.parametrize("accelerator", ["published", "generic-45nm"])
def test_a_session_charges_measured_zeros(accelerator: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Tables are those of the measured fractions; the published model knows no zeros of maps."""
    genes = {"prune_ratio": (0.0, 0.5), "bit_width": (8, 4), "shared_values": (0,)}
    options = Options("digits", accelerator=accelerator, dataflows=("X:Y",), genes=genes, budget=1)
    with Session(tmp_path, options, workers=1) as session:
        table, layers = session.costs.tables["energy"], session.network.layers
        images, _ = next(session.task.splits.calibration.batches(ZERO_IMAGES))
        zeros = input_sparsity(session.task.module, session.network, images)
        coded, density = session.bank.sizes * 8, session.bank.densities
    model = load_accelerator(accelerator)

    def energy(zeros: np.ndarray | None) -> np.ndarray:  # type: ignore[type-arg]
        axes = CostAxes([0.0, 0.5], [8, 4], [0], ("X:Y",), coded, 16, zeros, density)
        return model.tables(layers, axes)["energy"]

    assert np.array_equal(table, energy(zeros))
    assert zeros.max() > 0.3, "inputs behind a rectifier"
    assert np.array_equal(table, energy(None)) == (accelerator == "published")
