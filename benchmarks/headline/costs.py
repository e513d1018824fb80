"""What a network costs at every choice of prune ratios: the targets, and the ratios that meet a share of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from emomc.coding.conventions import CONVENTIONS
from emomc.compression.whole import choose_ratios
from emomc.hardware import CostAxes, accelerators, load_accelerator
from emomc.network import Network
from emomc.problems.tasks import Task

# How many times less than the dense network in 32-bit floats.
TARGETS = {"X:Y": 45.0, "CI:CO": 22.0, "FX:FY": 30.0, "X:FX": 25.0}
SIZES = {"emomc-normal": 10.0, "csr with fillers": 30.0, "emomc-coo": 10.0, "file": 50.0}
PATH = (0.5, 0.7, 0.8, 0.9, 0.95)  # prune ratios of every layer
RATIOS = np.array([0.0, *PATH])
GAP = 8  # what a 3-bit index reaches


def bit_width(index: int, count: int, weights: int) -> int:
    """Bits of a layer: 8 for the first and the last, which are small; 4 below a million weights, else 3."""
    return 8 if index in (0, count - 1) else 4 if weights < 1_000_000 else 3


class Costs:
    """Energies and sizes of networks that are given as a prune ratio and a bit-width per layer."""

    def __init__(self, task: Task, network: Network) -> None:
        self.network, self.model = network, load_accelerator("published")
        self.bits = [bit_width(i, len(network.layers), layer.weight_count) for i, layer in enumerate(network.layers)]
        self.float_bytes = 4.0 * sum(t.numel() for t in task.module.state_dict().values() if t.is_floating_point())
        self.weight_bits = 32.0 * network.weight_count
        self.reference = {flow: self.model.reference(network.layers, flow)["energy"] for flow in TARGETS}

    def energy(self, flow: str, ratios: NDArray[np.float64]) -> NDArray[np.float64]:
        """Joules of every layer at every ratio, ``(L, P)``."""
        rows = []
        for layer, bits in zip(self.network.layers, self.bits, strict=True):
            tables = self.model.tables([layer], CostAxes(ratios, [bits], [0], (flow,)))
            rows.append(tables["energy"][0, :, 0, 0, 0])
        return np.array(rows)

    def shares(self) -> dict[str, NDArray[np.float64]]:
        """Cost of every layer and ratio over what the target allows for the whole network, by target; ``(L, P)``."""
        shares = {flow: self.energy(flow, RATIOS) * target / self.reference[flow] for flow, target in TARGETS.items()}
        shares["csr with fillers"] = np.array(
            [
                [csr_bits(layer.weight_count, 1 - ratio, bits) for ratio in RATIOS]
                for layer, bits in zip(self.network.layers, self.bits, strict=True)
            ]
        ) * (SIZES["csr with fillers"] / self.weight_bits)
        return shares

    def ratios(self, keep: Sequence[float]) -> dict[str, float]:
        """Measured zeros to energy ratios and to ratios of the published size conventions."""
        zeros = 1 - np.asarray(keep)
        found = {}
        for flow in TARGETS:
            spent = sum(
                sum(self.model.breakdown(layer, z, b, 0, flow).values())
                for layer, z, b in zip(self.network.layers, zeros.tolist(), self.bits, strict=True)
            )
            found[flow] = self.reference[flow] / spent
        counts = np.array([layer.weight_count for layer in self.network.layers])
        for name, convention in CONVENTIONS.items():
            found[name] = self.weight_bits / float(convention.bits(counts, np.asarray(keep), np.array(self.bits)).sum())
        found["csr with fillers"] = self.weight_bits / sum(
            csr_bits(int(n), k, b) for n, k, b in zip(counts, keep, self.bits, strict=True)
        )
        return found


def csr_bits(count: int, keep: float, bits: int) -> float:
    """Expected bits of 3-bit gaps with a stored zero wherever a gap is longer than 8, positions being random."""
    none = (1 - keep) ** GAP
    fillers = none / (1 - none) if keep > 0 else 0.0
    return count * keep * (1 + fillers) * (bits + 3)


def choose(losses: NDArray[np.float64], costs: Costs, level: float) -> NDArray[np.int64]:
    """Ratio of each layer: least loss with every target's share met.

    The targets are weighed into one cost; those that are missed weigh more in the next round, and all rounds save a
    little more until one misses none.
    """
    shares, allowed, rows = np.stack(list(costs.shares().values())), 1 / level, np.arange(len(losses))
    weights = np.full(len(shares), 1 / len(shares))
    for limit in allowed * 0.99 ** np.repeat(np.arange(60), 5):
        chosen = choose_ratios(losses, np.tensordot(weights, shares, 1), limit)
        totals = shares[:, rows, chosen].sum(1)
        if totals.max() <= allowed:
            return chosen
        weights *= totals / allowed
        weights /= weights.sum()
    raise SystemExit(f"no ratios meet {level:g} of the targets")


def presets(
    network: Network, keep: Sequence[float], bits: Sequence[int], coded: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Energy under every accelerator of the package, each layer on its best dataflow, against fp32 and int8."""
    table = {}
    for name in accelerators():
        model = load_accelerator(name)
        spent = sum(
            min(
                sum(model.breakdown(layer, 1 - k, b, 0, flow, coded_bits=coded[layer.name]).values())
                for flow in model.dataflows
            )
            for layer, k, b in zip(network.layers, keep, bits, strict=True)
        )
        table[name] = {"joule": spent}
        for precision in ("fp32", "int8"):
            dense = sum(
                min(model.reference([layer], flow, precision)["energy"] for flow in model.dataflows)
                for layer in network.layers
            )
            table[name][precision] = dense / spent
    return table
