"""The physical model beside what the Eyeriss publications report. Tolerances say how far the model goes, and why.

The chip folds small filters several times over its rows and keeps several images of a batch in a tile; the model
unrolls two loops and tiles one image. The chip codes zero runs of inputs and outputs off chip; the model knows the
zeros of inputs only.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kendalltau

from emomc.benchmarks.eyeriss import (
    ALEXNET,
    ALEXNET_BATCH,
    FIGURE_10,
    FIGURE_10_BATCH,
    VGG16,
    VGG16_BATCH,
    Measured,
    alexnet,
    vgg16,
)
from emomc.hardware import CostAxes, load_accelerator
from emomc.hardware.accelerator import Memory
from emomc.hardware.physical import PhysicalModel
from emomc.hardware.tiling import Buffer, best_schedules


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("conv1", 0.6, 1.0),
        ("conv2", 0.75, 1.0),
        ("conv3", 0.9, 1.1),
        ("conv4", 0.9, 1.1),
        ("conv5", 0.9, 1.1),
        ("fc1", 1.0, 1.2),
        ("fc2", 1.0, 1.2),
        ("fc3", 1.0, 1.2),
    ],
)
def test_off_chip_energy_of_figure_10(name: str, low: float, high: float) -> None:
    """Batch 16, 128 KB, 16-bit words; a word off chip costs 200 multiply-accumulates.

    Our search finds less for large images and, keeping one image a tile, up to 20 % more for linear layers.
    """
    gigamacs, dram = FIGURE_10[name]
    call = alexnet(name, FIGURE_10_BATCH).calls[0]
    assert round(call.macs / 1e9, 2) == gigamacs
    schedules = best_schedules(call, Buffer(128 * 8192, 16, 16, False), (16,))
    words = min(s.inputs + s.weights + 2 * s.spills + s.outputs for s in schedules)
    assert low <= words * 200 / 1e9 / dram <= high


def test_registers_are_used_four_times_per_multiplication() -> None:
    """Figure 10's register energy is four times its arithmetic: three operands read and one partial sum written."""
    model = load_accelerator("eyeriss-65nm")
    assert isinstance(model, PhysicalModel)
    layer = alexnet("conv3", 1)
    axes = CostAxes([0.0], [16], [0], ("FY:Y",))
    uses = []
    for read, write in ((1.0, 0.0), (0.0, 1.0)):
        device = replace(model.accelerator, register=Memory(read, write, np.inf))
        items = PhysicalModel(device).itemize([layer], axes)
        uses.append({name: value.item() / 16 for name, value in items.items() if name.startswith("register")})
    assert sum(uses[0].values()) == 3 * layer.macs
    assert uses[1]["register psum"] == layer.macs


@pytest.mark.parametrize("row", ALEXNET, ids=lambda row: row.layer)
def test_measured_alexnet(row: Measured) -> None:
    """Within a factor of two of the measured chip for each layer, at the buffer, off chip, and in energy."""
    model = load_accelerator("eyeriss-65nm")
    assert isinstance(model, PhysicalModel)
    layer = alexnet(row.layer, ALEXNET_BATCH)
    assert round(layer.macs / 1e9, 2) == row.gigamacs
    axes = CostAxes([0.0], [16], [0], ("FY:Y",), input_sparsity=[row.zeros])
    items = {item: value.item() for item, value in model.itemize([layer], axes).items()}
    on_chip = sum(energy for item, energy in items.items() if not item.startswith("dram"))
    assert 0.5 < on_chip / layer.macs / (row.picojoules_per_mac * 1e-12) < 2
    words = sum(energy for item, energy in items.items() if item.startswith("buffer")) / model.accelerator.buffer.read
    assert 0.5 < words / 8 / 2**20 / row.buffer_mb < 2.05
    traffic = model.tables([layer], axes)["traffic"].item()
    assert 0.5 < traffic / 2**20 / row.dram_mb < 2


def test_measured_vgg16() -> None:
    """Table VI: multiply-accumulates, off-chip bytes of all layers within 15 %, of each within 2.2 times, their order.

    The last three layers have small maps and many weights: the chip keeps the three images of a batch in its buffer and
    fetches weights once, the model tiles one image and fetches them for each. The publication does not tell enough to
    reproduce time and buffer accesses of this table.
    """
    model = load_accelerator("eyeriss-65nm")
    layers = [vgg16(row.layer, VGG16_BATCH) for row in VGG16]
    assert [round(layer.macs / 1e9, 2) for layer in layers] == [row.gigamacs for row in VGG16]
    axes = CostAxes([0.0], [16], [0], ("FY:Y",), input_sparsity=[row.zeros for row in VGG16])
    ours = model.tables(layers, axes)["traffic"].ravel() / 2**20
    measured = np.array([row.dram_mb for row in VGG16])
    assert measured.sum() == pytest.approx(321.1, abs=0.3)  # the table rounds
    assert 0.85 < ours.sum() / measured.sum() < 1.15
    assert np.all((ours / measured > 0.65) & (ours / measured < 2.2))
    assert kendalltau(ours, measured).statistic > 0.7
