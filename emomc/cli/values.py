"""Values on the command line, as callbacks of options: losses, quantities with units, choices of a gene."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import click

from emomc.choices import checked_choices
from emomc.errors import EmomcError
from emomc.genome import ACTIVATION_BITS, Choice, all_genes
from emomc.units import FACTORS

_NUMBER = r"\s*(\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+)\s*"


def loss(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
    """``0.5%`` or ``0.005``: a difference of errors, as a fraction."""
    if text is None:
        return None
    match = re.fullmatch(_NUMBER + r"(%?)", text)
    if match is None:
        raise click.BadParameter(f"{text!r}: write a percentage such as 0.5%, or a fraction such as 0.005.")
    fraction = float(match[1]) * (0.01 if match[2] else 1.0)
    if fraction > 1:
        raise click.BadParameter(f"{text!r} is more than 100 %. For half a percentage point write 0.5%.")
    return fraction


def quantity(unit: str, example: str) -> Callable[[click.Context, click.Parameter, str | None], float | None]:
    """Callback for a number with an SI prefix and one unit, such as ``100kB``: its value in the unit."""

    def parse(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
        return None if text is None else amount(text, unit, example)

    return parse


def amount(text: str, unit: str, example: str) -> float:
    """The value of a number with an SI prefix and perhaps its unit; without a unit, a percentage is understood too."""
    match = re.fullmatch(_NUMBER + f"([{''.join(FACTORS)}]?)(?:{re.escape(unit)})?", text)
    if match is not None:
        return float(match[1]) * FACTORS[match[2]]
    share = re.fullmatch(_NUMBER + "%", text)
    if share is None or unit:
        raise click.BadParameter(f"{text!r}: write a number{f' in {unit}' if unit else ''}, such as {example}.")
    return float(share[1]) * 0.01


def training(_: click.Context, __: click.Parameter, text: str | None) -> dict[str, Any]:
    """``10min``, ``5epochs`` or ``300steps``: a budget of training by its unit, or nothing."""
    if text is None:
        return {}
    match = re.fullmatch(_NUMBER + r"(min(?:utes)?|epochs?|steps?)", text)
    number = float(match[1]) if match else 0.0
    if match is None or not number or (match[2].startswith("step") and not number.is_integer()):
        raise click.BadParameter(f"{text!r}: write how long each network is trained: 10min, 5epochs or 300steps.")
    unit = {"m": "minutes", "e": "epochs", "s": "steps"}[match[2][0]]
    return {unit: int(number) if unit == "steps" else number}


def genes(_: click.Context, __: click.Parameter, texts: Sequence[str]) -> dict[str, tuple[Choice, ...]]:
    """``bit_width=8,4,2``: the choices of genes, mildest first whatever the order in which they are given."""
    return dict(_choices(text) for text in texts)


def activation_bits(_: click.Context, __: click.Parameter, text: str | None) -> dict[str, tuple[Choice, ...]]:
    """``8`` or ``16,8,6,4``: the choices of the gene, or nothing."""
    return {} if text is None else dict([_choices(f"{ACTIVATION_BITS}={text}")])


def _choices(text: str) -> tuple[str, tuple[Choice, ...]]:
    name, _, listed = text.partition("=")
    known = {gene.name: gene for gene in all_genes()}
    if name not in known:
        raise click.BadParameter(f"{text!r}: write GENE=CHOICE,CHOICE,... with one of the genes {', '.join(known)}.")
    parts = [part.strip() for part in listed.split(",") if part.strip()]
    try:
        return name, checked_choices(name, [_number(part) for part in parts])
    except EmomcError as error:
        raise click.BadParameter(str(error)) from None


def _number(text: str) -> float | str:
    """A number where the text is one."""
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if value.is_integer() else value
