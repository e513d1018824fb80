"""Networks as plain data: the same outputs without the class, and descriptions that ask for what they must not."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune

import emomc
from emomc import coding
from emomc.compression.glue import make_storable
from emomc.compression.networkfile import save_network
from emomc.compression.quantization import quantize_uniform
from emomc.errors import EmomcError
from emomc.export import check_file
from emomc.network import trace
from emomc.network.graphnetwork import GraphNetwork, rebuild
from emomc.network.portable import portable
from emomc.problems.tasks.networks import mobilenet_v1, resnet, vgg16


class Odd(nn.Module):
    """What users' networks do: functional calls, shapes, slices, in-place steps, constants, tied and unused weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding="same")
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.second.weight = self.first.weight
        self.gain = nn.Parameter(torch.rand(8, 1, 1))
        self.register_buffer("shift", torch.rand(8, 1, 1))
        self.kernel = nn.Parameter(torch.randn(8, 1, 3, 3))
        self.norm = nn.GroupNorm(2, 8)
        self.act = nn.Sequential(nn.Hardtanh(-1.0, 2.0), nn.ReLU(inplace=True))
        self.unused = nn.Linear(7, 7)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x) * self.gain + self.shift
        left, right = x.chunk(2, dim=1)
        x = torch.cat([self.first(left), self.second(right)], 1)
        x += functional.pad(x[:, :, ::2, ::2], (0, x.shape[3] - (x.size(3) + 1) // 2, 1, x.shape[2] // 2 - 1))
        x = self.act(self.norm(functional.conv2d(x, self.kernel, padding=1, groups=8)))
        x = x * torch.tensor([0.5])
        return self.head(x.mean((2, 3)).view(x.shape[0], -1))


@pytest.fixture(scope="module")
def odd() -> Odd:
    torch.manual_seed(1)
    return Odd().eval()


@pytest.fixture(scope="module")
def plain(odd) -> dict:
    return portable(odd, torch.randn(1, 3, 8, 8)).description


def same(first: nn.Module, second: nn.Module, *shape: int) -> bool:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.equal(first(x), second(x))


def file_of(folder: Path, module: GraphNetwork, shape: tuple[int, ...]) -> tuple[Path, nn.Module]:
    """A file with 4-bit weights that tells its own graph, and the network that it stands for."""
    network = trace(module, torch.zeros(shape))
    state = module.state_dict()
    tensors = {layer.name: quantize_uniform(state[layer.weight].numpy(), 4) for layer in network.layers}
    make_storable(module, network)
    for layer in network.layers:
        state[layer.weight].copy_(torch.from_numpy(tensors[layer.name].dequantize()))
    blobs = {name: coding.encode_tensor(tensor) for name, tensor in tensors.items()}
    path = folder / "network.emomc"
    save_network(path, module, network, blobs, {"graph": module.description, "input_shape": list(shape)})
    return path, module


@pytest.mark.parametrize("build", [lambda: resnet(20), mobilenet_v1, Odd])
def test_the_graph_computes_what_the_class_does(build):
    torch.manual_seed(0)
    module = build().eval()
    x = torch.randn(1, 3, 32, 32)
    found = portable(module, x)
    assert same(module, found, 2, 3, 32, 32)
    theirs, ours = trace(module, x), trace(found, x)
    assert [layer.name for layer in ours.layers] == [layer.name for layer in theirs.layers]
    assert [layer.calls for layer in ours.layers] == [layer.calls for layer in theirs.layers]
    assert [node.kind for node in ours.nodes] == [node.kind for node in theirs.nodes]


def test_a_graph_travels_as_json_to_processes_and_copies(odd, plain):
    network = portable(odd, torch.randn(1, 3, 8, 8))
    assert network.description == plain
    state = network.state_dict()
    assert state.keys() == {key for key in odd.state_dict() if not key.startswith("unused")} | {"_tensor_constant0"}
    assert network.first.weight is network.second.weight
    for twin in (
        copy.deepcopy(network),
        pickle.loads(pickle.dumps(network)),  # noqa: S301
        rebuild(json.loads(json.dumps(plain))),
    ):
        twin.load_state_dict(state)
        assert same(twin, odd, 3, 3, 8, 8)


@pytest.mark.parametrize("name", ["vgg16", "resnet18", "mobilenet_v2", "googlenet", "efficientnet_b0"])
@pytest.mark.slow
def test_files_of_well_known_networks_need_no_class(tmp_path, name):
    settings = {"init_weights": False} if name == "googlenet" else {}
    torch.manual_seed(0)
    module = vgg16() if name == "vgg16" else torchvision.models.get_model(name, weights=None, **settings)
    module.eval()
    shape = (1, 3, 32, 32) if name == "vgg16" else (1, 3, 64, 64)
    network = portable(module, torch.randn(shape))
    assert same(module, network, 2, *shape[1:])
    path, stored = file_of(tmp_path, network, shape)
    assert same(stored, emomc.load(path), 2, *shape[1:])


def test_a_task_without_a_factory_leaves_files_that_need_no_class(tmp_path):
    rng = torch.Generator().manual_seed(3)
    torch.manual_seed(2)
    splits = [emomc.Split(torch.randn(40, 3, 8, 8, generator=rng), torch.arange(40) % 5) for _ in range(4)]
    original = Odd().eval()
    task = emomc.Task("odd", original, emomc.Splits(*splits))
    made = emomc.compress(task, {"*": {"bit_width": 6}, "stem": {"prune_ratio": 0.5}}, tmp_path / "odd.emomc")
    found = emomc.load(made.path)
    assert type(found) is GraphNetwork
    assert not any(key.startswith("unused") for key in found.state_dict())
    kernel = coding.read_network(made.path).tensor("first", (4, 4, 3, 3)).dequantize()
    assert np.array_equal(found.second.weight.numpy(), kernel)
    again = emomc.measure_file(made.path, task)
    assert (again.error, again.loss) == (made.measurement.error, made.measurement.loss)
    x = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        near, dense = found(x), original(x)
    assert 0 < float((near - dense).norm()) < 0.5 * float(dense.norm())


class Einsum(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.fft(x).real.flatten(1)


@pytest.mark.parametrize("groups", [1, 16])
def test_a_network_that_is_laid_out_with_channels_last_is_taken(groups):
    module = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=groups)).eval()
    images = torch.randn(2, 3, 12, 12)
    expected = module(images)
    last = module.to(memory_format=torch.channels_last)
    copied = portable(last, images)
    assert torch.allclose(copied(images), expected, atol=1e-5)
    assert not last[0].weight.is_contiguous()  # the module itself is not changed


def test_weights_that_are_made_while_running_are_said():
    images = torch.zeros(1, 3, 8, 8)
    masked, normed = (nn.Sequential(nn.Conv2d(3, 4, 3)).eval() for _ in range(2))
    prune.l1_unstructured(masked[0], "weight", 0.5)
    torch.nn.utils.parametrizations.weight_norm(normed[0])
    with pytest.raises(EmomcError, match=r"prune\.remove"):
        portable(masked, images)
    with pytest.raises(EmomcError, match="remove_parametrizations"):
        portable(normed, images)


def test_files_are_read_whatever_the_default_type_is(tmp_path):
    task = emomc.load_task("digits")
    made = emomc.compress(task, "w4", tmp_path / "w4.emomc", method="magnitude")
    torch.set_default_dtype(torch.float64)
    try:
        network = emomc.load(made.path)
        check_file(made.path)
    finally:
        torch.set_default_dtype(torch.float32)
    expected = emomc.load(made.path)(task.example_input)
    assert torch.equal(network(task.example_input), expected)


def test_what_a_file_cannot_name_is_said():
    with pytest.raises(EmomcError, match=r"fft.*factory"):
        portable(Einsum(), torch.randn(1, 3, 4, 4))


class Autoencoder(nn.Module):
    """Decodes with the weight that it encodes with."""

    def __init__(self, transposed: bool) -> None:
        super().__init__()
        self.encoder, self.transposed = nn.Linear(6, 6), transposed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.encoder.weight
        return functional.linear(torch.relu(self.encoder(x)), weight.t() if self.transposed else weight)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.ConvTranspose2d(3, 4, 2)), r"cannot account for torch\.nn\.ConvTranspose2d in module '0'"),
        (Autoencoder(transposed=True), "linear uses a weight or bias that is computed while the network runs"),
        (Autoencoder(transposed=False), "'encoder.weight' is read outside of the Linear that holds it.*factory"),
    ],
)
def test_a_factory_is_asked_for_only_where_it_helps(module, message):
    images = torch.randn(1, 3, 4, 4) if isinstance(module, nn.Sequential) else torch.randn(1, 6)
    with pytest.raises(EmomcError, match=message):
        portable(module.eval(), images)
    if "factory" in message:
        assert len(trace(module, images).layers[0].calls) == 2


# --- descriptions from anywhere ---


def changed(plain: dict, **parts: object) -> dict:
    return {**copy.deepcopy(plain), **parts}


N = {"n": 0}


@pytest.mark.parametrize(
    "steps",
    [
        [["function", "os.system", ["true"], {}]],
        [["function", "torch.load", ["weights"], {}]],
        [["function", "torch.zeros", [10**12], {}]],
        [["method", "__reduce__", [N], {}]],
        [["method", "numpy", [N], {}]],
        [["method", "size", ["text"], {}]],
        [["attribute", "__class__", [N], {}]],
        [["module", "missing", [N], {}]],
        [["module", "stem", [{"n": 1}], {}]],
        [["function", "torch.abs", [{"t": "nowhere"}], {}]],
        [["function", "operator.mul", [[1], 10**9], {}]],
        [["function", "operator.mul", ["a", 10**9], {}]],
        [
            ["function", "operator.mul", [10**9, 10**9], {}],
            *[["function", "operator.mul", [{"n": i}] * 2, {}] for i in (1, 2)],
        ],
        [["function", "torch.nn.functional.pad", [N, [2**40, 0]], {}]],
        [["function", "torch.nn.functional.interpolate", [N], {"scale_factor": 1e6}]],
        [["method", "expand", [N, 2**30, 3, 8, 8], {}]],
        [["function", "torch.nn.functional.pad", [N, [10000, 0]], {}], ["function", "torch.unbind", [{"n": 1}, 3], {}]],
        [["function", "torch.cat", [[{"n": i}] * 60], {}] for i in range(6)],
        [["function", "torch.abs", [[[[[[[[[[[N]]]]]]]]]]], {}]],
    ],
)
def test_a_step_that_asks_for_too_much_is_refused(plain, steps):
    with pytest.raises(EmomcError, match="graph"):
        rebuild(changed(plain, steps=steps, output={"n": len(steps)})).check([1, 3, 8, 8])


@pytest.mark.parametrize(
    ("part", "entry"),
    [
        ("modules", {"stem": ["BatchNorm2d", {"num_features": 10**10}]}),
        ("modules", {"stem": ["Linear", {"in_features": 2**15, "out_features": 2**15}]}),
        ("modules", {"stem": ["Module", {}]}),
        ("modules", {"forward": ["ReLU", {}]}),
        ("modules", {"a.b": ["ReLU", {}], "a": ["ReLU", {}]}),
        ("modules", {"a": ["BatchNorm2d", {"num_features": 2}], "a.weight": ["ReLU", {}]}),
        ("tensors", {"gain": ["float32", [2**14, 2**15], True]}),
        ("tensors", {"gain": ["complex64", [1], True]}),
        ("tensors", {"__class__": ["float32", [1], True]}),
        ("tensors", {"a..b": ["float32", [1], True]}),
        ("ties", [["stem.weight", "gain"]]),
        ("ties", [["stem.weight", "nowhere"]]),
        ("output", {"n": 10**6}),
    ],
)
def test_a_part_that_cannot_be_is_refused(plain, part, entry):
    with pytest.raises(EmomcError, match="graph"):
        rebuild(changed(plain, **{part: entry}))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 2**40)
    | st.floats()
    | st.sampled_from(["n", "t", "stem", "torch.abs", ""]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["n", "t", "tuple", "slice"]), inner, max_size=2)
    ),
    max_leaves=4,
)


def places(value: object, way: tuple = ()) -> list[tuple]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way, *(place for key, part in inner for place in places(part, (*way, key)))][bool(not way) :]


@limits(max_examples=150)
@given(data=st.data())
def test_a_changed_description_works_or_is_refused(plain, data):
    """Never another exception, and never more memory than a file may ask for."""
    broken = copy.deepcopy(plain)
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from(places(broken)))
        owner = broken
        for key in way:
            owner = owner[key]
        owner[last] = data.draw(JSON)
    try:
        network = rebuild(broken)
        network.check([1, 3, 8, 8])
    except EmomcError:
        return
    assert sum(tensor.numel() for tensor in network.state_dict().values()) <= 2**28
