"""Cost tables of a run: every entry is what the stored layer costs, whatever made its weights zero."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from emomc.coding import blob_cost, decode_tensor
from emomc.compression import Bank
from emomc.genome import BIT_WIDTH, CHANNEL, DATAFLOW, GRANULARITY, PRUNE_RATIO, SHARED_VALUES, Gene, SearchSpace
from emomc.hardware import PhysicalModel, load_accelerator
from emomc.network import trace
from emomc.problems import Batch, load_objective
from emomc.run import Options, Session
from emomc.run.tables import cost_tables

KINDS = ("weight", "2:4", CHANNEL)


@pytest.fixture(scope="module")
def module() -> nn.Module:
    torch.manual_seed(0)
    convs = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 16, 1, groups=2)
    return nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.Flatten(), nn.Linear(16 * 36, 5)).eval()


@pytest.mark.parametrize("accelerator", ["published", "generic-45nm", "eyeriss-65nm"])
def test_a_network_costs_what_its_stored_layers_cost(accelerator: str, module: nn.Module, tmp_path: Path) -> None:
    network, model = trace(module, torch.zeros(1, 8, 6, 6)), load_accelerator(accelerator)
    genes = (
        Gene(PRUNE_RATIO, (0.0, 0.4, 0.8)),
        Gene(GRANULARITY, KINDS, ordinal=False),
        Gene(BIT_WIDTH, (8, 2)),
        Gene(SHARED_VALUES, (0, 4)),
        Gene(DATAFLOW, model.dataflows, ordinal=False),
    )
    space = SearchSpace.full([layer.name for layer in network.layers], genes)
    state = module.state_dict()
    bank = Bank.open(tmp_path, {layer.name: state[layer.weight].numpy() for layer in network.layers}, space)
    sparsity = np.array([0.0, 0.3, 0.5])
    costs = cost_tables(bank, network.layers, model, 100.0, sparsity)
    genomes = space.random(25, np.random.default_rng(0))
    found = costs.evaluate(genomes, ["energy", "size"])
    empty = load_objective("idle")(Batch(genomes, costs)) if "slots" in model.metrics else None
    seen = set()
    for number, genome in enumerate(genomes):
        configuration, variants = space.decode(genome), bank.variants_of(genome[None])[0]
        energy, size, slots, macs = 0.0, 100, 0.0, 0
        for index, whole in enumerate(network.layers):
            chosen, layer, blob = configuration.layers[whole.name], whole, bank.blob(index, int(variants[index]))
            integers = decode_tensor(blob, layer.weight_shape).integers
            if chosen[GRANULARITY] == CHANNEL:
                live = integers.reshape(*layer.weight_shape[:2], -1).any(axis=(0, 2))
                assert live.sum() == len(live) - round(float(chosen[PRUNE_RATIO]) * len(live))
                integers, layer = integers[:, live], layer.with_inputs(int(live.sum()))
            seen.add((index, chosen[GRANULARITY]))
            if isinstance(model, PhysicalModel):
                macs, slots = macs + layer.macs, slots + layer.macs / model.utilization(layer, str(chosen[DATAFLOW]))
            items = model.breakdown(
                layer,
                1 - np.count_nonzero(integers) / integers.size,
                int(chosen["bit_width"]),
                int(chosen["shared_values"]),
                str(chosen["dataflow"]),
                coded_bits=8.0 * len(blob),
                input_sparsity=sparsity[index],
            )
            energy, size = energy + sum(items.values()), size + blob_cost(len(blob))
        assert found["energy"][number] == pytest.approx(energy, rel=1e-9)
        assert found["size"][number] == size
        assert empty is None or 0 <= empty[number] == pytest.approx(1 - macs / slots, abs=1e-9)
    assert len(seen) == 9


def test_layers_that_are_too_narrow_keep_single_weights(tmp_path: Path) -> None:
    genes = {"prune_ratio": (0.0, 0.5), "granularity": ("2:4", CHANNEL), "bit_width": (8,), "shared_values": (0,)}
    with Session(tmp_path, Options("digits", genes=genes, budget=1), workers=1) as session:
        column = session.space.column(GRANULARITY)
        choices = session.space.genes[column].choices
        assert choices == KINDS
        for layer, row in zip(session.network.layers, session.space.allowed, strict=True):
            inputs = layer.weight_shape[1]
            expected = ["weight", *(["2:4"] if inputs >= 4 else []), *([CHANNEL] if inputs >= 8 else [])]
            assert [choices[index] for index in row[column]] == expected
        assert any(len(row[column]) == 1 for row in session.space.allowed)
        assert session.sensitivities.shape == (len(session.network.layers), 2, 3, 1, 1, 1)
        (measured,) = session.measure(session.space.random(1, np.random.default_rng(0)))
        assert 0 <= measured.error <= 1
