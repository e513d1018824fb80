"""Buffer accesses of a layer that is cut into tiles: each tile is a small layer, and the counts add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import lru_cache
from itertools import product

import numpy as np

from emomc.hardware.accesses import Accesses, Mapping, Registers, best_mappings, count_accesses, ranks_of
from emomc.hardware.dataflow import Unrolling
from emomc.hardware.tiling import Tile, spans
from emomc.network.layers import LoopBounds


@lru_cache(maxsize=4096)
def tile_calls(call: LoopBounds, tile: Tile) -> tuple[tuple[LoopBounds, int], ...]:
    """The tiles of a layer as layers of one image, each with the number of its repeats.

    A tile at the border keeps the padding on its side; inside the map it has none.
    """
    filters, channels = (_parts(getattr(call, loop), getattr(tile, loop)).items() for loop in ("K", "C"))
    tall, wide = (_spans(call, image, getattr(tile, f"O{image}")).items() for image in "YX")
    calls = []
    for (k, a), (c, b), ((oy, top, iy), y), ((ox, left, ix), x) in product(filters, channels, tall, wide):
        part = replace(call, B=1, K=k, C=c, OY=oy, OX=ox, IY=iy, IX=ix, padding=(top, left))
        calls.append((part, call.B * a * b * y * x))
    return tuple(calls)


def _spans(call: LoopBounds, image: str, size: int) -> Counter[tuple[int, int, int]]:
    """Tiles along an image axis as outputs, padding before them, and input rows in the map."""
    return Counter((length, max(0, -first), inside) for length, first, inside in spans(call, image, size))


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
    for part, times in tile_calls(unrolling.call, tile):
        counts = count_accesses(replace(unrolling, call=part), mappings, ranks)
        total += times * np.stack([getattr(counts, name) for name in names])
    accesses = Accesses(*total)
    return replace(accesses, psum_reads=accesses.psum_writes - unrolling.call.outputs)


@lru_cache(maxsize=16384)
def best_accesses(unrolling: Unrolling, registers: Registers, tile: Tile) -> Accesses:
    """Accesses of the layer's best mappings, as `best_mappings` lists them, with tiles of the given extents."""
    mappings, _ = best_mappings(unrolling, registers)
    return tiled_accesses(unrolling, tile, mappings)


@lru_cache(maxsize=16384)
def tiled_cycles(unrolling: Unrolling, tile: Tile) -> int:
    """Cycles of all tiles together: a tile that the array's sides do not divide leaves PEs idle."""
    parts = tile_calls(unrolling.call, tile)
    return sum(times * replace(unrolling, call=part).cycles for part, times in parts)
