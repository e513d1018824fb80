"""Values on the command line: losses, quantities with units, choices of a gene."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import click

from emomc.genome import BIT_WIDTH, PRUNE_RATIO, SHARED_VALUES, Choice, default_genes

_PREFIXES = {"p": 1e-12, "n": 1e-9, "u": 1e-6, "µ": 1e-6, "μ": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
_NUMBER = r"\s*([+\d.]+(?:[eE][-+]?\d+)?)\s*"


class Loss(click.ParamType):
    """``0.5%`` or ``0.005``: a difference of errors, as a fraction."""

    name = "loss"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """As a fraction from 0 to 1."""
        if isinstance(value, float):
            return value
        match = re.fullmatch(_NUMBER + r"(%?)", str(value))
        try:
            fraction = float(match[1]) * (0.01 if match[2] else 1.0)  # type: ignore[index]
        except (TypeError, ValueError):
            self.fail(f"{value!r} is not understood: write a percentage such as 0.5%, or a fraction such as 0.005.")
        if not 0 <= fraction <= 1:
            self.fail(f"{value!r} is more than 100 %. For half a percentage point write 0.5%.")
        return fraction


class Quantity(click.ParamType):
    """A number with an SI prefix and one unit: ``100kB``, ``20uJ``."""

    def __init__(self, unit: str, example: str) -> None:
        self.name = f"number[{unit}]"
        self._unit, self._example = unit, example

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """In the SI unit."""
        if isinstance(value, float):
            return value
        match = re.fullmatch(_NUMBER + f"([{''.join(_PREFIXES)}]?)(?:{self._unit})?", str(value))
        try:
            return float(match[1]) * _PREFIXES[match[2]]  # type: ignore[index]
        except (TypeError, ValueError):
            self.fail(f"{value!r} is not understood: write a number in {self._unit}, such as {self._example}.")


_MILDEST_FIRST: Mapping[str, Callable[[float], float]] = {
    PRUNE_RATIO: lambda value: value,
    BIT_WIDTH: lambda value: -value,
    SHARED_VALUES: lambda value: -value if value else float("-inf"),
}


class GeneChoices(click.ParamType):
    """``bit_width=8,4,2``: the choices of one gene, mildest first whatever the order in which they are given."""

    name = "gene=choices"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[Choice, ...]]:
        """Name of the gene, and its choices."""
        name, sign, text = str(value).partition("=")
        known = {gene.name: gene for gene in default_genes()}
        if not sign or name not in known:
            self.fail(f"{value!r}: write GENE=CHOICE,CHOICE,... with one of the genes {', '.join(known)}.")
        parts = [part.strip() for part in text.split(",") if part.strip()]
        kind = type(known[name].choices[0])
        try:
            choices: list[Choice] = [kind(part) for part in parts]
        except ValueError:
            self.fail(f"{value!r}: {name} takes numbers such as {', '.join(map(str, known[name].choices))}.")
        self._check(name, choices)
        return name, tuple(sorted(set(choices), key=_MILDEST_FIRST[name]) if name in _MILDEST_FIRST else choices)

    def _check(self, name: str, choices: list[Choice]) -> None:
        low, high = {PRUNE_RATIO: (0, 1), BIT_WIDTH: (2, 16), SHARED_VALUES: (0, 65536)}.get(name, (None, None))
        if not choices:
            self.fail(f"{name}: give at least one choice.")
        for choice in choices:
            if low is not None and high is not None and not low <= float(choice) <= high:
                self.fail(f"{name} {choice}: expected {low} to {high}.")
