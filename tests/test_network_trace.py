"""What a trace sees in modules that share, reuse or compute weights, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from emomc.errors import EmomcError
from emomc.network import LoopBounds, trace

F = nn.functional
IMAGE = torch.zeros(1, 4, 8, 8)


class Inline(nn.Module):
    """A module whose forward is a given function of (module, input)."""

    def __init__(self, run: Callable[[nn.Module, torch.Tensor], torch.Tensor], **parts: object) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(self, x)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape))


# Loop bounds


def counted_macs(module: nn.Module, x: torch.Tensor) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(x)
    return counter.get_total_flops() // 2


def positions(bounds: LoopBounds, extra: tuple[int, int] = (0, 0)) -> tuple[int, int]:
    """Output extents from the others, by sliding the kernel over the padded input; extra is further padding."""
    count = []
    for axis, (size, kernel) in enumerate(((bounds.IY, bounds.FY), (bounds.IX, bounds.FX))):
        padded = size + 2 * bounds.padding[axis] + extra[axis]
        reach = bounds.dilation[axis] * (kernel - 1)
        count.append(len([start for start in range(0, padded, bounds.stride[axis]) if start + reach < padded]))
    return count[0], count[1]


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, torch.Tensor]:
    axes, groups = draw(st.sampled_from((1, 2))), draw(st.integers(1, 3))
    several = st.tuples(*[st.integers(1, 3)] * axes)
    padding = draw(st.one_of(st.integers(0, 2), st.tuples(*[st.integers(0, 2)] * axes), st.just("same")))
    module = (nn.Conv1d, nn.Conv2d)[axes - 1](
        groups * draw(st.integers(1, 3)),
        groups * draw(st.integers(1, 3)),
        draw(several),
        stride=1 if padding == "same" else draw(several),
        padding=padding,
        dilation=draw(several),
        groups=groups,
        bias=draw(st.booleans()),
    )
    extents = [draw(st.integers(7, 10)) for _ in range(axes)]
    batch = draw(st.sampled_from(([], [1], [3])))
    return module, torch.zeros(*batch, module.in_channels, *extents)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_convolution_bounds(case: tuple[nn.Module, torch.Tensor]) -> None:
    module, x = case
    (layer,) = trace(nn.Sequential(module), x).layers
    (bounds,) = layer.calls
    y = module(x)
    assert (layer.kind, layer.weight_shape) == ("conv", module.weight.shape)
    assert bounds.macs == counted_macs(module, x)
    assert (bounds.inputs, bounds.outputs, bounds.weights) == (x.numel(), y.numel(), module.weight.numel())
    assert (bounds.OY, bounds.OX)[-len(module.kernel_size) :] == y.shape[-len(module.kernel_size) :]
    if x.dim() == len(module.kernel_size) + 1:
        assert bounds.B == 1
    odd = tuple(
        d * (k - 1) % 2 if module.padding == "same" else 0
        for d, k in zip(bounds.dilation, (bounds.FY, bounds.FX), strict=True)
    )
    assert positions(bounds, odd) == (bounds.OY, bounds.OX)
    if len(module.kernel_size) == 1:
        assert (bounds.FY, bounds.OY, bounds.IY, bounds.stride[0], bounds.padding[0]) == (1, 1, 1, 1, 0)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 4), max_size=4), st.integers(1, 5), st.integers(1, 5))
def test_linear_bounds_at_any_rank(leading: list[int], C: int, K: int) -> None:
    module, x = nn.Linear(C, K), torch.zeros(*leading, C)
    (layer,) = trace(nn.Sequential(module), x).layers
    (bounds,) = layer.calls
    assert layer.kind == "linear"
    assert bounds.macs == counted_macs(module, x)
    assert (bounds.inputs, bounds.outputs, bounds.weights) == (x.numel(), module(x).numel(), K * C)
    assert (bounds.K, bounds.C, bounds.G, bounds.FY, bounds.FX) == (K, C, 1, 1, 1)


def test_token_axes_of_a_linear_operator() -> None:
    bounds = trace(nn.Linear(5, 7), torch.zeros(2, 3, 4, 5)).layers[0].calls[0]
    assert (bounds.B, bounds.OY, bounds.OX, bounds.IY, bounds.IX) == (2, 3, 4, 3, 4)
    assert trace(nn.Linear(5, 7), torch.zeros(2, 4, 5)).layers[0].calls[0].OX == 4


def test_unequal_same_padding_is_what_comes_first() -> None:
    module = nn.Conv2d(1, 1, (4, 3), padding="same", dilation=(1, 2), bias=False)
    assert trace(module, torch.zeros(1, 1, 9, 9)).layers[0].calls[0].padding == (1, 2)


def test_padding_by_reflection_is_an_own_step() -> None:
    module = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
    network = trace(module, IMAGE)
    assert network.layers[0].calls[0].padding == (0, 0)
    assert network.macs == counted_macs(module, IMAGE)
    assert [node.kind for node in network.nodes] == ["input", "other", "layer", "output"]


# Sharing


def test_module_called_twice_is_one_layer_with_two_calls() -> None:
    module = Inline(lambda m, x: m.conv(F.max_pool2d(m.conv(x), 2)), conv=nn.Conv2d(4, 4, 3, padding=1))
    network = trace(module, IMAGE)
    (layer,) = network.layers
    assert [(call.OY, call.OX) for call in layer.calls] == [(8, 8), (4, 4)]
    assert [(node.layer, node.call) for node in network.nodes if node.kind == "layer"] == [("conv", 0), ("conv", 1)]
    assert network.macs == counted_macs(module, IMAGE)
    assert network.weight_count == 4 * 4 * 9


def test_modules_that_share_a_weight_are_one_layer_named_after_its_first_user() -> None:
    parts = nn.ModuleDict({"first": nn.Linear(4, 4), "second": nn.Linear(4, 4)})
    parts["first"].weight = parts["second"].weight
    module = Inline(lambda m, x: m.parts["first"](m.parts["second"](x)), parts=parts)
    (layer,) = trace(module, torch.zeros(2, 4)).layers
    assert (layer.name, layer.weight, layer.bias) == ("parts.second", "parts.second.weight", "parts.second.bias")
    assert layer.aliases == ("parts.first.weight",)
    assert len(layer.calls) == 2
    assert layer.macs == 2 * 2 * 4 * 4


def test_one_module_under_two_names() -> None:
    linear = nn.Linear(4, 4)
    (layer,) = trace(nn.Sequential(linear, nn.ReLU(), linear), torch.zeros(1, 4)).layers
    assert (layer.name, layer.aliases, len(layer.calls)) == ("0", ("2.weight",), 2)


def test_functional_calls_with_stored_weights() -> None:
    inner = Inline(
        lambda m, x: F.linear(F.conv2d(input=x, weight=m.kernel, bias=m.offset, padding=1).mean((2, 3)), m.weight),
        kernel=weight(6, 4, 3, 3),
        offset=weight(6),
        weight=weight(10, 6),
    )
    inner.register_buffer("blur", torch.zeros(4, 1, 3, 3))
    module = Inline(lambda m, x: m.inner(F.conv2d(x, m.inner.blur, None, 1, 1, 1, 4)), inner=inner)
    blur, conv, linear = trace(module, IMAGE).layers
    assert (blur.name, blur.calls[0].G, blur.calls[0].padding) == ("inner.blur", 4, (1, 1))
    assert (conv.name, conv.weight, conv.bias) == ("inner.kernel", "inner.kernel", "inner.offset")
    assert (linear.name, linear.weight, linear.bias) == ("inner", "inner.weight", None)
    assert [conv.calls[0].OY, linear.calls[0].K] == [8, 10]


def test_subclasses_of_convolution() -> None:
    class Plain(nn.Conv2d):
        pass

    (layer,) = trace(nn.Sequential(Plain(4, 4, 3)), IMAGE).layers
    assert layer.name == "0"


# The graph


def test_kinds_of_modules_functions_and_methods() -> None:
    def run(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        y = m.norm(m.conv(x)).relu_()
        y += x
        y = torch.cat([F.hardswish(y), y.sigmoid(), m.gelu(x.add(y))], 1)
        y = F.avg_pool2d(F.layer_norm(y, y.shape[2:]), 2)
        return m.gamma * y.permute(0, 2, 3, 1).flatten(1, y.dim() - 2)

    parts = {"conv": nn.Conv2d(4, 4, 1), "norm": nn.BatchNorm2d(4), "gelu": nn.GELU(), "gamma": weight(12)}
    network = trace(Inline(run, **parts), IMAGE)
    assert [(node.operator, node.kind) for node in network.nodes if node.shape] == [
        ("input", "input"),
        ("torch.nn.functional.conv2d", "layer"),
        ("torch.nn.BatchNorm2d", "norm"),
        ("torch.Tensor.relu_", "activation"),
        ("operator.add", "add"),
        ("torch.nn.functional.hardswish", "activation"),
        ("torch.Tensor.sigmoid", "activation"),
        ("torch.Tensor.add", "add"),
        ("torch.nn.GELU", "activation"),
        ("torch.cat", "concat"),
        ("torch.nn.functional.layer_norm", "norm"),
        ("torch.nn.functional.avg_pool2d", "pool"),
        ("torch.Tensor.permute", "reshape"),
        ("torch.Tensor.flatten", "reshape"),
        ("operator.mul", "other"),
        ("output", "output"),
    ]
    by_name = {node.name: node for node in network.nodes}
    (concat,) = (node for node in network.nodes if node.kind == "concat")
    assert [by_name[source].operator.rpartition(".")[2] for source in concat.inputs] == ["hardswish", "sigmoid", "GELU"]
    assert concat.shape == (1, 12, 8, 8)
    assert [node.module for node in network.nodes if node.kind in ("layer", "norm")] == ["conv", "norm", ""]


def test_arguments_with_defaults_keep_them() -> None:
    class Optional(nn.Conv2d):
        def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None, scale: bool = False) -> torch.Tensor:
            y = super().forward(x)
            y = y if mask is None else y * mask
            return y * 2 if scale else y

    assert [node.kind for node in trace(Optional(4, 4, 1), IMAGE).nodes] == ["input", "layer", "output"]


# The module is only read


def test_module_is_unchanged() -> None:
    fired = []
    module = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 2))
    module[1].eval()
    module[4].weight.requires_grad_(False)
    for part in module.modules():
        part.register_forward_hook(lambda *_: fired.append("forward"))
        part.register_forward_pre_hook(lambda *_: fired.append("before"))
        part.register_state_dict_pre_hook(lambda *_: fired.append("state_dict"))

    def state() -> list[object]:
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        kept = [
            (name, id(t), t.clone().numpy(force=True).tobytes(), t.requires_grad, t.grad) for name, t in tensors.items()
        ]
        parts = [
            (name, part.training, len(part._forward_hooks), set(vars(part))) for name, part in module.named_modules()
        ]
        return [kept, parts, type(module).__call__, nn.Module.__getattr__]

    before = state()
    image = torch.rand(3, 4, 8, 8)
    kinds = [node.kind for node in trace(module, image).nodes]
    assert kinds == ["input", "layer", "norm", "other", "reshape", "layer", "output"]
    assert state() == before
    assert fired == []


def test_traces_what_runs_in_evaluation_mode() -> None:
    module = Inline(lambda m, x: m.auxiliary(x) if m.training else m.main(x))
    module.main, module.auxiliary = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1)
    assert [layer.name for layer in trace(module.train(), IMAGE).layers] == ["main"]
    assert module.training


def test_module_is_unchanged_after_an_error() -> None:
    module = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ConvTranspose2d(4, 4, 3)).train()
    with pytest.raises(EmomcError):
        trace(module, IMAGE)
    assert all(part.training for part in module.modules())
    assert module(IMAGE).shape == IMAGE.shape


def test_needs_no_memory_for_weights() -> None:
    """10**12 weights, 4 TB, and an input of a million values that is never touched."""
    network = trace(nn.Sequential(nn.Linear(10**6, 10**6, device="meta")), torch.empty(1, 10**6))
    assert network.weight_count == network.macs == 10**12


def test_types_are_importable_without_torch() -> None:
    command = "import sys, emomc.network as n; n.LoopBounds, n.trace; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0


# What is refused


def branch(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return x if x.sum() > 0 else -x


def lstm(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    state = (x.new_zeros(1, 4, 2), x.new_zeros(1, 4, 2))
    return torch.lstm(x[0], state, list(m.weights), True, 1, 0.0, False, False, True)[0]


LSTM_WEIGHTS = nn.ParameterList([weight(8, 8), weight(8, 2), weight(8), weight(8)])


@pytest.mark.parametrize(
    ("part", "names"),
    [
        (nn.ConvTranspose2d(4, 4, 3), "torch.nn.ConvTranspose2d"),
        (nn.LSTM(8, 2), "torch.nn.LSTM"),
        (nn.MultiheadAttention(8, 2), "torch.nn.MultiheadAttention"),
        (nn.TransformerEncoderLayer(8, 2, 8), "torch.nn.TransformerEncoderLayer"),
        (nn.Embedding(4, 4), "torch.nn.Embedding"),
        (Inline(lambda m, x: torch.matmul(x, x)), "torch.matmul"),
        (Inline(lambda m, x: x @ x), "operator.matmul"),
        (Inline(lambda m, x: x.matmul(m.weight), weight=weight(8, 3)), "torch.Tensor.matmul"),
        (Inline(lambda m, x: torch.bmm(x[0], x[0])), "torch.bmm"),
        (Inline(lambda m, x: torch.einsum("bchw,bcwv->bchv", x, x)), "torch.functional.einsum"),
        (Inline(lambda m, x: F.scaled_dot_product_attention(x, x, x)), "scaled_dot_product_attention"),
        (Inline(lambda m, x: F.conv_transpose2d(x, m.weight), weight=weight(4, 4, 3, 3)), "conv_transpose2d"),
        (Inline(lambda m, x: F.conv3d(x, m.weight), weight=weight(1, 1, 1, 1, 1)), "conv3d"),
        (Inline(lambda m, x: F.bilinear(x, x, m.weight), weight=weight(2, 8, 8)), "bilinear"),
        (Inline(lambda m, x: F.embedding(x.long(), m.weight), weight=weight(2, 8)), "embedding"),
        (Inline(lambda m, x: torch.cdist(x, x)), "cdist"),
        (Inline(lambda m, x: torch.mv(x[0, 0], x[0, 0, 0])), "torch.mv"),
        (Inline(lstm, weights=LSTM_WEIGHTS), "torch.lstm"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refuses_what_it_cannot_account_for(part: nn.Module, names: str) -> None:
    module = nn.Sequential()
    module.add_module("body", nn.Sequential(nn.Identity(), part))
    with pytest.raises(EmomcError, match="cannot account for") as caught:
        trace(module, IMAGE)
    assert names in str(caught.value)
    assert "'body.1'" in str(caught.value)


def test_refuses_operations_of_other_packages() -> None:
    import torchvision  # noqa: F401  # registers its operations

    module = nn.Sequential(
        Inline(lambda m, x: torch.ops.torchvision.roi_align(x, x[:, 0, 0, :5], 1.0, 2, 2, -1, False))
    )
    with pytest.raises(EmomcError, match=r"cannot account for .*roi_align in module '0'"):
        trace(module, IMAGE)


@pytest.mark.parametrize(
    "part",
    [
        nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)),
        nn.utils.spectral_norm(nn.Conv2d(4, 4, 3)),
        Inline(lambda m, x: F.conv2d(x, m.weight / m.weight.std()), weight=weight(4, 4, 3, 3)),
        Inline(lambda m, x: F.conv2d(x, m.weight, m.bias * 2), weight=weight(4, 4, 3, 3), bias=weight(4)),
        Inline(lambda m, x: F.conv2d(x, torch.ones(4, 4, 3, 3))),
        Inline(lambda m, x: F.linear(x, x[0, 0])),
    ],
    ids=["parametrization", "weight hook", "standardized", "bias", "constant", "activations"],
)
def test_refuses_weights_that_are_not_stored(part: nn.Module) -> None:
    with pytest.raises(EmomcError, match="in module 'part' uses a weight or bias that is computed"):
        trace(Inline(lambda m, x: m.part(x), part=part), IMAGE)


@pytest.mark.parametrize(
    "run",
    [
        branch,
        lambda m, x: x * (2 if x.shape[2] > 4 else 1),
        lambda m, x: sum(row for row in x),
        lambda m, x: x * float(x.mean()),
    ],
    ids=["branch", "shape branch", "loop", "value"],
)
def test_says_where_it_cannot_trace(run: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
    module = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Sequential(Inline(run)))
    with pytest.raises(EmomcError) as caught:
        trace(module, IMAGE)
    assert "cannot trace the network in module '1.0'" in str(caught.value)
    assert f"{__file__}:{run.__code__.co_firstlineno}"[:-1] in str(caught.value)


def test_says_where_values_are_read() -> None:
    module = nn.Sequential(Inline(lambda m, x: x * x.mean().item()))
    with pytest.raises(EmomcError, match=r"cannot run torch.Tensor.item in module '0'"):
        trace(module, IMAGE)


def test_wrong_input() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(EmomcError, match=r"cannot run torch.nn.functional.conv2d in module '0'"):
        trace(module, IMAGE)
    with pytest.raises(EmomcError, match="must be a tensor, not list"):
        trace(module, [1, 2])  # type: ignore[arg-type]


def test_module_that_cannot_be_copied() -> None:
    with pytest.raises(EmomcError, match="cannot copy the structure of Sequential"):
        trace(nn.Sequential(nn.LazyConv2d(4, 3)), IMAGE)
    with pytest.raises(EmomcError, match="cannot pickle 'generator'"):
        trace(Inline(lambda m, x: x, stream=(i for i in range(3))), IMAGE)


def test_threads_trace_and_run_networks_side_by_side() -> None:
    """What one thread traces is not what another runs, nor is a network traced into two graphs at once."""
    network = nn.Sequential(*(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()) for _ in range(6)))
    alone, found, stop = trace(network, IMAGE), [], threading.Event()
    before = nn.Module.__call__

    def traces() -> None:
        found.extend(trace(network, IMAGE) == alone for _ in range(20))

    def runs() -> int:
        count = 0
        while not stop.is_set():
            count += network(IMAGE).shape == IMAGE.shape
        return count

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(runs) for _ in range(2)]
        for each in [pool.submit(traces) for _ in range(2)]:
            each.result()
        stop.set()
        assert all(each.result() > 0 for each in running)
    assert found == [True] * 40
    assert nn.Module.__call__ is before
