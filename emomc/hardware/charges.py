"""What the words that a layer moves cost: energy by item, off-chip bytes, and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emomc.hardware.accelerator import Accelerator, Sparsity
from emomc.hardware.accesses import Accesses
from emomc.hardware.dataflow import Unrolling
from emomc.hardware.interface import Array, total
from emomc.hardware.tiled import tiled_cycles
from emomc.hardware.tiling import Schedule
from emomc.network.layers import LoopBounds

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
        keep: (n, P, Q, S) fraction of nonzero weights; axes without influence may have length 1.
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
    best = _best_schedule(device, schedules, operands, on_chip, off_chip)[None]

    def at_best(values: Array) -> Array:
        spread = np.broadcast_to(values, (len(schedules), *best.shape[1:]))
        one: Array = np.take_along_axis(spread, best, axis=0)[0]
        return one

    items = {name: at_best(value) for name, value in (on_chip.items | off_chip).items()}
    moved = at_best(dram_bits)
    seconds = _seconds(device, at_best(on_chip.cycles), at_best(on_chip.bits), moved)
    items["leakage"] = device.leakage * seconds
    return Charges({name: items[name] for name in ITEMS}, moved / 8, seconds)


def best_plan(
    device: Accelerator,
    unrolling: Unrolling,
    schedules: Sequence[Schedule],
    accesses: Sequence[Accesses],
    operands: Operands,
) -> tuple[int, int]:
    """Positions of the schedule and the mapping that `charge` takes for operands of a single choice."""
    on_chip = _mapped(device, unrolling, schedules, accesses, operands)
    off_chip, _ = _off_chip(device, schedules, operands)
    schedule = int(_best_schedule(device, schedules, operands, on_chip, off_chip).item())
    return schedule, int(on_chip.mapping[schedule].item())


def _best_schedule(
    device: Accelerator,
    schedules: Sequence[Schedule],
    operands: Operands,
    on_chip: _OnChip,
    off_chip: dict[str, Array],
) -> NDArray[np.int64]:
    """Position of the schedule of least energy, (n, P, Q, S), among those that fit the buffer."""
    energy = total(on_chip.items) + total(off_chip)
    buffer = device.tile_buffer(operands.activation_bits)
    fits = np.array([[schedule.fits(buffer, int(bits)) for bits in operands.weight_bits] for schedule in schedules])
    best: NDArray[np.int64] = np.where(fits[:, None, None, :, None], energy, np.inf).argmin(axis=0)
    return best


def _seconds(device: Accelerator, compute: Array, buffer_bits: Array, dram_bits: Array) -> Array:
    """Time when array and buffer work at once, and off-chip transfers beside them only with two sets of tiles."""
    busy = np.maximum(compute, buffer_bits / device.buffer.bandwidth)
    transfer = dram_bits / device.dram.bandwidth
    together: Array = np.maximum(busy, transfer) if device.double_buffered else busy + transfer
    return together / device.clock


@dataclass(frozen=True, eq=False)
class _OnChip:
    """On-chip costs of s schedules with the best mapping of each, (s, n, P, Q, S) or with length-1 axes."""

    items: dict[str, Array]  # joules
    bits: Array  # between buffer and array
    cycles: Array  # of computation
    mapping: NDArray[np.int64]  # position of the best


def _share(density: float | Array, uses: Array) -> Array:
    """Probability that a word is needed whose ``uses`` partners are nonzero with the given density."""
    needed: Array = 1 - (1 - density) ** uses
    return needed


@dataclass(frozen=True, eq=False)
class _Bits:
    """Bits that m mappings of s schedules move, (s, m, n, P, Q, S) or with length-1 axes: at the buffer, at the PEs."""

    weights: Array
    inputs: Array
    psum_writes: Array
    psum_reads: Array
    weights_in: Array
    inputs_in: Array
    psums_out: Array


def _bits(device: Accelerator, call: LoopBounds, accesses: Sequence[Accesses], operands: Operands) -> _Bits:
    """Bits moved, less those that zeros save where they are skipped. Every output is written at least once."""

    def counts(name: str) -> Array:
        return np.stack([getattr(access, name) for access in accesses]).astype(float)[:, :, None, None, None, None]

    weight = _densities(device.weight_sparsity, operands.keep)[1]
    activation = _densities(device.activation_sparsity, np.asarray(operands.activation_keep))[1]
    w = weight * _share(activation, call.macs / counts("weight_reads"))
    a = activation * _share(weight, call.macs / np.maximum(counts("input_reads"), 1))
    o = _share(weight * activation, call.macs / counts("psum_writes"))
    w_bits = w * (operands.weight_bits[:, None] + _index(device, device.weight_sparsity))
    a_bits = a * (operands.activation_bits + _index(device, device.activation_sparsity))
    return _Bits(
        counts("weight_reads") * w_bits,
        counts("input_reads") * a_bits,
        (call.outputs + (counts("psum_writes") - call.outputs) * o) * device.psum_bits,
        counts("psum_reads") * o * device.psum_bits,
        counts("weight_deliveries") * w_bits,
        counts("input_deliveries") * a_bits,
        counts("psum_deliveries") * o * device.psum_bits,
    )


def _array_items(device: Accelerator, call: LoopBounds, moved: _Bits, operands: Operands) -> dict[str, Array]:
    """Joules by item of the array and of the buffer's side towards it, to broadcast to (s, m, n, P, Q, S)."""
    work = _densities(device.weight_sparsity, operands.keep)[0] * call.macs
    work = work * _densities(device.activation_sparsity, np.asarray(operands.activation_keep))[0]
    ba, bw, register, buffer = operands.activation_bits, operands.weight_bits[:, None], device.register, device.buffer
    mac = device.mac.constant + device.mac.linear * (ba + bw) + device.mac.product * ba * bw
    return {
        "mac": work * mac,
        "register weight": work * bw * register.read + moved.weights_in * register.write,
        "register input": work * ba * register.read + moved.inputs_in * register.write,
        "register psum": work * device.psum_bits * (register.read + register.write),
        "network": (moved.weights_in + moved.inputs_in + moved.psums_out) * device.hop,
        "buffer weight": moved.weights * buffer.read,
        "buffer input": moved.inputs * buffer.read,
        "buffer psum": moved.psum_writes * buffer.write + moved.psum_reads * buffer.read,
    }


def _mapped(
    device: Accelerator,
    unrolling: Unrolling,
    schedules: Sequence[Schedule],
    accesses: Sequence[Accesses],
    operands: Operands,
) -> _OnChip:
    """On-chip costs with the mapping of least energy for each schedule and choice."""
    moved = _bits(device, unrolling.call, accesses, operands)
    items = _array_items(device, unrolling.call, moved, operands)
    shape = np.broadcast_shapes(*(value.shape for value in items.values()))
    best = np.broadcast_to(total(items), shape).argmin(axis=1)

    def at_best(values: Array) -> Array:
        return np.take_along_axis(np.broadcast_to(values, shape), best[:, None], axis=1)[:, 0]

    _, weight = _densities(device.weight_sparsity, operands.keep)
    _, activation = _densities(device.activation_sparsity, np.asarray(operands.activation_keep))
    cycles = np.array([float(tiled_cycles(unrolling, schedule.tile)) for schedule in schedules])
    return _OnChip(
        {name: at_best(value) for name, value in items.items()},
        at_best(moved.weights + moved.inputs + moved.psum_writes + moved.psum_reads),
        cycles[:, None, None, None, None] * weight * activation,
        best,
    )


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

    on_chip = stored_weight_bits(device, operands.keep, operands.weight_bits[:, None])
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


def stored_weight_bits(device: Accelerator, keep: Array, weight_bits: Array) -> Array:
    """Bits per weight where weights are stored as they are used; where zeros are skipped, nonzero ones and indices.

    Args:
        device: the accelerator.
        keep: fraction of nonzero weights.
        weight_bits: width on chip; broadcasts against ``keep``.
    """
    _, stored = _densities(device.weight_sparsity, keep)
    bits: Array = stored * (weight_bits + _index(device, device.weight_sparsity))
    return bits


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
