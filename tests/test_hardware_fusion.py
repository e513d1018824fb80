"""Layer fusion and peak memory against simulated row pipelines, every possible grouping, and published figures."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emomc.errors import EmomcError
from emomc.hardware import CostAxes, accelerators, load_accelerator
from emomc.hardware.accelerator import MacEnergy, Memory, Sparsity
from emomc.hardware.fusion import FusionPlan, Widths, fuse, fused_group, line_buffers, single_group
from emomc.hardware.memory import peak_memory
from emomc.hardware.physical import PhysicalModel
from emomc.hardware.steps import Steps
from emomc.network.layers import Network
from tests.referees.networks import Builder, resnet
from tests.referees.row_pipeline import most_rows_held

EDGE = load_accelerator("edge-systolic")
assert isinstance(EDGE, PhysicalModel)


def with_buffer(kilobytes: float, double: bool = False) -> PhysicalModel:
    assert isinstance(EDGE, PhysicalModel)
    device = replace(EDGE.accelerator, buffer_bits=int(kilobytes * 8192), double_buffered=double)
    return PhysicalModel(device)


def plan(network: Network, kilobytes: float) -> FusionPlan:
    return fuse(network, with_buffer(kilobytes), [8] * len(network.layers), activation_bits=8)


@st.composite
def chains(draw: st.DrawFn) -> Network:
    """Two to four convolutions in a row, some inside a residual block."""
    b = Builder(draw(st.integers(1, 3)), draw(st.integers(8, 12)))
    x = "x"
    for _ in range(draw(st.integers(2, 4))):
        if draw(st.booleans()):
            channels = b.shape(x)[1]
            kernels = [draw(st.sampled_from([1, 3, 5])) for _ in range(draw(st.integers(1, 2)))]
            inner = x
            for kernel in kernels:
                inner = b.relu(b.conv(inner, channels, kernel))
            x = b.add(inner, x)
        else:
            x = b.relu(b.conv(x, draw(st.integers(1, 4)), draw(st.sampled_from([1, 3])), draw(st.integers(1, 2))))
    return b.network(x)


@settings(max_examples=60, deadline=None)
@given(chains())
def test_line_buffers_hold_every_waiting_row(network: Network) -> None:
    steps = Steps(network)
    held = most_rows_held(network)
    for name, buffer in line_buffers(steps, 0, len(steps.calls) - 1).items():
        in_passing = 1  # a row that its only consumer takes at once needs no line buffer
        assert max(buffer.kept, in_passing) >= held[name]


def test_line_buffers_of_a_plain_chain_are_exact() -> None:
    b = Builder(3, 16)
    network = b.network(b.conv(b.conv(b.conv("x", 4, 5), 4, 3), 4, 3))
    steps = Steps(network)
    held = most_rows_held(network)
    kept = {name: buffer.kept for name, buffer in line_buffers(steps, 0, 2).items()}
    assert (
        [kept[node.name] for node in network.nodes[:3]] == [held[node.name] for node in network.nodes[:3]] == [5, 3, 3]
    )


def test_skip_waits_for_the_block() -> None:
    b = Builder(4, 16)
    network = b.network(b.add(b.conv(b.conv("x", 4), 4), "x"))
    assert line_buffers(Steps(network), 0, 1)["x"].kept == most_rows_held(network)["x"] == 3


@settings(max_examples=25, deadline=None)
@given(chains(), st.sampled_from([0.25, 0.5, 1.0, 2.0, 8.0]))
def test_grouping_is_the_best_of_all(network: Network, kilobytes: float) -> None:
    """Every way to cut the calls into groups is priced; dynamic programming must find the least."""
    model = with_buffer(kilobytes)
    found = fuse(network, model, [8] * len(network.layers), activation_bits=8)
    steps, count = Steps(network), len(network.layers)
    widths = Widths([8] * count, [layer.weight_count * 8 for layer in network.layers], 8, 32)
    alone = [single_group(steps, at, model.accelerator.tile_buffer(8), widths) for at in range(count)]
    least = float("inf")
    for cuts in product((False, True), repeat=count - 1):
        borders = [0, *(at + 1 for at, cut in enumerate(cuts) if cut), count]
        groups = [
            alone[first]
            if end == first + 1
            else fused_group(steps, first, end - 1, model.accelerator.buffer_bits, widths)
            for first, end in pairwise(borders)
        ]
        if all(groups):
            least = min(least, sum(group.traffic for group in groups if group))
    assert found.traffic == pytest.approx(least)
    assert found.unfused_traffic == pytest.approx(sum(group.traffic for group in alone))
    assert found.traffic <= found.unfused_traffic


def test_everything_fused_moves_input_weights_and_output() -> None:
    network = resnet(2)
    fused = plan(network, 4096)
    ends = 3 * 32 * 32 + 64 * 8 * 8
    assert len(fused.groups) == 1
    assert fused.traffic == ends + network.weight_count
    assert fused.groups[0].recomputed_macs == 0


def test_residual_blocks_save_what_was_found_elsewhere() -> None:
    """Fusing both convolutions of each block saves 17 % at 16 KB and 27 % at 108 KB; longer groups save more."""
    network = resnet(3)
    for kilobytes, saving in ((16, 0.17), (108, 0.27)):
        fused = plan(network, kilobytes)
        assert 1 - fused.traffic / fused.unfused_traffic >= saving


def test_unfused_traffic_counts_the_skip_once_more() -> None:
    b = Builder(4, 16)
    network = b.network(b.add(b.conv(b.conv("x", 4), 4), "x"))
    maps = 4 * 16 * 16
    fused = plan(network, 256)
    assert fused.unfused_traffic == network.weight_count + maps * (2 + 2 + 1)  # each layer in and out, the skip again
    assert fused.traffic == network.weight_count + maps * 2


def test_larger_buffers_never_move_more() -> None:
    network = resnet(1)
    traffic = [plan(network, kilobytes).traffic for kilobytes in (1, 2, 4, 8, 16, 64, 256)]
    assert traffic == sorted(traffic, reverse=True)


def test_groups_cover_every_call_once_and_fit() -> None:
    network = resnet(3)
    for kilobytes in (4, 32):
        groups = plan(network, kilobytes).groups
        assert [at for group in groups for at in range(group.first, group.last + 1)] == list(range(len(network.layers)))
        assert all(group.buffer <= kilobytes * 1024 for group in groups)


def test_first_layers_of_vgg_as_published() -> None:
    """Five convolutions and two poolings at 32 bits: 3.6 MB of maps, MICRO 2016, where 77 MB moved before."""
    b = Builder(3, 224)
    x = b.conv(b.conv("x", 64), 64)
    x = b.conv(b.conv(b.pool(x, 2), 128), 128)
    network = b.network(b.conv(b.pool(x, 2), 256))
    wide = with_buffer(8192)
    device = replace(wide.accelerator, weight_widths=(32,), activation_widths=(32,))
    fused = fuse(network, PhysicalModel(device), [32] * 5, activation_bits=32)
    maps = fused.traffic - network.weight_count * 4
    assert maps / 2**20 == pytest.approx(3.6, abs=0.05)
    assert (fused.unfused_traffic - network.weight_count * 4) / maps > 15


def test_strips_trade_columns_for_rows() -> None:
    """A buffer too small for whole rows still fuses: strips recompute and fetch the columns that they share."""
    b = Builder(8, 64)
    network = b.network(b.conv(b.conv("x", 8), 8))
    groups = {kilobytes: plan(network, kilobytes).groups for kilobytes in (4, 16)}
    assert [len(found) for found in groups.values()] == [1, 1]
    narrow, whole = groups[4][0], groups[16][0]
    assert narrow.strips > whole.strips == 1
    assert narrow.recomputed_macs > 0 == whole.recomputed_macs
    assert whole.traffic < narrow.traffic < plan(network, 4).unfused_traffic
    inner = 64 // narrow.strips + 2  # the inner map's columns that a strip needs
    assert narrow.recomputed_macs == network.layers[0].macs // 64 * (narrow.strips * inner - 64)


def test_groups_of_channels_take_their_lines() -> None:
    """Two depthwise layers in a row: three rows of each map, a row of sums of each layer, and the weights."""
    b = Builder(6, 16)
    network = b.network(b.conv(b.conv("x", 6, groups=6), 6, groups=6))
    (group,) = plan(network, 64).groups
    maps, sums = 2 * 3 * 16 * 6, 2 * 16 * 6
    assert group.buffer == maps + sums * 4 + network.weight_count


def test_peak_memory_counts_waiting_skips() -> None:
    b = Builder(4, 8)
    network = b.network(b.relu(b.add(b.conv(b.relu(b.conv("x", 8)), 4), "x")))
    one, two = 4 * 64, 8 * 64
    assert peak_memory(network, [0, 0], 8) == one + two + one  # the skip, the inner map, the result
    assert peak_memory(network, [80, 16], 16) == 2 * (one + two + one) + 12
    straight = Builder(4, 8)
    chain = straight.network(straight.conv(straight.conv("x", 8), 4))
    assert peak_memory(chain, [0, 0], 8) == one + two


@pytest.mark.parametrize("coded", [False, True])
@pytest.mark.parametrize("name", [name for name in accelerators() if name not in ("published", "emomc-fpga")])
def test_unfused_traffic_is_that_of_the_tables(name: str, coded: bool) -> None:
    """Where only off-chip bits cost energy, the tables move the least of them too: indices, zeros and codes counted."""
    model = load_accelerator(name)
    assert isinstance(model, PhysicalModel)
    free = Memory(0.0, 0.0, 1.0)
    device = replace(
        model.accelerator, register=free, buffer=free, dram=Memory(1.0, 1.0, 1.0), mac=MacEnergy(0, 0, 0, 0), hop=0.0,
        leakage=0.0, decode=None if model.accelerator.decode is None else 0.0, buffer_bits=2000, psum_bits=1,
    )  # fmt: skip
    model = PhysicalModel(device)
    b = Builder(3, 20)
    network = b.network(b.conv(b.relu(b.conv(b.conv("x", 40, 3), 48, 3, 2)), 24, 1))
    bits, pruned, codes = [8, 4, 2], [0.0, 0.5, 0.9], [9000.0, 50000.0, 1234.0]
    expected = 0.0
    for at, layer in enumerate(network.layers):
        given_codes = np.full((1, 1, 1, 1), codes[at]) if coded else None
        axes = CostAxes([pruned[at]], [bits[at]], [0], ("X:Y",), given_codes, 8)
        expected += model.tables([layer], axes)["traffic"].item()
    fused = fuse(network, model, bits, codes if coded else None, 8, pruned)
    assert fused.unfused_traffic == pytest.approx(expected, rel=1e-12)
    grouped = fuse(
        network, PhysicalModel(replace(device, buffer_bits=10**7)), bits, codes if coded else None, 8, pruned
    )
    maps = 3 * 20 * 20 + 24 * 10 * 10
    index = device.index_bits if device.weight_sparsity is Sparsity.SKIPPING else 0
    skips = device.weight_sparsity is Sparsity.SKIPPING
    stored = sum(
        layer.weight_count * (device.weight_width(width) + index) * (1 - zeros if skips else 1)
        for layer, width, zeros in zip(network.layers, bits, pruned, strict=True)
    )
    off_chip = sum(codes) if coded and device.decode is not None else stored
    assert grouped.traffic == pytest.approx(maps + off_chip / 8, rel=1e-12)


def test_mistakes_are_named() -> None:
    network = resnet(1)
    with pytest.raises(EmomcError, match="prune_ratio: expected 9 entries, one a layer, got 2"):
        fuse(network, with_buffer(8), [8] * 9, activation_bits=8, prune_ratio=[0.5, 0.5])
    with pytest.raises(EmomcError, match="expected 9 entries"):
        fuse(network, with_buffer(8), [8], activation_bits=8)
    with pytest.raises(EmomcError, match="bit_width 20"):
        fuse(network, with_buffer(8), [20] * 9, activation_bits=8)
    with pytest.raises(EmomcError, match="expected 9 entries"):
        peak_memory(network, [8])
