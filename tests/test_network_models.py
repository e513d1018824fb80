"""Traces of torchvision's networks against torch's own operation counter and the shapes that modules really see."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import partial

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from emomc.network import trace

MODELS = {
    **dict.fromkeys(("resnet18", "resnet50", "vgg16_bn", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0"), 224),
    **dict.fromkeys(("shufflenet_v2_x1_0", "densenet121", "squeezenet1_1", "regnet_y_400mf", "convnext_tiny"), 224),
    "googlenet": 224,
    "inception_v3": 299,
}


def build(name: str) -> nn.Module:
    """The network without data, for speed; regnet computes its widths with tensors, so it needs real ones."""
    settings = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        return torchvision.models.get_model(name, weights=None, **settings).eval().to("meta")


def observed_calls(module: nn.Module, image: torch.Tensor) -> tuple[dict[str, list], int]:
    """Input and output shapes of every call of every convolution and linear module, and the counted operations."""
    calls: dict[str, list] = defaultdict(list)

    def note(name: str, _: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        calls[name].append((inputs[0].shape, output.shape))

    for name, part in module.named_modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            part.register_forward_hook(partial(note, name))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(image)
    return calls, counter.get_total_flops()


@pytest.mark.parametrize("name", MODELS)
def test_agrees_with_counter_and_observed_shapes(name: str) -> None:
    module, image = build(name), torch.empty(2, 3, MODELS[name], MODELS[name], device="meta")
    network = trace(module, image)
    calls, flops = observed_calls(module, image)

    assert 2 * network.macs == flops
    assert [layer.name for layer in network.layers] == list(calls)
    assert network.weight_count == sum(module.get_submodule(name).weight.numel() for name in calls)
    for layer in network.layers:
        part = module.get_submodule(layer.name)
        assert layer.weight == f"{layer.name}.weight"
        assert layer.bias == (None if part.bias is None else f"{layer.name}.bias")
        assert len(layer.calls) == len(calls[layer.name])
        for bounds, (source, result) in zip(layer.calls, calls[layer.name], strict=True):
            assert bounds.inputs == source.numel()
            assert bounds.outputs == result.numel()
            assert bounds.weights == layer.weight_count == part.weight.numel()
            if isinstance(part, nn.Conv2d):
                assert source == (bounds.B, bounds.G * bounds.C, bounds.IY, bounds.IX)
                assert result == (bounds.B, bounds.G * bounds.K, bounds.OY, bounds.OX)
                assert part.kernel_size == (bounds.FY, bounds.FX)
                assert (bounds.stride, bounds.padding, bounds.dilation) == (part.stride, part.padding, part.dilation)
                assert part.groups == bounds.G


@pytest.mark.parametrize("name", MODELS)
def test_graph_is_closed_and_has_one_node_a_call(name: str) -> None:
    network = trace(build(name), torch.empty(1, 3, MODELS[name], MODELS[name]))
    seen: set[str] = set()
    for node in network.nodes:
        assert seen.issuperset(node.inputs)
        assert node.name not in seen
        seen.add(node.name)
    calls = [(node.layer, node.call) for node in network.nodes if node.kind == "layer"]
    assert sorted(calls) == sorted((layer.name, call) for layer in network.layers for call in range(len(layer.calls)))
    assert [network.nodes[0].kind, network.nodes[-1].kind] == ["input", "output"]


def test_kinds_of_resnet18() -> None:
    """Eight residual additions, one batch norm a convolution: He et al., Deep Residual Learning, Table 1."""
    nodes = trace(build("resnet18"), torch.empty(1, 3, 224, 224)).nodes
    expected = {"input": 1, "layer": 21, "norm": 20, "activation": 17, "add": 8, "pool": 2, "reshape": 1, "output": 1}
    assert Counter(node.kind for node in nodes) == expected
    producer = {node.name: node for node in nodes}
    for node in nodes:
        if node.kind == "norm":
            assert producer[node.inputs[0]].kind == "layer"
        if node.kind == "add":
            assert len(node.inputs) == 2
            assert all(producer[source].shape == node.shape for source in node.inputs)


def test_concats_of_densenet_and_mean_of_shufflenet() -> None:
    """A DenseNet-121 concatenates at the inputs of its 58 dense layers and at the ends of its 4 blocks."""
    dense = [node.kind for node in trace(build("densenet121"), torch.empty(1, 3, 224, 224)).nodes]
    assert dense.count("concat") == 58 + 4
    shuffle = trace(build("shufflenet_v2_x1_0"), torch.empty(1, 3, 224, 224)).nodes
    assert [node.kind for node in shuffle if node.operator == "torch.Tensor.mean"] == ["pool"]


def test_vgg16_on_cifar_has_the_published_count() -> None:
    widths = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]
    with torch.device("meta"):
        module = torchvision.models.VGG(torchvision.models.vgg.make_layers(widths), 10, init_weights=False)
        module.avgpool, module.classifier = nn.Identity(), nn.Linear(512, 10)
    layers = trace(module, torch.empty(1, 3, 32, 32)).layers
    assert sum(layer.macs for layer in layers if layer.kind == "conv") == 313_196_544
    assert sum(layer.macs for layer in layers if layer.kind == "linear") == 5_120
