"""Sensitivities: what compressing one layer alone does to the network's output.

Every layer is probed at a few prune ratios and a few widths with all others dense. The two curves, divergence against
weight distortion, then give every variant of the layer: pruned and kept weights are disjoint, so the distortion of a
variant is exactly that of pruning plus that of what was kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emomc.compression.bank import Bank
from emomc.genome import BIT_WIDTH, PRUNE_RATIO, SHARED_VALUES, STORED

Doubles = NDArray[np.float64]

PROBES_PER_CURVE = 5
_FLOOR = 1e-12


@dataclass(frozen=True)
class Probe:
    """One layer at one variant, all other layers dense."""

    layer: int
    variant: int
    curve: str  # "prune" or "quantize"
    distortion: float


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
    """The probes of every layer: along the prune ratios at the mildest width, and along widths without pruning."""
    probes = []
    for layer, row in enumerate(bank.space.allowed):
        prune, bits, shared = (row[bank.space.column(gene)] for gene in (PRUNE_RATIO, BIT_WIDTH, SHARED_VALUES))
        along_prune = [(p, bits[0], shared[0]) for p in prune]
        along_width = [(prune[0], q, s) for q in bits for s in shared]
        for curve, triples in (("prune", along_prune), ("quantize", along_width)):
            pairs = [(float(bank.distortions[(layer, *t)]), bank.variant(layer, t)) for t in triples]
            probes += [Probe(layer, variant, curve, d) for d, variant in _spaced(pairs, per_curve)]
    return probes


def _interpolate(distortion: Doubles, known: Doubles, divergence: Doubles) -> Doubles:
    """Divergence at any distortion: linear between probes in log-log, proportional to the distortion outside.

    Small errors act to second order, so divergence grows in proportion to the squared weight error.
    """
    order = np.argsort(known)
    x = np.log(known[order])
    y = np.log(np.maximum(np.maximum.accumulate(divergence[order]), _FLOOR))
    at = np.log(np.maximum(distortion, _FLOOR))
    inside = np.interp(at, x, y)
    return np.asarray(np.exp(inside + np.minimum(at - x[0], 0) + np.maximum(at - x[-1], 0)))


def sensitivity_table(bank: Bank, probes: Sequence[Probe], divergences: Sequence[float]) -> Doubles:
    """Divergence that each variant of each layer causes alone, nats; it broadcasts to ``(L, *bank.space.shape)``.

    Args:
        bank: the bank that the probes were planned on.
        probes: from `plan_probes`.
        divergences: measured divergence of each probe, nats.
    """
    table = np.zeros_like(bank.distortions)
    ceiling = np.log(1e6)  # a network whose outputs are not finite diverges without bound
    measured = np.minimum(np.asarray(divergences, dtype=np.float64), ceiling)
    for layer, row in enumerate(bank.space.allowed):
        bits, shared = row[bank.space.column(BIT_WIDTH)][0], row[bank.space.column(SHARED_VALUES)][0]
        pruned = bank.distortions[layer, :, bits, shared][:, None, None]
        parts = {"prune": np.broadcast_to(pruned, table[layer].shape), "quantize": bank.distortions[layer] - pruned}
        for curve, distortion in parts.items():
            known = [i for i, probe in enumerate(probes) if probe.layer == layer and probe.curve == curve]
            if known:
                at = np.array([probes[i].distortion for i in known])
                table[layer] += _interpolate(np.asarray(distortion), at, measured[known])
    return bank.space.spread(table, STORED)
