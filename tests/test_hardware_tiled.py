"""Buffer accesses of tiled layers against nests executed tile by tile."""

from __future__ import annotations

from dataclasses import fields, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from emomc.hardware.accesses import Accesses, Block, Mapping, Registers, best_mappings, count_accesses, loop_orders
from emomc.hardware.dataflow import AXES, DATAFLOWS, Unrolling
from emomc.hardware.tiled import tile_calls, tiled_accesses
from emomc.hardware.tiling import Tile
from emomc.network.layers import LoopBounds
from tests.referees.loop_nest import COUNTED, Nest
from tests.referees.tile_mover import tile_steps
from tests.test_hardware_accesses import calls


def executed(unrolling: Unrolling, tile: Tile, mapping: Mapping) -> dict[str, int]:
    """Runs every tile of the layer through the loop nest, its input cut out of the map by explicit indices."""
    call, block = unrolling.call, mapping.block
    first, second = (AXES[axis] for axis in unrolling.dataflow.split(":"))
    total = dict.fromkeys(COUNTED, 0)
    for _, _, m, n, rows, columns, tall, wide in tile_steps(call, tile, "smn"):
        top = tall.start - rows[0] * call.stride[0] + call.padding[0]
        left = wide.start - columns[0] * call.stride[1] + call.padding[1]
        extents = (1, 1, len(m), len(n), len(rows), len(columns), call.FY, call.FX, len(tall), len(wide))
        part = LoopBounds(*extents, call.stride, (top, left), call.dilation)
        small = replace(unrolling, call=part)
        lengths = {loop: block.length(small, loop) for loop in ("K", "C", "FY", "FX")}
        order = [loop for loop in mapping.order if block.steps(small, loop) > 1]
        counts = Nest(part, first, second, unrolling.rows, unrolling.columns, lengths, order).run()
        counts["psum_reads"] += part.outputs if n[0] else 0  # continues the sums of an earlier tile
        total = {name: total[name] + counts[name] for name in COUNTED}
    return total


@settings(max_examples=150, deadline=None)
@given(calls(4), st.sampled_from(DATAFLOWS), st.integers(1, 3), st.integers(1, 3), st.data())
def test_tiled_counts_equal_executed_tiles(
    call: LoopBounds, flow: str, rows: int, columns: int, data: st.DataObject
) -> None:
    unrolling = Unrolling(call, flow, rows, columns)
    tile = Tile(*(data.draw(st.integers(1, getattr(call, loop))) for loop in ("K", "C", "OY", "OX")))
    block = Block(data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2)), False, data.draw(st.booleans()))
    mapping = Mapping(block, data.draw(st.sampled_from(loop_orders(unrolling, block))))
    counts = tiled_accesses(unrolling, tile, [mapping])
    referee = executed(unrolling, tile, mapping)
    for field in fields(Accesses):
        assert getattr(counts, field.name)[0] == referee[field.name]
    assert referee["macs"] == call.macs == sum(part.macs * times for part, times in tile_calls(call, tile))


def test_one_tile_is_the_whole_layer() -> None:
    call = LoopBounds(1, 2, 6, 5, 7, 7, 3, 3, 7, 7, padding=(1, 1))
    for flow in DATAFLOWS:
        unrolling = Unrolling(call, flow, 4, 4)
        mappings, best = best_mappings(unrolling, Registers(12, 6, 4))
        tiled = tiled_accesses(unrolling, Tile(6, 5, 7, 7), mappings)
        for field in fields(Accesses):
            assert getattr(tiled, field.name).tolist() == getattr(best, field.name).tolist()
        for row, mapping in enumerate(mappings):
            direct = count_accesses(unrolling, [mapping])
            assert direct.weight_reads[0] == best.weight_reads[row]
