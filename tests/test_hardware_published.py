"""The published energy model against published and independently derived numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emomc.errors import EmomcError
from emomc.hardware import CostAxes, by_level, combine_layers, load_accelerator
from emomc.network.layers import Layer, LoopBounds
from tests.referees.shapes import conv, linear, mobilenet_cifar, resnet_cifar, vgg16_cifar

FLOWS = ("X:Y", "CI:CO", "FX:FY", "X:FX")
MODEL = load_accelerator("published")
CONVS = vgg16_cifar()[:-1]
PICO = 1e-12


def energy(layers: list[Layer], prune: float, bits: int, flow: str) -> float:
    return float(MODEL.tables(layers, CostAxes([prune], [bits], [0], (flow,)))["energy"].sum())


def test_vgg16_has_the_counted_work() -> None:
    assert sum(layer.macs for layer in CONVS) == 313_196_544
    assert sum(layer.weight_count for layer in CONVS) == 14_710_464


@pytest.mark.parametrize(
    ("keep", "bits", "millijoules"), [(0.4, 4, (1.59, 1.39, 1.99, 2.32)), (0.45, 5, (1.93, 1.76, 2.34, 2.67))]
)
def test_golden_energies_of_compressed_vgg16(keep: float, bits: int, millijoules: tuple[float, ...]) -> None:
    for flow, golden in zip(FLOWS, millijoules, strict=True):
        assert round(energy(CONVS, 1 - keep, bits, flow) * 1e3, 2) == golden


def test_inferred_float_baseline() -> None:
    for flow, golden in zip(FLOWS, (22.4, 21.1, 23.2, 22.2), strict=True):
        assert round(MODEL.reference(CONVS, flow)["energy"] * 1e3, 1) == golden


@pytest.mark.parametrize(
    ("flow", "published"),
    [  # uncompressed energy implied by each row of Table II: energy x gain, both printed with one decimal
        ("X:Y", [(18.5, 1.2), (9.5, 2.4), (1.7, 14.0)]),
        ("CI:CO", [(19.6, 1.1), (12.6, 1.7), (1.7, 12.2)]),
        ("FX:FY", [(18.5, 1.3), (9.5, 2.5), (2.3, 10.4)]),
        ("X:FX", [(19.3, 1.2), (11.2, 2.0), (2.6, 8.9)]),
    ],
)
def test_float_baseline_meets_table_two(flow: str, published: list[tuple[float, float]]) -> None:
    """The baseline lies within 4 % of the interval that rounding leaves for each row."""
    ours = MODEL.reference(CONVS, flow)["energy"] * 1e3
    for millijoule, gain in published:
        low, high = (millijoule - 0.05) * (gain - 0.05), (millijoule + 0.05) * (gain + 0.05)
        assert low / 1.04 < ours < high * 1.04


def hand_written(call: LoopBounds, kind: str, keep: float, bits: int, flow: str) -> float:
    """The table of equations once more, written per layer in plain arithmetic, in joules."""
    n = call.B * call.G * call.K * call.C * call.OY * call.OX * call.FY * call.FX

    def any_of(sharing: int) -> float:
        return 1 - (1 - keep) ** sharing

    def capped(sharing: int) -> float:
        return any_of(sharing) if sharing <= 24 else 1.0

    if kind == "linear":
        row = (n, n, n / call.C, 0.0, keep, 1.0)
    elif flow == "X:Y":
        row = (n, n / (call.OX * call.OY), n / (call.FX * call.FY * call.C), 0.0, keep, 1.0)
    elif flow == "CI:CO":
        row = (n / call.K, n, n / call.C, n / call.C, capped(call.K), capped(call.C))
    elif flow == "FX:FY":
        row = (
            n,
            n / (call.OX * call.OY),
            n / (call.FX * call.FY),
            n / (call.FX * call.FY),
            keep,
            any_of(call.FX * call.FY),
        )
    else:
        row = (
            n / call.FX,
            n / math.sqrt(call.OX * call.OY),
            n / call.FX,
            n / call.FX,
            any_of(call.FX),
            any_of(call.FX),
        )
    inputs, weights, writes, reads, used_in, used_out = row
    arithmetic = 1.02 * n * keep * (bits + 1)
    movement = 7.28 * weights * (bits + 1) / 16 + 7.28 * inputs * used_in
    return PICO * (arithmetic + movement + 4.47 * writes * used_out + 7.28 * reads * used_out)


SIZES = st.integers(1, 40)


@settings(max_examples=300, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 4), SIZES, SIZES, SIZES, SIZES, st.integers(1, 5), st.integers(1, 5)),
    st.sampled_from(["conv", "linear"]),
    st.floats(0, 1),
    st.integers(1, 16),
    st.sampled_from(FLOWS),
)
def test_equations(loops: tuple[int, ...], kind: str, prune: float, bits: int, flow: str) -> None:
    if kind == "linear":
        loops = (*loops[:6], 1, 1)
    call = LoopBounds(*loops, IY=loops[4], IX=loops[5])
    layer = Layer("layer", kind, "w", (1,), (call,))
    assert energy([layer], prune, bits, flow) == pytest.approx(
        hand_written(call, kind, 1 - prune, bits, flow), rel=1e-12
    )


@pytest.mark.parametrize("flow", FLOWS)
def test_monotone_in_bits_and_sparsity(flow: str) -> None:
    axes = CostAxes(np.linspace(0, 1, 21), range(1, 17), [0], (flow,))
    table = MODEL.tables(mobilenet_cifar(), axes)["energy"]
    assert np.all(np.diff(table, axis=1) <= 0)
    assert np.all(np.diff(table, axis=2) >= 0)
    assert np.all(table > 0), "weights are fetched dense, so that even an empty layer costs energy"


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("maps", [1, 4, 8, 10, 12])
def test_narrow_maps_shrink_their_words_and_the_multiplier_and_nothing_else(flow: str, maps: int) -> None:
    """An extension: the publication has 16-bit maps, and multipliers of 10 bits by the weight's."""
    layer = conv("layer", 12, 20, 9)
    wide, narrow = (MODEL.breakdown(layer, 0.4, 6, 0, flow, activation_bits=bits) for bits in (16, maps))
    factors = {"mac": min(maps / 10, 1), "memory input": maps / 16, "memory output": maps / 16}
    assert narrow == pytest.approx({item: energy * factors.get(item, 1) for item, energy in wide.items()}, rel=1e-12)


@pytest.mark.parametrize("flow", FLOWS)
def test_depthwise_equals_independent_channels(flow: str) -> None:
    whole, single = conv("whole", 48, 48, 10, groups=48), conv("single", 1, 1, 10)
    assert energy([whole], 0.3, 5, flow) == pytest.approx(48 * energy([single], 0.3, 5, flow), rel=1e-12)


def test_groups_narrow_the_sharing() -> None:
    dense, grouped = conv("dense", 16, 16, 8), conv("grouped", 16, 16, 8, groups=4)
    assert grouped.macs * 4 == dense.macs
    sparse_saving = [energy([layer], 0.9, 8, "CI:CO") / energy([layer], 0.0, 8, "CI:CO") for layer in (dense, grouped)]
    assert sparse_saving[1] < sparse_saving[0], "fewer PEs share a datum, so that more of its accesses vanish"


def test_calls_add_up_and_layers_are_independent() -> None:
    once = conv("once", 8, 8, 6)
    twice = replace(once, calls=once.calls * 2)
    axes = CostAxes([0.0, 0.5], [4, 8], [0, 4], FLOWS)
    table = MODEL.tables([once, twice, linear("l", 3, 5)], axes)["energy"]
    assert table.shape == (3, 2, 2, 1, 4)
    assert np.array_equal(table[1], 2 * table[0])
    assert np.array_equal(MODEL.tables([linear("l", 3, 5)], axes)["energy"][0], table[2])


def test_breakdown_sums_exactly_to_the_table() -> None:
    layers = vgg16_cifar()
    prune, bits = np.linspace(0, 0.95, 7), [2, 5, 8]
    table = MODEL.tables(layers, CostAxes(prune, bits, [0], FLOWS))["energy"]
    for position, layer in enumerate(layers):
        for p, ratio in enumerate(prune):
            for q, width in enumerate(bits):
                for d, flow in enumerate(FLOWS):
                    items = MODEL.breakdown(layer, ratio, width, 0, flow)
                    assert reduce(add, items.values()) == table[position, p, q, 0, d]


def test_levels_gather_items() -> None:
    items = MODEL.breakdown(CONVS[0], 0.5, 4, 0, "CI:CO")
    levels = by_level(items)
    assert list(levels) == ["mac", "memory"]
    assert levels["mac"] == items["mac"]
    assert sum(levels.values()) == pytest.approx(sum(items.values()))


def test_references_are_dense() -> None:
    layers = resnet_cifar(3)
    for flow in FLOWS:
        assert MODEL.reference(layers, flow, "int8")["energy"] == pytest.approx(energy(layers, 0.0, 8, flow))
        assert MODEL.reference(layers, flow)["energy"] > MODEL.reference(layers, flow, "int8")["energy"]


def test_combining_layers() -> None:
    values = np.array([1.0, 3.0, 2.0])
    assert combine_layers("energy", values) == 6.0
    assert combine_layers("peak_memory", values) == 3.0


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: load_accelerator("publishd"), "Did you mean 'published'"),
        (lambda: energy(CONVS, 0.5, 4, "XY"), "Did you mean 'X:Y'"),
        (lambda: MODEL.reference(CONVS, "X:Y", "int9"), "Did you mean 'int8'"),
        (lambda: CostAxes([1.2], [4], [0], FLOWS), "prune_ratio.*1.2"),
        (lambda: CostAxes([0.5], [0], [0], FLOWS), "bit_width.*0"),
        (lambda: CostAxes([0.5], [4], [], FLOWS), "at least one"),
        (lambda: CostAxes([0.5], [4], [0], FLOWS, activation_bits=0), "activation_bits"),
        (lambda: MODEL.tables(CONVS, CostAxes([0.5], [4], [0], FLOWS, activation_bits=17)), "at most 16 bits"),
    ],
)
def test_mistakes_are_named(make: object, says: str) -> None:
    with pytest.raises(EmomcError, match=says):
        make()  # type: ignore[operator]


def test_exact_densities_take_the_place_of_the_ratio() -> None:
    """Densities that are those of the ratios change nothing; any other one costs what a layer of that ratio costs."""
    ratios, bits = [0.0, 0.3, 0.9], [4, 8]
    nominal = MODEL.tables(CONVS, CostAxes(ratios, bits, [0, 4], FLOWS))["energy"]
    density = np.tile((1 - np.array(ratios))[None, :, None, None], (len(CONVS), 1, 2, 2))
    same = MODEL.tables(CONVS, CostAxes(ratios, bits, [0, 4], FLOWS, density=density))["energy"]
    assert np.allclose(same, np.broadcast_to(nominal, same.shape), rtol=1e-12)
    density = np.random.default_rng(0).random(density.shape)
    table = MODEL.tables(CONVS, CostAxes(ratios, bits, [0, 4], FLOWS, density=density))["energy"]
    for layer, p, q, s, d in np.ndindex(*table.shape):
        items = MODEL.breakdown(CONVS[layer], 1 - density[layer, p, q, s], bits[q], 0, FLOWS[d])
        assert table[layer, p, q, s, d] == pytest.approx(sum(items.values()), rel=1e-12)
    for wrong, words in ((density[:, :1], "density: expected shape"), (density + 1, "between 0 and 1")):
        with pytest.raises(EmomcError, match=words):
            MODEL.tables(CONVS, CostAxes(ratios, bits, [0, 4], FLOWS, density=wrong))
