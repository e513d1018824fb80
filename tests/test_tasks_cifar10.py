"""The CIFAR-10 tasks: networks against closed forms, data in every layout, accuracies on the real files."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from emomc.errors import EmomcError
from emomc.network import trace
from emomc.problems.tasks import load_task
from emomc.problems.tasks.cifar10_data import load_cifar
from emomc.problems.tasks.networks import Residual, densenet_bc, mobilenet_v1, mobilenet_v2, resnet, vgg16

REAL = Path(os.environ.get("EMOMC_DATA") or Path(__file__).parents[1] / ".." / "shared" / "data")
TASK = "emomc.problems.tasks.cifar10:resnet20_task"
Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


@pytest.fixture(autouse=True)
def no_folder_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EMOMC_DATA", raising=False)
    monkeypatch.setenv("EMOMC_CACHE", str(tmp_path / "cache"))


def images(n: int, seed: int) -> tuple[Pixels, Labels]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8), np.arange(n) % 10


def write_strips(folder: Path, x: Pixels, y: Labels, height: int = 100) -> None:
    (folder / "train").mkdir()
    for number, start in enumerate(range(0, len(x), height)):
        strip = Image.fromarray(x[start : start + height].reshape(-1, 32, 3))
        strip.save(folder / "train" / f"{number:03}.webp", lossless=True)
    np.save(folder / "train_labels.npy", y)


def write_npz(folder: Path, name: str, x: Pixels, y: Labels) -> None:
    np.savez(folder / f"cifar10_{name}.npz", x=x, y=y)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with a random training set that is just large enough, test set and checkpoint."""
    folder = tmp_path / "data"
    (folder / "cifar10").mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    write_npz(folder / "cifar10", "train", *images(4600, 0))
    write_npz(folder / "cifar10", "test", *images(50, 1))
    state = {f"module.{name}": value for name, value in resnet(20).state_dict().items()}
    torch.save({"state_dict": state}, folder / "checkpoints" / "resnet20-12fca82f.th")
    return folder


# --- networks


def resnet_parameters(blocks: int) -> int:
    """Weights of the convolutions, two values a channel of each batch norm, and the linear layer."""
    widths = [3, 16] + [16] * 2 * blocks + [32] * 2 * blocks + [64] * 2 * blocks
    convolutions = sum(9 * a * b + 2 * b for a, b in pairwise(widths))
    return convolutions + 64 * 10 + 10


@pytest.mark.parametrize(("depth", "blocks", "published"), [(20, 3, 0.27e6), (32, 5, 0.46e6), (56, 9, 0.85e6)])
def test_resnet_has_the_published_number_of_parameters(depth: int, blocks: int, published: float) -> None:
    count = sum(parameter.numel() for parameter in resnet(depth).parameters())
    assert count == resnet_parameters(blocks)
    assert abs(count - published) < 0.01e6  # He et al. 2016, table 6
    assert resnet(depth).eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("depth", [2, 18, 21, -4])
def test_a_depth_that_no_cifar_resnet_has(depth: int) -> None:
    with pytest.raises(EmomcError, match="depth of 6 n"):
        resnet(depth)


def test_shortcut_is_a_strided_identity_into_the_middle_channels() -> None:
    block = Residual(16, 32, stride=2)
    referee = nn.Conv2d(16, 32, 1, stride=2, bias=False)
    with torch.no_grad():
        referee.weight.zero_()
        referee.weight[8:24, :, 0, 0] = torch.eye(16)
    x = torch.randn(2, 16, 8, 8)
    torch.testing.assert_close(block.shortcut(x), referee(x), rtol=0, atol=0)
    same = Residual(16, 16, stride=1)
    assert torch.equal(same.shortcut(x), x)


@pytest.mark.parametrize("build", [lambda: resnet(20), vgg16])
def test_networks_are_traceable(build: Callable[[], nn.Module]) -> None:
    module = build().eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(torch.fx.symbolic_trace(module)(x), module(x))


def test_vgg_has_thirteen_convolutions_under_the_usual_names() -> None:
    module = vgg16()
    convolutions = {name: part for name, part in module.named_modules() if isinstance(part, nn.Conv2d)}
    assert [int(name.split(".")[1]) for name in convolutions] == [0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40]
    assert module(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert {name.split(".")[0] for name in module.state_dict()} == {"features", "classifier"}


# --- data


@pytest.mark.parametrize("layout", ["strips", "npz"])
@pytest.mark.parametrize("nested", [False, True])
def test_every_layout_gives_the_same_images(tmp_path: Path, layout: str, nested: bool) -> None:
    place = tmp_path / "cifar10" if nested else tmp_path
    place.mkdir(exist_ok=True)
    (x, y), (test_x, test_y) = images(250, 0), images(30, 1)
    write_npz(place, "test", test_x, test_y)
    if layout == "strips":
        write_strips(place, x, y)
    else:
        write_npz(place, "train", x, y)
    train, test = load_cifar(10, tmp_path, download=False, download_folder=tmp_path)
    assert np.array_equal(train.images.transpose(0, 2, 3, 1), x)
    assert np.array_equal(train.labels, y)
    assert np.array_equal(test.images[7, 2], test_x[7, :, :, 2])
    assert np.array_equal(test.labels, test_y)


def test_task_from_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = load_task(TASK, data=str(folder))
    assert [len(split) for split in task.splits.named().values()] == [512, 2000, 2000, 50]
    assert all(split.stored.dtype == torch.uint8 for split in task.splits.named().values())
    x, _ = images(50, 1)
    white = (x[3, 5, 6] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(task.splits.test.inputs[3, :, 5, 6].numpy(), white, rtol=1e-5)
    monkeypatch.setenv("EMOMC_DATA", str(folder))
    assert load_task(TASK).fingerprint == task.fingerprint


def test_options_win_over_the_environment(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOMC_DATA", str(tmp_path / "nowhere"))
    expected = load_task(TASK, data=folder)
    other = resnet(20).state_dict()
    torch.save(other, tmp_path / "other.pt")
    task = load_task(TASK, data=folder, checkpoint=tmp_path / "other.pt")
    assert torch.equal(task.module.state_dict()["conv1.weight"], other["conv1.weight"])
    assert task.fingerprint != expected.fingerprint


def test_another_networks_checkpoint_does_not_fit(folder: Path, tmp_path: Path) -> None:
    torch.save(resnet(32).state_dict(), tmp_path / "resnet32.pt")
    with pytest.raises(EmomcError, match=r"does not fit the network CifarResNet. unexpected: layer1\.3\.conv1\.weight"):
        load_task(TASK, data=folder, checkpoint=tmp_path / "resnet32.pt")


def test_missing_files_say_how_to_give_them(folder: Path, tmp_path: Path) -> None:
    checkpoint = folder / "checkpoints" / "resnet20-12fca82f.th"
    with pytest.raises(EmomcError, match=r"no checkpoint: no data folder.*option checkpoint.*option data.*EMOMC_DATA"):
        load_task(TASK)
    three_ways = "option data.*EMOMC_DATA.*option download"
    with pytest.raises(EmomcError, match=f"no data folder is given.*{three_ways}"):
        load_task(TASK, checkpoint=checkpoint)
    with pytest.raises(EmomcError, match=f"there is no data folder .*nowhere.*{three_ways}"):
        load_task(TASK, data=tmp_path / "nowhere", checkpoint=checkpoint)
    (tmp_path / "empty").mkdir()
    with pytest.raises(EmomcError, match=f"there is no CIFAR-10 in .*{three_ways}"):
        load_task(TASK, data=tmp_path / "empty", checkpoint=checkpoint)
    (folder / "cifar10" / "cifar10_train.npz").unlink()
    with pytest.raises(EmomcError, match="holds the test images of CIFAR-10 but not the training images"):
        load_task(TASK, data=folder)


def test_too_few_training_images(folder: Path) -> None:
    write_npz(folder / "cifar10", "train", *images(4511, 0))
    with pytest.raises(EmomcError, match=r"4512 images are wanted.*training set has 4511"):
        load_task(TASK, data=folder)


def test_damaged_arrays(tmp_path: Path) -> None:
    x, y = images(20, 0)
    write_npz(tmp_path, "train", x, y)
    path = tmp_path / "cifar10_test.npz"
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: path.write_bytes(b"not an archive"), "cannot read"),
        (lambda: path.write_bytes(b""), "cannot read"),
        (lambda: np.savez(path, x=x), "cannot read.*arrays x and y"),
        (lambda: np.savez(path, x=x, y=y.astype(object)), "cannot read"),
        (lambda: np.savez(path, x=x, y=y[:10]), "20 images and labels int64 of shape"),
        (lambda: np.savez(path, x=x, y=y.astype(float)), "labels float64"),
        (lambda: np.savez(path, x=x.astype(np.float32), y=y), "float32 of shape.*expected uint8"),
        (lambda: np.savez(path, x=x.transpose(0, 3, 1, 2), y=y), r"expected uint8 \(n, 32, 32, 3\)"),
    ]
    for damage, message in cases:
        damage()
        with pytest.raises(EmomcError, match=message):
            load_cifar(10, tmp_path, download=False, download_folder=tmp_path)


def test_randomly_damaged_archives_load_or_are_refused(tmp_path: Path) -> None:
    rng, refused = np.random.default_rng(0), set()
    x, y = images(10, 0)
    write_npz(tmp_path, "train", x, y)
    path = tmp_path / "cifar10_test.npz"
    for save in (np.savez, np.savez_compressed):
        save(path, x=x // 64, y=y)
        whole = path.read_bytes()
        for _ in range(150):
            damaged = bytearray(whole)
            for position in rng.integers(len(whole), size=3):
                damaged[position] = rng.integers(256)
            path.write_bytes(damaged if rng.random() < 0.8 else damaged[: rng.integers(len(whole))])
            try:
                load_cifar(10, tmp_path, download=False, download_folder=tmp_path)
            except EmomcError:
                refused.add(save)
    assert refused == {np.savez, np.savez_compressed}


def test_damaged_strips(tmp_path: Path) -> None:
    x, y = images(200, 0)
    write_npz(tmp_path, "test", x, y)
    write_strips(tmp_path, x, y[:150])
    strip = tmp_path / "train" / "001.webp"
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: None, "200 images and labels int64 of shape"),
        (lambda: strip.write_bytes(strip.read_bytes()[:100]), r"001\.webp"),
        (lambda: Image.fromarray(x[0, :, :31]).save(strip, lossless=True), "31 x 32 pixels"),
        ((tmp_path / "train_labels.npy").unlink, r"train_labels\.npy"),
    ]
    for damage, message in cases:
        damage()
        with pytest.raises(EmomcError, match=message):
            load_cifar(10, tmp_path, download=False, download_folder=tmp_path)


def test_damaged_batches_are_not_unpickled(tmp_path: Path) -> None:
    batches = tmp_path / "cifar-10-batches-py"
    batches.mkdir()
    (batches / "data_batch_1").write_bytes(b"\x80\x04not the published file")
    with pytest.raises(EmomcError, match=r"not found or corrupted.*option download"):
        load_cifar(10, tmp_path, download=False, download_folder=tmp_path)


# --- the real files


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("function", "correct"), [("resnet20_task", 9173), ("resnet56_task", 9339), ("vgg16_task", 9174)]
)
def test_published_accuracy_on_the_test_images(function: str, correct: int) -> None:
    if not (REAL / "cifar10" / "cifar10_test.npz").is_file():
        pytest.skip("needs CIFAR-10 and the checkpoints, in the folder of EMOMC_DATA")
    task = load_task(f"emomc.problems.tasks.cifar10:{function}", data=REAL)
    module = task.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    layout = torch.channels_last
    with torch.inference_mode():
        wrong = sum(
            float(task.error(module(x.contiguous(memory_format=layout)), y).sum())
            for x, y in task.splits.test.batches(125)
        )
    # A logit on the border may fall to the other side with another machine's order of summation.
    assert abs(10_000 - wrong - correct) <= 3


def test_training_images_are_all_those_that_no_split_has(folder: Path) -> None:
    task = load_task(TASK, data=folder)
    assert task.training is not None
    rest = task.training.load()
    assert len(rest) == 4600 - 512 - 2000 - 2000
    parts = [task.splits.calibration, task.splits.selection, task.splits.validation, rest]
    together = torch.cat([part.stored for part in parts]).flatten(1).numpy()
    assert len({row.tobytes() for row in together}) == 4600
    assert rest.normalisation == task.splits.test.normalisation


def test_an_untrained_network_needs_no_checkpoint(folder: Path) -> None:
    (folder / "checkpoints" / "resnet20-12fca82f.th").unlink()
    with pytest.raises(EmomcError, match="no checkpoint"):
        load_task(TASK, data=folder)
    assert load_task(TASK, data=folder, untrained=True).module is not None


# --- the other networks, and CIFAR-100


@pytest.mark.parametrize(
    ("build", "published"),
    [
        (lambda: resnet(110), 1.7e6),  # He et al. 2016, table 6
        (lambda: densenet_bc(100, 12), 0.8e6),  # Huang et al. 2017, table 2
    ],
)
def test_larger_networks_have_the_published_number_of_parameters(
    build: Callable[[], nn.Module], published: float
) -> None:
    assert abs(sum(parameter.numel() for parameter in build().parameters()) - published) < 0.05e6


def inverted_residual_parameters(channels_in: int, channels: int, expansion: int) -> int:
    """Weights of the three convolutions, and two values a channel of each batch norm."""
    width = expansion * channels_in
    widen = channels_in * width + 2 * width if expansion > 1 else 0
    return widen + 9 * width + 2 * width + width * channels + 2 * channels


def test_mobilenet_v2_has_the_parameters_of_its_table() -> None:
    stages = [(1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)]
    count, channels = 27 * 32 + 64, 32
    for expansion, width, blocks in stages:
        for _ in range(blocks):
            count += inverted_residual_parameters(channels, width, expansion)
            channels = width
    count += 320 * 1280 + 2 * 1280 + 1280 * 10 + 10
    assert sum(parameter.numel() for parameter in mobilenet_v2().parameters()) == count
    assert mobilenet_v2(100).eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 100)


@pytest.mark.parametrize("build", [mobilenet_v1, mobilenet_v2, lambda: densenet_bc(22, 12)])
def test_networks_are_traced_into_all_their_layers(build: Callable[[], nn.Module]) -> None:
    module = build().eval()
    layers = trace(module, torch.zeros(1, 3, 32, 32)).layers
    wanted = [name for name, part in module.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    assert sorted(layer.name for layer in layers) == sorted(wanted)


@pytest.mark.parametrize("depth", [4, 20, 101])
def test_a_depth_that_no_densenet_has(depth: int) -> None:
    with pytest.raises(EmomcError, match="depth of 6 n"):
        densenet_bc(depth)


def test_cifar100_from_arrays_with_an_untrained_network(tmp_path: Path) -> None:
    x, _ = images(5200, 0)
    np.savez(tmp_path / "cifar100_train.npz", x=x, y=np.arange(5200) % 100)
    np.savez(tmp_path / "cifar100_test.npz", x=images(100, 1)[0], y=np.arange(100))
    task = load_task("emomc.problems.tasks.cifar:cifar100_resnet20", data=tmp_path, untrained=True)
    assert task.module(task.example_input).shape == (1, 100)
    assert task.training is not None
    assert len(task.training.load()) == 5200 - 4512
    again = load_task("emomc.problems.tasks.cifar:cifar100_resnet20", data=tmp_path, untrained=True)
    assert again.fingerprint == task.fingerprint
    with pytest.raises(EmomcError, match=r"checkpoints/cifar100-resnet20\.pt"):
        load_task("emomc.problems.tasks.cifar:cifar100_resnet20", data=tmp_path)
    with pytest.raises(EmomcError, match=r"no CIFAR-10 in .*cifar10_train\.npz"):
        load_task("emomc.problems.tasks.cifar:cifar10_mobilenetv2", data=tmp_path, untrained=True)


def test_every_network_that_is_offered_is_built_and_fits_its_factory(tmp_path: Path) -> None:
    x, y = images(4600, 0)
    write_npz(tmp_path, "train", x, y)
    write_npz(tmp_path, "test", *images(20, 1))
    for name in ("mobilenetv1", "mobilenetv2"):
        task = load_task(f"emomc.problems.tasks.cifar:cifar10_{name}", data=tmp_path, untrained=True)
        assert task.name == f"cifar10-{name}"
        assert task.training is not None
        assert task.training.recipe.augmentation.flip
