"""Layer fusion: groups of consecutive layers that pass their maps on inside the chip.

A fused group works row by row. Each map between its layers keeps only the rows that are still needed (line buffers):
the window of the next layer, or, for the skip of a residual block, the rows by which the block's own path lags
behind. The image may be cut into vertical strips; then rows are narrower and the columns where strips overlap are
fetched and computed again (recomputation). All weights of the group stay on chip. What crosses the chip's border is
the group's inputs once, its weights once, and each map that a later group uses.

Source: A. Alwani et al., "Fused-layer CNN accelerators", MICRO 2016; the optimal grouping by dynamic programming as
in Occam (2022). Pooling windows are not traced: they are taken as 2 r + 1 rows for a reduction by r, which is not less
than the usual windows need.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from emomc.errors import EmomcError
from emomc.hardware.charges import stored_weight_bits
from emomc.hardware.physical import PhysicalModel
from emomc.hardware.steps import Steps, columns, rows, words
from emomc.hardware.tiling import Buffer, best_schedules
from emomc.network.layers import Network, Node

STRIPS = (1, 2, 4, 8, 16)
"""Numbers of vertical strips that are tried."""


@dataclass(frozen=True)
class Group:
    """Consecutive layer calls that run together: their first and last position, and what they cost."""

    first: int
    last: int
    traffic: float  # bytes
    buffer: float  # bytes of line buffers and weights; 0 for a call on its own, whose tiles fill the buffer
    strips: int
    recomputed_macs: int

    @property
    def fused(self) -> bool:
        """Whether more than one call runs in the group."""
        return self.last > self.first


@dataclass(frozen=True)
class FusionPlan:
    """The grouping of least off-chip traffic, and the traffic, in bytes, with and without fusion."""

    groups: tuple[Group, ...]
    traffic: float
    unfused_traffic: float


@dataclass(frozen=True)
class Widths:
    """Bits of operands: weights of each layer as used and as stored off chip, maps and partial sums."""

    on_chip: Sequence[int]
    off_chip: Sequence[float]
    activation: int
    psum: int


def fuse(
    network: Network,
    model: PhysicalModel,
    weight_bits: Sequence[int],
    coded_bits: Sequence[float] | None = None,
    activation_bits: int = 16,
    prune_ratio: Sequence[float] | None = None,
) -> FusionPlan:
    """Groups a network's layers for least off-chip traffic.

    A call on its own moves what its best tiling moves; additions read their other operand once more. Weights take off
    chip what the model's tables charge: their coded bits where the accelerator decodes, otherwise as they are used,
    which leaves out zeros and adds indices where zeros are skipped.

    Args:
        network: a traced network.
        model: the accelerator, of which the buffer and the widths count.
        weight_bits: (L,) bit-width of each layer's weights.
        coded_bits: (L,) off-chip bits of each layer's coded weights, for accelerators that decode them; None where
            weights are not coded.
        activation_bits: bits of a map's element.
        prune_ratio: (L,) fraction of each layer's weights that are zero; None means none.

    Raises:
        EmomcError: for widths that the accelerator does not offer, or lists of the wrong length.
    """
    count = len(network.layers)
    for name, values in (("weight_bits", weight_bits), ("coded_bits", coded_bits), ("prune_ratio", prune_ratio)):
        if values is not None and len(values) != count:
            raise EmomcError(f"{name}: expected {count} entries, one a layer, got {len(values)}.")
    device = model.accelerator
    on_chip = [device.weight_width(bits) for bits in weight_bits]
    keep = np.ones(count) if prune_ratio is None else 1 - np.asarray(prune_ratio, float)
    per_weight = stored_weight_bits(device, keep, np.array(on_chip, float)).tolist()
    off_chip = [layer.weight_count * bits for layer, bits in zip(network.layers, per_weight, strict=True)]
    if coded_bits is not None and device.decode is not None:
        off_chip = list(coded_bits)
    widths = Widths(on_chip, off_chip, device.activation_width(activation_bits), device.psum_bits)
    steps = Steps(network)
    if not steps.calls:
        return FusionPlan((), 0.0, 0.0)
    alone = [single_group(steps, at, device.tile_buffer(widths.activation), widths) for at in range(len(steps.calls))]
    groups = _best_grouping(steps, alone, device.buffer_bits, widths)
    return FusionPlan(groups, sum(group.traffic for group in groups), sum(group.traffic for group in alone))


def _best_grouping(steps: Steps, alone: Sequence[Group], capacity: int, widths: Widths) -> tuple[Group, ...]:
    """Dynamic programming over the last group: the best grouping of each prefix from those of shorter ones."""
    best: list[tuple[float, tuple[Group, ...]]] = [(0.0, ())]
    for last in range(len(alone)):
        choices = [(best[last][0] + alone[last].traffic, (*best[last][1], alone[last]))]
        for first in range(last - 1, -1, -1):
            if _weights_on_chip(steps, first, last, widths) > capacity:
                break
            group = fused_group(steps, first, last, capacity, widths)
            if group is not None:
                choices.append((best[first][0] + group.traffic, (*best[first][1], group)))
        best.append(min(choices, key=lambda choice: choice[0]))
    return best[-1][1]


def _layer_index(steps: Steps, at: int) -> int:
    return steps.network.index[steps.calls[at].layer.name]


def _weights_on_chip(steps: Steps, first: int, last: int, widths: Widths) -> int:
    layers = {_layer_index(steps, at) for at in range(first, last + 1)}
    return sum(steps.network.layers[layer].weight_count * widths.on_chip[layer] for layer in layers)


def single_group(steps: Steps, at: int, buffer: Buffer, widths: Widths) -> Group:
    """A call on its own, tiled for least traffic; the other operands of additions are read once."""
    step, layer = steps.calls[at], _layer_index(steps, at)
    coded = widths.off_chip[layer] / step.layer.weight_count
    fitting = [
        schedule.inputs * widths.activation
        + schedule.weights * coded
        + schedule.spills * 2 * widths.psum
        + schedule.outputs * widths.activation
        for schedule in best_schedules(step.call, buffer, (widths.on_chip[layer],))
    ]
    if not fitting:
        raise EmomcError(f"layer {step.layer.name!r}: the buffer cannot hold one word of each operand.")
    skips = {
        name
        for node in steps.network.nodes
        if steps.home[node.name] == at and node.name != step.node
        for name in node.inputs
        if steps.home[name] < at
    }
    others = sum(words(steps.nodes[name]) for name in skips) * widths.activation
    return Group(at, at, (min(fitting) + others) / 8, 0.0, 1, 0)


@dataclass
class LineBuffer:
    """A map in a group: when its rows come, how many are kept at a time, and how many columns strips add."""

    node: Node
    scale: Fraction  # time between rows, in rows of the group's first input
    delay: Fraction  # time of the first row
    kept: int = 0
    overlap: int = 0

    def keep(self, count: int) -> None:
        self.kept = max(self.kept, min(count, rows(self.node)))


def fused_group(steps: Steps, first: int, last: int, capacity: int, widths: Widths) -> Group | None:
    """The group of least traffic over all numbers of strips, or None where none fits the buffer."""
    maps = line_buffers(steps, first, last)
    weights = _weights_on_chip(steps, first, last, widths)
    layers = {_layer_index(steps, at) for at in range(first, last + 1)}
    fetched = sum(widths.off_chip[layer] for layer in layers)
    written = sum(steps.calls[at].call.outputs for at in range(first, last + 1) if steps.leaving[at] > last)
    outside = [name for name in maps if steps.home[name] < first]
    groups = []
    for strips in STRIPS:
        need = weights
        for entry in maps.values():
            need += entry.kept * _row_words(entry.node) * _strip(entry, strips) * widths.activation
        for step in steps.calls[first : last + 1]:
            call = step.call
            need += call.G * call.K * _strip(maps[step.node], strips) * widths.psum
        if need > capacity:
            continue
        read = sum(_cut_words(maps[name], strips) for name in outside)
        traffic = ((read + written) * widths.activation + fetched) / 8
        groups.append(Group(first, last, traffic, need / 8, strips, _recomputed(steps, first, last, maps, strips)))
    return min(groups, key=lambda group: group.traffic, default=None)


def _row_words(node: Node) -> int:
    """Elements of one column of one row of one image: its channels."""
    return words(node) // (rows(node) * columns(node) * max(1, node.shape[0] if node.shape else 1))


def _strip(entry: LineBuffer, strips: int) -> int:
    """Columns of a map that one strip takes."""
    width = columns(entry.node)
    return min(width, -(-width // strips) + (entry.overlap if strips > 1 else 0))


def _cut_words(entry: LineBuffer, strips: int) -> int:
    """Elements of a map that all strips together take."""
    width = columns(entry.node)
    return words(entry.node) // width * max(width, min(strips, width) * _strip(entry, strips))


def _recomputed(steps: Steps, first: int, last: int, maps: dict[str, LineBuffer], strips: int) -> int:
    extra = 0
    for step in steps.calls[first : last + 1]:
        width = columns(maps[step.node].node)
        extra += step.call.macs // width * max(0, min(strips, width) * _strip(maps[step.node], strips) - width)
    return extra


def line_buffers(steps: Steps, first: int, last: int) -> dict[str, LineBuffer]:
    """The line buffer of every map that the calls from ``first`` to ``last`` make or read, by node."""
    inside = [node for node in steps.network.nodes if first <= steps.home[node.name] <= last and node.shape]
    maps: dict[str, LineBuffer] = {}
    height = max((rows(steps.nodes[name]) for name in inside[0].inputs), default=1)
    for node in inside:
        internal = [maps[name].delay for name in node.inputs if name in maps]
        for name in node.inputs:
            source = steps.nodes[name]
            if name not in maps and source.shape:
                maps[name] = LineBuffer(source, Fraction(height, rows(source)), max(internal, default=Fraction(0)))
        inputs = [maps[name] for name in node.inputs if name in maps]
        maps[node.name] = _run(steps, node, inputs)
    for node in reversed(inside):
        _widen(steps, node, maps)
    return maps


def _window(steps: Steps, node: Node, source: Node, axis: int) -> tuple[int, int, int]:
    """Rows (axis 0) or columns (1) of the input that an output needs: how many, padding before, and stride."""
    size = (rows, columns)[axis]
    if node.layer is not None:
        call = steps.network.layers[steps.network.index[node.layer]].calls[node.call]
        taps = (call.FY, call.FX)[axis]
        return call.dilation[axis] * (taps - 1) + 1, call.padding[axis], call.stride[axis]
    if node.kind == "pool":
        ratio = -(-size(source) // size(node))
        return min(size(source), 2 * ratio + 1), 0, ratio
    if size(source) != size(node):
        return size(source), 0, size(source)  # a reshape or another operator that may need all of it
    return 1, 0, 1


def _run(steps: Steps, node: Node, inputs: Sequence[LineBuffer]) -> LineBuffer:
    """When a node's rows come, given its inputs', which are told how many rows to keep."""
    lead = max(inputs, key=lambda entry: entry.delay)
    window, padding, stride = _window(steps, node, lead.node, 0)
    for entry in inputs:
        lag = math.floor((lead.delay - entry.delay) / entry.scale)
        entry.keep(lag + 1 if lag else window if window > 1 or node.layer is not None else 0)
    return LineBuffer(node, lead.scale * stride, lead.delay + lead.scale * max(0, window - 1 - padding))


def _widen(steps: Steps, node: Node, maps: dict[str, LineBuffer]) -> None:
    """Tells a node's inputs how many columns beyond its share each strip needs."""
    for name in node.inputs:
        if name in maps:
            window, _, stride = _window(steps, node, maps[name].node, 1)
            maps[name].overlap = max(maps[name].overlap, maps[node.name].overlap * stride + window - 1)
