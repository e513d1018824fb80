"""The physical cost model: energy, off-chip traffic, latency and peak memory of layers on a described accelerator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import numpy as np

from emomc.errors import EmomcError, unknown_name
from emomc.hardware.accelerator import Accelerator, Sparsity
from emomc.hardware.accesses import Accesses, Mapping, best_mappings
from emomc.hardware.charges import Charges, Operands, best_plan, charge, stored_weight_bits
from emomc.hardware.dataflow import Unrolling
from emomc.hardware.interface import Array, CostAxes, CostModel, check_dataflows, check_kinds, combine_layers, total
from emomc.hardware.tiled import best_accesses
from emomc.hardware.tiling import Schedule, best_schedules, compulsory_words, least_buffer_bits
from emomc.network.layers import Layer, LoopBounds

FLOAT_BITS = 32


@dataclass(frozen=True)
class Plan:
    """How one layer call runs: what stays in the buffer, and what the PE array does with each tile."""

    schedule: Schedule
    mapping: Mapping


@dataclass(frozen=True)
class PhysicalModel(CostModel):
    """Costs of layers on an accelerator with PE registers, a shared buffer and off-chip memory.

    Of all tilings and loop orders considered, each entry of a table uses the one of least energy.
    """

    accelerator: Accelerator

    @property
    def name(self) -> str:
        return self.accelerator.name

    @property
    def dataflows(self) -> tuple[str, ...]:
        return self.accelerator.dataflows

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("energy", "traffic", "latency", "peak_memory", "slots", "filled_slots")

    def itemize(self, layers: Sequence[Layer], axes: CostAxes) -> dict[str, Array]:
        """Energy by item, each (L, P, Q, S, D) or with length-1 axes, in joules. Raises EmomcError as `tables` does."""
        return self._evaluate(layers, axes).items

    def tables(self, layers: Sequence[Layer], axes: CostAxes) -> dict[str, Array]:
        """Every metric, each broadcasting to (L, P, Q, S, D), in joules, bytes, seconds and counts.

        Raises:
            EmomcError: for an unknown dataflow, a width that the accelerator does not offer, a buffer that cannot hold
                one word of each operand, or per-layer arrays of the wrong shape.
        """
        charges = self._evaluate(layers, axes)
        slots = np.array([[self._slots(layer, flow) for flow in axes.dataflow] for layer in layers])
        filled = np.array([[float(layer.macs)] for layer in layers])
        return {
            "energy": total(charges.items),
            "traffic": charges.traffic,
            "latency": charges.latency,
            "peak_memory": self._peak_memory(layers, axes),
            "slots": slots[:, None, None, None],
            "filled_slots": filled[:, None, None, None],
        }

    def reference(self, layers: Sequence[Layer], dataflow: str, precision: str = "fp32") -> dict[str, float]:
        """Each metric of the dense network at ``"fp32"``, or ``"int8"`` for 8-bit weights and feature maps."""
        check_dataflows(self, [dataflow])
        if precision == "int8":
            axes = CostAxes([0.0], [8], [0], (dataflow,), activation_bits=8)
            tables = self.tables(layers, axes)
        elif precision == "fp32":
            axes = CostAxes([0.0], [FLOAT_BITS], [0], (dataflow,), activation_bits=FLOAT_BITS)
            tables = PhysicalModel(_in_float32(self.accelerator)).tables(layers, axes)
        else:
            raise unknown_name("reference precision", precision, ("fp32", "int8"))
        return {metric: combine_layers(metric, values) for metric, values in tables.items()}

    def utilization(self, layer: Layer, dataflow: str) -> float:
        """Fraction of the array's multiply-accumulate slots that a layer fills while it computes."""
        check_dataflows(self, [dataflow])
        return layer.macs / self._slots(layer, dataflow)

    def _slots(self, layer: Layer, dataflow: str) -> float:
        """Multiply-accumulates for which the array has room while it computes a layer, zeros included."""
        cycles = sum(self._unroll(call, dataflow).cycles for call in layer.calls)
        return float(cycles * self.accelerator.rows * self.accelerator.columns)

    def least_traffic(
        self, layer: Layer, bit_width: int, *, prune_ratio: float = 0.0, activation_bits: int = 16
    ) -> float:
        """Bytes that cross the chip's border at least, whatever the buffer holds.

        Every input that a call touches once, its weights once as they are stored without coding, its outputs once.
        """
        device = self.accelerator
        maps, weights = device.activation_width(activation_bits), device.weight_width(bit_width)
        stored = stored_weight_bits(device, np.array([1 - prune_ratio]), np.array([float(weights)])).item()
        moved = np.array([compulsory_words(call) for call in layer.calls]).sum(axis=0)
        return float(moved @ [maps, stored, maps]) / 8

    def plans(self, call: LoopBounds, dataflow: str, activation_bits: int = 16) -> tuple[Plan, ...]:
        """Every combination of schedule and mapping that the tables choose from for one layer call."""
        mappings, _ = best_mappings(self._unroll(call, dataflow), self.accelerator.registers)
        return tuple(Plan(s, m) for s in self._schedules(call, activation_bits) for m in mappings)

    def plan(
        self,
        layer: Layer,
        prune_ratio: float,
        bit_width: int,
        shared_values: int,
        dataflow: str,
        *,
        coded_bits: float | None = None,
        activation_bits: int = 16,
        input_sparsity: float = 0.0,
    ) -> tuple[Plan, ...]:
        """How each call of a layer runs under one choice: the plan whose cost the tables hold."""
        check_dataflows(self, [dataflow])
        axes = CostAxes([prune_ratio], [bit_width], [shared_values], (dataflow,), activation_bits=activation_bits)
        coded = None if coded_bits is None else np.full((1, 1, 1, 1), coded_bits / layer.weight_count)
        operands = self._operands(axes, input_sparsity, coded, [0])
        chosen = []
        for call in layer.calls:
            unrolling, schedules, accesses = self._candidates(call, dataflow, operands)
            schedule, mapping = best_plan(self.accelerator, unrolling, schedules, accesses, operands)
            mappings, _ = best_mappings(unrolling, self.accelerator.registers)
            chosen.append(Plan(schedules[schedule], mappings[mapping]))
        return tuple(chosen)

    def _unroll(self, call: LoopBounds, dataflow: str) -> Unrolling:
        return Unrolling(call, dataflow, self.accelerator.rows, self.accelerator.columns)

    def _schedules(self, call: LoopBounds, activation_bits: int) -> tuple[Schedule, ...]:
        device = self.accelerator
        buffer = device.tile_buffer(device.activation_width(activation_bits))
        schedules = best_schedules(call, buffer, device.weight_widths)
        widest = device.weight_widths[-1]
        if not any(schedule.fits(buffer, widest) for schedule in schedules):
            raise EmomcError(
                f"accelerator {device.name}: buffer.bytes is {device.buffer_bits // 8}; expected at least "
                f"{-(-least_buffer_bits(call, buffer, widest) // 8)} to hold the smallest tile, one output of a layer "
                f"with {call.FY}x{call.FX} taps at {widest}-bit weights. Enlarge the buffer."
            )
        return schedules

    def _evaluate(self, layers: Sequence[Layer], axes: CostAxes) -> Charges:
        check_dataflows(self, axes.dataflow)
        axes.check_layers(len(layers))
        check_kinds(layers)
        zeros = [0.0] * len(layers) if axes.input_sparsity is None else [float(z) for z in axes.input_sparsity]
        alike = defaultdict(list)
        for position, layer in enumerate(layers):
            alone = position if self._sees_density(axes) else None
            alike[layer.calls, layer.weight_count, zeros[position], alone].append(position)
        rows: dict[int, Charges] = {}
        for (calls, count, zero, _), positions in alike.items():
            coded = None if axes.coded_bits is None else np.asarray(axes.coded_bits[positions], float) / count
            operands = self._operands(axes, zero, coded, positions)
            charges = Charges.join(
                [reduce(add, (self._charge(call, flow, operands) for call in calls)) for flow in axes.dataflow]
            )
            rows |= {position: charges.row(at) for at, position in enumerate(positions)}
        return Charges.stack([rows[position] for position in range(len(layers))])

    def _sees_density(self, axes: CostAxes) -> bool:
        """Whether exact densities make a difference."""
        return axes.density is not None and self.accelerator.weight_sparsity is not Sparsity.NONE

    def _operands(self, axes: CostAxes, zeros: float, coded: Array | None, layers: Sequence[int]) -> Operands:
        device = self.accelerator
        keep = axes.keep(layers) if self._sees_density(axes) else replace(axes, density=None).keep(layers)
        widths = np.array([device.weight_width(int(bits)) for bits in axes.bit_width], float)
        return Operands(
            keep=keep,
            weight_bits=widths,
            coded_bits=None if device.decode is None else coded,
            activation_bits=device.activation_width(axes.activation_bits),
            activation_keep=1 - zeros,
        )

    def _candidates(
        self, call: LoopBounds, dataflow: str, operands: Operands
    ) -> tuple[Unrolling, tuple[Schedule, ...], list[Accesses]]:
        unrolling = self._unroll(call, dataflow)
        schedules = self._schedules(call, operands.activation_bits)
        registers = self.accelerator.registers
        return unrolling, schedules, [best_accesses(unrolling, registers, schedule.tile) for schedule in schedules]

    def _charge(self, call: LoopBounds, dataflow: str, operands: Operands) -> Charges:
        return charge(self.accelerator, *self._candidates(call, dataflow, operands), operands)

    def _peak_memory(self, layers: Sequence[Layer], axes: CostAxes) -> Array:
        """Bytes of a layer's input map, output map and stored weights: (L, P, Q, S, 1)."""
        maps = np.array([max(call.inputs + call.outputs for call in layer.calls) for layer in layers])
        bits = np.array([self.accelerator.weight_width(int(bits)) for bits in axes.bit_width])
        weights = np.array([layer.weight_count for layer in layers])[:, None, None, None] * bits[:, None]
        if axes.coded_bits is not None and self.accelerator.decode is not None:
            weights = axes.coded_bits
        width = self.accelerator.activation_width(axes.activation_bits)
        peak: Array = (maps[:, None, None, None] * width + weights)[..., None] / 8
        return peak


def _in_float32(device: Accelerator) -> Accelerator:
    """The same machine with 32-bit floating-point multipliers, for reference only."""
    widths = (FLOAT_BITS,)
    mac = replace(device.mac, constant=device.mac.float32, linear=0.0, product=0.0)
    return replace(device, weight_widths=widths, activation_widths=widths, mac=mac)
