"""Tasks by name. Built-in tasks are entry points of the group ``emomc.tasks``, as any other package's are."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

import torch

from emomc.errors import EmomcError, unknown_name
from emomc.problems.tasks.checks import check_task
from emomc.problems.tasks.locate import locate_function
from emomc.problems.tasks.task import Task

_GROUP = "emomc.tasks"


def task_names() -> tuple[str, ...]:
    """Names of the installed tasks, sorted."""
    return tuple(sorted(_registered()))


def load_task(name: str, *, weights_seed: int = 0, **options: object) -> Task:
    """Load and check a task.

    Args:
        name: an installed task's name, or ``module:function`` or ``path/to/file.py:function`` of one's own.
        weights_seed: of the weights that new networks draw.
        **options: handed to the task's function, such as ``data`` and ``checkpoint``; None counts as not given.

    Raises:
        EmomcError: when the task is unknown, takes no such option, or its data, weights or labels do not fit together.
    """
    function = locate_function(_registered_reference(name) if ":" not in name else name)
    given = {key: value for key, value in options.items() if value is not None}
    _check_options(name, function, given)
    with torch.random.fork_rng(devices=[]):  # new networks draw weights; the caller's random state is not ours to move
        torch.manual_seed(weights_seed)  # the same untrained weights each time
        task = function(**given)
    if not isinstance(task, Task):
        raise EmomcError(f"{name!r} returns {type(task).__name__}; expected a function that returns an emomc Task.")
    check_task(task)
    return task


def _registered() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=_GROUP):
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise EmomcError(
                f"two installed packages offer a task {entry.name!r}: {other.value} and {entry.value}. "
                "Uninstall one, or name the function itself."
            )
    return found


def _registered_reference(name: str) -> str:
    registered = _registered()
    if name not in registered:
        error = unknown_name("task", name, registered)
        raise EmomcError(f"{error} A task of your own is given as module:function or path/to/file.py:function.")
    return registered[name].value


def _check_options(name: str, function: Callable[..., object], options: dict[str, object]) -> None:
    try:
        inspect.signature(function).bind(**options)
    except TypeError as error:
        accepted = ", ".join(inspect.signature(function).parameters) or "none"
        raise EmomcError(f"task {name!r}: {error}. Its options: {accepted}.") from error
