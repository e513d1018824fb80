"""Buffer access counts against an executed loop nest, published closed forms and golden numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emomc.errors import EmomcError
from emomc.hardware.accesses import (
    Accesses,
    Block,
    Mapping,
    Registers,
    array_accesses,
    best_mappings,
    count_accesses,
    loop_orders,
    pareto_rows,
)
from emomc.hardware.dataflow import AXES, DATAFLOWS, Unrolling
from emomc.network.layers import LoopBounds
from tests.referees.loop_nest import Nest
from tests.referees.shapes import vgg16_cifar

COUNTS = tuple(Accesses.__dataclass_fields__)


@st.composite
def calls(draw: st.DrawFn, largest: int = 5) -> LoopBounds:
    """Small convolutions, grouped, depthwise, strided, dilated, padded, and linear layers among them."""
    sizes = st.integers(1, largest)
    taps_drawn = st.integers(1, 3) if largest < 8 else st.sampled_from([1, 2, 3, 5])
    b, g, k, c = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(sizes), draw(sizes)
    axes = []
    for _ in "yx":
        taps, stride, dilation = draw(taps_drawn), draw(st.integers(1, 3)), draw(st.integers(1, 2))
        padding = draw(st.integers(0, taps - 1))
        outputs = draw(sizes)
        least = max(1, stride * (outputs - 1) + dilation * (taps - 1) + 1 - 2 * padding)
        axes.append((outputs, taps, least + draw(st.integers(0, stride - 1)), stride, padding, dilation))
    (oy, fy, iy, sy, py, dy), (ox, fx, ix, sx, px, dx) = axes
    return LoopBounds(b, g, k, c, oy, ox, fy, fx, iy, ix, (sy, sx), (py, px), (dy, dx))


def executed(unrolling: Unrolling, block: Block, order: tuple[str, ...]) -> dict[str, int]:
    first, second = (AXES[axis] for axis in unrolling.dataflow.split(":"))
    lengths = {loop: block.length(unrolling, loop) for loop in ("K", "C", "FY", "FX")}
    return Nest(unrolling.call, first, second, unrolling.rows, unrolling.columns, lengths, order).run()


def check_against_the_nest(call: LoopBounds, flow: str, rows: int, columns: int, data: st.DataObject) -> None:
    unrolling = Unrolling(call, flow, rows, columns)
    block = Block(
        data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)), data.draw(st.booleans()), data.draw(st.booleans())
    )
    orders = loop_orders(unrolling, block)
    order = data.draw(st.sampled_from(orders))
    counts = count_accesses(unrolling, [Mapping(block, each) for each in orders])
    row = orders.index(order)
    nest = executed(unrolling, block, order)
    assert {name: int(getattr(counts, name)[row]) for name in COUNTS} == {name: nest[name] for name in COUNTS}
    assert nest["macs"] == call.macs
    assert nest["cycles"] == unrolling.cycles


@settings(max_examples=250, deadline=None)
@given(calls(), st.sampled_from(DATAFLOWS), st.integers(1, 4), st.integers(1, 4), st.data())
def test_counts_equal_the_executed_nest(
    call: LoopBounds, flow: str, rows: int, columns: int, data: st.DataObject
) -> None:
    check_against_the_nest(call, flow, rows, columns, data)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(
    calls(8).filter(lambda call: 10**4 <= call.macs <= 10**5),
    st.sampled_from(DATAFLOWS), st.integers(1, 8), st.integers(1, 8), st.data(),
)  # fmt: skip
def test_counts_equal_the_executed_nest_up_to_1e5_macs(
    call: LoopBounds, flow: str, rows: int, columns: int, data: st.DataObject
) -> None:
    check_against_the_nest(call, flow, rows, columns, data)


SMALL = LoopBounds(1, 1, 8, 8, 8, 8, 3, 3, 10, 10)
CONV3_2 = LoopBounds(1, 1, 256, 256, 8, 8, 3, 3, 10, 10)
ORDERS = {
    "X:Y": ("FX", "FY", "C", "K"),
    "FX:FY": ("OX", "OY", "C", "K"),
    "X:FX": ("FY", "C", "OY", "K"),
    "CI:CO": ("OX", "OY", "FX", "FY", "C", "K"),
}


@pytest.mark.parametrize(
    ("call", "flow", "side", "golden"),
    [  # weight reads, input reads, psum reads, psum writes: one register per operand, as counted by Timeloop 2.0
        (SMALL, "X:Y", 8, (576, 36864, 0, 512)),
        (SMALL, "FX:FY", 8, (576, 36864, 3584, 4096)),
        (SMALL, "X:FX", 8, (4608, 15360, 0, 512)),
        (SMALL, "CI:CO", 4, (576, 9216, 8704, 9216)),
        (CONV3_2, "X:Y", 8, (589824, 37748736, 0, 16384)),
        (CONV3_2, "FX:FY", 8, (589824, 37748736, 4177920, 4194304)),
        (CONV3_2, "X:FX", 8, (4718592, 15728640, 0, 16384)),
        (CONV3_2, "CI:CO", 16, (589824, 2359296, 2342912, 2359296)),
    ],
)
def test_golden_counts(call: LoopBounds, flow: str, side: int, golden: tuple[int, ...]) -> None:
    counts = array_accesses(call, flow, side, side, ORDERS[flow])
    assert tuple(counts[name] for name in ("weight_reads", "input_reads", "psum_reads", "psum_writes")) == golden


def test_named_dataflows_unroll_the_loops_of_their_names() -> None:
    call = LoopBounds(1, 1, 11, 13, 17, 19, 5, 7, 21, 25)
    named = {"X": (19, "OX"), "Y": (17, "OY"), "CI": (13, "C"), "CO": (11, "K"), "FX": (7, "FX"), "FY": (5, "FY")}
    for flow in DATAFLOWS:
        along_rows, along_columns = flow.split(":")
        width = Unrolling(call, flow, 100, 3).width
        assert width[named[along_rows][1]] == named[along_rows][0]
        assert width[named[along_columns][1]] == 3
        assert math.prod(width.values()) == 3 * named[along_rows][0]


@pytest.mark.parametrize("flow", sorted(ORDERS))
def test_closed_forms_of_uneven_layers(flow: str) -> None:
    """Buffer words of a fully unrolled array with single registers, all extents different: published closed forms."""
    k, c, p, q, r, s = 6, 4, 8, 5, 3, 2
    call = LoopBounds(1, 1, k, c, q, p, s, r, q + s - 1, p + r - 1)  # p and r along X, q and s along Y
    n = k * c * p * q * r * s
    weights, inputs, writes, sides = {
        "X:Y": (k * c * r * s, n, k * p * q, (p, q)),
        "FX:FY": (k * c * r * s, n, n // (r * s), (r, s)),
        "X:FX": (n // p, n * (p + r - 1) // (p * r), k * p * q, (p, r)),
        "CI:CO": (k * c * r * s, n // 3, n // 2, (2, 3)),
    }[flow]
    assert array_accesses(call, flow, *sides, ORDERS[flow]) == {
        "weight_reads": weights,
        "input_reads": inputs,
        "psum_reads": writes - k * p * q,
        "psum_writes": writes,
    }


def test_golden_counts_are_among_the_best() -> None:
    """Each golden mapping is matched or beaten in every operand by a mapping that the search returns."""
    for flow, order in ORDERS.items():
        unrolling = Unrolling(SMALL, flow, 8, 8)
        golden = count_accesses(unrolling, [Mapping(Block(), order)])
        _, best = best_mappings(unrolling, Registers())
        beats = [getattr(best, name) <= getattr(golden, name)[0] for name in COUNTS[:3]]
        assert np.logical_and.reduce(beats).any()


@settings(max_examples=100, deadline=None)
@given(calls(12), st.sampled_from(DATAFLOWS), st.integers(1, 6), st.integers(1, 6))
def test_bounds_and_conservation(call: LoopBounds, flow: str, rows: int, columns: int) -> None:
    unrolling = Unrolling(call, flow, rows, columns)
    block = Block()
    counts = count_accesses(unrolling, [Mapping(block, order) for order in loop_orders(unrolling, block)])
    assert np.all(counts.weight_reads >= call.weights)
    assert np.all(counts.psum_writes >= call.outputs)
    assert np.array_equal(counts.psum_reads, counts.psum_writes - call.outputs)
    for name in ("weight_deliveries", "input_deliveries", "psum_deliveries"):
        assert np.all(getattr(counts, name) <= call.macs)
    for name in ("weight_reads", "input_reads", "psum_writes"):
        assert np.all(getattr(counts, name) <= getattr(counts, name.split("_")[0] + "_deliveries"))
    first, second = (unrolling.width[AXES[axis]] for axis in flow.split(":"))
    assert call.macs <= unrolling.cycles * first * second


@settings(max_examples=40, deadline=None)
@given(calls(), st.sampled_from(DATAFLOWS), st.integers(1, 4), st.integers(1, 4))
def test_more_registers_never_cost_reads(call: LoopBounds, flow: str, rows: int, columns: int) -> None:
    unrolling = Unrolling(call, flow, rows, columns)
    _, few = best_mappings(unrolling, Registers())
    _, many = best_mappings(unrolling, Registers(36, 9, 4))
    assert min(many.weight_reads) <= min(few.weight_reads)
    assert min(many.input_reads) <= min(few.input_reads)
    assert min(many.psum_writes) <= min(few.psum_writes)


def single(call: LoopBounds, flow: str, order: tuple[str, ...], side: int = 4) -> tuple[int, ...]:
    unrolling = Unrolling(call, flow, side, side)
    counts = count_accesses(unrolling, [Mapping(Block(), order)])
    return tuple(int(getattr(counts, name)[0]) for name in COUNTS)


WHOLE = ("FX", "FY", "C", "OX", "OY", "K")


def test_groups_are_independent_layers() -> None:
    one = LoopBounds(1, 1, 3, 2, 5, 5, 3, 3, 5, 5, padding=(1, 1))
    for flow in DATAFLOWS:
        grouped = single(replace(one, G=6), flow, WHOLE)
        assert grouped == tuple(6 * count for count in single(one, flow, WHOLE))


def test_axes_can_be_swapped_on_square_layers() -> None:
    tall = LoopBounds(1, 1, 3, 2, 6, 4, 3, 2, 8, 5)
    wide = LoopBounds(1, 1, 3, 2, 4, 6, 2, 3, 5, 8)
    swap = {"FX": "FY", "FY": "FX", "OX": "OY", "OY": "OX"}
    for flow, mirrored in (("X:Y", "Y:X"), ("FX:FY", "FY:FX")):
        assert single(tall, flow, WHOLE) == single(wide, mirrored, tuple(swap.get(loop, loop) for loop in WHOLE))


def test_splitting_outputs_doubles_input_reads_only() -> None:
    whole = LoopBounds(1, 1, 8, 4, 6, 6, 3, 3, 8, 8)
    weights, _, psums = single(whole, "X:Y", WHOLE)[:3]
    half = single(replace(whole, K=4), "X:Y", WHOLE)[:3]
    assert (weights, psums) == (2 * half[0], 2 * half[2])
    stationary = ("K", "FX", "FY", "C", "OX", "OY")  # each input is read once for all output channels
    assert single(whole, "X:Y", stationary)[1] == single(replace(whole, K=4), "X:Y", stationary)[1]


def test_degenerate_layer_moves_one_word_each() -> None:
    call = LoopBounds(1, 1, 1, 1, 1, 1, 1, 1, 1, 1)
    for flow in DATAFLOWS:
        assert single(call, flow, ()) == (1, 1, 1, 0, 1, 1, 1)


def test_linear_layer_reads_each_weight_once_per_row_of_work() -> None:
    call = vgg16_cifar()[-1].calls[0]
    for flow in DATAFLOWS:
        _, best = best_mappings(Unrolling(call, flow, 8, 8), Registers())
        assert set(best.weight_reads.tolist()) == {5120}


@given(st.lists(st.tuples(*[st.integers(0, 6)] * 3), min_size=1, max_size=30))
def test_pareto_rows(points: list[tuple[int, int, int]]) -> None:
    kept = {points[row] for row in pareto_rows(np.array(points))}
    beaten = {p for p in points for q in points if q != p and all(a <= b for a, b in zip(q, p, strict=True))}
    assert kept == set(points) - beaten


def test_unknown_dataflow_is_named() -> None:
    with pytest.raises(EmomcError, match="Did you mean 'X:Y'"):
        Unrolling(SMALL, "XY", 4, 4)


def test_an_order_without_a_loop_is_refused() -> None:
    with pytest.raises(EmomcError, match="K take more than one step"):
        array_accesses(SMALL, "X:Y", 8, 8, ("FX", "FY", "C"))
