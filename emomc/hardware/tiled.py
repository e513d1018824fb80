"""Buffer accesses of a layer that is cut into tiles: each tile is a small layer, and the counts add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import product

import numpy as np

from emomc.hardware.accesses import Accesses, Mapping, count_accesses, ranks_of
from emomc.hardware.dataflow import Unrolling
from emomc.hardware.tiling import Tile, spans
from emomc.network.layers import LoopBounds


def tile_calls(call: LoopBounds, tile: Tile) -> Counter[LoopBounds]:
    """The tiles of a layer as layers of one image, each with the number of its repeats.

    A tile at the border keeps the padding on its side; inside the map it has none.
    """
    sizes = {loop: _parts(getattr(call, loop), getattr(tile, loop)) for loop in ("K", "C")}
    calls: Counter[LoopBounds] = Counter()
    for (k, k_times), (c, c_times) in product(sizes["K"].items(), sizes["C"].items()):
        for (oy, top, tall), (ox, left, wide) in product(spans(call, "Y", tile.OY), spans(call, "X", tile.OX)):
            padding = (max(0, -top), max(0, -left))
            calls[replace(call, B=1, K=k, C=c, OY=oy, OX=ox, IY=tall, IX=wide, padding=padding)] += k_times * c_times
    return Counter({part: times * call.B for part, times in calls.items()})


def _parts(extent: int, size: int) -> Counter[int]:
    return Counter([size] * (extent // size) + ([extent % size] if extent % size else []))


def tiled_accesses(unrolling: Unrolling, tile: Tile, mappings: Sequence[Mapping]) -> Accesses:
    """Accesses of every mapping, (m,), when registers start empty in every tile.

    Partial sums that continue those of an earlier tile of input channels are read from the buffer.

    Args:
        unrolling: the whole layer on its array.
        tile: extents of a full tile.
        mappings: of the whole layer; loops that take one step in a tile drop out of their orders.
    """
    names = [field.name for field in fields(Accesses)]
    ranks = ranks_of(mappings)
    total = np.zeros((len(names), len(mappings)), np.int64)
    for part, times in tile_calls(unrolling.call, tile).items():
        counts = count_accesses(replace(unrolling, call=part), mappings, ranks)
        total += times * np.stack([getattr(counts, name) for name in names])
    accesses = Accesses(*total)
    return replace(accesses, psum_reads=accesses.psum_writes - unrolling.call.outputs)


def tiled_cycles(unrolling: Unrolling, tile: Tile) -> int:
    """Cycles of all tiles together: a tile that the array's sides do not divide leaves PEs idle."""
    parts = tile_calls(unrolling.call, tile).items()
    return sum(times * replace(unrolling, call=part).cycles for part, times in parts)
