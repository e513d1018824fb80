"""Shrinking for real: the outputs stay, what nothing reads goes, and files hold the smaller network."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from emomc import coding
from emomc.compression import file_overhead, quantize_uniform, save_network, shrink
from emomc.compression.activations import ActivationGrid, InputQuantizer, attach_quantizers, detach_quantizers
from emomc.compression.glue import make_storable
from emomc.errors import EmomcError
from emomc.export import load, shrink_file
from emomc.network import trace
from emomc.problems.tasks.networks import mobilenet_v1, resnet

pytest.importorskip("torch_pruning", reason="shrinking is an extra")


def conv(inputs: int, outputs: int, kernel: int = 3, groups: int = 1, **options: int) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False, **options)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU6())


class Branches(nn.Module):
    """Two branches side by side, one of them twice, and a gate: what concatenations and products couple."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = conv(3, 8), conv(8, 6, 1), conv(8, 10)
        self.gate, self.joined, self.head = nn.Conv2d(16, 16, 1), conv(16, 12), nn.Linear(12 * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        both = torch.cat([self.left(x), self.right(x)], 1)
        both = both * torch.sigmoid(self.gate(both.mean((2, 3), keepdim=True)))
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(self.joined(both), 2), 1))


CHAIN = (conv(3, 8), conv(8, 12), nn.MaxPool2d(2), conv(12, 6, 1), nn.Flatten(), nn.Linear(6 * 64, 5))
NETWORKS = {
    "chain": (lambda: nn.Sequential(*CHAIN), 16),
    "branches": (Branches, 16),
    "depthwise": (
        lambda: nn.Sequential(
            conv(3, 8), conv(8, 8, groups=8), conv(8, 9, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(9, 5)
        ),
        8,
    ),
    "option A": (lambda: resnet(8), 32),
    "MobileNet": (mobilenet_v1, 32),
    "ResNet-18": (lambda: torchvision.models.resnet18(weights=None), 32),
    "SqueezeNet": (lambda: torchvision.models.squeezenet1_1(weights=None), 48),
}


def pruned(name: str, alike: bool = False) -> tuple[nn.Module, torch.Tensor]:
    """A network whose layers do not read half of their inputs; images."""
    torch.manual_seed(0)
    build, size = NETWORKS[name]
    module = copy.deepcopy(build()).eval()
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Conv2d | nn.Linear) and part.weight.shape[1] > 3:
                channels = part.weight.shape[1]
                part.weight[:, torch.arange(0, channels, 2) if alike else torch.randperm(channels)[: channels // 2]] = 0
            if isinstance(part, nn.BatchNorm2d):
                for value in (part.running_mean, part.bias):
                    value.normal_()
                for value in (part.running_var, part.weight):
                    value.uniform_(0.5, 2)
    return module, torch.randn(2, 3, size, size)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("alike", [False, True], ids=["at random", "alike"])
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_stay_and_weights_go(name: str, alike: bool) -> None:
    module, images = pruned(name, alike)
    before = copy.deepcopy(module.state_dict())
    shrunk = shrink(module, images[:1])
    with torch.no_grad():
        expected, found = module(images), shrunk.module(images)
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
    assert count(shrunk.module) < 0.85 * count(module)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    for path, kept in shrunk.kept.items():
        old, new = module.get_submodule(path), shrunk.module.get_submodule(path)
        assert torch.equal(new.weight, old.weight[torch.from_numpy(kept.outputs)][:, torch.from_numpy(kept.inputs)])
    network = trace(shrunk.module, images[:1])
    assert network.macs < trace(module, images[:1]).macs


def test_in_a_chain_exactly_what_the_next_layer_reads_is_left() -> None:
    module, images = pruned("chain")
    small = shrink(module, images).module
    convs = [part for part in module.modules() if isinstance(part, nn.Conv2d)]
    read = [set(np.flatnonzero(part.weight.detach().numpy().any(axis=(0, 2, 3)))) for part in convs]
    left = [part.weight.shape for part in small.modules() if isinstance(part, nn.Conv2d)]
    assert [shape[0] for shape in left[:2]] == [len(read[1]), len(read[2])]
    assert [shape[1] for shape in left] == [3, len(read[1]), len(read[2])]


def test_a_channel_that_one_of_two_readers_reads_stays() -> None:
    module, images = pruned("option A")
    small = shrink(module, images).module
    for name, part in module.named_modules():
        if isinstance(part, nn.Conv2d):
            shape, inner = small.get_submodule(name).weight.shape, name.endswith("conv1") and name != "conv1"
            if inner:  # only the second convolution of the block reads what the first one makes
                assert shape[0] == part.weight.shape[0] // 2 and shape[1] == part.weight.shape[1]
            else:  # shortcuts pad and slice channels
                assert shape[0] == part.weight.shape[0]


def test_what_is_left_may_be_read_less_than_before() -> None:
    """A filter that goes no longer reads, so that what made its inputs goes too."""
    module = nn.Sequential(conv(3, 4), conv(4, 4, 1), conv(4, 4, 1), nn.Flatten(), nn.Linear(256, 2)).eval()
    _, second, third = (part for part in module.modules() if isinstance(part, nn.Conv2d))
    with torch.no_grad():
        third.weight[:, :2] = 0
        second.weight[2:, :3] = 0  # the filters that stay read the last channel only
    small = shrink(module, torch.zeros(1, 3, 8, 8)).module
    assert [part.weight.shape[0] for part in small.modules() if isinstance(part, nn.Conv2d)] == [1, 2, 4]


def test_normalization_over_channels_keeps_them_and_one_channel_is_left() -> None:
    for norm, left in ((nn.GroupNorm(2, 8), 8), (nn.BatchNorm2d(8), 1)):
        module = nn.Sequential(nn.Conv2d(3, 8, 1), norm, nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(64, 2)).eval()
        with torch.no_grad():
            module[2].weight[:] = 0
        assert shrink(module, torch.zeros(1, 3, 4, 4)).module[0].weight.shape[0] == left


def test_a_network_that_cannot_be_followed_is_named() -> None:
    module = torchvision.models.shufflenet_v2_x0_5(weights=None).eval()
    with pytest.raises(EmomcError, match="ShuffleNetV2 cannot be shrunk"):
        shrink(module, torch.zeros(1, 3, 32, 32))


def file_of(path: Path, name: str, header: dict[str, object], bits: int = 0) -> tuple[nn.Module, torch.Tensor]:
    """A file with every layer at four bits, the inputs of all but the first at so many; the network that it holds."""
    module, images = pruned(name)
    network = trace(module, images[:1])
    make_storable(module, network)
    blobs, state = {}, module.state_dict()
    for layer in network.layers:
        tensor = quantize_uniform(state[layer.weight].numpy(), 4)
        blobs[layer.name] = coding.encode_tensor(tensor)
        with torch.no_grad():
            state[layer.weight].copy_(torch.from_numpy(tensor.dequantize()))
    inner = [layer.name for layer in network.layers[1:]] if bits else []
    grids = {name: ActivationGrid(bits, 2.0 ** -(bits - 3), 1 + number) for number, name in enumerate(inner)}
    header = {**header, "input_shape": [1, *images.shape[1:]]}
    save_network(path, module, network, blobs, header, grids if bits else None)
    attach_quantizers(module, network, grids)
    return module, images


@pytest.mark.parametrize("name", ["branches", "depthwise", "ResNet-20"])
def test_a_shrunk_file_decodes_to_the_same_outputs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORKS, "ResNet-20", (lambda: resnet(20), 32))
    known = name == "ResNet-20"
    header = {"factory": "emomc.problems.tasks.networks:resnet", "factory_arguments": {"depth": 20}} if known else {}
    build = None if known else NETWORKS[name][0]
    module, images = file_of(tmp_path / "large", name, header)
    length = shrink_file(tmp_path / "large", tmp_path / "small", build)
    decoded = load(tmp_path / "small", build)
    with torch.no_grad():
        expected, found = module(images), decoded(images)
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
    assert count(decoded) < 0.85 * count(module)
    file = coding.read_network(tmp_path / "small")
    network = trace(decoded, images[:1])
    predicted = file_overhead(decoded, network, file.header) + sum(
        coding.blob_cost(len(b)) for b in file.blobs.values()
    )
    assert length == predicted == (tmp_path / "small").stat().st_size < (tmp_path / "large").stat().st_size


@pytest.mark.parametrize("name", ["branches", "depthwise", "ResNet-20"])
def test_quantized_inputs_stay_what_they_are(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Grids, of all layers but the first, go along with their layers, also where those lose channels.

    A sum in another order may round to the neighbouring level, so that few outputs may move, and not far.
    """
    monkeypatch.setitem(NETWORKS, "ResNet-20", (lambda: resnet(20), 32))
    build = NETWORKS[name][0]
    module, images = file_of(tmp_path / "large", name, {}, bits=6)
    shrink_file(tmp_path / "large", tmp_path / "small", build)
    decoded = load(tmp_path / "small", build)
    assert count(decoded) < 0.85 * count(module)
    grids = [
        {path: part.grid for path, part in network.named_modules() if isinstance(part, InputQuantizer)}
        for network in (module, decoded)
    ]
    assert grids[0] == grids[1] and len(grids[0]) == len(coding.read_network(tmp_path / "small").blobs) - 1
    images = torch.randn(16, *images.shape[1:])
    with torch.no_grad():
        expected, found = module(images), decoded(images)
        detach_quantizers(decoded)
        unquantized = decoded(images)
    scale = float(expected.abs().max())
    assert (
        float((found - expected).abs().mean())
        < 1e-3 * scale
        < 1e-2 * scale
        < float((unquantized - expected).abs().mean())
    )


def test_a_file_of_a_wider_network_is_refused(tmp_path: Path) -> None:
    file_of(tmp_path / "file", "chain", {})
    narrow = nn.Sequential(conv(3, 8), conv(8, 10), nn.MaxPool2d(2), conv(10, 6, 1), nn.Flatten(), nn.Linear(6 * 64, 5))
    with pytest.raises(EmomcError, match=r"shape \(12,\) in the file and \(10,\)"):
        load(tmp_path / "file", lambda: narrow)
