"""Sensitivities: what compressing one layer alone does to the network's output.

Every layer is probed at a few prune ratios of each granularity, and at a few widths, with all others dense. The curves,
distance against weight distortion, then give every variant of the layer: pruned and kept weights are disjoint, so
the distortion of a variant is exactly that of pruning plus that of what was kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emomc.compression.bank import Bank
from emomc.genome import (
    ACTIVATION_BITS,
    BIT_WIDTH,
    GRANULARITY,
    PRUNE_RATIO,
    SHARED_VALUES,
    STORED,
    UNQUANTIZED,
    SearchSpace,
)

Doubles = NDArray[np.float64]

PROBES_PER_CURVE = 5
_FLOOR = 1e-12
_CEILING = float(np.log(1e6))  # a network whose outputs are not finite is as far as any
_USUAL_COST, _TRUSTED = 0.5, 20  # loss per distance of classifiers, and the samples that this is trusted as


@dataclass(frozen=True)
class Probe:
    """One layer at one variant, all other layers dense."""

    layer: int
    variant: int
    curve: str  # "prune" or "quantize"
    distortion: float
    granularity: int = 0  # index of the choice, of a probe along the prune ratios


def _spaced(candidates: Sequence[tuple[float, int]], count: int) -> list[tuple[float, int]]:
    """At most ``count`` of the (distortion, variant) pairs, spread evenly over the logarithm of the distortion."""
    distinct = sorted({variant: pair for pair in candidates if (variant := pair[1]) >= 0 and pair[0] > 0}.values())
    if len(distinct) <= count:
        return distinct
    logs = np.log([distortion for distortion, _ in distinct])
    targets = np.linspace(logs[0], logs[-1], count)
    picks = sorted({int(np.abs(logs - target).argmin()) for target in targets})
    return [distinct[pick] for pick in picks]


def plan_probes(bank: Bank, per_curve: int = PROBES_PER_CURVE) -> list[Probe]:
    """The probes of every layer: along the prune ratios of each granularity at the mildest width, and along widths."""
    space, probes = bank.space, []
    for layer, row in enumerate(space.allowed):
        prune, bits, shared = (row[space.column(gene)] for gene in (PRUNE_RATIO, BIT_WIDTH, SHARED_VALUES))
        kinds = _granularities(space, layer)
        curves = [("prune", kind, [(p, kind, bits[0], shared[0]) for p in prune]) for kind in kinds]
        curves.append(("quantize", kinds[0], [(prune[0], kinds[0], q, s) for q in bits for s in shared]))
        for curve, kind, choices in curves:
            entries = [(p, g, q, s) if space.has(GRANULARITY) else (p, q, s) for p, g, q, s in choices]
            pairs = [(float(bank.distortions[(layer, *each)]), bank.variant(layer, each)) for each in entries]
            probes += [Probe(layer, variant, curve, d, kind) for d, variant in _spaced(pairs, per_curve)]
    return probes


def _granularities(space: SearchSpace, layer: int) -> tuple[int, ...]:
    """Allowed indices of the granularity of a layer; a space without that gene has one."""
    return space.allowed[layer][space.column(GRANULARITY)] if space.has(GRANULARITY) else (0,)


def _interpolate(distortion: Doubles, known: Doubles, distance: Doubles) -> Doubles:
    """Distance at any distortion: linear between probes in log-log, proportional to the distortion outside.

    Small errors act to second order, so distance grows in proportion to the squared weight error.
    """
    order = np.argsort(known)
    x = np.log(known[order])
    y = np.log(np.maximum(np.maximum.accumulate(distance[order]), _FLOOR))
    at = np.log(np.maximum(distortion, _FLOOR))
    inside = np.interp(at, x, y)
    return np.asarray(np.exp(inside + np.minimum(at - x[0], 0) + np.maximum(at - x[-1], 0)))


def sensitivity_table(bank: Bank, probes: Sequence[Probe], distances: Sequence[float]) -> Doubles:
    """Distance that each variant of each layer causes alone; it broadcasts to ``(L, *bank.space.shape)``.

    Args:
        bank: the bank that the probes were planned on.
        probes: from `plan_probes`.
        distances: measured distance of each probe.
    """
    space = bank.space
    axes = [space.shape[space.column(gene)] for gene in (PRUNE_RATIO, BIT_WIDTH, SHARED_VALUES)]
    distortions = bank.distortions.reshape(space.n_layers, axes[0], -1, *axes[1:])
    table = np.zeros_like(distortions)
    measured = np.minimum(np.asarray(distances, dtype=np.float64), _CEILING)
    for layer, row in enumerate(space.allowed):
        bits, shared = row[space.column(BIT_WIDTH)][0], row[space.column(SHARED_VALUES)][0]
        pruned = distortions[layer, :, :, bits, shared][:, :, None, None]
        own = [i for i, probe in enumerate(probes) if probe.layer == layer]
        for kind in _granularities(space, layer):  # pruning of another kind does another harm for its distortion
            known = [i for i in own if (probes[i].curve, probes[i].granularity) == ("prune", kind)]
            table[layer, :, kind] += _along(pruned[:, kind], [probes[i].distortion for i in known], measured[known])
        known = [i for i in own if probes[i].curve == "quantize"]
        rounded = distortions[layer] - pruned
        table[layer] += _along(rounded, [probes[i].distortion for i in known], measured[known])
    return space.spread(table.reshape(bank.distortions.shape), STORED)


def loss_per_distance(distances: Sequence[float], losses: Sequence[float], samples: int) -> float:
    """What a distance from the dense network's output costs in error, about: the mean of a posterior.

    Losses of probes are counts of few samples, so they are pooled, and where there are hardly any, the usual cost of
    classifiers stands.

    Args:
        distances: of the probes, where outputs that are as far as dense ones vary count as far as any.
        losses: errors above the dense network's, of the same samples. Probes whose outputs are not finite do not count.
        samples: that each probe was measured on.
    """
    far, lost = np.minimum(np.asarray(distances, dtype=np.float64), 1.0), np.asarray(losses, dtype=np.float64)
    valid = np.isfinite(distances) & np.isfinite(lost)
    events = max(float(lost[valid].sum()) * samples, 0.0)
    return (events + _USUAL_COST * _TRUSTED) / (float(far[valid].sum()) * samples + _TRUSTED)


def plan_activation_probes(space: SearchSpace) -> list[tuple[int, int]]:
    """(layer, bits of its input) to probe alone: every width that the space allows a layer to be quantized to."""
    if not space.has(ACTIVATION_BITS):
        return []
    column = space.column(ACTIVATION_BITS)
    widths = [int(choice) for choice in space.genes[column].choices]
    return [
        (layer, widths[index])
        for layer, row in enumerate(space.allowed)
        for index in row[column]
        if widths[index] != UNQUANTIZED
    ]


def activation_table(space: SearchSpace, probes: Sequence[tuple[int, int]], distances: Sequence[float]) -> Doubles:
    """Distance that quantizing each layer's input causes alone; it broadcasts to ``(L, *space.shape)``.

    Args:
        space: with a gene for the bits of activations.
        probes: from `plan_activation_probes`.
        distances: measured distance of each probe.
    """
    widths = [int(choice) for choice in space.genes[space.column(ACTIVATION_BITS)].choices]
    table = np.zeros((space.n_layers, len(widths)))
    for (layer, bits), found in zip(probes, distances, strict=True):
        table[layer, widths.index(bits)] = min(found, _CEILING)
    return space.spread(table, [ACTIVATION_BITS])


def _along(distortion: Doubles, known: Sequence[float], distance: Doubles) -> Doubles:
    """Distance at each distortion along a curve; nothing where the curve has no probe, as nothing is lost on it."""
    return _interpolate(distortion, np.array(known), distance) if len(known) else np.zeros_like(distortion)
