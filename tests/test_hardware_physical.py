"""The physical model against executed loop nests and plain arithmetic, and the properties it must have."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from emomc.errors import EmomcError
from emomc.genome import Gene, SearchSpace
from emomc.hardware import CostAxes, accelerators, load_accelerator, total
from emomc.hardware.accelerator import Accelerator, MacEnergy, Memory, Sparsity
from emomc.hardware.accesses import Block, Mapping, Registers, count_accesses
from emomc.hardware.charges import Operands, charge, coded_activation_bits
from emomc.hardware.dataflow import DATAFLOWS, NAMED, Unrolling
from emomc.hardware.physical import PhysicalModel
from emomc.hardware.tiling import Schedule, best_schedules, least_buffer_bits
from emomc.network.layers import Layer, LoopBounds
from emomc.problems.objectives import Batch, load_objective
from emomc.problems.tables import CostTables
from tests.referees.shapes import conv, linear, mobilenet_cifar, resnet_cifar, vgg16_cifar
from tests.referees.tile_mover import move
from tests.test_hardware_accesses import calls
from tests.test_hardware_tiled import executed

TINY = Accelerator(
    name="tiny",
    rows=2,
    columns=3,
    registers=Registers(4, 2, 2),
    register=Memory(0.01, 0.013, float("inf")),
    buffer=Memory(0.3, 0.4, 96.0),
    buffer_bits=3000,
    double_buffered=True,
    dram=Memory(20.0, 23.0, 16.0),
    mac=MacEnergy(0.1, 0.02, 0.003, 4.6),
    hop=0.05,
    clock=1e6,
    leakage=1e3,
    weight_widths=(2, 4, 8),
    activation_widths=(8,),
    psum_bits=20,
    decode=0.7,
    dataflows=DATAFLOWS,
)
PHYSICAL = [name for name in accelerators() if isinstance(load_accelerator(name), PhysicalModel)]


def layer_of(call: LoopBounds) -> Layer:
    return Layer("layer", "conv", "w", (call.G * call.K, call.C, call.FY, call.FX), (call,))


def plain(device: Accelerator, call: LoopBounds, flow: str, schedule: Schedule, mapping: Mapping, choice: dict) -> dict:
    """Energy by item of one plan, from executed tiles and scalar arithmetic; dense hardware."""
    counts = executed(Unrolling(call, flow, device.rows, device.columns), schedule.tile, mapping)
    moved = move(call, schedule.tile, schedule.order)
    bw, ba, bp, coded = choice["weight"], choice["activation"], device.psum_bits, choice["coded"]
    r, b, d = device.register, device.buffer, device.dram
    n = call.macs
    dram_bits = (
        moved["weights"] * coded
        + (moved["inputs"] + moved["outputs"]) * ba
        + (moved["spill_writes"] + moved["spill_reads"]) * bp
    )
    buffer_bits = (
        counts["weight_reads"] * bw + counts["input_reads"] * ba + (counts["psum_writes"] + counts["psum_reads"]) * bp
    )
    cycles = max(counts["cycles"], buffer_bits / b.bandwidth)
    transfer = dram_bits / d.bandwidth
    cycles = max(cycles, transfer) if device.double_buffered else cycles + transfer
    delivered = counts["weight_deliveries"] * bw + counts["input_deliveries"] * ba + counts["psum_deliveries"] * bp
    return {
        "mac": n * (device.mac.constant + device.mac.linear * (ba + bw) + device.mac.product * ba * bw),
        "register weight": n * bw * r.read + counts["weight_deliveries"] * bw * r.write,
        "register input": n * ba * r.read + counts["input_deliveries"] * ba * r.write,
        "register psum": n * bp * (r.read + r.write),
        "network": delivered * device.hop,
        "buffer weight": counts["weight_reads"] * bw * b.read,
        "buffer input": counts["input_reads"] * ba * b.read,
        "buffer psum": counts["psum_writes"] * bp * b.write + counts["psum_reads"] * bp * b.read,
        "buffer fill": (moved["inputs"] * ba + moved["weights"] * bw + moved["spill_reads"] * bp) * b.write
        + (moved["spill_writes"] + moved["outputs"]) * bp * b.read,
        "dram weight": moved["weights"] * coded * d.read,
        "dram input": moved["inputs"] * ba * d.read,
        "dram psum": moved["spill_writes"] * bp * d.write + moved["spill_reads"] * bp * d.read,
        "dram output": moved["outputs"] * ba * d.write,
        "decode": moved["weights"] * coded * (device.decode or 0),
        "leakage": device.leakage * cycles / device.clock,
        "traffic": dram_bits / 8,
        "latency": cycles / device.clock,
    }


DEEP = LoopBounds(1, 1, 4, 6, 3, 3, 1, 1, 3, 3)


@settings(max_examples=12, deadline=None)
@example(DEEP, "X:Y", 8, 8.0, True, 1, 100)  # narrow sums, a buffer of a few words: they go off chip and come back
@example(DEEP, "FX:FY", 8, 8.0, False, 1, 1500)  # and here they leave the array and come back
@given(
    calls(3), st.sampled_from(DATAFLOWS), st.sampled_from([2, 3, 8]), st.floats(0.1, 9.0), st.booleans(),
    st.sampled_from([1, 20]), st.sampled_from([250, 1500]),
)  # fmt: skip
def test_every_entry_is_the_best_executed_plan(
    call: LoopBounds, flow: str, bits: int, coded: float, double: bool, psum: int, capacity: int
) -> None:
    """Every plan that the model considers is executed word by word; the table holds the least of their energies."""
    device = replace(TINY, double_buffered=double, buffer_bits=capacity, psum_bits=psum)
    model, layer = PhysicalModel(device), layer_of(call)
    choice = {"weight": device.weight_width(bits), "activation": 8, "coded": coded}
    buffer = device.tile_buffer(8)
    assume(least_buffer_bits(call, buffer, device.weight_widths[-1]) <= capacity)  # a smaller one is refused
    plans = [plan for plan in model.plans(call, flow, 8) if plan.schedule.fits(buffer, choice["weight"])]
    costs = [plain(device, call, flow, plan.schedule, plan.mapping, choice) for plan in plans]
    spent = [sum(cost.values()) - sum(cost[name] for name in ("leakage", "traffic", "latency")) for cost in costs]
    axes = CostAxes(
        [0.3], [bits], [0], (flow,), coded_bits=np.full((1, 1, 1, 1), coded * layer.weight_count), activation_bits=8
    )
    items, tables = model.itemize([layer], axes), model.tables([layer], axes)
    assert min(spent) == pytest.approx(total(items).item() - items["leakage"].item(), rel=1e-9)
    same = [cost for cost, energy in zip(costs, spent, strict=True) if energy <= min(spent) * (1 + 1e-9)]
    ours = {name: value.item() for name, value in items.items()}
    ours |= {name: tables[name].item() for name in ("traffic", "latency")}
    assert any(ours == pytest.approx(cost, rel=1e-9) for cost in same)
    coded_bits = coded * layer.weight_count
    (chosen,) = model.plan(layer, 0.3, bits, 0, flow, coded_bits=coded_bits, activation_bits=8)
    assert ours == pytest.approx(plain(device, call, flow, chosen.schedule, chosen.mapping, choice), rel=1e-9)


@pytest.mark.parametrize("name", PHYSICAL)
def test_breakdown_sums_exactly_to_the_table(name: str) -> None:
    model = load_accelerator(name)
    layers = [*mobilenet_cifar()[:6], linear("linear", 10, 64)]
    prune, bits, shared = [0.0, 0.35, 0.9], [2, 5, 8], [0, 4]
    coded = np.random.default_rng(0).integers(100, 10**5, (len(layers), 3, 3, 2))
    zeros = np.linspace(0, 0.8, len(layers))
    axes = CostAxes(prune, bits, shared, model.dataflows, coded, 8, zeros)
    table = model.tables(layers, axes)["energy"]
    table = np.broadcast_to(table, (len(layers), 3, 3, 2, len(model.dataflows)))
    for index in np.ndindex(table.shape):
        layer, p, q, s, d = index
        items = model.breakdown(
            layers[layer], prune[p], bits[q], shared[s], model.dataflows[d],
            coded_bits=coded[layer, p, q, s], activation_bits=8, input_sparsity=zeros[layer],
        )  # fmt: skip
        assert reduce(add, items.values()) == table[index]  # `sum` compensates for rounding since Python 3.12


@pytest.mark.parametrize("name", PHYSICAL)
def test_monotone_in_bits_and_sparsity(name: str) -> None:
    """More zeros never cost energy, wider weights never save any; bits of coded weights follow keep and width."""
    model = load_accelerator(name)
    layers = resnet_cifar(1) + mobilenet_cifar()[:5]
    prune, bits = np.linspace(0, 1, 9), np.arange(1, 9)
    weights = np.array([layer.weight_count for layer in layers])[:, None, None, None]
    coded = weights * ((1 - prune)[:, None] * (bits + 1.0))[None, :, :, None]
    zeros = np.full(len(layers), 0.4)
    items = model.itemize(layers, CostAxes(prune, bits, [0], NAMED, coded, 8, zeros))
    energy = total({name: value for name, value in items.items() if name != "leakage"})
    assert np.all(np.diff(energy, axis=1) <= 1e-9 * energy[:, 1:])
    assert np.all(np.diff(energy, axis=2) >= -1e-9 * energy[:, :, 1:])


@pytest.mark.parametrize("name", PHYSICAL)
def test_lower_bounds(name: str) -> None:
    """At least the multiply-accumulates, and every word of weights and outputs moved once."""
    model = load_accelerator(name)
    assert isinstance(model, PhysicalModel)
    device = model.accelerator
    layers = vgg16_cifar()
    axes = CostAxes([0.0], [8], [0], NAMED, activation_bits=8)
    tables = model.tables(layers, axes)
    for position, layer in enumerate(layers):
        mac = device.mac.constant + device.mac.linear * 16 + device.mac.product * 64
        assert np.all(tables["energy"][position] > layer.macs * mac)
        moved = layer.weight_count + layer.calls[0].outputs
        least = model.least_traffic(layer, 8, activation_bits=8)
        assert np.all(tables["traffic"][position] >= least * (1 - 1e-12)) and least > moved
        floor = layer.macs / (device.rows * device.columns * device.clock)
        assert np.all(tables["latency"][position] >= floor * (1 - 1e-12))
        for flow in NAMED:
            assert 0 < model.utilization(layer, flow) <= 1


CONSTANTS = [
    *(f"{level}.{access}" for level in ("register", "buffer", "dram") for access in ("read", "write")),
    *(f"mac.{term}" for term in ("constant", "linear", "product")),
    *("hop", "leakage", "decode"),
]


@pytest.mark.parametrize("constant", CONSTANTS)
def test_every_constant_costs(constant: str) -> None:
    """Doubling any energy constant raises the energy of a layer that is tiled and coded."""
    layer = conv("layer", 6, 6, 9)
    coded = np.full((1, 1, 1, 1), layer.weight_count * 3.0)
    axes = CostAxes([0.5], [4], [0], ("X:Y",), coded, 8)
    section, _, field = constant.partition(".")
    part = getattr(TINY, section)
    dearer = replace(part, **{field: 2 * getattr(part, field)}) if field else 2 * part
    before = PhysicalModel(TINY).tables([layer], axes)["energy"].item()
    after = PhysicalModel(replace(TINY, **{section: dearer})).tables([layer], axes)["energy"].item()
    assert before < after < 2 * before


def energy_and_time(device: Accelerator, layer: Layer, prune: float, zeros: float) -> tuple[dict[str, float], float]:
    axes = CostAxes([prune], [8], [0], ("X:Y",), activation_bits=8, input_sparsity=[zeros])
    model = PhysicalModel(device)
    items = {name: value.item() for name, value in model.itemize([layer], axes).items()}
    return items, model.tables([layer], axes)["latency"].item()


def test_gating_saves_arithmetic_and_skipping_saves_time() -> None:
    layer = conv("layer", 4, 4, 6)
    fast = replace(TINY, buffer=replace(TINY.buffer, bandwidth=1e9), dram=replace(TINY.dram, bandwidth=1e9))
    devices = [replace(fast, weight_sparsity=kind, index_bits=0) for kind in Sparsity]
    (dense, slow), (gated, as_slow), (skipped, fewer) = (energy_and_time(d, layer, 0.75, 0.0) for d in devices)
    assert gated["mac"] == skipped["mac"] == dense["mac"] / 4
    assert slow == as_slow == pytest.approx(4 * fewer)
    assert gated["buffer weight"] == dense["buffer weight"] == pytest.approx(4 * skipped["buffer weight"])
    assert gated["buffer psum"] == dense["buffer psum"]


def test_gating_on_zero_inputs() -> None:
    layer = conv("layer", 4, 4, 6)
    gating = replace(TINY, activation_sparsity=Sparsity.GATING)
    items, dense = energy_and_time(gating, layer, 0.0, 0.6)[0], energy_and_time(TINY, layer, 0.0, 0.6)[0]
    assert items["mac"] == pytest.approx(0.4 * dense["mac"])
    assert items["dram input"] == dense["dram input"]


def test_skipped_accesses_follow_the_shared_weights() -> None:
    """A word is needed if one of the weights that share it is nonzero: checked against random masks."""
    keep, draws = 0.4, 4000
    call = LoopBounds(1, 1, 6, 8, 2, 2, 1, 1, 2, 2)
    device = replace(
        TINY, rows=4, columns=3, registers=Registers(), buffer_bits=10**6, weight_sparsity=Sparsity.SKIPPING
    )
    unrolling = Unrolling(call, "CI:CO", 4, 3)
    counts = count_accesses(
        unrolling, [Mapping(Block(), ("OX", "OY", "C", "K"))]
    )  # weights stay, partial sums come and go
    schedule = best_schedules(call, device.tile_buffer(8), (8,))[:1]
    operands = Operands(np.array([keep]), np.array([8.0]), None, 8, 1.0)
    items = charge(device, unrolling, schedule, [counts], operands).items
    mask = np.random.default_rng(1).random((draws, 6, 8)) < keep
    steps = mask.reshape(draws, 2, 3, 2, 4)  # K in steps of 3 columns, C in steps of 4 rows
    input_reads = 4 * steps.any(axis=2).sum() / draws  # an input is read in each step of K that uses it
    assert items["buffer input"].item() / (8 * device.buffer.read) == pytest.approx(input_reads, rel=0.02)
    returns = 4 * steps.any(axis=4).sum() / draws / 2  # a step of C that adds nothing need not touch its sums
    reads = (items["buffer psum"].item() / 20 - 24 * device.buffer.write) / (device.buffer.read + device.buffer.write)
    assert reads == pytest.approx(returns, rel=0.02)


def test_skipped_accesses_follow_the_shared_inputs() -> None:
    """Zero inputs are skipped like zero weights: a weight is read if one of the inputs that it meets is nonzero."""
    keep, draws = 0.3, 4000
    call = LoopBounds(1, 1, 3, 8, 2, 2, 1, 1, 2, 2)
    device = replace(
        TINY, rows=4, columns=3, registers=Registers(), buffer_bits=10**6, activation_sparsity=Sparsity.SKIPPING
    )
    counts = count_accesses(Unrolling(call, "CI:CO", 4, 3), [Mapping(Block(), ("OX", "OY", "C"))])
    schedule = best_schedules(call, device.tile_buffer(8), (8,))[:1]
    operands = Operands(np.array([1.0]), np.array([8.0]), None, 8, keep)
    charges = charge(device, Unrolling(call, "CI:CO", 4, 3), schedule, [counts], operands)
    mask = np.random.default_rng(3).random((draws, 8, 4)) < keep  # channels, pixels
    weight_reads = 3 * mask.any(axis=2).sum() / draws
    assert charges.items["buffer weight"].item() / (8 * device.buffer.read) == pytest.approx(weight_reads, rel=0.02)
    input_reads = mask.sum() / draws
    assert charges.items["buffer input"].item() / (8 * device.buffer.read) == pytest.approx(input_reads, rel=0.02)
    returns = 3 * mask.reshape(draws, 2, 4, 4).any(axis=2).sum() / draws / 2  # a step of C adds 4 channels to a sum
    sums = charges.items["buffer psum"].item() / 20 - 12 * device.buffer.write
    assert sums / (device.buffer.read + device.buffer.write) == pytest.approx(returns, rel=0.02)


def test_traffic_is_what_off_chip_energy_pays_for() -> None:
    """At one joule a bit either way, off-chip energy and traffic are one number, spilled sums included."""
    device = replace(TINY, dram=Memory(1.0, 1.0, 16.0), psum_bits=1, buffer_bits=700, double_buffered=False, decode=0.0)
    layers = [conv("a", 16, 16, 4), conv("b", 8, 32, 3, kernel=1), conv("c", 4, 4, 8)]
    axes = CostAxes([0.0], [8], [0], NAMED, activation_bits=8)
    model = PhysicalModel(device)
    items = model.itemize(layers, axes)
    paid = total({name: value for name, value in items.items() if name.startswith("dram")})
    assert np.allclose(paid, model.tables(layers, axes)["traffic"] * 8, rtol=1e-12)
    assert np.any(items["dram psum"] > 0)


def test_pruning_to_nothing_leaves_maps_to_move() -> None:
    device = replace(TINY, weight_sparsity=Sparsity.SKIPPING, activation_sparsity=Sparsity.SKIPPING)
    items, _ = energy_and_time(device, conv("layer", 4, 4, 6), 1.0, 0.0)
    for name in ("mac", "register weight", "register psum", "buffer weight", "buffer input", "dram weight"):
        assert items[name] == 0
    assert items["dram output"] > 0 and items["buffer psum"] > 0


def test_index_bits_are_paid_where_zeros_are_skipped() -> None:
    layer = conv("layer", 4, 4, 6)
    free, paid = (
        energy_and_time(replace(TINY, weight_sparsity=Sparsity.SKIPPING, index_bits=bits), layer, 0.5, 0.0)[0]
        for bits in (0, 4)
    )
    assert paid["buffer weight"] == pytest.approx(free["buffer weight"] * 12 / 8)
    assert paid["dram weight"] == pytest.approx(free["dram weight"] * 12 / 8)


@pytest.mark.parametrize(("zeros", "run_bits"), [(0.0, 3), (0.5, 3), (0.9, 5), (0.9, 2), (1.0, 3)])
def test_coded_maps_against_a_written_code(zeros: float, run_bits: int) -> None:
    rng = np.random.default_rng(2)
    words = rng.random(200_000) >= zeros
    bits, run = 0, 0
    for nonzero in words:
        if nonzero or run == 2**run_bits - 1:
            bits, run = bits + 16 + run_bits, 0
        else:
            run += 1
    expected = min(16.0, bits / len(words))
    assert coded_activation_bits(16, 1 - zeros, run_bits) == pytest.approx(expected, rel=0.01)


def test_least_traffic_is_reached_by_a_buffer_that_holds_everything() -> None:
    """Touched inputs, weights as stored, outputs: by hand, and as the tables charge them where the buffer is large."""
    layer = conv("layer", 5, 3, 8, kernel=1, stride=2)
    device = replace(TINY, buffer_bits=10**6, weight_sparsity=Sparsity.SKIPPING, index_bits=3, decode=None)
    least = PhysicalModel(device).least_traffic(layer, 4, prune_ratio=0.6, activation_bits=8)
    assert least == pytest.approx((3 * 16 * 8 + 15 * 0.4 * (4 + 3) + 5 * 16 * 8) / 8)
    kept = conv("layer", 5, 3, 8)
    axes = CostAxes([0.6], [4], [0], ("X:Y",), activation_bits=8)
    model = PhysicalModel(device)
    moved = model.tables([kept], axes)["traffic"].item()
    assert moved == pytest.approx(model.least_traffic(kept, 4, prune_ratio=0.6, activation_bits=8))


def test_widths_are_rounded_up_to_what_is_offered() -> None:
    assert [TINY.weight_width(bits) for bits in (1, 2, 3, 4, 5, 8)] == [2, 2, 4, 4, 8, 8]
    axes = CostAxes([0.0], [3, 4, 5], [0], ("X:Y",), activation_bits=8)
    energy = PhysicalModel(TINY).tables([conv("layer", 4, 4, 6)], axes)["energy"][0, 0, :, 0, 0]
    assert energy[0] == energy[1] < energy[2]


def test_calls_of_one_layer_add_up_and_alike_layers_agree() -> None:
    layer = conv("layer", 6, 6, 9)
    twice = replace(layer, calls=layer.calls * 2)
    axes = CostAxes([0.2], [4, 8], [0], ("X:Y", "CI:CO"), activation_bits=8)
    tables = PhysicalModel(TINY).tables([layer, twice, layer], axes)
    for metric in ("energy", "traffic", "latency", "slots"):
        assert np.array_equal(tables[metric][0] * 2, tables[metric][1])
        assert np.array_equal(tables[metric][0], tables[metric][2])
    assert np.array_equal(tables["peak_memory"][0], tables["peak_memory"][1])
    assert tables["peak_memory"][0, 0, 1, 0, 0] == 2 * 6 * 81 + layer.weight_count


def test_tables_do_not_depend_on_what_else_is_asked() -> None:
    layers = vgg16_cifar()[:3]
    model = PhysicalModel(TINY)
    wide = CostAxes([0.0, 0.5], [2, 4, 8], [0], NAMED, activation_bits=8)
    narrow = CostAxes([0.5], [4], [0], NAMED[1:2], activation_bits=8)
    whole = model.tables(layers, wide)["energy"]
    part = model.tables(layers[1:2], narrow)["energy"]
    rows = np.broadcast_to(whole, (3, 2, 3, 1, len(NAMED)))
    assert rows[1, 1, 1, 0, 1] == part.item()


def test_slots_of_a_ragged_array() -> None:
    """Channels that do not fill the last rows and columns leave slots empty, and `idle` is their share of all."""
    layers = [conv("ragged", 5, 7, 6), conv("other", 7, 3, 4)]
    axes = CostAxes([0.0], [8], [0], ("CI:CO",), activation_bits=8)
    tables = PhysicalModel(TINY).tables(layers, axes)
    slots, filled = tables["slots"], tables["filled_slots"]
    pixels_and_taps = [layer.macs // (layer.calls[0].K * layer.calls[0].C) for layer in layers]
    expected = [
        math.ceil(layer.calls[0].C / TINY.rows) * math.ceil(layer.calls[0].K / TINY.columns) * rest
        for layer, rest in zip(layers, pixels_and_taps, strict=True)
    ]
    assert slots.ravel().tolist() == [cycles * TINY.rows * TINY.columns for cycles in expected]
    space = SearchSpace.full(["ragged", "other"], [Gene("dataflow", ("CI:CO",), ordinal=False)])
    costs = CostTables(space, tuple(layers), {"slots": slots.reshape(2, 1), "filled_slots": filled.reshape(2, 1)}, {})
    empty = 1 - sum(layer.macs for layer in layers) / slots.sum()
    assert load_objective("idle")(Batch(np.zeros((1, 2), np.int64), costs)) == pytest.approx([empty])
    assert 0 < empty < 1


def test_batch_scales_maps_only() -> None:
    one = conv("one", 4, 4, 6)
    four = replace(one, calls=(replace(one.calls[0], B=4),))
    axes = CostAxes([0.0], [8], [0], ("X:Y",), activation_bits=8)
    roomy = PhysicalModel(replace(TINY, buffer_bits=10**6))
    a, b = (roomy.itemize([layer], axes) for layer in (one, four))
    assert b["dram weight"].item() == a["dram weight"].item()
    for name in ("mac", "dram input", "dram output", "buffer input", "buffer psum"):
        assert b[name].item() == pytest.approx(4 * a[name].item())


@pytest.mark.parametrize("name", PHYSICAL)
def test_references_order(name: str) -> None:
    model = load_accelerator(name)
    layers = resnet_cifar(1)
    wide, narrow = (model.reference(layers, "X:Y", precision) for precision in ("fp32", "int8"))
    assert all(narrow[metric] <= wide[metric] for metric in model.metrics)
    assert narrow["energy"] < wide["energy"]
    with pytest.raises(EmomcError, match="reference precision"):
        model.reference(layers, "X:Y", "bf16")


@pytest.mark.parametrize(
    ("device", "axes", "says"),
    [
        (TINY, CostAxes([0.0], [9], [0], ("X:Y",), activation_bits=8), "bit_width 9.*2, 4, 8"),
        (TINY, CostAxes([0.0], [8], [0], ("X:Y",)), "activation_bits 16"),
        (TINY, CostAxes([0.0], [8], [0], ("X:Z",), activation_bits=8), "Did you mean 'X:Y'"),
        (
            replace(TINY, buffer_bits=16),
            CostAxes([0.0], [8], [0], ("X:Y",), activation_bits=8),
            "buffer.bytes is 2; expected at least 41",
        ),
        (TINY, CostAxes([0.0], [8], [0], ("X:Y",), np.ones((2, 1, 1, 1)), 8), "coded_bits: expected shape"),
        (TINY, CostAxes([0.0], [8], [0], ("X:Y",), np.full((1, 1, 1, 1), np.nan), 8), "coded_bits: expected finite"),
        (TINY, CostAxes([0.0], [8], [0], ("X:Y",), None, 8, [1.5]), "input_sparsity"),
    ],
)
def test_mistakes_are_named(device: Accelerator, axes: CostAxes, says: str) -> None:
    with pytest.raises(EmomcError, match=says):
        PhysicalModel(device).tables([conv("layer", 2, 2, 4)], axes)


def test_the_least_buffer_is_just_enough() -> None:
    layer = conv("layer", 2, 2, 4)
    axes = CostAxes([0.0], [8], [0], ("X:Y",), activation_bits=8)
    with pytest.raises(EmomcError, match="expected at least 41"):
        PhysicalModel(replace(TINY, buffer_bits=40 * 8)).tables([layer], axes)
    assert PhysicalModel(replace(TINY, buffer_bits=41 * 8)).tables([layer], axes)["energy"].item() > 0


@pytest.mark.parametrize("name", ["published", "generic-45nm"])
def test_a_layer_of_another_kind_is_named(name: str) -> None:
    layer = replace(conv("attend", 2, 2, 4), kind="attention")
    with pytest.raises(
        EmomcError, match=r"layer 'attend': kind 'attention' cannot be counted; expected conv or linear"
    ):
        load_accelerator(name).tables([layer], CostAxes([0.0], [8], [0], ("X:Y",)))
