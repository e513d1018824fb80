"""The digits task: trained on first use, kept, the same every time, and not indifferent to compression."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from emomc.accuracy.splits import Split
from emomc.problems.tasks import Task, load_task, top1_error
from emomc.problems.tasks.digits import Training, build, load_splits, train, trained

SHORT = Training(epochs=1)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Task:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMOMC_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load_task("emomc.problems.tasks.digits:task")


@pytest.fixture(scope="module")
def fit() -> Split:
    return load_splits()[1]


def accuracy(module: nn.Module, split: Split) -> float:
    with torch.inference_mode():
        return 1 - float(top1_error(module(split.inputs), split.targets).mean())


def compressed(task: Task, change: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Test accuracy after changing every convolution's and linear layer's weight."""
    module = build().eval()
    state = {k: change(v) if k.endswith("weight") and v.ndim > 1 else v for k, v in task.module.state_dict().items()}
    module.load_state_dict(state)
    return accuracy(module, task.splits.test)


def rounded(bits: int) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(weight: torch.Tensor) -> torch.Tensor:
        step = weight.flatten(1).abs().amax(1).reshape(-1, *[1] * (weight.ndim - 1)) / (2 ** (bits - 1) - 1)
        return (weight / step).round() * step  # type: ignore[no-any-return]

    return change


def pruned(ratio: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda weight: weight * (weight.abs() > weight.abs().flatten().quantile(ratio))


def test_accuracy_on_images_it_never_saw(digits: Task) -> None:
    assert accuracy(digits.module, digits.splits.test) >= 0.97
    assert accuracy(digits.module, digits.splits.selection) >= 0.96


def test_size_and_kinds_of_layers(digits: Task) -> None:
    layers = [part for part in digits.module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    assert len(layers) == 7
    assert 10_000 <= sum(layer.weight.numel() for layer in layers) <= 40_000
    assert any(isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1 for layer in layers)
    torch.fx.symbolic_trace(digits.module)


def test_no_image_is_in_two_splits_or_was_trained_on(digits: Task, fit: Split) -> None:
    splits = [*digits.splits.named().values(), fit]
    assert sum(len(split) for split in splits) == 1797
    seen = [{image.numpy().tobytes() for image in split.inputs} for split in splits]
    assert len(set().union(*seen)) == sum(len(images) for images in seen) == 1797


def test_compression_is_a_trade_off(digits: Task) -> None:
    dense = accuracy(digits.module, digits.splits.test)
    assert compressed(digits, rounded(8)) >= dense - 0.01
    assert compressed(digits, rounded(2)) <= dense - 0.1
    assert compressed(digits, pruned(0.3)) >= dense - 0.03
    assert compressed(digits, pruned(0.9)) <= dense - 0.1


def test_training_is_the_same_whatever_the_seed_and_threads_outside(fit: Split) -> None:
    threads = torch.get_num_threads()
    states = []
    try:
        for seed, count in ((1, 1), (2, 2)):
            torch.manual_seed(seed)
            torch.set_num_threads(count)
            before = torch.get_rng_state()
            states.append(train(fit, SHORT).state_dict())
            assert torch.get_num_threads() == count
            assert torch.equal(torch.get_rng_state(), before)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_trained_network_is_kept(fit: Split, tmp_path: Path) -> None:
    first = trained(fit, SHORT, tmp_path)
    (path,) = tmp_path.iterdir()
    written = path.stat().st_mtime_ns
    second = trained(fit, SHORT, tmp_path)
    assert path.stat().st_mtime_ns == written
    assert torch.equal(first.stem[0].weight, second.stem[0].weight)  # type: ignore[index, union-attr]
    trained(fit, Training(epochs=1, seed=1), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[: len(content) // 2]])
def test_a_damaged_file_is_made_again(fit: Split, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    first = trained(fit, SHORT, tmp_path).state_dict()
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    second = trained(fit, SHORT, tmp_path).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.load(path, weights_only=True).keys() == first.keys()
    assert [kept.name for kept in tmp_path.iterdir()] == [path.name]


def test_weights_with_nan_in_the_cache_are_made_again(fit: Split, tmp_path: Path) -> None:
    trained(fit, SHORT, tmp_path)
    (path,) = tmp_path.iterdir()
    state = torch.load(path, weights_only=True)
    state["linear.bias"][0] = torch.nan
    torch.save(state, path)
    assert torch.isfinite(trained(fit, SHORT, tmp_path).linear.bias).all()  # type: ignore[union-attr, arg-type]


def test_a_disk_that_fills_up_while_the_network_is_kept_is_done_without(fit: Split, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))  # no file may grow beyond, as on a full disk
    try:
        with pytest.warns(UserWarning, match="trained again next time"):
            trained(fit, SHORT, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_is_done_without(fit: Split, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.warns(UserWarning, match="trained again next time"):
        module = trained(fit, SHORT, blocked / "cache")
    assert not module.training
