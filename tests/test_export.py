"""Files as torch modules: decoding, measuring, plain weights, and files that ask for what they must not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from emomc import coding
from emomc.accuracy import Evaluator, Settings
from emomc.coding import CodedTensor
from emomc.compression.glue import make_storable
from emomc.compression.networkfile import save_network
from emomc.compression.quantization import quantize_uniform
from emomc.errors import EmomcError
from emomc.export import KNOWN_FACTORIES, export_state_dict, load, measure_file
from emomc.network import trace
from emomc.problems.tasks import Task, load_task

HEADER = {
    "task": "digits",
    "factory": "emomc.problems.tasks.digits:build",
    "factory_arguments": {},
    "input_shape": [1, 1, 8, 8],
}


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("digits")


def coded(weight: torch.Tensor, bits: int = 4) -> CodedTensor:
    return quantize_uniform(weight.detach().numpy(), bits)


def write(path: Path, module: nn.Module, header: Mapping[str, object]) -> tuple[Path, nn.Module]:
    """A file with 4-bit weights, and the network that it stands for, put together without decoding anything."""
    twin = load_task("digits").module
    network = trace(twin, torch.zeros(1, 1, 8, 8))
    state = twin.state_dict()
    tensors = {layer.name: coded(module.state_dict()[layer.weight]) for layer in network.layers}
    make_storable(twin, network)
    with torch.no_grad():
        for layer in network.layers:
            state[layer.weight].copy_(torch.from_numpy(tensors[layer.name].dequantize()))
    blobs = {name: coding.encode_tensor(tensor) for name, tensor in tensors.items()}
    save_network(path, twin, network, blobs, header)
    return path, twin


@pytest.fixture(scope="module")
def written(task, tmp_path_factory) -> tuple[Path, nn.Module]:
    return write(tmp_path_factory.mktemp("files") / "digits.emomc", task.module, HEADER)


def test_a_loaded_network_computes_what_was_stored(task, written):
    path, twin = written
    module = load(path)
    assert not module.training and type(module) is type(twin)
    assert {name for name, _ in module.named_parameters()} == {name for name, _ in twin.named_parameters()}
    inputs, _ = next(task.splits.test.batches(50))
    with torch.inference_mode():
        assert torch.equal(module(inputs), twin(inputs))


def test_a_file_is_measured_as_the_network_it_holds(task, written):
    path, twin = written
    network = trace(task.module, task.example_input)
    evaluator = Evaluator(task.module, network, task.splits, None, task.error, Settings())
    for split in ("test", "validation"):
        expected, found = evaluator.measure_module(twin, split), measure_file(path, task, split)
        assert (found.error, found.difference, found.standard_error) == (
            expected.error,
            expected.difference,
            expected.standard_error,
        )
        assert found.samples == len(getattr(task.splits, split))


def test_measuring_leaves_the_dense_network_alone(task, written):
    before = {key: value.clone() for key, value in task.module.state_dict().items()}
    measure_file(written[0], task)
    assert all(torch.equal(value, before[key]) for key, value in task.module.state_dict().items())


def test_plain_weights_need_nothing_but_torch(written, tmp_path):
    path, twin = written
    size = export_state_dict(path, tmp_path / "plain.pt")
    assert size == (tmp_path / "plain.pt").stat().st_size
    state = torch.load(tmp_path / "plain.pt", weights_only=True)
    assert state.keys() == twin.state_dict().keys()
    used = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert all(torch.equal(value, twin.state_dict()[key]) for key, value in used.items())


# --- files from anywhere ---


@pytest.mark.parametrize(
    ("factory", "arguments"),
    [
        ("os:system", {"command": "true"}),
        ("emomc.problems.tasks.locate:locate_function", {"reference": "os:abort"}),
        ("emomc.problems.tasks.digits:task", {}),
        ("emomc.problems.tasks.digits:build", {"extra": 1}),
        ("emomc.problems.tasks.networks:resnet", {"depth": 6 * 10**9 + 2}),
        ("emomc.problems.tasks.networks:resnet", [20]),
        (["emomc.problems.tasks.digits:build"], {}),
        (None, {}),
    ],
)
def test_a_file_cannot_make_other_code_run(task, tmp_path, factory, arguments):
    header = {**HEADER, "factory": factory, "factory_arguments": arguments}
    path, twin = write(tmp_path / "odd.emomc", task.module, header)
    with pytest.raises(EmomcError, match="build="):
        load(path)
    module = load(path, build=lambda: load_task("digits").module)
    assert torch.equal(module(task.example_input), twin(task.example_input))


@pytest.mark.parametrize("shape", [None, [], "8", [1, 1, 8, -8], [1, 1, 2**20, 2**20], [1.0, 1, 8, 8], [True, 1, 8, 8]])
def test_an_odd_input_shape_is_named(task, tmp_path, shape):
    path, _ = write(tmp_path / "odd.emomc", task.module, {**HEADER, "input_shape": shape})
    with pytest.raises(EmomcError, match="input_shape"):
        load(path)
    with pytest.raises(EmomcError, match="input_shape"):
        measure_file(path, task)


def test_a_file_of_another_network_is_refused(written):
    other = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10))
    with pytest.raises(EmomcError, match="another architecture"):
        load(written[0], build=lambda: other)


def test_built_in_networks_decode_without_their_task(task):
    assert dict(task.factory_arguments) in KNOWN_FACTORIES[task.factory]


@pytest.mark.slow
def test_cifar_networks_decode_without_their_task(shared_data):
    for name in ("cifar10-resnet20", "cifar10-resnet56", "cifar10-vgg16"):
        task = load_task(name, data=shared_data)
        assert dict(task.factory_arguments) in KNOWN_FACTORIES[task.factory]
