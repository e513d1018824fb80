"""Training compressed files on: what stays, what moves, and that it helps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from emomc import coding
from emomc.accuracy import Evaluator, Split, Splits
from emomc.coding import CodedTensor, read_network
from emomc.compression.activations import ActivationGrid, InputQuantizer
from emomc.errors import EmomcError
from emomc.export import Compressor, finetune, finetune_recipe, load, measure_file
from emomc.export.fitting import Trained, derivatives, fit_size
from emomc.network import trace
from emomc.problems.tasks import Task, TrainingData, load_task
from emomc.training import Budget, KeepCoded, Recipe
from emomc.training.coded import Codes
from emomc.training.loss import Loss
from tests.test_cli import good, refused

PRUNED = {"*": {"prune_ratio": 0.75, "bit_width": 3}, "residual*": {"bit_width": 4, "shared_values": 4}}


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("digits")


@pytest.fixture(scope="module")
def small(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose network has lost a lot; two of its layers have codebooks."""
    path = tmp_path_factory.mktemp("files") / "small.emomc"
    Compressor(task).compress(PRUNED, path, split="selection", method="magnitude")
    return path


def test_a_point_gets_better_at_the_same_size(task: Task, small: Path, tmp_path: Path) -> None:
    found = finetune(small, tmp_path / "tuned.emomc", task, Budget(epochs=4))
    before, after = read_network(small), read_network(found.path)
    assert found.size_after == found.path.stat().st_size <= small.stat().st_size == found.size_before
    assert found.after.error == measure_file(found.path, task, "selection").error
    moved = 0
    for name in before.blobs:
        old, new = before.tensor(name), after.tensor(name)
        assert not new.integers[old.integers == 0].any()
        assert np.array_equal(old.scale, new.scale)
        assert old.bit_width == new.bit_width
        moved += int((old.integers != new.integers).sum())
        if name.startswith("residual"):  # a codebook gets no more entries
            assert len(np.unique(new.integers)) <= len(np.unique(old.integers)) <= 5
    assert moved > 0
    assert found.training_loss[1] < 0.8 * found.training_loss[0]
    assert found.after.loss < found.before.loss
    # What was said of the training images is true of the decoded file, worked out anew.
    assert task.training is not None
    images = task.training.load()
    with torch.no_grad():
        loss = nn.functional.cross_entropy(load(found.path)(images.inputs), images.targets)
    assert float(loss) == pytest.approx(found.training_loss[1], rel=1e-4)


def test_quantized_inputs_are_trained_with(task: Task, tmp_path: Path) -> None:
    path = tmp_path / "a.emomc"
    Compressor(task).compress(
        {"*": {"bit_width": 3, "prune_ratio": 0.8, "activation_bits": 3}}, path, split="selection"
    )
    found = finetune(path, tmp_path / "b.emomc", task, Budget(epochs=5))
    assert found.training_loss[1] < 0.8 * found.training_loss[0]
    network = load(found.path)
    assert sum(isinstance(part, InputQuantizer) for part in network.modules()) == 7


def test_training_that_harms_is_refused(task: Task, small: Path, tmp_path: Path) -> None:
    recipe = Recipe(learning_rate=3.0, warmup=0.0, clip=1e6)
    with pytest.raises(EmomcError, match=r"worse on training images.*Nothing was written"):
        finetune(small, tmp_path / "worse.emomc", task, Budget(steps=8), recipe=recipe)
    assert not (tmp_path / "worse.emomc").exists()


def test_a_task_without_training_images_is_refused(task: Task, small: Path, tmp_path: Path) -> None:
    bare = Task(task.name, task.module, task.splits, task.factory)
    with pytest.raises(EmomcError, match="no training images"):
        finetune(small, tmp_path / "x.emomc", bare, Budget(steps=1))
    with pytest.raises(EmomcError, match="no training images"):
        finetune_recipe(bare)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 8), st.sampled_from([1, 3]), st.floats(0, 0.9), st.integers(0, 999))
def test_weights_stay_on_their_grid(bits: int, scales: int, zeros: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    level = 2 ** (bits - 1) - 1
    old = rng.integers(-level, level + 1, (3, 5, 2)).astype(np.int8) * (rng.random((3, 5, 2)) >= zeros)
    coded = CodedTensor(old.astype(np.int8), rng.uniform(0.01, 1, scales).astype(np.float16), bits)
    codes = Codes.of(coded)
    start = torch.from_numpy(coded.dequantize())
    assert np.array_equal(codes.integers(codes.shared(start)).numpy(), old)  # nothing moves by itself
    weight = (start + torch.from_numpy(rng.normal(0, 0.3, old.shape).astype(np.float32))).requires_grad_()
    new = codes.integers(codes.shared(weight)).numpy()
    assert np.array_equal(new == 0, old == 0)
    assert np.abs(new).max() <= level
    codes.shared(weight).square().sum().backward()
    assert weight.grad is not None
    assert not bool(weight.grad[torch.from_numpy(old == 0)].any())
    if codes.entries is not None:
        for value in np.unique(old):
            alike = old == value
            assert len(np.unique(new[alike])) == 1
            total = 2 * weight.detach().numpy()[alike].mean() * (value != 0)  # of the square's gradients: their mean
            assert np.allclose(weight.grad.numpy()[alike], total, atol=1e-4)


def trained(rng: np.random.Generator, moved: float, shape: tuple[int, int], *, shares: bool) -> Trained:
    scale = np.full(1 if shares else shape[0], 0.5, np.float16)
    old = rng.integers(-1, 2, shape).astype(np.int8)
    new = np.clip(old + (old != 0) * np.rint(rng.normal(0, moved, shape)), -7, 7).astype(np.int8)
    new[(new == 0) & (old != 0)] = 1
    before, after = CodedTensor(old, scale, 4), CodedTensor(new, scale, 4)
    slope, curvature = rng.normal(0, 1, shape), rng.exponential(1, shape)
    return Trained(before, coding.encode_tensor(before), after, slope, curvature)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.floats(0, 1))
def test_trained_weights_fit_where_the_old_ones_were(seed: int, moved: float) -> None:
    rng = np.random.default_rng(seed)
    layers = {name: trained(rng, moved, (4, 50), shares=name == "c") for name in "abc"}
    blobs = fit_size(layers)
    assert sum(map(len, blobs.values())) <= sum(len(layer.blob) for layer in layers.values())
    for name, layer in layers.items():
        found = coding.decode_tensor(blobs[name], (4, 50)).integers
        old, new = layer.old.integers, layer.new.integers
        assert not found[old == 0].any()
        values = old if (found == old).all() else np.append(new, 0)
        assert np.isin(found, values).all() or name != "c"  # a codebook gets no values
        assert np.isin(found, np.concatenate([[0], old.ravel(), new.ravel()])).all()


def test_what_fits_stays_as_it_was_trained() -> None:
    layer = trained(np.random.default_rng(0), 0.4, (4, 50), shares=False)
    roomy = replace(layer, blob=layer.blob + bytes(1000))
    (blob,) = fit_size({"a": roomy}).values()
    assert np.array_equal(coding.decode_tensor(blob, (4, 50)).integers, layer.new.integers)


def test_what_moves_does_little_harm_for_its_bits() -> None:
    """Of moves that save the same, those with the least harm are made, and not more of them than it takes."""
    old = np.ones((4, 500), np.int8)
    old[:, ::5] = 2
    new = old.copy()
    new[:, 1:200:5] = 2  # frequent to rare: each costs bits
    curvature = np.random.default_rng(0).uniform(1, 2, old.shape)
    before, after = (CodedTensor(each, np.full(4, 0.5, np.float16), 4) for each in (old, new))
    roomy = coding.encode_tensor(before) + bytes(20)
    (blob,) = fit_size({"a": Trained(before, roomy, after, np.zeros(old.shape), curvature)}).values()
    assert len(blob) <= len(roomy) < len(coding.encode_tensor(after))
    found = coding.decode_tensor(blob, old.shape).integers
    moved, kept = (new == 2) & (found == 1), (new == 2) & (found == 2)
    assert moved.any()
    assert kept.any()
    assert curvature[moved].max() <= curvature[kept].min()
    assert np.array_equal(found[new == 1], new[new == 1])  # to the rare value: costs bits


def test_weights_that_matter_least_become_zero() -> None:
    """Training made two values as frequent as each other, so that of all moves those to zero save most."""
    rng = np.random.default_rng(0)
    new = rng.choice(np.array([-1, 0, 0, 0, 1], np.int8), (4, 500))
    old = np.where((new < 0) & (rng.random(new.shape) < 0.3), 1, new).astype(np.int8)
    curvature = rng.permutation(new.size).reshape(new.shape) + 1.0
    before, after = (CodedTensor(each, np.full(4, 0.5, np.float16), 4) for each in (old, new))
    allowed = coding.encode_tensor(before)
    assert len(allowed) < len(coding.encode_tensor(after))
    (blob,) = fit_size({"a": Trained(before, allowed, after, np.zeros(new.shape), curvature)}).values()
    assert len(blob) <= len(allowed)
    found = coding.decode_tensor(blob, new.shape).integers
    moved = found != new
    assert 0 < moved.sum() < 200
    assert not found[moved].any()
    assert curvature[moved].max() < curvature[~moved & (new != 0)].min()


def test_a_weight_without_a_cheaper_neighbour_may_go_back() -> None:
    old = np.ones((2, 300), np.int8)
    old[:, ::3] = -3
    new = old.copy()
    new[0, 1] = -1  # between its neighbours no value is rarer; both cost less
    curvature = np.ones(old.shape)
    before, after = (CodedTensor(each, np.full(2, 0.5, np.float16), 4) for each in (old, new))
    layer = Trained(before, coding.encode_tensor(before), after, np.zeros(old.shape), curvature)
    codes, harm = layer.options()
    assert np.array_equal(coding.decode_tensor(codes[-2], old.shape).integers == new, new != -1)
    assert harm[-1] == pytest.approx(0.5 * (2 * 0.5) ** 2)  # back to 1, two steps of 0.5


def test_a_layer_of_zeros_has_nothing_to_move() -> None:
    coded = CodedTensor(np.zeros((4, 50), np.int8), np.full(4, 0.5, np.float16), 4)
    blob = coding.encode_tensor(coded)
    layer = Trained(coded, blob, coded, np.ones((4, 50)), np.ones((4, 50)))
    codes, harm = layer.options()
    assert set(codes) == {blob}
    assert not harm.any()
    assert fit_size({"a": layer}) == {"a": blob}


def test_derivatives_are_those_of_the_loss() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    images = Split(torch.rand(90, 3, 2, 2), torch.arange(90) % 3)
    slope, _ = derivatives(module, ["1.weight"], images)["1.weight"]
    weight = module.get_parameter("1.weight").requires_grad_(False)

    def loss() -> float:
        return float(nn.functional.cross_entropy(module(images.inputs).detach(), images.targets))

    before = loss()
    for at in ((0, 0), (1, 5), (2, 11)):
        weight[at] += 1e-2
        assert loss() - before == pytest.approx(1e-2 * slope[at], rel=0.05, abs=1e-5)
        weight[at] -= 1e-2
    # A weight of a linear layer changes one output of three by its input; what all outputs share does not count.
    many = Split(torch.rand(6400, 3, 2, 2), torch.zeros(6400, dtype=torch.int64))
    curvature = derivatives(module, ["1.weight"], many)["1.weight"][1]
    expected = many.inputs.flatten(1).square().mean(0) * (1 - 1 / 3) / 3
    assert curvature.mean(0) == pytest.approx(expected.numpy(), rel=0.4)


@pytest.mark.parametrize("outputs", [1, 2])
def test_derivatives_of_squared_errors(outputs: int) -> None:
    """Those of linear regression, in closed form; one output may have no axis."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(12, outputs), nn.Flatten(1 if outputs > 1 else 0))
    inputs = torch.rand(6400, 12)
    images = Split(inputs, torch.rand(6400, outputs).squeeze(1))
    slope, curvature = derivatives(module, ["0.weight"], images)["0.weight"]
    apart = (module(inputs) - images.targets).detach().reshape(6400, outputs)
    assert slope == pytest.approx((2 * apart.T @ inputs / apart.numel()).numpy(), rel=1e-3)
    assert curvature.mean(0) == pytest.approx((2 * inputs.square().mean(0) / outputs).numpy(), rel=0.4)


def test_a_regression_is_trained_on(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 2)).eval()

    def split() -> Split:
        inputs = torch.randn(200, 12)
        return Split(inputs, module(inputs).detach())

    images = split()
    task = Task(
        "values",
        module,
        Splits(split(), split(), split(), split()),
        error=lambda outputs, targets: (outputs - targets).square().mean(1),
        training=TrainingData(lambda: images),
    )
    source = tmp_path / "a.emomc"
    Compressor(task).compress(
        {"*": {"bit_width": 3, "prune_ratio": 0.5}}, source, split="selection", method="magnitude"
    )
    recipe = replace(finetune_recipe(task), batch=20, learning_rate=0.02)
    found = finetune(source, tmp_path / "b.emomc", task, Budget(epochs=30), recipe=recipe)
    assert found.size_after <= found.size_before
    for path, told in zip((source, found.path), found.training_loss, strict=True):
        with torch.no_grad():
            assert told == pytest.approx(float((load(path)(images.inputs) - images.targets).square().mean()), rel=1e-4)
    assert found.training_loss[1] < 0.9 * found.training_loss[0]


def test_what_a_network_knows_by_heart_still_counts() -> None:
    """Where the loss is nothing, so are its derivatives; the change of the outputs is not."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    images = Split(torch.eye(12)[torch.arange(96) % 3].reshape(96, 3, 2, 2), torch.arange(96) % 3)
    module.get_parameter("1.weight").data = 100 * torch.eye(3, 12)
    slope, curvature = derivatives(module, ["1.weight"], images)["1.weight"]
    assert np.abs(slope).max() < 1e-6
    assert curvature[:, :3].min() > 0.001


@pytest.mark.parametrize("seed", range(3))
def test_training_is_not_undone_by_keeping_the_size(task: Task, small: Path, tmp_path: Path, seed: int) -> None:
    """Eight epochs bring a network of more than a nat to a quarter of that, in a file that is not larger."""
    recipe = replace(finetune_recipe(task), seed=seed)
    found = finetune(small, tmp_path / "tuned.emomc", task, Budget(epochs=8), recipe=recipe)
    assert found.size_after <= found.size_before
    assert found.training_loss[1] < 0.25 * found.training_loss[0]


def test_batch_norms_are_trained_as_scale_and_shift() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3)).train()
    weight = module.get_parameter("0.weight")
    coded = CodedTensor(np.ones(weight.shape, np.int8), np.full(2, 0.25, np.float16), 4)
    regime = KeepCoded({"0.weight": coded})
    regime.before(module, 0.0)
    statistics = {name: tensor.clone() for name, tensor in module.named_buffers()}
    images = torch.randn(5, 1, 4, 4)
    regime.backward(module, images, Loss(Recipe(), torch.tensor([0, 1, 2, 0, 1])))
    assert all(torch.equal(tensor, statistics[name]) for name, tensor in module.named_buffers())
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in module.parameters())


def test_gradients_pass_through_rounded_inputs() -> None:
    quantizer = InputQuantizer(ActivationGrid(2, 0.5, 1)).train()
    inputs = torch.tensor([-2.0, -0.4, 0.1, 0.9, 3.0], requires_grad=True)
    found = quantizer(inputs)
    assert found.tolist() == quantizer.eval()(inputs.detach()).tolist() == [-0.5, -0.5, 0.0, 1.0, 1.0]
    found.sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_the_command(tmp_path: Path, task: Task, small: Path) -> None:
    out = tmp_path / "tuned.emomc"
    told = good("finetune", small, "--steps", "6", "--batch", "32", "--out", out)
    assert "6 steps" in told
    assert "selection images" in told
    assert out.stat().st_size <= small.stat().st_size
    content = out.read_bytes()
    assert good("finetune", small, "--steps", "6", "--batch", "32", "--out", out) == told  # finished: written anew
    assert out.read_bytes() == content
    assert "of another training" in refused("finetune", small, "--steps", "7", "--out", out)
    assert "name the file to write" in refused("finetune", small)
    (tmp_path / "tuned.training.pt").unlink()
    assert "exists" in refused("finetune", small, "--steps", "6", "--out", out)
    evaluator = Evaluator(task.module, trace(task.module, task.example_input), task.splits, None, task.error)
    told = good("verify", out)
    assert repr(evaluator.measure_module(load(out), "test").error) in told
