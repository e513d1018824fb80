"""The cost tables of a run: what the bank stores for each choice, priced by the accelerator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from emomc import coding
from emomc.compression.bank import Bank
from emomc.genome import (
    ACTIVATION_BITS,
    BIT_WIDTH,
    CHANNEL,
    DATAFLOW,
    GRANULARITY,
    PRUNE_RATIO,
    SHARED_VALUES,
    STORED,
    UNQUANTIZED,
    WEIGHT,
    Choice,
    SearchSpace,
)
from emomc.hardware import METRICS, CostAxes, CostModel
from emomc.network.layers import Layer
from emomc.problems.tables import CostTables

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]


def cost_tables(
    bank: Bank, layers: Sequence[Layer], accelerator: CostModel, overhead: float, input_sparsity: Doubles
) -> CostTables:
    """Exact costs of every choice of the bank's space.

    Args:
        bank: the stored variants: their bytes, and how many of their weights are not zero.
        layers: of the network.
        accelerator: prices running.
        overhead: bytes of a file besides the coded layers.
        input_sparsity: (L,) fraction of zeros in each layer's input.
    """
    space = bank.space
    widths = _choices(space, ACTIVATION_BITS) if space.has(ACTIVATION_BITS) else (UNQUANTIZED,)
    priced = [accelerator_tables(bank, layers, accelerator, input_sparsity, int(bits)) for bits in widths]
    tables = priced[0]
    if space.has(ACTIVATION_BITS):
        axis = 1 + space.column(ACTIVATION_BITS)
        tables = {name: np.concatenate([each[name] for each in priced], axis) for name in tables}
    peaks = frozenset(metric for metric in tables if METRICS[metric].combine == "max")
    coded = np.vectorize(coding.blob_cost, otypes=[np.float64])(bank.sizes)
    tables["size"] = space.spread(coded, STORED)
    return CostTables(space, tuple(layers), tables, {"size": overhead}, peaks)


def accelerator_tables(
    bank: Bank, layers: Sequence[Layer], accelerator: CostModel, input_sparsity: Doubles, activation_bits: int
) -> dict[str, Doubles]:
    """Every metric of the accelerator, broadcasting to ``(L, *space.shape)``, at one width of activations.

    Densities are those of the stored weights, whatever made them zero. A layer that is pruned by input channels runs on
    those that are left.
    """
    space = bank.space
    ratios, dataflows = _choices(space, PRUNE_RATIO), tuple(map(str, _choices(space, DATAFLOW)))
    kinds = _choices(space, GRANULARITY) if space.has(GRANULARITY) else (WEIGHT,)
    widths, shared = ([int(each) for each in _choices(space, gene)] for gene in (BIT_WIDTH, SHARED_VALUES))
    shape = (len(layers), len(ratios), len(kinds), len(widths), len(shared))
    sizes, densities, channels = (table.reshape(shape) for table in (bank.sizes, bank.densities, bank.channels))

    def priced(rows: slice, kind: int, at: Integers, layer: Layer | None = None) -> dict[str, Doubles]:
        """Metrics (n, P, Q, S, D) of layers at some prune ratios; of one layer as if only a part of it were there."""
        part = 1.0 if layer is None else layer.weight_count / layers[rows.start].weight_count
        axes = CostAxes(
            [float(ratios[row]) for row in at],
            widths,
            shared,
            dataflows,
            coded_bits=8 * sizes[rows, at, kind],
            activation_bits=activation_bits,
            input_sparsity=input_sparsity[rows],
            density=np.minimum(densities[rows, at, kind] / part, 1.0),  # entries of other parts are not used
        )
        tables = accelerator.tables(layers[rows] if layer is None else [layer], axes)
        full = (*sizes[rows, at, kind].shape, len(dataflows))
        return {name: np.broadcast_to(table, full) for name, table in tables.items()}

    every = np.arange(len(ratios))
    found = [
        {name: table.copy() for name, table in priced(slice(None), kind, every).items()} for kind in range(shape[2])
    ]
    if CHANNEL in kinds:
        kind = kinds.index(CHANNEL)
        for number, layer in enumerate(layers):
            live = np.maximum(channels[number, :, kind], 1)
            for count in np.unique(live[live < layer.weight_shape[1]]).tolist():
                at = np.flatnonzero((live == count).any(axis=(1, 2)))
                narrow = priced(slice(number, number + 1), kind, at, layer.with_inputs(count))
                for name, table in narrow.items():
                    chosen = (live[at] == count)[..., None]
                    found[kind][name][number, at] = np.where(chosen, table[0], found[kind][name][number, at])
    genes = (*STORED, DATAFLOW)
    full = (len(layers), *(space.shape[column] for column in space.columns(genes)))
    return {name: space.spread(np.stack([of[name] for of in found], axis=2).reshape(full), genes) for name in found[0]}


def _choices(space: SearchSpace, gene: str) -> tuple[Choice, ...]:
    return space.genes[space.column(gene)].choices
