"""Tasks: the registry, a user's own function, what is checked before a search, checkpoints that do not fit."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from emomc.accuracy.splits import Split, Splits
from emomc.errors import EmomcError
from emomc.problems.tasks import Task, check_task, load_task, network_fingerprint, task_names, top1_error
from emomc.problems.tasks.behaviour import behaviour
from emomc.problems.tasks.checkpoint import load_checkpoint
from emomc.problems.tasks.locate import locate_function
from tests.conftest import ROOT

OWN_TASK = """
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from emomc.accuracy.splits import Split, Splits
from emomc.problems.tasks import Task


@dataclass
class Sizes:
    n: int = 8


def build(classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, classes))


def toy(seed: int = 0) -> Task:
    generator = torch.Generator().manual_seed(seed)
    splits = [
        Split(torch.randn(Sizes().n, 1, 4, 4, generator=generator), torch.arange(Sizes().n) % 3) for _ in range(4)
    ]
    return Task("toy", build(3).eval(), Splits(*splits), __file__ + ":build", {"classes": 3})


def nothing() -> None:
    pass
"""


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    path = tmp_path / "own_tasks.py"
    path.write_text(OWN_TASK)
    return path


@pytest.fixture
def toy(own_file: Path) -> Task:
    return load_task(f"{own_file}:toy")


# --- metric


def test_top1_error_counts_what_is_not_the_largest() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 9.0], [torch.nan, torch.nan, torch.nan]])
    assert top1_error(logits, torch.tensor([1, 0, 2, 0])).tolist() == [0.0, 1.0, 0.0, 1.0]


# --- finding tasks


def test_built_in_tasks_are_registered() -> None:
    assert {"digits", "cifar10-resnet20", "cifar10-resnet56", "cifar10-vgg16"} <= set(task_names())


def test_another_package_adds_a_task(own_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = own_file.parent / "toy_tasks-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-tasks\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[emomc.tasks]\ntoy = own_tasks:toy\n")
    monkeypatch.syspath_prepend(own_file.parent)
    assert "toy" in task_names()
    assert load_task("toy").name == "toy"


def test_two_packages_with_one_task_name_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("first", "second"):
        metadata = tmp_path / f"{package}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[emomc.tasks]\ntwice = {package}:task\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EmomcError, match=r"offer a task 'twice'.*(first:task|second:task)"):
        task_names()


def test_own_task_from_a_file_and_from_a_module(own_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(own_file.parent)
    tasks = [load_task(f"{own_file}:toy", seed=3), load_task("own_tasks:toy", seed=3), load_task("own_tasks:toy")]
    prints = [[split.fingerprint for split in task.splits.named().values()] for task in tasks]
    assert prints[0] == prints[1] != prints[2]


def test_two_files_of_one_name_are_two_modules(own_file: Path) -> None:
    other = own_file.parent / "other" / own_file.name
    other.parent.mkdir()
    other.write_text(OWN_TASK.replace('"toy"', '"second"'))
    assert [load_task(f"{path}:toy").name for path in (own_file, other, own_file)] == ["toy", "second", "toy"]


def test_a_file_is_run_once_until_it_is_edited(own_file: Path) -> None:
    first, again = (locate_function(f"{own_file}:build") for _ in range(2))
    own_file.write_text(OWN_TASK.replace("Conv2d(1, 4, 3)", "Conv2d(1, 40, 3)"))
    edited = locate_function(f"{own_file}:build")
    assert first is again is not edited
    assert [build(3)[0].out_channels for build in (first, edited)] == [4, 40]


def test_options_that_are_none_count_as_not_given(own_file: Path) -> None:
    assert load_task(f"{own_file}:toy", seed=None, data=None).name == "toy"


def test_loading_leaves_the_random_state_alone(own_file: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    load_task(f"{own_file}:toy")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "unknown task 'digit'. Did you mean 'digits'.*module:function"),
        ("", "unknown task ''"),
        ("digits:", "names no function; expected module:function"),
        (":task", "names no function"),
        ("no_such_module:task", "cannot import module 'no_such_module'.*path/to/file.py:function"),
        ("missing/file.py:task", "there is no file 'missing/file.py'"),
        (
            "emomc.problems.tasks.digits:tusk",
            "unknown function in emomc.problems.tasks.digits 'tusk'. Did you mean 'task'",
        ),
    ],
)
def test_an_unknown_task_is_refused_with_a_way_out(name: str, message: str) -> None:
    with pytest.raises(EmomcError, match=message):
        load_task(name)


def test_a_function_that_returns_no_task_is_refused(own_file: Path) -> None:
    with pytest.raises(EmomcError, match="returns NoneType; expected a function that returns an emomc Task"):
        load_task(f"{own_file}:nothing")


def test_an_option_that_a_task_does_not_take_is_refused(own_file: Path) -> None:
    with pytest.raises(EmomcError, match=r"'sead'.*Its options: seed"):
        load_task(f"{own_file}:toy", sead=1)


def test_a_file_with_a_syntax_error_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("def task(:\n")
    with pytest.raises(EmomcError, match=r"broken\.py.*invalid syntax"):
        load_task(f"{path}:task")


# --- the task itself


def test_example_input_is_the_first_calibration_image(toy: Task) -> None:
    assert torch.equal(toy.example_input, toy.splits.calibration.inputs[:1])


def test_fingerprint_is_stable_and_sees_every_part(toy: Task) -> None:
    def other_error(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return 2 * top1_error(logits, targets)

    perturbed = locate_function(toy.factory)(classes=3).eval()
    perturbed.load_state_dict(toy.module.state_dict())
    same = replace(toy, module=perturbed)
    assert same.fingerprint == toy.fingerprint

    nudged = locate_function(toy.factory)(classes=3).eval()
    nudged.load_state_dict(toy.module.state_dict())
    with torch.no_grad():
        nudged[2].bias[1] = torch.nextafter(nudged[2].bias[1], torch.tensor(10.0))
    swapped = replace(toy.splits, selection=toy.splits.validation, validation=toy.splits.selection)
    variants = [
        replace(toy, module=nudged),
        replace(toy, splits=swapped),
        replace(toy, error=other_error),
        replace(toy, factory_arguments={"classes": 4}),
    ]
    assert len({task.fingerprint for task in [toy, *variants]}) == 5


ERRORS = """
import functools

import torch

K = 2
NAMES = {"one", "two", "three", "four"}


def helper(value, factor=5):
    return factor * value if value in NAMES else [(lambda part: part + 7)(part) for part in value]


def plain(logits, targets):
    'Recursive, with a constant whose order differs between processes.'
    return helper(logits) + K if targets in {"five", "six", "seven", "eight"} else plain(targets, logits)


def closure(bound):
    return lambda logits, targets: (logits - targets).clamp_max(bound)


class Weighted:
    scale = 11

    def __init__(self, weights):
        self.weights, self.me = torch.tensor(weights), self

    @property
    def doubled(self):
        return 2 * self.weights

    def __call__(self, logits, targets):
        return self.scale * self.doubled * (logits - targets)

    @staticmethod
    def method(logits, targets):
        return logits - 19 * targets


decorated = torch.no_grad()(plain)
three, partial = closure(3), functools.update_wrapper(functools.partial(plain, targets=13), plain)
weighted, method, cached = Weighted([17.0]), Weighted.method, functools.lru_cache(helper)
"""
NAMED = ("plain", "decorated", "three", "partial", "weighted", "method", "cached")


def behaviours(folder: Path, source: str) -> dict[str, str]:
    path = folder / "errors.py"
    path.write_text(source)
    return {name: behaviour(locate_function(f"{path}:{name}")) for name in NAMED}


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ("K = 2", "K = 3", {"plain", "decorated", "partial"}),
        ("factor=5", "factor=6", {"plain", "decorated", "partial", "cached"}),
        ("part + 7", "part + 8", {"plain", "decorated", "partial", "cached"}),
        ("part + 7", "part - 7", {"plain", "decorated", "partial", "cached"}),
        ('"eight"', '"nine"', {"plain", "decorated", "partial"}),
        ('"four"', '"fourth"', {"plain", "decorated", "partial", "cached"}),
        ("targets=13", "targets=14", {"partial"}),
        ("closure(3)", "closure(4)", {"three"}),
        ("clamp_max", "clamp_min", {"three"}),
        ("scale = 11", "scale = 12", {"weighted"}),
        ("2 * self", "3 * self", {"weighted"}),
        ("17.0", "18.0", {"weighted"}),
        ("19", "20", {"weighted", "method"}),
        ("K = 2", "# another line\nK = 2\nUNUSED = 1", set()),
    ],
)
def test_an_edited_error_is_another_one(tmp_path: Path, before: str, after: str, changed: set[str]) -> None:
    found, edited = behaviours(tmp_path, ERRORS), behaviours(tmp_path, ERRORS.replace(before, after))
    assert len(set(found.values())) == len(NAMED)
    assert {name for name in NAMED if found[name] != edited[name]} == changed


def test_an_error_is_the_same_in_every_process_and_folder(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.test_tasks import ERRORS, behaviours; "
        "print(behaviours(Path(sys.argv[1]), ERRORS))"
    )
    (tmp_path / "other").mkdir()
    command = [sys.executable, "-c", program, str(tmp_path / "other")]
    environment = {**os.environ, "PYTHONHASHSEED": "5"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    assert done.stdout.strip() == str(behaviours(tmp_path, ERRORS))


def test_errors_of_the_package_and_of_libraries_are_known_by_name(toy: Task) -> None:
    assert behaviour(top1_error) == "emomc.problems.tasks.task.top1_error"
    named = [torch.sub, torch.Tensor.sub, nn.L1Loss(reduction="none"), nn.MSELoss(reduction="none"), partial(torch.sub)]
    assert len({replace(toy, error=error).fingerprint for error in named}) == len(named)


def test_network_fingerprint_sees_the_architecture() -> None:
    weight = torch.randn(4, 4, 3, 3)
    prints = set()
    for stride in (1, 2):
        module = nn.Conv2d(4, 4, 3, stride=stride, bias=False)
        module.weight = nn.Parameter(weight)
        prints.add(network_fingerprint(module))
    assert len(prints) == 2


def changed(task: Task, *, seed: int = 0, **values: object) -> Task:
    """The task with its network copied and some values replaced."""
    module = locate_function(task.factory)(classes=3).eval()
    return replace(task, **{"module": module, **values})


class Heads(nn.Module):
    """As many detectors and classifiers with a second task."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 3))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.layers(x), x.mean(1)


@pytest.mark.parametrize("factory", [None, "tests.test_tasks:Heads"])
def test_a_network_with_several_outputs_is_refused(toy: Task, factory: str | None) -> None:
    expected = "task 'heads': the network returns a tuple; expected one tensor. Wrap it"
    with pytest.raises(EmomcError, match=expected):
        check_task(Task("heads", Heads().eval(), toy.splits, factory))


def mislabelled(splits: Splits) -> Splits:
    test = Split(splits.test.stored, splits.test.targets + 1)
    return replace(splits, test=test)


def test_unsound_tasks_are_refused(toy: Task) -> None:
    check_task(toy)
    infinite = changed(toy)
    with torch.no_grad():
        infinite.module[0].weight[2, 0, 1, 1] = torch.nan  # type: ignore[index]
    cases = [
        (infinite, "'0.weight' holds NaN or infinity in 1 of 36"),
        (changed(toy, module=nn.Flatten().train()), "training mode. Call module.eval"),
        (changed(toy, module=nn.Sequential(nn.Flatten(), nn.Linear(15, 3)).eval()), "does not run on inputs of shape"),
        (changed(toy, module=nn.Conv2d(1, 3, 3).eval()), r"returns shape \(2, 3, 2, 2\).*expected \(n, classes\)"),
        (changed(toy, splits=mislabelled(toy.splits)), "test split has label 3 but the network has 3 outputs"),
        (changed(toy, splits=replace(toy.splits, test=toy.splits.selection)), "selection and test splits share 8 of 8"),
        (changed(toy, error=nn.functional.cross_entropy), "expected one finite number a sample"),
        (changed(toy, factory_arguments={"classes": 4}), "builds another network than the task's: '2.bias' differs"),
        (changed(toy, factory_arguments={"widths": 4}), "factory.*fails on {'widths': 4}"),
        (changed(toy, factory_arguments={"classes": {3}}), "must be JSON values"),
        (changed(toy, factory="collections:OrderedDict", factory_arguments={}), "OrderedDict; expected a torch.nn"),
    ]
    for task, message in cases:
        with pytest.raises(EmomcError, match=f"task 'toy': .*{message}"):
            check_task(task)


# --- checkpoints


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_checkpoint_layouts(tmp_path: Path, wrap: object, prefix: str) -> None:
    source = network()
    state = {prefix + name: value for name, value in source.state_dict().items() if "num_batches" not in name}
    loaded = network().train()
    load_checkpoint(loaded, saved(tmp_path / "weights.pt", wrap(state)))  # type: ignore[operator]
    assert not loaded.training
    for name, value in source.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_half_precision_weights_become_the_networks_type(tmp_path: Path) -> None:
    source, loaded = network(), network()
    load_checkpoint(loaded, saved(tmp_path / "half.pt", source.half().state_dict()))
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())
    assert torch.equal(loaded[3].weight.half(), source[3].weight)  # type: ignore[index]


def test_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    state = network().state_dict()
    with_nan = {**state, "3.bias": torch.tensor([0.0, torch.inf, 0.0])}
    cases: list[tuple[object, str]] = [
        ({k: v for k, v in state.items() if k != "3.bias"}, r"missing: 3\.bias\."),
        ({**state, "extra": torch.zeros(1)}, r"unexpected: extra\."),
        ({**state, "3.weight": torch.zeros(3, 9)}, r"other shape: 3\.weight is \(3, 9\), expected \(3, 8\)"),
        ({}, r"missing: 0\.weight, 1\.weight, 1\.bias and 4 more"),
        (with_nan, "'3.bias' holds NaN or infinity in 1 of 3"),
        ([1, 2], "holds no state_dict"),
        ({"state_dict": 3}, "holds no state_dict"),
        (network(), "cannot read .* as weights"),
    ]
    for number, (content, message) in enumerate(cases):
        path = saved(tmp_path / f"{number}.pt", content)
        with pytest.raises(EmomcError, match=message):
            load_checkpoint(network(), path)


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 cut off", b"\x80\x02}q\x00."])
def test_files_that_are_no_weights(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(EmomcError, match=r"weights\.pt"):
        load_checkpoint(network(), path)


def test_a_truncated_checkpoint(tmp_path: Path) -> None:
    path = saved(tmp_path / "weights.pt", network().state_dict())
    whole = path.read_bytes()
    for length in (1, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(EmomcError, match="cannot read"):
            load_checkpoint(network(), path)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch remarks on protocols that the damage makes up
def test_damaged_checkpoints_load_or_are_refused(tmp_path: Path) -> None:
    legacy, modern = tmp_path / "legacy.pt", saved(tmp_path / "modern.pt", network().state_dict())
    torch.save(network().state_dict(), legacy, _use_new_zipfile_serialization=False)
    rng, refused = np.random.default_rng(0), set()
    for path in (legacy, modern):
        whole = path.read_bytes()
        for _ in range(150):
            damaged = bytearray(whole)
            for position in rng.integers(len(whole), size=rng.integers(1, 4)):
                damaged[position] = rng.integers(256)
            path.write_bytes(damaged[: rng.integers(1, len(whole) + 1)] if rng.random() < 0.2 else damaged)
            try:
                load_checkpoint(network(), path)
            except EmomcError:
                refused.add(path)
    assert refused == {legacy, modern}


def test_a_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(EmomcError, match="there is no checkpoint"):
        load_checkpoint(network(), tmp_path / "none.pt")


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "touched",)  # type: ignore[return-value]

    path = saved(tmp_path / "weights.pt", {"0.weight": Payload()})
    with pytest.raises(EmomcError, match="cannot read"):
        load_checkpoint(network(), path)
    assert not (tmp_path / "touched").exists()
