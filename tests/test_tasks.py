"""Tasks: the registry, a user's own function, what is checked before a search."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from emomc.accuracy.splits import Split, Splits
from emomc.errors import EmomcError
from emomc.problems.tasks import Task, check_task, load_task, network_fingerprint, task_names, top1_error
from emomc.problems.tasks.locate import locate_function

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


@pytest.mark.parametrize("factory", [None, "tests.test_tasks:tied"])
def test_a_weight_that_layers_share_counts_once_in_the_dense_size(toy: Task, factory: str | None) -> None:
    task = Task("tied", tied(), toy.splits, factory)
    assert task.dense_bytes == 4 * (16 * 16 + 2 * 16 + 3 * 16 + 3)


def tied() -> nn.Module:
    """Two layers with one weight."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 3)).eval()
    module[3].weight = module[1].weight
    return module


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


class Pair(nn.Module):
    """Takes two tensors."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y


@pytest.mark.parametrize("factory", [None, "tests.test_tasks:tied"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"module": nn.Linear(1, 1).state_dict()}, "its network is a OrderedDict; expected a torch.nn.Module"),
        ({"module": nn.Linear}, "its network is a type; expected a torch.nn.Module"),
        ({"module": torch.jit.ScriptModule()}, "neither scripted nor compiled"),
        ({"module": torch.compile(nn.Linear(4, 1))}, "neither scripted nor compiled"),
        ({"splits": []}, "splits are a list, not an emomc.Splits"),
        ({"module": Pair().eval()}, "does not run on one tensor .* missing 1 required positional argument: 'y'"),
        ({"module": nn.Linear(4, 3).half().eval()}, r"Its weights are torch\.float16, .* call module\.float\(\)"),
    ],
)
def test_what_is_no_network_or_takes_other_inputs_is_named(
    toy: Task, factory: str | None, change: dict[str, object], message: str
) -> None:
    with pytest.raises(EmomcError, match=f"task 'mine': .*{message}"):
        check_task(Task(**{"name": "mine", "module": tied(), "splits": toy.splits, "factory": factory, **change}))


def mislabelled(splits: Splits) -> Splits:
    test = Split(splits.test.stored, splits.test.targets + 1)
    return replace(splits, test=test)


def broadcast(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Compares (n, 1) with (n,), so that a sample's error depends on all targets."""
    return (outputs[:, :1] - targets).square().mean(1)


def squeezed(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """No error for each sample where a batch has one."""
    return (outputs[:, :1].squeeze() - targets).square().squeeze()


def test_unsound_tasks_are_refused(toy: Task) -> None:
    check_task(toy)
    infinite = changed(toy)
    with torch.no_grad():
        infinite.module[0].weight[2, 0, 1, 1] = torch.nan  # type: ignore[index]
    cases = [
        (infinite, "'0.weight' holds NaN or infinity in 1 of 36"),
        (changed(toy, module=nn.Flatten().train()), "training mode. Call module.eval"),
        (changed(toy, module=nn.Sequential(nn.Flatten(), nn.Linear(15, 3)).eval()), "does not run on one tensor"),
        (changed(toy, module=nn.Conv2d(1, 3, 3).eval()), r"returns shape \(8, 3, 2, 2\).*expected \(n, classes\)"),
        (changed(toy, splits=mislabelled(toy.splits)), "test split has label 3 but the network has 3 outputs"),
        (changed(toy, splits=replace(toy.splits, test=toy.splits.selection)), "selection and test splits share 8 of 8"),
        (changed(toy, error=nn.functional.cross_entropy), "expected one finite number a sample"),
        (changed(toy, error=lambda outputs, targets: outputs), r"a tensor of shape \(8, 3\) for 8 samples"),
        (changed(toy, error=broadcast), r"for 8 samples together, but .* for each alone.*\(8, 3\) and targets \(8,\)"),
        (changed(toy, error=squeezed), r"a tensor of shape \(\) for 1 samples"),
        (changed(toy, factory_arguments={"classes": 4}), "builds another network than the task's: '2.bias' differs"),
        (changed(toy, factory_arguments={"widths": 4}), "factory.*fails on {'widths': 4}"),
        (changed(toy, factory_arguments={"classes": {3}}), "must be JSON values"),
        (changed(toy, factory="collections:OrderedDict", factory_arguments={}), "OrderedDict; expected a torch.nn"),
    ]
    for task, message in cases:
        with pytest.raises(EmomcError, match=f"task 'toy': .*{message}"):
            check_task(task)
