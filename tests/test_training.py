"""The training loop: what it learns, that it resumes to the last bit, and what it does when things go wrong."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from emomc.accuracy.splits import Normalisation, Split
from emomc.errors import EmomcError
from emomc.training import (
    Augmentation,
    Budget,
    GrowZeros,
    KeepZeros,
    Plain,
    Recipe,
    RoundWeights,
    fit,
    recovery_recipe,
    zero_masks,
)
from emomc.training.precision import chosen_precision

STEPS = Budget(steps=12)
RECIPE = Recipe(batch=16, learning_rate=0.05, augmentation=Augmentation(shift=1, flip=True))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.2)
        self.linear = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        return self.linear(self.drop(x))


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net().eval()


def images(n: int = 200) -> Split:
    """Class c is brighter in channel c, or dark: learnt in a few steps."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(n) % 4
    stored = torch.randint(0, 120, (n, 3, 6, 6), generator=generator)
    for channel in range(3):
        stored[targets == channel, channel] += 100
    return Split(stored.to(torch.uint8), targets, Normalisation((0.3,) * 3, (0.2,) * 3))


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def error(module: nn.Module, split: Split) -> float:
    with torch.no_grad():
        return float((module(split.inputs).argmax(1) != split.targets).float().mean())


def test_it_learns_leaves_the_start_alone_and_repeats_exactly() -> None:
    start, before = network(), network()
    first = fit(start, images(), RECIPE, Budget(epochs=5))
    assert same(start, before)
    assert error(first.module, images()) < 0.05
    assert error(start, images()) > 0.5
    assert not first.module.training
    assert first.progress.seen == 992  # 62 steps of 16: five passes, to the nearest step
    assert same(first.module, fit(start, images(), RECIPE, Budget(epochs=5)).module)
    assert not same(first.module, fit(start, images(), Recipe(**{**vars(RECIPE), "seed": 1}), Budget(epochs=5)).module)


def test_half_precision_is_of_the_arithmetic_alone() -> None:
    """Weights stay 32-bit floats, the network learns as well, and runs repeat exactly."""
    trained = {
        precision: fit(network(), images(), replace(RECIPE, precision=precision), Budget(epochs=5)).module
        for precision in ("float32", "bfloat16", "auto")
    }
    assert {tensor.dtype for tensor in trained["bfloat16"].state_dict().values() if tensor.is_floating_point()} == {
        torch.float32
    }
    assert error(trained["bfloat16"], images()) < 0.05
    assert not same(trained["float32"], trained["bfloat16"])
    assert same(trained["auto"], trained["float32"]) or same(trained["auto"], trained["bfloat16"])


@pytest.mark.parametrize(
    ("groups", "stride", "size", "kept"),
    [(8, 2, 8, True), (8, (1, 2), 8, True), (8, 1, 2, True), (8, 1, 8, False), (1, 2, 8, False), (4, 2, 8, False)],
)
def test_depthwise_convolutions_that_bfloat16_slows_down_stay_float32(
    groups: int, stride: int | tuple[int, int], size: int, kept: bool
) -> None:
    convolution, inputs = nn.Conv2d(8, 8, 3, stride, padding=1, groups=groups), torch.rand(2, 8, size, size)
    exact = convolution(inputs)
    with chosen_precision("cpu", "bfloat16"):
        found = convolution(inputs.bfloat16())
        assert nn.functional.linear(inputs, torch.rand(3, size)).dtype == torch.bfloat16
    assert found.dtype == (torch.float32 if kept else torch.bfloat16)
    assert torch.allclose(found.float(), exact, atol=0.02)
    with chosen_precision("cpu", "float32"):
        assert torch.equal(convolution(inputs), exact)


def test_a_network_that_is_frozen_as_a_whole_is_trained() -> None:
    frozen = network().requires_grad_(False)
    assert same(fit(frozen, images(), RECIPE, STEPS).module, fit(network(), images(), RECIPE, STEPS).module)
    partly = network()
    partly.get_parameter("conv.weight").requires_grad_(False)
    trained = fit(partly, images(), RECIPE, STEPS).module
    assert torch.equal(trained.get_parameter("conv.weight"), partly.get_parameter("conv.weight"))


@pytest.mark.parametrize(
    "changes", [{"optimizer": "sgd"}, {"optimizer": "adamw"}, {"augmentation": Augmentation(flip=True, cutmix=0.5)}]
)
def test_interrupted_anywhere_it_goes_on_to_the_same_bits(tmp_path: Path, changes: dict[str, Any]) -> None:
    recipe = Recipe(**{**vars(RECIPE), "distillation": 0.5, **changes})
    whole = fit(network(), images(), recipe, STEPS, teacher=network(1))
    path = tmp_path / "net.pt"
    for stop in (1, 5, 11):

        def tell(what: str, done: int, total: int, stop: int = stop) -> None:
            if done == stop * 16:
                signal.raise_signal(signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            fit(network(), images(), recipe, STEPS, teacher=network(1), path=path, tell=tell)
        assert torch.load(path, weights_only=True)["training"]["steps"] == stop
    resumed = fit(network(), images(), recipe, STEPS, teacher=network(1), path=path)
    assert same(whole.module, resumed.module)
    assert resumed.progress.steps == 12
    again = fit(network(), images(), recipe, STEPS, teacher=network(1), path=path)  # finished: nothing left to do
    assert same(again.module, whole.module)
    assert again.progress == resumed.progress


KILLED = """
import sys, time, tests.test_training as t
from pathlib import Path
import torch
torch.set_num_threads(1)
def tell(what, done, total):
    print(done, flush=True)
    time.sleep(0.05)
t.fit(t.network(), t.images(), t.RECIPE, t.STEPS, path=Path(sys.argv[1]), save_every=0.0, tell=tell)
"""


def test_killed_it_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = fit(network(), images(), RECIPE, STEPS)
        child = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        while child.stdout.readline().strip() != str(4 * 16):
            assert child.poll() is None
        child.kill()
        child.wait()
        child.stdout.close()
        assert 3 <= torch.load(path, weights_only=True)["training"]["steps"] < 12
        resumed = fit(network(), images(), RECIPE, STEPS, path=path)
    finally:
        torch.set_num_threads(threads)
    assert same(whole.module, resumed.module)


def test_whole_epochs_are_the_same_budget_however_they_are_written(tmp_path: Path) -> None:
    first = fit(network(), images(), RECIPE, Budget(epochs=1), path=tmp_path / "t.pt")
    again = fit(network(), images(), RECIPE, Budget(epochs=1.0), path=tmp_path / "t.pt")
    assert again.progress == first.progress


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    fit(network(), images(), RECIPE, Budget(steps=1), path=path)
    other = Net()
    other.linear = nn.Linear(8, 5)
    with pytest.raises(EmomcError, match=r"another architecture: 'linear.bias' differs"):
        fit(other.eval(), images(), RECIPE, Budget(steps=1), path=path)
    with pytest.raises(EmomcError, match="of another training"):
        fit(network(1), images(), RECIPE, Budget(steps=1), path=path)
    with pytest.raises(EmomcError, match="of another training"):
        fit(network(), images(), RECIPE, Budget(steps=2), path=path)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(EmomcError, match="no training that can be continued"):
        fit(network(), images(), RECIPE, Budget(steps=1), path=path)


def test_a_budget_shorter_than_an_epoch_goes_through_the_whole_schedule() -> None:
    trained = fit(network(), images(), RECIPE, Budget(epochs=0.25))
    assert trained.progress.steps == 3
    assert error(trained.module, images()) < error(network(), images())
    assert fit(network(), images(), RECIPE, Budget(epochs=0.001)).progress.steps == 1


def test_a_budget_of_minutes_ends_on_time() -> None:
    start = time.monotonic()
    trained = fit(network(), images(), RECIPE, Budget(minutes=0.01))
    assert 0.6 <= trained.progress.seconds < 2
    assert time.monotonic() - start < 3
    assert trained.progress.stopped == "budget spent"


class Exploding(Net):
    """Its loss becomes NaN after some steps, as that of a training that diverges."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.register_buffer("left", torch.tensor(steps))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        if self.training:
            self.left -= 1
        return y if int(self.left) >= 0 else y * math.nan


def test_a_training_that_diverges_keeps_the_last_good_state(tmp_path: Path) -> None:
    heard: list[str] = []
    path = tmp_path / "net.pt"
    trained = fit(Exploding(7).eval(), images(), RECIPE, STEPS, path=path, notice=heard.append)
    assert trained.progress.stopped == "diverged"
    assert trained.progress.steps == 7
    assert "diverged after 7 steps" in heard[0]
    assert "learning rate below 0.05" in heard[0]
    stored = torch.load(path, weights_only=True)["state_dict"]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in stored.values())
    with pytest.raises(EmomcError, match="not finite on the first images"):
        fit(Exploding(0).eval(), images(), RECIPE, STEPS)


def test_a_real_explosion_is_caught() -> None:
    recipe = Recipe(batch=16, learning_rate=1e30, warmup=0.0, clip=1e30)
    trained = fit(network(), images(), recipe, Budget(steps=50))
    assert trained.progress.stopped == "diverged"
    assert all(bool(torch.isfinite(tensor).all()) for tensor in trained.module.state_dict().values())


class Hungry(Net):
    """Has memory for a few images only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 5:
            raise torch.OutOfMemoryError
        return super().forward(x)


def test_out_of_memory_halves_the_batch() -> None:
    heard: list[str] = []
    trained = fit(Hungry().eval(), images(), RECIPE, STEPS, notice=heard.append)
    assert trained.progress.batch == 4
    assert trained.progress.seen == 12 * 16
    assert [message.split(":")[0] for message in heard] == ["out of memory"] * 2
    assert "4 images a step" in heard[1]


class Insatiable(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError


def test_a_gpu_without_room_for_two_images_is_an_error() -> None:
    with pytest.raises(EmomcError, match="out of memory with 2 images"):
        fit(Insatiable().eval(), images(), RECIPE, STEPS)


def test_one_image_is_enough_unless_it_has_to_be_normalised() -> None:
    assert fit(network(), images(1), RECIPE, STEPS).progress.steps == 12
    module = nn.Sequential(nn.Flatten(), nn.Linear(108, 4), nn.BatchNorm1d(4))
    with pytest.raises(EmomcError, match=r"one image at a time: .*more than 1 value.*give more training images"):
        fit(module, images(1), RECIPE, STEPS)
    with pytest.raises(EmomcError, match="one image at a time"):
        fit(module, images(), replace(RECIPE, batch=1), STEPS)


def pruned() -> nn.Module:
    module = network()
    with torch.no_grad():
        weight = module.get_parameter("conv.weight")
        weight[weight.abs() < weight.abs().median()] = 0
    return module


def test_zeros_stay_and_the_others_move() -> None:
    start = pruned()
    trained = fit(start, images(), RECIPE, STEPS, regime=KeepZeros(zero_masks(start)))
    before, after = (module.get_parameter("conv.weight") for module in (start, trained.module))
    assert torch.equal(before == 0, after == 0)
    assert not bool((before == after)[before != 0].any())
    assert set(zero_masks(start)) == {"conv.weight"}  # dense layers have no mask


def test_zeros_grow_to_the_ratio_and_resume(tmp_path: Path) -> None:
    regime = GrowZeros({"conv.weight": 0.75, "linear.weight": 0.5})
    seen: list[float] = []
    path = tmp_path / "net.pt"

    def tell(what: str, done: int, total: int) -> None:
        if done == 5 * 16:
            signal.raise_signal(signal.SIGINT)

    whole = fit(network(), images(), RECIPE, STEPS, regime=regime)
    with pytest.raises(KeyboardInterrupt):
        fit(network(), images(), RECIPE, STEPS, regime=regime, path=path, tell=tell)
    state = torch.load(path, weights_only=True)["state_dict"]
    seen.append(float((state["conv.weight"] == 0).float().mean()))
    resumed = fit(network(), images(), RECIPE, STEPS, regime=GrowZeros(regime.ratios), path=path)
    assert same(whole.module, resumed.module)
    seen.append(float((resumed.module.get_parameter("conv.weight") == 0).float().mean()))
    assert 0.4 < seen[0] < seen[1] == 0.75
    assert float((resumed.module.get_parameter("linear.weight") == 0).float().mean()) == 0.5


def test_statistics_of_batch_norms_are_kept_where_zeros_are_and_follow_elsewhere() -> None:
    start, level = network(), {"conv.weight": 7}
    pruned = network()
    pruned.get_parameter("conv.weight").data[:, :2] = 0
    follow = [(start, regime) for regime in (Plain(), RoundWeights(level), GrowZeros({"conv.weight": 0.5}))]
    keep = [(pruned, regime) for regime in (KeepZeros(zero_masks(pruned)), RoundWeights.keeping_zeros(pruned, level))]
    for before, regime in follow + keep:
        after = fit(before, images(), RECIPE, STEPS, regime=regime).module
        for name in ("norm.running_mean", "norm.running_var"):
            assert torch.equal(after.get_buffer(name), before.get_buffer(name)) == (before is pruned)
        assert not torch.equal(after.get_parameter("norm.weight"), before.get_parameter("norm.weight"))


def test_recovery_pastes_images_together_only_where_training_changes_them() -> None:
    assert recovery_recipe(Recipe()).augmentation == Augmentation()
    assert recovery_recipe(RECIPE).augmentation == Augmentation(shift=1, flip=True, cutmix=1.0)


@pytest.mark.parametrize("recipe", [RECIPE, recovery_recipe(RECIPE)], ids=["targets", "teacher"])
def test_a_regression_is_trained(recipe: Recipe) -> None:
    inputs, teacher = images().inputs, network(1)
    with torch.no_grad():
        values = Split(inputs, teacher(inputs))
    trained = fit(network(), values, recipe, Budget(epochs=8), teacher=teacher).module
    with torch.no_grad():
        before, after = ((module(inputs) - values.targets).square().mean() for module in (network(), trained))
    assert after < 0.3 * before


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (Budget, "exactly one"),
        (lambda: Budget(steps=1, minutes=2), "exactly one"),
        (lambda: Budget(epochs=0), "above 0"),
        (lambda: Recipe(learning_rate=0), "learning_rate is 0"),
        (lambda: Recipe(distillation=2), "fraction from 0 to 1"),
        (lambda: Augmentation(cutmix=1.5), "cutmix is 1.5"),
        (lambda: Recipe(optimizer="adam"), "sgd, adamw"),  # type: ignore[arg-type]
        (lambda: GrowZeros({"conv.weight": 1.0}), "below 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(what: object, message: str) -> None:
    with pytest.raises(EmomcError, match=message):
        what()  # type: ignore[operator]
