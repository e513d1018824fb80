"""Objectives and constraints: what is minimized, and what must hold."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emomc.errors import EmomcError, unknown_name
from emomc.hardware import METRICS
from emomc.problems.tables import CostTables
from emomc.units import FACTORS

Doubles = NDArray[np.float64]
Integers = NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class Batch:
    """What an objective sees of n networks.

    Attributes:
        genomes: shape ``(n, n_var)``.
        errors: shape ``(n,)``, measured or predicted; None for objectives that need no measurement.
    """

    genomes: Integers
    costs: CostTables
    errors: Doubles | None = None
    _known: dict[str, Doubles] = field(default_factory=dict, repr=False)

    def values(self, gene: str) -> NDArray[Any]:
        """Choices of a gene, e.g. ``"prune_ratio"``, shape ``(n, layers)``."""
        return self.costs.space.values(self.genomes, gene)

    def cost(self, metric: str) -> Doubles:
        """A metric of the cost tables, e.g. ``"energy"`` in joules, shape ``(n,)``."""
        if metric not in self._known:
            self._known.update(self.costs.evaluate(self.genomes, [metric]))
        return self._known[metric]

    @cached_property
    def macs(self) -> Doubles:
        """Multiply-accumulates of each layer of the dense network, shape ``(layers,)``."""
        return np.array([float(layer.macs) for layer in self.costs.layers])

    @cached_property
    def weights(self) -> Doubles:
        """Weights of each layer of the dense network, shape ``(layers,)``."""
        return np.array([float(layer.weight_count) for layer in self.costs.layers])


@dataclass(frozen=True)
class Objective:
    """Something to minimize.

    Attributes:
        name: used in tables, files and on the command line; those of built-in objectives and of metrics are taken.
        unit: SI unit, or "" for a fraction or a plain number.
        evaluate: from a batch of n networks to an array ``(n,)``.
        measured: whether it needs the network to be run on data (``batch.errors``).
    """

    name: str
    unit: str
    evaluate: Callable[[Batch], NDArray[Any]]
    measured: bool = False

    def __call__(self, batch: Batch) -> Doubles:
        """Values of n networks, checked.

        Raises:
            EmomcError: the function fails, or its values do not have shape ``(n,)`` or are not finite.
        """
        n = len(batch.genomes)
        try:
            returned = self.evaluate(batch if self.measured else replace(batch, errors=None))
        except EmomcError:
            raise
        except Exception as problem:
            hint = "" if self.measured else " If it uses batch.errors, say so: @emomc.objective(..., measured=True)."
            raise EmomcError(f"objective {self.name!r} fails: {problem!r}.{hint}") from problem
        try:
            if np.iscomplexobj(returned):
                raise TypeError
            values = np.asarray(returned, dtype=np.float64)
        except (TypeError, ValueError):
            raise EmomcError(
                f"objective {self.name!r} returned {type(returned).__name__}; expected {n} numbers, an array ({n},)."
            ) from None
        if values.shape != (n,):
            raise EmomcError(
                f"objective {self.name!r} returned an array of shape {values.shape} for {n} networks; expected ({n},)."
            )
        failed = ~np.isfinite(values)
        if self.measured and batch.errors is not None:
            failed &= np.isfinite(batch.errors)  # what was not measured has no value
        if failed.any():
            first = batch.costs.space.decode(batch.genomes[int(failed.argmax())])
            raise EmomcError(
                f"objective {self.name!r} returned {values[failed][0]} for the configuration "
                f"{first.to_json()}; every value must be a finite number."
            )
        return values


def objective(name: str, unit: str = "", measured: bool = False) -> Callable[[Callable[[Batch], Any]], Objective]:
    """Make an objective of a function from a `Batch` of n networks to n numbers, to be minimized.

    Example:
        >>> @objective("bit_operations", unit="bit")
        ... def bit_operations(batch):
        ...     return (batch.macs * batch.values("bit_width")).sum(axis=1)
    """
    return lambda function: Objective(name, unit, function, measured)


@objective("error", measured=True)
def error(batch: Batch) -> Doubles:
    """Fraction of samples that the network gets wrong."""
    assert batch.errors is not None
    return batch.errors


@objective("energy", unit="J")
def energy(batch: Batch) -> Doubles:
    """Energy of one inference on the accelerator."""
    return batch.cost("energy")


@objective("size", unit="B")
def size(batch: Batch) -> Doubles:
    """Bytes of the file that holds the compressed network."""
    return batch.cost("size")


@objective("traffic", unit="B")
def traffic(batch: Batch) -> Doubles:
    """Bytes moved between the accelerator and off-chip memory in one inference."""
    return batch.cost("traffic")


@objective("latency", unit="s")
def latency(batch: Batch) -> Doubles:
    """Time of one inference on the accelerator."""
    return batch.cost("latency")


@objective("peak_memory", unit="B")
def peak_memory(batch: Batch) -> Doubles:
    """Largest memory that weights and feature maps need at any moment of one inference."""
    return batch.cost("peak_memory")


@objective("idle")
def idle(batch: Batch) -> Doubles:
    """Fraction of the array's multiply-accumulate slots that the layers leave empty: one minus the utilization."""
    return np.asarray(1.0 - batch.cost("filled_slots") / batch.cost("slots"))


DEFAULT_OBJECTIVES = ("error", "energy", "size")
BUILT_IN: Mapping[str, Objective] = {
    each.name: each for each in (error, energy, size, traffic, latency, peak_memory, idle)
}


def check_name(found: Objective) -> None:
    """Raise EmomcError where an objective of the user's is called like a built-in one, or like a metric.

    What is known of those goes by their names: the costs of the uncompressed network, and the least of a cost.
    """
    if found.name in {*BUILT_IN, *METRICS} and found != BUILT_IN.get(found.name):
        raise EmomcError(
            f"an objective of your own is called {found.name!r}, which emomc has already: its values would be compared "
            f"with those of the built-in one. Give it another name, such as 'own_{found.name}'."
        )


def objective_names() -> tuple[str, ...]:
    """Names of the registered objectives."""
    return tuple(sorted(point.name for point in entry_points(group="emomc.objectives")))


def load_objective(name: str | Objective) -> Objective:
    """An objective by registered name or as ``module:attribute``; an `Objective` is returned as it is.

    Raises:
        EmomcError: the name is unknown, or does not lead to an `Objective`, or to one with a name that is taken.
    """
    if not isinstance(name, (str, Objective)):
        raise EmomcError(f"{name!r} is no objective: decorate the function with @emomc.objective(name, unit).")
    found = name if isinstance(name, Objective) else _found(name)
    check_name(found)
    return found


def _found(name: str) -> Objective:
    registered = {point.name: point for point in entry_points(group="emomc.objectives")}
    if name in registered:
        found = registered[name].load()
    elif ":" in name:
        found = _imported(name)
    else:
        raise unknown_name("objective", name, registered)
    if not isinstance(found, Objective):
        raise EmomcError(f"{name} is no objective: decorate the function with @emomc.objective(name, unit).")
    return found


def _imported(path: str) -> object:
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as problem:
        raise EmomcError(f"objective {path!r} cannot be imported: {problem}.") from None


@dataclass(frozen=True)
class Constraint:
    """An upper bound on an objective."""

    objective: Objective
    limit: float

    def __post_init__(self) -> None:
        check_name(self.objective)
        if not math.isfinite(self.limit):
            raise EmomcError(f"the limit on {self.objective.name!r} is {self.limit}; expected a finite number.")

    def violation(self, batch: Batch) -> Doubles:
        """Relative excess over the limit, shape ``(n,)``; feasible where it is not positive."""
        return np.asarray((self.objective(batch) - self.limit) / (abs(self.limit) or 1.0))


_BOUND = re.compile(rf"^\s*([\w:.\-]+)\s*<=?\s*([-+.\deE]+)\s*([{''.join(FACTORS)}]?)(B|J|s|%|)\s*$")


def parse_constraint(text: str) -> Constraint:
    """A constraint such as ``"size <= 100kB"``, ``"energy<=2uJ"`` or ``"error<=10%"``.

    Raises:
        EmomcError: the text has another form, or the objective is unknown.
    """
    match = _BOUND.match(text)
    try:
        name, number, prefix, unit = match.groups()  # type: ignore[union-attr]
        value = float(number)
        if not math.isfinite(value):
            raise ValueError
    except (AttributeError, ValueError):
        raise EmomcError(
            f"constraint {text!r} is not understood: write OBJECTIVE<=NUMBER[UNIT], e.g. size<=100kB or error<=10%."
        ) from None
    found = load_objective(name)
    if unit not in ("", found.unit or "%"):
        raise EmomcError(f"constraint {text!r}: {name} is in {found.unit or 'no unit'}, not in {unit}.")
    return Constraint(found, value * FACTORS[prefix] * (0.01 if unit == "%" else 1.0))


def evaluate_all(objectives: Sequence[Objective], batch: Batch) -> Doubles:
    """Objective values, shape ``(n, objectives)``."""
    return np.stack([each(batch) for each in objectives], axis=1)
