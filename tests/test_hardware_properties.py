"""Properties that any right model of an accelerator has, whatever its numbers: both models are held to them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emomc.hardware import CostAxes, CostModel, PublishedModel
from emomc.hardware.accelerator import Sparsity
from emomc.hardware.accesses import array_accesses
from emomc.hardware.dataflow import DATAFLOWS, NAMED
from emomc.hardware.physical import PhysicalModel
from emomc.hardware.tiling import compulsory_words
from emomc.network.layers import Layer, LoopBounds
from tests.referees.shapes import conv, linear
from tests.test_hardware_accesses import calls
from tests.test_hardware_physical import TINY, layer_of

TINY_MODEL = PhysicalModel(replace(TINY, buffer_bits=6000, psum_bits=16))
WHOLE = ("FX", "FY", "C", "OX", "OY", "K", "B")


def cost(model: CostModel, layer: Layer, flow: str, prune: float = 0.0, metric: str = "energy") -> float:
    bits = 16 if isinstance(model, PublishedModel) else 8
    axes = CostAxes([prune], [8], [0], (flow,), activation_bits=bits)
    return float(model.tables([layer], axes)[metric].item())


@settings(max_examples=12, deadline=None)
@given(calls(3), st.sampled_from(("X:Y", "CI:CO", "FX:FY", "X:FX")), st.sampled_from(["K", "C", "B"]))
def test_larger_layers_never_cost_less(call: LoopBounds, flow: str, loop: str) -> None:
    """One more output channel, input channel or image: more energy, no less traffic."""
    more = replace(call, **{loop: getattr(call, loop) + 1})
    for model in (PublishedModel(), TINY_MODEL):
        assert cost(model, layer_of(more), flow) > cost(model, layer_of(call), flow)
    assert cost(TINY_MODEL, layer_of(more), flow, metric="traffic") >= cost(
        TINY_MODEL, layer_of(call), flow, metric="traffic"
    )


@pytest.mark.parametrize("flow", ["CI:CO", "FX:FY", "CO:FX"])
def test_a_pointwise_convolution_is_a_matrix_product(flow: str) -> None:
    """One image of n pixels costs what n images of one pixel cost, as long as pixels are not unrolled."""
    image = layer_of(LoopBounds(1, 1, 6, 5, 1, 8, 1, 1, 1, 8))
    product = layer_of(LoopBounds(8, 1, 6, 5, 1, 1, 1, 1, 1, 1))
    roomy = PhysicalModel(replace(TINY, buffer_bits=10**6))
    for metric in ("energy", "traffic", "latency"):
        assert cost(roomy, image, flow, metric=metric) == pytest.approx(cost(roomy, product, flow, metric=metric))


@pytest.mark.parametrize("model", [PublishedModel(), TINY_MODEL], ids=["published", "physical"])
def test_a_linear_layer_is_a_convolution_of_one_pixel(model: CostModel) -> None:
    dense = linear("linear", 12, 20)
    one_pixel = replace(conv("conv", 12, 20, 1, kernel=1), kind="linear")
    for flow in ("X:Y", "CI:CO", "FX:FY", "X:FX"):
        assert cost(model, dense, flow) == cost(model, one_pixel, flow)


def test_strides_as_wide_as_the_window_leave_nothing_to_reuse() -> None:
    """2x2 windows: at stride 1 neighbours share inputs, at stride 2 none do, and every input is read once a filter."""
    for stride in (1, 2):
        size = stride * 5 + 2
        call = LoopBounds(1, 1, 3, 2, 6, 6, 2, 2, size, size, (stride, stride))
        reads = array_accesses(call, "X:FX", 6, 2, WHOLE)["input_reads"]
        without_sharing = 3 * 2 * 6 * 6 * 2 * 2
        assert (reads == without_sharing) == (stride == 2)
        assert reads <= without_sharing


@settings(max_examples=60, deadline=None)
@given(calls(6), st.sampled_from(DATAFLOWS), st.integers(1, 5), st.integers(1, 5))
def test_the_array_reads_every_input_that_it_uses(call: LoopBounds, flow: str, rows: int, columns: int) -> None:
    counts = array_accesses(call, flow, rows, columns, WHOLE)
    inputs, weights, outputs = compulsory_words(call)
    assert inputs <= counts["input_reads"] <= call.macs
    assert weights <= counts["weight_reads"] <= call.macs
    assert outputs <= counts["psum_writes"] <= call.macs


@pytest.mark.parametrize("sparsity", Sparsity)
def test_energy_covers_the_arithmetic_that_is_left(sparsity: Sparsity) -> None:
    device = replace(TINY, weight_sparsity=sparsity, index_bits=2)
    layer = conv("layer", 6, 6, 7)
    operation = device.mac.constant + device.mac.linear * 16 + device.mac.product * 64
    for prune in (0.0, 0.5, 0.99):
        left = 1.0 if sparsity is Sparsity.NONE else 1 - prune
        assert cost(PhysicalModel(device), layer, "CI:CO", prune) > left * layer.macs * operation


def test_nothing_pruned_costs_what_dense_hardware_costs() -> None:
    layer = conv("layer", 6, 6, 7)
    dense = cost(PhysicalModel(TINY), layer, "X:Y")
    for sparsity in Sparsity:
        device = replace(TINY, weight_sparsity=sparsity, activation_sparsity=sparsity, index_bits=0)
        assert cost(PhysicalModel(device), layer, "X:Y") == pytest.approx(dense, rel=1e-12)


def test_a_larger_buffer_never_costs_more() -> None:
    """Buffers of one energy a bit, small and large: no layer pays more for the larger one."""
    layers = [conv("first", 16, 8, 12), conv("second", 12, 16, 12, stride=2), linear("last", 10, 48)]
    axes = CostAxes([0.0], [8], [0], NAMED, activation_bits=8)
    small, large = (
        PhysicalModel(replace(TINY, buffer_bits=8192 * kilobytes, leakage=0.0)).tables(layers, axes)["energy"]
        for kilobytes in (1, 4)
    )
    assert np.all(large <= small * (1 + 1e-12))
    assert np.any(large < small)
