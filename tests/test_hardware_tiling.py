"""Off-chip traffic against tiles moved one by one, closed forms of named schemes, and lower bounds."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emomc.hardware.tiling import (
    ORDERS,
    Buffer,
    Schedule,
    Tile,
    Tilings,
    all_tilings,
    best_schedules,
    compulsory_words,
    footprints,
    transfers,
)
from emomc.network.layers import LoopBounds
from tests.referees.shapes import mobilenet_cifar, resnet_cifar, vgg16_cifar
from tests.referees.tile_mover import move
from tests.test_hardware_accesses import calls


@settings(max_examples=400, deadline=None)
@given(calls(7), st.sampled_from(ORDERS), st.data())
def test_transfers_equal_moved_tiles(call: LoopBounds, order: str, data: st.DataObject) -> None:
    tile = Tile(*(data.draw(st.integers(1, getattr(call, loop))) for loop in ("K", "C", "OY", "OX")))
    tilings = Tilings.of([tile])
    moved, held = transfers(call, tilings, order), footprints(call, tilings)
    referee = move(call, tile, order)
    assert moved.inputs[0] == referee["inputs"]
    assert moved.weights[0] == referee["weights"]
    assert moved.spills[0] == referee["spill_writes"] == referee["spill_reads"]
    assert moved.outputs[0] == referee["outputs"] == call.outputs
    for operand in ("inputs", "weights", "outputs"):
        assert getattr(held, operand)[0] == referee[f"most_{operand}"]


def total(schedule: Schedule) -> int:
    return schedule.inputs + schedule.weights + 2 * schedule.spills + schedule.outputs


@settings(max_examples=30, deadline=None)
@given(calls(4), st.integers(6, 400), st.booleans())
def test_search_finds_the_least_of_all_even_cuts(call: LoopBounds, words: int, double: bool) -> None:
    buffer = Buffer(words * 8, 8, 8, double)
    tilings = all_tilings(call)
    least = math.inf
    for row in range(len(tilings.K)):
        for order in ORDERS:
            referee = move(call, tilings[row], order)
            fits = sum(referee[f"most_{operand}"] for operand in ("inputs", "weights", "outputs"))
            if fits * (2 if double else 1) <= words:
                moved = sum(referee[name] for name in ("inputs", "weights", "outputs", "spill_writes", "spill_reads"))
                least = min(least, moved)
    assert min(map(total, best_schedules(call, buffer, (8,))), default=math.inf) == least


def scheme(call: LoopBounds, tile: Tile, order: str) -> tuple[int, int, int]:
    moved = transfers(call, Tilings.of([tile]), order)
    return int(moved.inputs[0]), int(moved.weights[0]), int(moved.outputs[0] + 2 * moved.spills[0])


@pytest.mark.parametrize("cuts", list(product((1, 2, 4), repeat=3)))
def test_named_schemes_have_their_closed_forms(cuts: tuple[int, int, int]) -> None:
    """Pointwise layers have no halo, so that the input volume is the map itself."""
    n_s, n_m, n_n = cuts
    call = LoopBounds(1, 1, 8, 8, 4, 4, 1, 1, 4, 4)
    tile = Tile(8 // n_m, 8 // n_n, 4 // n_s, 4)
    inputs, weights, outputs = call.inputs, call.weights, call.outputs
    assert scheme(call, tile, "smn") == (
        inputs * (n_m if n_n > 1 else 1),
        weights * (1 if n_m == n_n == 1 else n_s),
        outputs,
    )
    assert scheme(call, tile, "mns") == (
        inputs * (1 if n_s == n_n == 1 else n_m),
        weights,
        outputs * (2 * n_n - 1 if n_s > 1 else 1),
    )
    assert scheme(call, tile, "snm") == (
        inputs,
        weights * (1 if n_m == n_n == 1 else n_s),
        outputs * (2 * n_n - 1 if n_m > 1 else 1),
    )


def least_words(call: LoopBounds, words: int) -> int:
    return min(map(total, best_schedules(call, Buffer(words * 8, 8, 8, False), (8,))))


def test_vgg_conv3_2_meets_published_search_results() -> None:
    """56x56, 256 to 256 channels: an exhaustive search of another program found these totals (in words)."""
    call = LoopBounds(1, 1, 256, 256, 56, 56, 3, 3, 58, 58)
    for words, found in ((4096, 26.26e6), (16384, 13.25e6), (65536, 6.85e6)):
        assert least_words(call, words) <= found * 1.0005


def test_vgg16_in_108_kilobytes_as_found_by_another_search() -> None:
    """Batch 3, 16 bits, one set of tiles: 187.4 million words, output reuse the best scheme of every layer."""
    widths = [(64, 3, 224), (64, 64, 224), (128, 64, 112), (128, 128, 112), (256, 128, 56), *[(256, 256, 56)] * 2]
    widths += [(512, 256, 28), *[(512, 512, 28)] * 2, *[(512, 512, 14)] * 3]
    words = macs = 0
    for k, c, size in widths:
        call = LoopBounds(3, 1, k, c, size, size, 3, 3, size, size, padding=(1, 1))
        best = min(best_schedules(call, Buffer(108 * 8192, 16, 16, False), (16,)), key=total)
        assert best.scheme == "output reuse"
        words += total(best)
        macs += call.macs
    assert round(words / 1e6, 1) == 187.4
    assert round(macs / words, 1) == 245.7


@pytest.mark.parametrize("words", [1024, 4096, 16384, 65536])
def test_traffic_respects_lower_bounds_and_shrinks_with_the_buffer(words: int) -> None:
    """Compulsory traffic, and 2 N / sqrt(window reuse * S) - 2 S of the red-blue pebble argument."""
    layers = {layer.calls[0] for layer in vgg16_cifar() + resnet_cifar(3) + mobilenet_cifar()}
    for call in layers:
        moved = least_words(call, words)
        reuse = max(1.0, call.FY * call.FX / (call.stride[0] * call.stride[1]))
        compulsory = sum(compulsory_words(call))
        assert moved >= compulsory
        assert moved >= call.G * (2 * (call.macs / call.G) / math.sqrt(reuse * words) - 2 * words)
        assert moved >= least_words(call, 2 * words)
        if words >= call.weights + call.inputs + call.outputs:
            assert moved == compulsory


@settings(max_examples=100, deadline=None)
@given(calls(6), st.integers(20, 3000))
def test_no_schedule_moves_less_than_what_is_used(call: LoopBounds, words: int) -> None:
    """Strides may leave inputs unused; no tiling may move fewer words than the layer touches."""
    touched = {
        (g, b, c, y, x)
        for g, b, c, oy, ox, fy, fx in product(
            *(range(getattr(call, n)) for n in ("G", "B", "C", "OY", "OX", "FY", "FX"))
        )
        for y in [oy * call.stride[0] + fy * call.dilation[0] - call.padding[0]]
        for x in [ox * call.stride[1] + fx * call.dilation[1] - call.padding[1]]
        if 0 <= y < call.IY and 0 <= x < call.IX
    }
    assert compulsory_words(call) == (len(touched), call.weights, call.outputs)
    for schedule in best_schedules(call, Buffer(words * 8, 8, 8, False), (8,)):
        assert schedule.inputs >= len(touched)
        assert schedule.weights >= call.weights


def test_batch_repeats_maps_but_not_weights() -> None:
    one = LoopBounds(1, 1, 16, 16, 8, 8, 3, 3, 8, 8, padding=(1, 1))
    four = replace(one, B=4)
    a, b = (best_schedules(call, Buffer(10**7, 8, 8, False), (8,)) for call in (one, four))
    assert (len(a), len(b)) == (1, 1)
    assert (b[0].inputs, b[0].weights, b[0].outputs) == (4 * a[0].inputs, a[0].weights, 4 * a[0].outputs)


def test_nothing_fits_a_buffer_of_two_words() -> None:
    assert best_schedules(LoopBounds(1, 1, 2, 2, 2, 2, 1, 1, 2, 2), Buffer(16, 8, 8, False), (8,)) == ()


@settings(max_examples=30, deadline=None)
@given(calls(6), st.integers(40, 2000), st.floats(0.0, 40.0))
def test_the_pool_holds_the_best_for_every_coded_width(call: LoopBounds, words: int, coded: float) -> None:
    """Whatever a coded weight takes off chip, and however wide it is on chip, no feasible schedule beats the pool."""
    buffer = Buffer(words * 8, 8, 20, True)
    widths = (2, 5, 8)
    pool = best_schedules(call, buffer, widths)
    tilings = all_tilings(call)
    held = footprints(call, tilings)
    for width in widths:
        bits = held.inputs * 8 + held.outputs * 20 + held.weights * width
        every = [
            (moved.inputs * 8 + moved.spills * 40 + moved.weights * coded)[bits * 2 <= buffer.bits]
            for moved in (transfers(call, tilings, order) for order in ORDERS)
        ]
        best = min((costs.min() for costs in every if len(costs)), default=math.inf)
        ours = [s.inputs * 8 + s.spills * 40 + s.weights * coded for s in pool if s.fits(buffer, width)]
        assert min(ours, default=math.inf) == pytest.approx(best)
