"""What others say about the same layers: figures beside those of the accelerator models.

Published measurements of Eyeriss, access counts on which Timeloop 2.0 and ZigZag 3.9.1 agree, and, where it is
installed (``pip install emomc[zigzag]``), ZigZag itself on a layer.
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import emomc
from emomc.benchmarks import eyeriss

COUNTS = ("weight_reads", "input_reads", "psum_reads", "psum_writes")
ORDERS = {
    "X:Y": ("FX", "FY", "C", "K"),
    "FX:FY": ("OX", "OY", "C", "K"),
    "X:FX": ("FY", "C", "OY", "K"),
    "CI:CO": ("OX", "OY", "FX", "FY", "C", "K"),
}
"""The order of loops, innermost first, that the golden counts belong to."""

SMALL = emomc.LoopBounds(1, 1, 8, 8, 8, 8, 3, 3, 10, 10)
CONV3_2 = emomc.LoopBounds(1, 1, 256, 256, 8, 8, 3, 3, 10, 10)
GOLDEN = (  # layer, dataflow, side of the array, counts in the order of COUNTS
    (SMALL, "X:Y", 8, (576, 36864, 0, 512)),
    (SMALL, "FX:FY", 8, (576, 36864, 3584, 4096)),
    (SMALL, "X:FX", 8, (4608, 15360, 0, 512)),
    (SMALL, "CI:CO", 4, (576, 9216, 8704, 9216)),
    (CONV3_2, "X:Y", 8, (589824, 37748736, 0, 16384)),
    (CONV3_2, "FX:FY", 8, (589824, 37748736, 4177920, 4194304)),
    (CONV3_2, "X:FX", 8, (4718592, 15728640, 0, 16384)),
    (CONV3_2, "CI:CO", 16, (589824, 2359296, 2342912, 2359296)),
)
"""Words at the buffer, one register per operand, no padding: counted by Timeloop 2.0 and, in its terms, by ZigZag."""


def golden_counts() -> list[dict[str, Any]]:
    """Our counts beside the golden ones."""
    rows = []
    for call, flow, side, counts in GOLDEN:
        ours = emomc.array_accesses(call, flow, side, side, ORDERS[flow])
        found = [ours[name] for name in COUNTS]
        layer = f"{call.K}x{call.C}, {call.OY}x{call.OX}, {call.FY}x{call.FX}"
        rows.append({"layer": layer, "dataflow": flow, "array": [side, side], "ours": found, "golden": list(counts)})
    return rows


def _chip(layer: emomc.Layer, row: eyeriss.Measured) -> dict[str, Any]:
    model = emomc.load_accelerator("eyeriss-65nm")
    assert isinstance(model, emomc.PhysicalModel)
    axes = emomc.CostAxes([0.0], [16], [0], ("FY:Y",), input_sparsity=[row.zeros])
    items = {name: value.item() for name, value in model.itemize([layer], axes).items()}
    on_chip = sum(energy for name, energy in items.items() if not name.startswith("dram"))
    buffer = sum(energy for name, energy in items.items() if name.startswith("buffer"))
    return {
        "layer": row.layer,
        "gigamacs": layer.macs / 1e9,
        "published_gigamacs": row.gigamacs,
        "dram_mb": model.tables([layer], axes)["traffic"].item() / 2**20,
        "published_dram_mb": row.dram_mb,
        "dense_least_mb": model.least_traffic(layer, 16) / 2**20,
        "buffer_mb": buffer / model.accelerator.buffer.read / 8 / 2**20,
        "published_buffer_mb": row.buffer_mb,
        "picojoules_per_mac": 1e12 * on_chip / layer.macs,
        "published_picojoules_per_mac": row.picojoules_per_mac,
    }


def _figure_10(name: str) -> dict[str, Any]:
    """Off-chip energy with a buffer of 128 KB, 16-bit words everywhere and nothing else that costs energy."""
    base = emomc.load_accelerator("eyeriss-65nm")
    assert isinstance(base, emomc.PhysicalModel)
    chip = base.accelerator
    free = replace(chip.register, read=0.0, write=0.0)
    device = replace(
        chip, register=free, buffer=replace(free, bandwidth=chip.buffer.bandwidth), buffer_bits=128 * 8192, hop=0.0,
        dram=replace(chip.dram, read=200 / 16, write=200 / 16), run_bits=None, leakage=0.0,
        mac=replace(chip.mac, constant=0.0, linear=0.0, product=0.0),
    )  # fmt: skip
    macs, dram = eyeriss.FIGURE_10[name]
    layer = eyeriss.alexnet(name, eyeriss.FIGURE_10_BATCH)
    axes = emomc.CostAxes([0.0], [16], [0], ("FY:Y",))
    ours = emomc.PhysicalModel(device).tables([layer], axes)["energy"].item() / 1e9
    return {
        "layer": name,
        "gigamacs": layer.macs / 1e9,
        "published_gigamacs": macs,
        "dram": ours,
        "published_dram": dram,
    }


def eyeriss_rows() -> dict[str, list[dict[str, Any]]]:
    """The chip's measurements, and the energies of its simulated predecessor, each beside ours."""
    return {
        "alexnet": [_chip(eyeriss.alexnet(row.layer, eyeriss.ALEXNET_BATCH), row) for row in eyeriss.ALEXNET],
        "vgg16": [_chip(eyeriss.vgg16(row.layer, eyeriss.VGG16_BATCH), row) for row in eyeriss.VGG16],
        "figure_10": [_figure_10(name) for name in eyeriss.FIGURE_10],
    }


def common_ground(model: emomc.PhysicalModel, bits: int) -> emomc.PhysicalModel:
    """An accelerator of which both models count the same: what ZigZag has no number for costs nothing here.

    PEs have registers of one word, the buffer holds whole layers; interconnect, leakage, zeros and codes are left out.
    Memories are read in words of eight bits, since ZigZag rounds accesses up to words.
    """
    chip = model.accelerator
    weights, maps = chip.weight_width(bits), chip.activation_width(bits)
    none = emomc.Sparsity.NONE
    return emomc.PhysicalModel(
        replace(
            chip, registers=replace(chip.registers, weight=1, input=1, psum=1), buffer_bits=8 * 10**8,
            weight_widths=(weights,), activation_widths=(maps,), hop=0.0, leakage=0.0, decode=None, run_bits=None,
            weight_sparsity=none, activation_sparsity=none, index_bits=0.0,
            buffer=replace(chip.buffer, bandwidth=8.0), dram=replace(chip.dram, bandwidth=8.0),
        )
    )  # fmt: skip


def one_group(layer: emomc.Layer) -> tuple[emomc.Layer, int]:
    """One of a layer's groups as a layer, since ZigZag keeps groups apart in its own way; and how many there are."""
    call = layer.calls[0]
    k = call.K
    return replace(layer, calls=(replace(call, G=1),), weight_shape=(k, *layer.weight_shape[1:])), call.G


def beside_zigzag(
    model: emomc.PhysicalModel, layer: emomc.Layer, flow: str, bits: int, search: int = 0
) -> dict[str, Any]:
    """Energy of one layer and what its array reads from the buffer, ours and ZigZag's.

    Args:
        model: a model on common ground.
        layer: its first call counts.
        flow: the dataflow.
        bits: width of weights and maps.
        search: loops that ZigZag's own search for a mapping may permute (``lpf_limit``); 0: it takes our mapping.
    """
    part, groups = one_group(layer)
    return {"layer": layer.name, "dataflow": flow} | _compared(model, part.calls[0], flow, bits, groups, search)


@cache
def _compared(
    model: emomc.PhysicalModel, call: emomc.LoopBounds, flow: str, bits: int, groups: int, search: int
) -> dict[str, Any]:
    layer = emomc.Layer("layer", "conv", "weight", (call.K, call.C, call.FY, call.FX), (call,))
    device = model.accelerator
    items = model.breakdown(layer, 0.0, bits, 0, flow, activation_bits=bits)
    (plan,) = model.plan(layer, 0.0, bits, 0, flow, activation_bits=bits)
    inputs = emomc.to_zigzag(layer, device, flow, plan.mapping, device.weight_widths[0], device.activation_widths[0])
    if search:
        for mapping in inputs.mapping:
            del mapping["temporal_ordering"]
    energy, words = _zigzag(inputs, search)
    ours = emomc.array_accesses(call, flow, device.rows, device.columns, plan.mapping.order)
    return {
        "joules": groups * sum(items.values()),
        "zigzag_joules": groups * energy,
        "energy_ratio": energy / sum(items.values()),
        "weight_reads": groups * ours["weight_reads"],
        "zigzag_weight_reads": groups * words["W"] * 8 / device.weight_widths[0],
        "input_reads": groups * ours["input_reads"],
        "zigzag_input_reads": groups * words["I"] * 8 / device.activation_widths[0],
    }


def _zigzag(inputs: Any, search: int) -> tuple[float, dict[str, float]]:
    """Joules, and words of eight bits that the array reads from the buffer, by operand."""
    zigzag = import_module("zigzag.api")  # an optional extra
    logging.disable(logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory() as folder:
            paths = inputs.write(Path(folder))
            energy, _, evaluations = zigzag.get_hardware_performance_zigzag(
                *(str(paths[name]) for name in ("workload", "accelerator", "mapping")),
                opt="energy",
                dump_folder=f"{folder}/out",
                lpf_limit=search or 6,
                loma_show_progress_bar=False,
            )
    finally:
        logging.disable(logging.NOTSET)
    counts = evaluations[0][0].memory_word_access
    words = {
        str(operand): next(n for kind, n in levels[1].data.items() if str(kind.value) == "rd_out_to_low")
        for operand, levels in counts.items()
    }
    return float(energy) * 1e-12, words
