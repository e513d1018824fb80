"""How good what a method has measured is, evaluation by evaluation: curves, tables and the figure that shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emomc import CompressionProblem, front_of, hypervolume
from emomc.benchmarks.environment import known
from emomc.benchmarks.methods import METHODS, Trace
from emomc.search.infill import pick_gain

Doubles = NDArray[np.float64]
Curves = Mapping[str, Sequence[Mapping[str, Any]]]
"""Per method one curve per seed: ``{"seed", "evaluations", "quality"}``, quality as long as ``STEPS`` reaches."""

STEPS = (5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 100, 120, 150, 200, 250, 340, 500, 700, 1000, 1400, 2000)


def curve(
    problem: CompressionProblem, trace: Trace, seed: int, quality: Callable[[Doubles], float], budget: int
) -> dict[str, Any]:
    """Quality after each of `STEPS` evaluations.

    Args:
        problem: gives costs and constraints; what is infeasible does not count.
        trace: what was measured.
        seed: of the method.
        quality: of objectives ``(n, objectives)``.
        budget: evaluations that the method had; one that ends early keeps what it has.
    """
    values, violations = problem.values(trace.genomes, trace.errors)
    found = []
    for step in STEPS:
        if step <= budget:
            front = front_of(values[:step], violations[:step])
            found.append(round(quality(values[front]), 5) if len(front) else 0.0)
    return {"seed": seed, "evaluations": len(trace.errors), "quality": found}


def box_quality(front: Doubles) -> Callable[[Doubles], float]:
    """Hypervolume over that of an exact front, in the box between the best and the worst values on the front.

    Args:
        front: shape ``(n, objectives)``.
    """
    low, high = front.min(axis=0), front.max(axis=0)
    ones = np.ones(front.shape[1])
    exact = hypervolume((front - low) / (high - low), ones)
    return lambda values: hypervolume((values - low) / (high - low), ones) / exact


def best_of_front(front: Doubles, count: int) -> float:
    """`box_quality` of a few networks of the exact front, picked for hypervolume one after the other.

    About the most that so many evaluations can find, whatever is known before.
    """
    low, high = front.min(axis=0), front.max(axis=0)
    scaled = (front - low) / (high - low)
    return box_quality(front)(front[pick_gain(scaled[None], scaled, scaled[:0], np.ones(scaled.shape[1]), count)])


def at(curves: Sequence[Mapping[str, Any]], step: int) -> Doubles:
    """Quality after a number of evaluations, one per seed that got so far."""
    position = STEPS.index(step)
    return np.array([each["quality"][position] for each in curves if len(each["quality"]) > position])


def known_curves(name: str, *path: str) -> dict[str, list[dict[str, Any]]]:
    """Curves of all methods that ``results/NAME.json`` holds, so that single methods can be run again.

    Args:
        name: of the results.
        path: keys that lead to the curves.
    """
    found: Any = known(name)
    for key in (*path, "curves"):
        found = found.get(key, {})
    return {method: found[method] for method in METHODS if method in found}


def in_order(curves: Curves) -> dict[str, Any]:
    """The curves in the order in which methods are listed."""
    return {method: curves[method] for method in METHODS if method in curves}


def table(curves: Curves, steps: Sequence[int]) -> list[str]:
    """Markdown: mean quality in percent after some numbers of evaluations, least and largest of the seeds."""
    rows = ["| evaluations | " + " | ".join(map(str, steps)) + " |", "|---" * (len(steps) + 1) + "|"]
    for method, found in curves.items():
        cells = []
        for step in steps:
            quality = 100 * at(found, step)
            spread = f" ({quality.min():.1f}-{quality.max():.1f})" if len(quality) > 1 else ""
            cells.append(f"{quality.mean():.1f}{spread}" if len(quality) else "")
        rows.append(f"| {method} | {' | '.join(cells)} |")
    return rows
