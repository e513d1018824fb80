"""Choices of genes as they are given, from Python or on the command line: checked, and brought into one form."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from emomc.errors import EmomcError
from emomc.genome import (
    ACTIVATION_BITS,
    ACTIVATION_WIDTHS,
    BIT_WIDTH,
    GRANULARITY,
    PRUNE_RATIO,
    SHARED_VALUES,
    UNQUANTIZED,
    Choice,
    all_genes,
    pattern_of,
)

_RANGES: Mapping[str, tuple[float, float]] = {PRUNE_RATIO: (0, 1), BIT_WIDTH: (2, 16), SHARED_VALUES: (0, 65536)}


def checked_choices(name: str, given: Iterable[Any]) -> tuple[Choice, ...]:
    """Choices of a gene of any space: plain numbers or names, each once, numbers mildest first.

    Raises:
        EmomcError: the gene is unknown, or a choice is none that it can have.
    """
    known = {gene.name: gene for gene in all_genes()}
    if name not in known:
        raise EmomcError(f"unknown gene {name!r}. Genes: {', '.join(known)}.")
    example = f"{name}={','.join(map(str, known[name].choices))}"
    choices = None if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    if not choices:
        raise EmomcError(f"{name}: expected one choice or more in a sequence, found {given!r}; such as {example}.")
    if name == GRANULARITY:
        for each in choices:
            pattern_of(str(each))
    if name not in (*_RANGES, ACTIVATION_BITS):
        return tuple(dict.fromkeys(map(str, choices)))
    return tuple(sorted({_number(name, each, example) for each in choices}, key=_mildness(name)))


def _number(name: str, given: Any, example: str) -> float | int:
    """A choice of a gene as a plain number; integers of all genes but the prune ratio."""
    number = isinstance(given, (numbers.Real, np.number)) and not isinstance(given, bool)
    value = float(given) if number else float("nan")
    if name == ACTIVATION_BITS:
        expected, fits = f"2 to 8, or {UNQUANTIZED} for activations as they are", value in ACTIVATION_WIDTHS
    else:
        low, high = _RANGES[name]
        expected = f"{low:g} to {high:g}"
        fits = low <= value <= high and (name == PRUNE_RATIO or value.is_integer())
    if not fits:
        raise EmomcError(f"{name} {given}: expected {expected}, as in {example}.")
    return value if name == PRUNE_RATIO else int(value)


def _mildness(name: str) -> Callable[[float], float]:
    """Sort key that puts the mildest choice first."""
    if name == PRUNE_RATIO:
        return lambda value: value
    return lambda value: -value or float("-inf")  # 0 shared values: no sharing
