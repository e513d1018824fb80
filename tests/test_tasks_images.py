"""Folders of images as data, and torchvision's networks on them: real files, from the folder to a verified network."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import emomc
from emomc.errors import EmomcError
from emomc.problems.tasks import load_task
from emomc.problems.tasks.image_folder import MappedSplit
from emomc.report import read_run
from tests.test_cli import good, refused

VIEW = emomc.View(resize=12, crop=10)
OWN = """
import torch
from torch import nn
import emomc

def task(data=None, checkpoint=None):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )
    return emomc.image_folder_task("tiny", network, data, view=emomc.View(resize=12, crop=10))
"""


def fill(folder: Path, count: int, seed: int) -> None:
    """Pictures of three classes, each of a colour of its own, wide and tall, as JPEG and PNG."""
    rng = np.random.default_rng(seed)
    for label, name in enumerate(("zebra", "ant", "cat")):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 120, (12 + number % 5, 16, 3)).astype(np.uint8)
            pixels[:, :, label] += 100
            image = Image.fromarray(pixels if number % 2 else pixels.transpose(1, 0, 2))
            image.save(folder / name / f"{number}.{'png' if number % 3 else 'jpg'}")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    fill(folder / "train", 60, 0)
    fill(folder / "val", 20, 1)
    return folder


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def test_splits_are_disjoint_and_repeat(pictures: Path) -> None:
    first, second = (emomc.image_folder_task("tiny", network(), pictures, view=VIEW) for _ in range(2))
    splits = first.splits.named()
    assert [split.fingerprint for split in splits.values()] == [s.fingerprint for s in second.splits.named().values()]
    assert first.training is not None
    everything = {**splits, "training": first.training.load()}
    seen = [image.tobytes() for split in everything.values() for image in split.stored.numpy()]
    assert len(seen) == len(set(seen)) == 180 + 60
    assert len(splits["test"]) == 60
    for name, split in everything.items():
        assert set(split.targets.tolist()) == {0, 1, 2}, name
        # classes are in the order of their sorted names: ant, cat, zebra, brightest in channels 1, 2 and 0
        brightest = split.stored.float().mean((2, 3)).argmax(1)
        assert torch.equal(brightest, torch.tensor([1, 2, 0])[split.targets])


def test_an_image_is_resized_and_its_middle_taken(tmp_path: Path) -> None:
    """A picture of twice the size in flat quarters: the crop's corners have the quarters' colours."""
    fill(tmp_path, 8, 0)
    pixels = np.zeros((48, 24, 3), np.uint8)
    pixels[:24, :12], pixels[:24, 12:], pixels[24:, :12], pixels[24:, 12:] = (9, 0, 0), (0, 9, 0), (0, 0, 9), (9, 9, 9)
    for file in tmp_path.glob("*/*"):
        Image.fromarray(pixels).save(file.with_suffix(".png"))
        if file.suffix == ".jpg":
            file.unlink()
    task = emomc.image_folder_task("tiny", network(), tmp_path, view=VIEW, sizes=(1, 1, 1, 1))
    corners = task.splits.test.stored[0][:, [0, 0, -1, -1], [0, -1, 0, -1]].T
    assert corners.tolist() == [[9, 0, 0], [0, 9, 0], [0, 0, 9], [9, 9, 9]]


def test_images_stay_in_their_file(pictures: Path) -> None:
    split = emomc.image_folder_task("tiny", network(), pictures, view=VIEW).splits.test
    assert isinstance(split, MappedSplit)
    sent = pickle.dumps(split)
    assert len(sent) < split.stored.numel() / 4
    assert pickle.loads(sent).fingerprint == split.fingerprint  # noqa: S301 - our own bytes


def test_from_a_folder_of_images_to_a_verified_file(pictures: Path, tmp_path: Path) -> None:
    own, run = tmp_path / "own.py", tmp_path / "run"
    own.write_text(OWN)
    name = f"{own}:task"
    good(
        *("search", name, "--data", pictures, "--run", run, "--budget", "8", "--workers", "1", "--points", "2"),
        *("--method", "magnitude", "--gene", "bit_width=8,4", "--gene", "shared_values=0", "--max-loss", "90%"),
    )
    point = read_run(run).points[0].name
    good("export", run, point, "--out", tmp_path / "small.emomc")
    assert "as reported" in good("verify", run, "--task", name)
    assert emomc.load(tmp_path / "small.emomc")(torch.zeros(1, 3, 10, 10)).shape == (1, 3)
    out = tmp_path / "trained.pt"
    told = good("train", name, "--data", pictures, "--epochs", "6", "--rate", "0.1", "--batch", "16", "--out", out)
    trained = float(told.split("validation images: ")[1].split(" %")[0])
    assert trained < 20  # of three colours


def test_torchvision_networks_take_the_classes_of_the_folder(pictures: Path, tmp_path: Path) -> None:
    task = load_task("emomc.problems.tasks.torchvision_models:folder_mobilenetv2", data=pictures, untrained=True)
    assert task.module(task.example_input).shape == (1, 3)
    assert task.example_input.shape == (1, 3, 224, 224)
    torch.save(task.module.state_dict(), tmp_path / "weights.pt")
    again = load_task(
        "emomc.problems.tasks.torchvision_models:folder_mobilenetv2", data=pictures, checkpoint=tmp_path / "weights.pt"
    )
    assert again.fingerprint == task.fingerprint


def test_what_is_missing_is_named(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = "emomc.problems.tasks.torchvision_models"
    assert "needs weights" in refused(
        "compress", f"{place}:folder_resnet18", "--data", pictures, "--config", "w4", "--out", "x"
    )
    for arguments, message in (
        ({"data": pictures}, r"3 classes; ImageNet has 1000. See task 'folder-resnet18'"),
        ({"data": None}, "a folder of images is needed"),
        ({"data": tmp_path / "none"}, "there is no folder"),
        ({"data": tmp_path}, "no folder of images"),
    ):
        with pytest.raises(EmomcError, match=message):
            load_task(f"{place}:imagenet_resnet18", **arguments)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    from emomc.problems.tasks.torchvision_models import _load_published, _model

    with pytest.raises(EmomcError, match=r"no weights for resnet18.*option checkpoint"):
        _load_published(_model("resnet18", 1000), "resnet18", download=False)


def test_a_folder_with_train_alone_has_the_classes_in_it(tmp_path: Path) -> None:
    fill(tmp_path / "train", 12, 0)
    task, inside = (
        emomc.image_folder_task("tiny", network(), folder, view=VIEW, sizes=(4, 6, 3, 5))
        for folder in (tmp_path, tmp_path / "train")
    )
    assert task.splits.test.fingerprint == inside.splits.test.fingerprint
    assert len(task.splits.test.targets.unique()) > 1


def test_a_folder_with_one_class_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "flowers" / "photos", 12, 0)
    with pytest.raises(EmomcError, match=r"one class, 'photos', .* If they lie deeper"):
        emomc.image_folder_task("tiny", network(), tmp_path / "flowers", view=VIEW)


def test_a_hidden_folder_is_no_class(tmp_path: Path) -> None:
    """Such as a notebook leaves: it would move the numbers of all classes by one."""
    fill(tmp_path, 12, 0)
    fill(tmp_path / ".ipynb_checkpoints", 1, 0)
    for path in (tmp_path / ".ipynb_checkpoints").glob("*/*"):
        path.rename(tmp_path / ".ipynb_checkpoints" / f"{path.parent.name}{path.name}")
    with pytest.raises(EmomcError, match=r"ipynb_checkpoints' would count as a class"):
        emomc.image_folder_task("tiny", network(), tmp_path, view=VIEW)


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "train", 12, 0)
    fill(tmp_path / "val", 4, 1)
    (tmp_path / "val" / "ant").rename(tmp_path / "val" / "bee")
    with pytest.raises(EmomcError, match="classes of train and val differ, first in 'ant'"):
        emomc.image_folder_task("tiny", network(), tmp_path, view=VIEW)
    (tmp_path / "val" / "bee").rename(tmp_path / "val" / "ant")
    with pytest.raises(EmomcError, match=r"too few .* at least 2004 are needed"):
        emomc.image_folder_task("tiny", network(), tmp_path, view=VIEW, sizes=(1, 1000, 1, 1))
    broken = tmp_path / "val" / "cat" / "1.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(EmomcError, match=r"1.png' as an image"):
        emomc.image_folder_task("tiny", network(), tmp_path, view=VIEW, sizes=(3, 3, 3, 50))
