"""The physical model beside what the Eyeriss publications report. Tolerances say how far the model goes, and why.

The chip folds small filters several times over its rows and keeps several images of a batch in a tile; the model
unrolls two loops and tiles one image. The chip codes zero runs of inputs and outputs off chip; the model knows the
zeros of inputs only.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from emomc.hardware import CostAxes, load_accelerator
from emomc.hardware.accelerator import Memory
from emomc.hardware.physical import PhysicalModel
from emomc.hardware.tiling import Buffer, best_schedules
from emomc.network.layers import Layer, LoopBounds


def alexnet(name: str, batch: int) -> Layer:
    k, c, out, taps, size, stride, pad, groups = {
        "conv1": (96, 3, 55, 11, 227, 4, 0, 1),
        "conv2": (256, 96, 27, 5, 27, 1, 2, 2),
        "conv3": (384, 256, 13, 3, 13, 1, 1, 1),
        "conv4": (384, 384, 13, 3, 13, 1, 1, 2),
        "conv5": (256, 384, 13, 3, 13, 1, 1, 2),
        "fc1": (4096, 256, 1, 6, 6, 1, 0, 1),
        "fc2": (4096, 4096, 1, 1, 1, 1, 0, 1),
        "fc3": (1000, 4096, 1, 1, 1, 1, 0, 1),
    }[name]
    call = LoopBounds(
        batch, groups, k // groups, c // groups, out, out, taps, taps, size, size, (stride, stride), (pad, pad)
    )
    return Layer(name, "conv", f"{name}.weight", (k, c // groups, taps, taps), (call,))


@pytest.mark.parametrize(
    ("name", "gigamacs", "dram", "low", "high"),
    [  # ISCA 2016, Fig. 10: batch 16, 128 KB, 16-bit words, a word off chip costs 200 MACs
        ("conv1", 1.69, 2.46, 0.6, 1.0),
        ("conv2", 3.58, 2.27, 0.75, 1.0),
        ("conv3", 2.39, 2.02, 0.9, 1.1),
        ("conv4", 1.79, 1.57, 0.9, 1.1),
        ("conv5", 1.20, 1.05, 0.9, 1.1),
        ("fc1", 0.60, 7.78, 1.0, 1.2),
        ("fc2", 0.27, 3.39, 1.0, 1.2),
        ("fc3", 0.07, 0.84, 1.0, 1.2),
    ],
)
def test_off_chip_energy_of_figure_10(name: str, gigamacs: float, dram: float, low: float, high: float) -> None:
    """Our search finds less for large images and, keeping one image a tile, up to 20 % more for linear layers."""
    call = alexnet(name, 16).calls[0]
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


@pytest.mark.parametrize(
    ("name", "zeros", "chip", "buffer", "dram"),
    [  # JSSC 2017, Table V: batch 4; pJ per MAC on chip, MB at the buffer, MB off chip
        ("conv1", 0.0001, 16.5, 18.5, 5.0),
        ("conv2", 0.387, 13.5, 77.6, 4.0),
        ("conv3", 0.725, 10.5, 50.2, 3.0),
        ("conv4", 0.793, 9.6, 37.4, 2.1),
        ("conv5", 0.776, 8.3, 24.9, 1.3),
    ],
)
def test_measured_alexnet(name: str, zeros: float, chip: float, buffer: float, dram: float) -> None:
    """Within a factor of two of the measured chip for each layer, at the buffer, off chip, and in energy."""
    model = load_accelerator("eyeriss-65nm")
    assert isinstance(model, PhysicalModel)
    layer = alexnet(name, 4)
    axes = CostAxes([0.0], [16], [0], ("FY:Y",), input_sparsity=[zeros])
    items = {item: value.item() for item, value in model.itemize([layer], axes).items()}
    on_chip = sum(energy for item, energy in items.items() if not item.startswith("dram"))
    assert 0.5 < on_chip / layer.macs / (chip * 1e-12) < 2
    words = sum(energy for item, energy in items.items() if item.startswith("buffer")) / model.accelerator.buffer.read
    assert 0.5 < words / 8 / 2**20 / buffer < 2.05
    traffic = model.tables([layer], axes)["traffic"].item()
    assert 0.5 < traffic / 2**20 / dram < 2
