"""What the words that a layer moves cost: energy by item, off-chip bytes, and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from emomc.hardware.accelerator import Accelerator, Sparsity
from emomc.hardware.accesses import Accesses
from emomc.hardware.dataflow import Unrolling
from emomc.hardware.interface import Array, total
from emomc.hardware.tiled import tiled_cycles
from emomc.hardware.tiling import Schedule

ITEMS = (
    "mac",
    "register weight",
    "register input",
    "register psum",
    "network",
    "buffer weight",
    "buffer input",
    "buffer psum",
    "buffer fill",
    "dram weight",
    "dram input",
    "dram psum",
    "dram output",
    "decode",
    "leakage",
)
"""Items of a layer's energy; the first word is the level."""


@dataclass(frozen=True, eq=False)
class Operands:
    """Widths and densities of a layer's operands under each choice.

    Attributes:
        keep: (P,) fraction of nonzero weights.
        weight_bits: (Q,) width on chip.
        coded_bits: (n, P, Q, S) off-chip bits per weight for n layers of one shape; None: stored as used on chip.
        activation_bits: width of feature maps.
        activation_keep: fraction of nonzero inputs.
    """

    keep: Array
    weight_bits: Array
    coded_bits: Array | None
    activation_bits: int
    activation_keep: float


@dataclass(frozen=True, eq=False)
class Charges:
    """Costs under each choice: arrays (n, P, Q, S) or, with dataflows, (n, P, Q, S, D)."""

    items: dict[str, Array]  # joules
    traffic: Array  # bytes
    latency: Array  # seconds

    def __add__(self, other: Charges) -> Charges:
        """One after the other."""
        items = {name: value + other.items[name] for name, value in self.items.items()}
        return Charges(items, self.traffic + other.traffic, self.latency + other.latency)

    def row(self, position: int) -> Charges:
        """Those of one of the n layers; an axis of length 1 holds for all."""
        one = {name: value[min(position, len(value) - 1)] for name, value in self.items.items()}
        at = min(position, len(self.traffic) - 1)
        return Charges(one, self.traffic[at], self.latency[at])

    @staticmethod
    def join(dataflows: Sequence[Charges]) -> Charges:
        """Adds the last axis, D."""
        return _stack(dataflows, -1)

    @staticmethod
    def stack(layers: Sequence[Charges]) -> Charges:
        """Adds the first axis, L."""
        return _stack(layers, 0)


def _stack(charges: Sequence[Charges], axis: int) -> Charges:
    def together(arrays: list[Array]) -> Array:
        return np.stack(np.broadcast_arrays(*arrays), axis=axis)

    items = {name: together([one.items[name] for one in charges]) for name in ITEMS}
    return Charges(items, together([one.traffic for one in charges]), together([one.latency for one in charges]))


def charge(
    device: Accelerator,
    unrolling: Unrolling,
    schedules: Sequence[Schedule],
    accesses: Sequence[Accesses],
    operands: Operands,
) -> Charges:
    """Costs of one layer call, each (n, P, Q, S), under the schedule and mapping of least energy for each entry.

    Leakage is charged for the time that results; it does not take part in the choice.

    Args:
        device: the accelerator.
        unrolling: the call on its array.
        schedules: s ways to tile the call, at least one of which fits.
        accesses: for each schedule, the accesses of m mappings of its tiles.
        operands: widths and densities.
    """
    on_chip = _mapped(device, unrolling, schedules, accesses, operands)
    off_chip, dram_bits = _off_chip(device, schedules, operands)
    chosen = total(on_chip.items)[:, None, :, :, None] + total(off_chip)
    buffer = device.tile_buffer(operands.activation_bits)
    fits = np.array([[schedule.fits(buffer, int(bits)) for bits in operands.weight_bits] for schedule in schedules])
    best = np.where(fits[:, None, None, :, None], chosen, np.inf).argmin(axis=0)[None]

    def at_best(values: Array) -> Array:
        spread = np.broadcast_to(values, (len(schedules), *best.shape[1:]))
        one: Array = np.take_along_axis(spread, best, axis=0)[0]
        return one

    items = {name: at_best(value[:, None, :, :, None]) for name, value in on_chip.items.items()}
    items |= {name: at_best(value) for name, value in off_chip.items()}
    moved = at_best(dram_bits)
    cycles = at_best(on_chip.cycles[:, None, :, None, None])
    seconds = _seconds(device, cycles, at_best(on_chip.bits[:, None, :, :, None]), moved)
    items["leakage"] = device.leakage * seconds
    return Charges({name: items[name] for name in ITEMS}, moved / 8, seconds)


def _seconds(device: Accelerator, compute: Array, buffer_bits: Array, dram_bits: Array) -> Array:
    """Time when array and buffer work at once, and off-chip transfers beside them only with two sets of tiles."""
    busy = np.maximum(compute, buffer_bits / device.buffer.bandwidth)
    transfer = dram_bits / device.dram.bandwidth
    together: Array = np.maximum(busy, transfer) if device.double_buffered else busy + transfer
    return together / device.clock


@dataclass(frozen=True, eq=False)
class _OnChip:
    """On-chip costs of s schedules with the best mapping of each."""

    items: dict[str, Array]  # (s, P, Q) joules
    bits: Array  # (s, P, Q) between buffer and array
    cycles: Array  # (s, P) of computation


def _share(density: float | Array, uses: Array) -> Array:
    """Probability that a word is needed whose ``uses`` partners are nonzero with the given density."""
    needed: Array = 1 - (1 - density) ** uses
    return needed


def _mapped(
    device: Accelerator,
    unrolling: Unrolling,
    schedules: Sequence[Schedule],
    accesses: Sequence[Accesses],
    operands: Operands,
) -> _OnChip:
    macs, outputs = unrolling.call.macs, unrolling.call.outputs
    gated_w, skipped_w = _densities(device.weight_sparsity, operands.keep)
    gated_a, skipped_a = _densities(device.activation_sparsity, np.asarray(operands.activation_keep))
    work = (macs * gated_w * gated_a)[:, None]
    w_bits = operands.weight_bits + _index(device, device.weight_sparsity)
    a_bits = operands.activation_bits + _index(device, device.activation_sparsity)

    def counts(name: str) -> Array:  # (s, m, P, Q), to broadcast
        return np.stack([getattr(access, name) for access in accesses]).astype(float)[:, :, None, None]

    density = skipped_w[:, None]
    w_needed = density * _share(skipped_a, macs / counts("weight_reads"))
    a_needed = skipped_a * _share(density, macs / np.maximum(counts("input_reads"), 1))
    o_needed = _share(density * skipped_a, macs / counts("psum_writes"))
    psum_writes = (outputs + (counts("psum_writes") - outputs) * o_needed) * device.psum_bits
    psum_reads = counts("psum_reads") * o_needed * device.psum_bits
    weights, inputs = counts("weight_reads") * w_needed * w_bits, counts("input_reads") * a_needed * a_bits
    w_in, a_in = counts("weight_deliveries") * w_needed * w_bits, counts("input_deliveries") * a_needed * a_bits
    psums_out = counts("psum_deliveries") * o_needed * device.psum_bits
    register, buffer = device.register, device.buffer
    varied = {
        "register weight": work * operands.weight_bits * register.read + w_in * register.write,
        "register input": work * operands.activation_bits * register.read + a_in * register.write,
        "network": (w_in + a_in + psums_out) * device.hop,
        "buffer weight": weights * buffer.read,
        "buffer input": inputs * buffer.read,
        "buffer psum": psum_writes * buffer.write + psum_reads * buffer.read,
    }
    shape = np.broadcast_shapes(*(value.shape for value in varied.values()))
    best = np.broadcast_to(total(varied), shape).argmin(axis=1)[:, None]

    def at_best(values: Array) -> Array:
        return np.take_along_axis(np.broadcast_to(values, shape), best, axis=1)[:, 0]

    width_sum, width_product = (
        operands.activation_bits + operands.weight_bits,
        operands.activation_bits * operands.weight_bits,
    )
    mac = device.mac.constant + device.mac.linear * width_sum + device.mac.product * width_product
    items = {
        "mac": np.broadcast_to(work * mac, (len(accesses), *shape[2:])),
        "register psum": np.broadcast_to(
            work * device.psum_bits * (register.read + register.write), (len(accesses), *shape[2:])
        ),
    }
    items |= {name: at_best(value) for name, value in varied.items()}
    cycles = np.array([float(tiled_cycles(unrolling, schedule.tile)) for schedule in schedules])
    cycles = cycles[:, None] * skipped_w * skipped_a
    return _OnChip(items, at_best(weights + inputs + psum_writes + psum_reads), cycles)


def _densities(sparsity: Sparsity, keep: Array) -> tuple[Array, Array]:
    """Density that multiply-accumulates see, and density that accesses and cycles see."""
    dense = np.ones_like(keep)
    return (dense if sparsity is Sparsity.NONE else keep), (keep if sparsity is Sparsity.SKIPPING else dense)


def _index(device: Accelerator, sparsity: Sparsity) -> float:
    return device.index_bits if sparsity is Sparsity.SKIPPING else 0.0


def _off_chip(device: Accelerator, schedules: Sequence[Schedule], operands: Operands) -> tuple[dict[str, Array], Array]:
    """Joules by item and bits moved off chip, each to broadcast against (s, n, P, Q, S)."""

    def words(name: str) -> Array:
        return np.array([float(getattr(schedule, name)) for schedule in schedules])[:, None, None, None, None]

    _, stored = _densities(device.weight_sparsity, operands.keep)
    on_chip = (stored[:, None] * (operands.weight_bits + _index(device, device.weight_sparsity)))[None, :, :, None]
    coded = on_chip if operands.coded_bits is None else operands.coded_bits
    activation = operands.activation_bits
    weights = words("weights") * coded
    inputs = words("inputs") * coded_activation_bits(activation, operands.activation_keep, device.run_bits)
    spills, outputs = words("spills") * device.psum_bits, words("outputs") * activation
    filled = words("inputs") * activation + words("weights") * on_chip + spills
    drained = spills + words("outputs") * device.psum_bits
    dram, buffer = device.dram, device.buffer
    items = {
        "buffer fill": filled * buffer.write + drained * buffer.read,
        "dram weight": weights * dram.read,
        "dram input": inputs * dram.read,
        "dram psum": spills * (dram.read + dram.write),
        "dram output": outputs * dram.write,
        "decode": weights * (device.decode or 0.0) if operands.coded_bits is not None else 0.0 * weights,
    }
    return items, weights + inputs + 2 * spills + outputs


def coded_activation_bits(width: int, density: float, run_bits: int | None) -> float:
    """Expected bits per word of a map whose zero runs are coded, or its width where that is less.

    Every nonzero value carries a run of up to 2^run_bits - 1 zeros; a longer run needs filler values. With zeros at
    random of fraction z, runs of m = 2^run_bits call for z^m / (1 - z^m) fillers per nonzero value.
    """
    if run_bits is None:
        return width
    longest = float(2**run_bits)
    zeros = 1 - density
    runs = density / (1 - zeros**longest) if density > 0 else 1 / longest
    return min(float(width), runs * (width + run_bits))
