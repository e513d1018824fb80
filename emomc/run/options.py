"""What a run is made of, as plain values: written into its folder, compared when the folder is used again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from emomc.choices import checked_choices
from emomc.errors import EmomcError
from emomc.files import atomic_write

_FILE = "run.json"


@dataclass(frozen=True)
class Recovery:
    """Training between the stages of a search; exactly one of the budgets is given.

    Attributes:
        networks: pruned networks that are trained, at most.
        minutes: of training for each.
        epochs: passes over the training images for each.
        steps: optimizer steps for each.
    """

    networks: int = 3
    minutes: float | None = None
    epochs: float | None = None
    steps: int | None = None


@dataclass(frozen=True)
class ElasticTraining:
    """Training for the front of a search, which is then searched again; exactly one of the budgets is given.

    Attributes:
        minutes: of training.
        epochs: passes over the training images.
        steps: optimizer steps.
    """

    minutes: float | None = None
    epochs: float | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Options:
    """Options of a search.

    Attributes:
        task: name of a task, or ``module:function``.
        task_options: options of the task, such as ``data`` and ``checkpoint``.
        accelerator: name of a cost model, or a file that describes one.
        dataflows: dataflows that layers may use; none means all that the accelerator has.
        objectives: names of objectives, error first by custom.
        constraints: upper bounds such as ``"size<=100kB"``.
        max_loss: networks that lose more error than this against the dense one are of no interest; a fraction.
        strategy: name of a search strategy.
        method: how layers are compressed.
        genes: choices of a gene that replace the default ones, by gene name; numbers are brought in order, mildest
            first.
        seed: of all random choices.
        budget: networks to measure.
        minutes: time after which no further round is started; None for no limit.
        points: points of the front that are written and measured on the test split, at most.
        recovery: training between the stages, by `emomc.search_with_recovery`; None for none.
        elastic: training between two searches, by `emomc.search_with_elastic_training`; None for none.
    """

    task: str
    task_options: Mapping[str, Any] = field(default_factory=dict)
    accelerator: str = "published"
    dataflows: tuple[str, ...] = ()
    objectives: tuple[str, ...] = ("error", "energy", "size")
    constraints: tuple[str, ...] = ()
    max_loss: float = 0.1
    strategy: str = "two-stage"
    method: str = "obs"
    genes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    seed: int = 0
    budget: int = 200
    minutes: float | None = None
    points: int = 40
    recovery: Recovery | None = None
    elastic: ElasticTraining | None = None

    def __post_init__(self) -> None:
        """Bring choices into one form.

        Raises:
            EmomcError: a value that no run can have.
        """
        genes = {name: checked_choices(name, choices) for name, choices in self.genes.items()}
        object.__setattr__(self, "genes", genes)
        for name, least in (("seed", 0), ("budget", 0), ("points", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise EmomcError(f"{name} {value!r}: expected a whole number of at least {least}.")
        if not 0 <= self.max_loss <= 1:
            raise EmomcError(f"max_loss {self.max_loss!r}: expected a fraction from 0 to 1; 0.05 is five points.")
        if self.minutes is not None and not self.minutes >= 0:
            raise EmomcError(f"minutes {self.minutes!r}: expected a number of at least 0, or None.")
        if self.recovery is not None and self.elastic is not None:
            raise EmomcError("recovery and elastic training are two ways to train in a search: give one of them.")


_MAY_CHANGE = ("budget", "minutes", "points")


def check_same_run(folder: Path, options: Options, fingerprint: str) -> None:
    """Compare the options with those that a run folder was made with; a folder without a run suits all.

    Raises:
        EmomcError: the folder belongs to a run of another task, other weights, data, error or options.
    """
    if not (folder / _FILE).exists():
        return
    stored, wanted = read_options(folder), _as_json(options, fingerprint)
    for name in wanted:
        if name not in _MAY_CHANGE and stored.get(name) != wanted[name]:
            what = "other weights, data or error" if name == "fingerprint" else f"{name} {stored.get(name)!r}"
            now = "" if name == "fingerprint" else f", now it is {wanted[name]!r}"
            raise EmomcError(f"{folder} holds a run with {what}{now}. Choose another folder with --run.")


def write_options(folder: Path, options: Options, fingerprint: str) -> None:
    """Make a folder that of this run; done once the options have proved to work."""
    with atomic_write(folder / _FILE) as stream:
        stream.write(json.dumps(_as_json(options, fingerprint), indent=2).encode())


def _as_json(options: Options, fingerprint: str) -> dict[str, Any]:
    """As `read_options` returns them: tuples are lists."""
    plain: dict[str, Any] = json.loads(json.dumps({"fingerprint": fingerprint, **asdict(options)}))
    return plain


def read_options(folder: Path) -> dict[str, Any]:
    """What `write_options` wrote.

    Raises:
        EmomcError: the folder holds no run.
    """
    try:
        data = json.loads((folder / _FILE).read_text())
    except FileNotFoundError:
        raise EmomcError(
            f"{folder} holds no run: {_FILE} is missing. `emomc search TASK --run {folder}` makes one."
        ) from None
    except ValueError as error:
        raise EmomcError(f"{folder / _FILE} is damaged: {error}. Restore it, or choose another folder.") from None
    if not isinstance(data, dict) or "task" not in data:
        raise EmomcError(f"{folder / _FILE} is damaged: it names no task. Restore it, or choose another folder.")
    return data
