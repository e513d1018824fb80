"""What a task must fulfil before any time is spent on it."""

from __future__ import annotations

import json
from typing import Any

import torch

from emomc.accuracy.divergence import is_classification
from emomc.errors import EmomcError
from emomc.network.output import single_output
from emomc.problems.tasks.locate import locate_function
from emomc.problems.tasks.task import Task

_CHECKED = 8  # samples; of two, the targets would often be equal


def check_task(task: Task) -> None:
    """Check the network, the labels, the splits and the factory against each other.

    Raises:
        EmomcError: naming the task, what does not fit and what to do.
    """
    try:
        if any(part.training for part in task.module.modules()):
            raise EmomcError("its network is in training mode. Call module.eval() before making the task.")
        check_finite(task.module)
        _check_outputs(task)
        task.splits.check_disjoint()
        if task.factory is not None:
            _check_factory(task, task.factory)
    except EmomcError as error:
        raise EmomcError(f"task {task.name!r}: {error}") from error


def check_finite(module: torch.nn.Module) -> None:
    """Check that no parameter or buffer holds NaN or infinity.

    Raises:
        EmomcError: naming the first that does.
    """
    for name, tensor in module.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise EmomcError(
                f"{name!r} holds NaN or infinity in {bad} of {tensor.numel()} values. "
                "Use weights of a training that converged."
            )


def _check_outputs(task: Task) -> None:
    inputs, targets = next(task.splits.calibration.batches(_CHECKED))
    logits = single_output(task.module, inputs)
    classes = is_classification(targets)
    if len(logits) != len(inputs) or (classes and logits.ndim != 2):
        raise EmomcError(
            f"its network returns shape {tuple(logits.shape)} for {len(inputs)} inputs; expected "
            f"{'(n, classes)' if classes else '(n, ...)'}."
        )
    for name, split in task.splits.named().items() if classes else ():
        largest = int(split.targets.max())
        if largest >= logits.shape[1]:
            raise EmomcError(
                f"the {name} split has label {largest} but the network has {logits.shape[1]} outputs, "
                f"so labels go to {logits.shape[1] - 1}. Use the labels that the network was trained with."
            )
    _check_error(task, logits, targets)


def _check_error(task: Task, logits: torch.Tensor, targets: torch.Tensor) -> None:
    """One number a sample, whatever other samples it comes with: splits are measured in batches of any length."""
    together = _errors(task, logits, targets)
    rows = range(len(targets))
    alone = torch.cat([_errors(task, logits[row : row + 1], targets[row : row + 1]) for row in rows])
    if not torch.allclose(together.double(), alone.double(), rtol=1e-3, atol=1e-6):
        raise EmomcError(
            f"its error function gives {together.tolist()} for {len(targets)} samples together, but {alone.tolist()} "
            f"for each alone; expected the error of each sample by itself. Outputs have shape {tuple(logits.shape)} "
            f"and targets {tuple(targets.shape)}: of shapes (n, 1) and (n,), torch compares every sample with all."
        )


def _errors(task: Task, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Errors of samples, (n,)."""
    try:
        errors: Any = task.error(logits, targets)
    except Exception as error:
        raise EmomcError(f"its error function fails on {len(targets)} samples: {error!r}.") from error
    if not isinstance(errors, torch.Tensor):
        shown = type(errors).__name__
    elif errors.shape != (len(targets),):
        shown = f"a tensor of shape {tuple(errors.shape)}"
    elif not bool(errors.isfinite().all()):
        shown = str(errors.tolist())
    else:
        return errors.detach()
    raise EmomcError(
        f"its error function gives {shown} for {len(targets)} samples; expected one finite number a sample, "
        f"in a tensor of shape ({len(targets)},)."
    )


def _check_factory(task: Task, factory: str) -> None:
    try:
        json.dumps(dict(task.factory_arguments))
    except TypeError as error:
        raise EmomcError(f"factory_arguments are written into files and must be JSON values: {error}.") from error
    build = locate_function(factory)
    try:
        with torch.random.fork_rng(devices=[]):
            built = build(**task.factory_arguments)
    except TypeError as error:
        raise EmomcError(f"the factory {factory!r} fails on {dict(task.factory_arguments)}: {error}.") from error
    if not isinstance(built, torch.nn.Module):
        raise EmomcError(f"the factory {factory!r} returns {type(built).__name__}; expected a torch.nn.Module.")
    if _shapes(built) != _shapes(task.module):
        differing = sorted(name for name, _ in _shapes(built).items() ^ _shapes(task.module).items())
        raise EmomcError(
            f"the factory {factory!r} builds another network than the task's: {differing[0]!r} differs. "
            "A file could not be decoded with it."
        )


def _shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
