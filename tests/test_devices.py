"""On a device other than the CPU everything comes out as on the CPU, and no tensors of two devices meet.

There is no second device where these tests run: `tests.elsewhere` lets the CPU be one that behaves like it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import emomc
from emomc.accuracy import Evaluator, Split, Splits
from emomc.accuracy.splits import Normalisation
from emomc.cli import main
from emomc.run import inflight
from emomc.training import GrowZeros, Plain, Regime, RoundWeights, precision
from tests.elsewhere import DEVICE, Elsewhere, machine

OWN = f"{__name__}:made"


@pytest.fixture(autouse=True)
def known_to_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of a search know the device as well; it does not multiply bfloat16."""
    run = inflight.Flights._do

    def run_there(self: inflight.Flights, *job: Any) -> tuple[int, Any]:
        with machine():
            return run(self, *job)

    monkeypatch.setattr(inflight.Flights, "_do", run_there)
    monkeypatch.setattr(precision, "_multiplies_bfloat16", lambda kind: False)


@cache
def made() -> emomc.Task:
    """Two convolutions, one of them depthwise, on images of bytes; trained until it knows something."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 4),
    )
    splits = Splits(*(_images(40, seed) for seed in range(4)))
    training = emomc.TrainingData(
        lambda: _images(96, 9), emomc.Recipe(learning_rate=0.05, batch=16, precision="float32")
    )
    images = training.load()
    trained = emomc.fit(network, images, training.recipe, emomc.Budget(steps=60)).module
    return emomc.Task("made-up", trained, splits, training=training)


def _images(count: int, seed: int) -> Split:
    """Images whose brightest quarter names their class."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 160, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    targets = torch.randint(0, 4, (count,), generator=generator)
    for image, target in zip(images, targets.tolist(), strict=True):
        row, column = divmod(target, 2)
        image[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 60
    return Split(images, targets, Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))


@pytest.fixture
def task() -> emomc.Task:
    return made()


def on(device: str) -> Any:
    """A context in which the device exists."""
    return machine() if device == DEVICE else nullcontext()


def test_tensors_of_two_devices_do_not_mix() -> None:
    with machine():
        there, here = torch.ones(2, 3, device=DEVICE), torch.ones(2, 3)
        assert isinstance(there, Elsewhere) and (there + 1).device.type == DEVICE
        assert (there + torch.tensor(2.0)).cpu().tolist() == [[3.0] * 3] * 2  # a single number may come from anywhere
        assert there[torch.tensor([1])].shape == (1, 3)
        for mixed in (lambda: there + here, lambda: here[there.long()], lambda: there.copy_(here) @ here.T):
            with pytest.raises(RuntimeError, match="one device"):
                mixed()
        with pytest.raises(RuntimeError):
            there.numpy()


def _elastic(task: emomc.Task) -> Regime:
    network = emomc.trace(task.module, task.example_input)
    return emomc.Elastic(network, task.splits.calibration.inputs, stages=2)


REGIMES: dict[str, Callable[[emomc.Task], Regime]] = {
    "plain": lambda task: Plain(),
    "fixed zeros": lambda task: emomc.KeepZeros({"0.weight": torch.rand(8, 3, 3, 3).gt(0.5).float()}),
    "growing zeros": lambda task: GrowZeros({"0.weight": 0.5, "8.weight": 0.5}, stages=3),
    "rounded": lambda task: RoundWeights.keeping_zeros(task.module, {"0.weight": 7, "8.weight": 7}),
    "elastic": _elastic,
}


@pytest.mark.parametrize("name", REGIMES)
def test_training_is_the_same_there_whether_it_was_interrupted_or_not(task, name, tmp_path):
    assert task.training is not None
    recipe = replace(
        emomc.elastic_recipe(task.training.recipe), augmentation=emomc.Augmentation(shift=1, flip=True, cutmix=1.0)
    )

    def train(device: str, path: Path | None = None, tell: Any = lambda *_: None) -> dict[str, torch.Tensor]:
        torch.manual_seed(5)
        with on(device):
            return emomc.fit(
                task.module,
                task.training.load(),
                recipe,
                emomc.Budget(steps=12),
                regime=REGIMES[name](task),
                teacher=task.module,
                path=path,
                device=device,
                tell=tell,
            ).module.state_dict()

    def stop(_: str, done: int, total: int) -> None:
        if done >= 96:
            raise KeyboardInterrupt

    expected, found = train("cpu"), train(DEVICE)
    with pytest.raises(KeyboardInterrupt):
        train(DEVICE, tmp_path / "training.pt", stop)
    continued = train(DEVICE, tmp_path / "training.pt")
    for key, value in expected.items():
        assert type(found[key]) is torch.Tensor, "what comes out is on the CPU"
        assert torch.equal(found[key], value), key
        assert torch.equal(continued[key], value), key
    assert not torch.equal(expected["0.weight"], task.module.state_dict()["0.weight"])


def test_a_search_is_the_same_there_with_one_or_two_networks_in_flight(tmp_path):
    def front(device: str, workers: int) -> list[tuple[float, float, float]]:
        options = emomc.Options(OWN, budget=8, points=4, genes={"activation_bits": (16, 6, 4)})
        settings, folder = emomc.Settings(device=device), tmp_path / f"{device}{workers}"
        with on(device), emomc.Session(folder, options, settings=settings, workers=workers) as session:
            points = emomc.run_search(session).points
        return [(each.measurement.error, each.selection_error, each.objectives["size_bytes"]) for each in points]

    expected = front("cpu", 1)
    assert len(expected) > 1
    assert front(DEVICE, 1) == front(DEVICE, 2) == expected


@pytest.mark.parametrize(
    ("search", "training"),
    [
        (emomc.search_with_recovery, {"recovery": emomc.Recovery(1, steps=6)}),
        (emomc.search_with_elastic_training, {"elastic": emomc.ElasticTraining(steps=6)}),
    ],
    ids=["recovery", "elastic"],
)
def test_a_search_with_training_is_the_same_there(search, training, tmp_path):
    def front(device: str) -> list[tuple[float, float]]:
        options = emomc.Options(OWN, budget=12, points=4, max_loss=0.5, **training)
        with on(device):
            found = search(tmp_path / device, options, settings=emomc.Settings(device=device))
        return [(each.measurement.error, each.objectives["size_bytes"]) for each in found.points]

    assert front(DEVICE) == front("cpu")


@pytest.mark.parametrize("method", ["in-order", "obs", "magnitude"])
def test_a_file_that_is_made_and_trained_on_is_the_same_there(task, method, tmp_path):
    def made(device: str) -> tuple[bytes, float, bytes, float]:
        settings = emomc.Settings(device=device)
        first, second = tmp_path / f"{device}.emomc", tmp_path / f"{device}-finetuned.emomc"
        with on(device):
            wanted = {"*": {"prune_ratio": 0.5, "bit_width": 4}}
            compressed = emomc.compress(task, wanted, first, method=method, settings=settings)
            finetuned = emomc.finetune(first, second, task, emomc.Budget(steps=8), settings=settings)
        return first.read_bytes(), compressed.measurement.error, second.read_bytes(), finetuned.after.error

    assert made(DEVICE) == made("cpu")


def test_a_run_is_verified_on_its_own_device_to_the_last_digit_and_elsewhere_to_a_tenth_of_a_point(tmp_path):
    folder = tmp_path / "run"
    with machine():
        with emomc.Session(
            folder, emomc.Options(OWN, budget=4, points=1), settings=emomc.Settings(device=DEVICE)
        ) as session:
            emomc.run_search(session)
        verify = partial(CliRunner().invoke, main)
        exact = verify(["verify", str(folder), "--task", OWN])
        assert exact.exit_code == 0 and "as reported" in exact.output
        text = (folder / "front.csv").read_text()
        header, row = text.splitlines()
        values = dict(zip(header.split(","), row.split(","), strict=True))
        for apart, codes in ((0.0005, (1, 0)), (0.002, (1, 1))):
            changed = values | {"error": repr(float(values["error"]) + apart)}
            (folder / "front.csv").write_text("\n".join([header, ",".join(changed.values()), ""]))
            found = [verify(["verify", str(folder), "--task", OWN, *extra]) for extra in ((), ("--device", "cpu"))]
            assert tuple(each.exit_code for each in found) == codes


def test_convolutions_on_a_gpu_are_float32(task, monkeypatch):
    """As far as can be told without one: the switch is off before anything goes there."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    network = emomc.trace(task.module, task.example_input)
    with pytest.raises((RuntimeError, AssertionError)) if not torch.cuda.is_available() else nullcontext():
        Evaluator(task.module, network, task.splits, None, task.error, emomc.Settings(device="cuda"))
    assert not torch.backends.cudnn.allow_tf32
