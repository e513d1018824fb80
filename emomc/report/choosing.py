"""One point of a front: the knee, or the best within budgets.

Points are compared by their error on the selection split, so that what is then reported, the error on the test split,
has had no part in the choice. Of many networks within a limit the cheapest is often one that was lucky there, so what
counts is the error freed of chance, as far as the search could tell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from emomc.errors import EmomcError
from emomc.report.rundata import ENERGY, SIZE, Point, RunData
from emomc.search.front import ALIKE
from emomc.units import si

LOSS = "loss"

Doubles = NDArray[np.float64]


def knee(run: RunData) -> Point:
    """The point of best compromise: nearest to the ideal point that is best in every objective.

    Costs count by ratio, losses above a fifth of a percentage point likewise; each spans 0 to 1 over the front.

    Raises:
        EmomcError: the front is empty.
    """
    return best_within(run, {})


def best_within(run: RunData, limits: Mapping[str, float]) -> Point:
    """The point that keeps to limits and is best in the objectives that have none (in all, if all have one).

    Args:
        run: a finished run.
        limits: upper bounds in SI units by cost column, and by `LOSS` for the error above the dense network's.

    Raises:
        EmomcError: no point keeps to the limits; the message says what to relax.
    """
    if not run.history:
        raise EmomcError(f"{run.folder}: no network was measured in the time. Repeat the search with more --minutes.")
    if not run.points:
        raise EmomcError(
            f"the front of {run.folder} is empty: no measured network met the limits of the search. "
            "Search again with a larger --max-loss or other constraints, in another folder."
        )
    values = _values(run)
    fits = _within(values, limits)
    if not fits.any():
        raise EmomcError(_what_to_relax(run, values, limits))
    rest = [name for name in _objectives(run) if name not in limits] or list(_objectives(run))
    distance = np.linalg.norm([_scaled(values[name], name) for name in rest], axis=0)
    return run.points[int(np.where(fits, distance, np.inf).argmin())]


def _values(run: RunData) -> dict[str, Doubles]:
    """Values of every point, by name of the limit."""
    values = {LOSS: np.array([point.estimated_error for point in run.points]) - run.dense_selection_error}
    return values | {column: np.array([point.costs[column] for point in run.points]) for column in run.cost_columns}


def _within(values: Mapping[str, Doubles], limits: Mapping[str, float]) -> NDArray[np.bool_]:
    """Points that keep to limits, shape ``(n,)``."""
    fits = np.ones(len(values[LOSS]), dtype=np.bool_)
    for name, limit in limits.items():
        fits &= values[name] <= limit
    return fits


def _objectives(run: RunData) -> tuple[str, ...]:
    """Names in `_values` of what the search minimized."""
    wanted = set(run.summary["objectives"])
    costs = [column for column in run.cost_columns if run.name_and_unit(column)[0] in wanted]
    return (*([LOSS] if "error" in wanted else []), *costs)


def _scaled(values: Doubles, name: str) -> Doubles:
    floor = np.maximum(values, 0.0) + ALIKE if name == LOSS else np.maximum(np.abs(values), 1e-300)
    logarithm = np.log(floor)
    return np.asarray((logarithm - logarithm.min()) / max(float(np.ptp(logarithm)), 1e-12))


def _what_to_relax(run: RunData, values: Mapping[str, Doubles], limits: Mapping[str, float]) -> str:
    """For every limit, the least that the points within the other limits reach."""
    lines = []
    for name, limit in limits.items():
        fits = _within(values, {other: bound for other, bound in limits.items() if other != name})
        if fits.any():
            row = int(np.where(fits, values[name], np.inf).argmin())
            least = _shown(run, name, float(values[name][row]))
            shown = _shown(run, name, limit)
            lines.append(f"  {_option(run, name)}{least} instead of {shown} ({run.points[row].name})")
    if not lines:
        lines = [f"  least {_called(run, name)}: {_shown(run, name, float(values[name].min()))}" for name in limits]
        return "no point keeps to these limits, and relaxing one alone is not enough.\n" + "\n".join(lines)
    return "no point keeps to all of these limits. Relax one of them:\n" + "\n".join(lines)


def _called(run: RunData, name: str) -> str:
    return LOSS if name == LOSS else run.name_and_unit(name)[0]


def _option(run: RunData, name: str) -> str:
    """A limit's option on the command line, up to the value."""
    called = _called(run, name)
    return f"--max-{called} " if name in (LOSS, ENERGY, SIZE) else f"--max {called}="


def _shown(run: RunData, name: str, value: float) -> str:
    """A limit as one would type it, rounded up so that it can be kept."""
    if name == LOSS:
        return f"{math.ceil(10000 * value - 1e-6) / 100:.2f}%"
    step = 10.0 ** (math.floor(math.log10(value)) - 2) if value > 0 else 1.0
    return si(math.ceil(value / step - 1e-6) * step, run.name_and_unit(name)[1]).replace(" ", "").replace("µ", "u")
