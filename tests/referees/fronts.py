"""Fronts the slow way: every network, every pair."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence


def dominates(first: Sequence[float], second: Sequence[float]) -> bool:
    """No worse anywhere, better somewhere."""
    return all(a <= b for a, b in zip(first, second, strict=True)) and tuple(first) != tuple(second)


def front(points: Sequence[Sequence[float]]) -> set[tuple[float, ...]]:
    """Values that no other value dominates."""
    distinct = {tuple(point) for point in points}
    return {point for point in distinct if not any(dominates(other, point) for other in distinct)}


def every_genome(choices: Sequence[int], n_layers: int) -> Iterator[tuple[int, ...]]:
    """All rows of ``n_layers`` times one index below each of ``choices``."""
    return itertools.product(*map(range, list(choices) * n_layers))


def covered(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """Volume between a set of points and a reference point, by cutting space along every coordinate."""
    axes = [
        sorted({bound, *(point[axis] for point in points if point[axis] < bound)})
        for axis, bound in enumerate(reference)
    ]
    total = 0.0
    for cell in itertools.product(*(list(itertools.pairwise(axis)) for axis in axes)):
        if any(all(value <= low for value, (low, _) in zip(point, cell, strict=True)) for point in points):
            volume = 1.0
            for low, high in cell:
                volume *= high - low
            total += volume
    return total
