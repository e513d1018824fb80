"""What each layer gets, by patterns of layer names, in a YAML file or under a name."""

from __future__ import annotations

import fnmatch
import reprlib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from emomc.errors import EmomcError, unknown_name
from emomc.files import read_yaml
from emomc.genome import (
    ACTIVATION_BITS,
    BIT_WIDTH,
    GRANULARITY,
    PRUNE_RATIO,
    SHARED_VALUES,
    UNQUANTIZED,
    WEIGHT,
    Choice,
    Configuration,
    pattern_of,
)

UNCOMPRESSED: Mapping[str, Choice] = {PRUNE_RATIO: 0.0, GRANULARITY: WEIGHT, BIT_WIDTH: 16, SHARED_VALUES: 0}
"""What a layer gets that no pattern matches."""


class Choices(BaseModel):
    """What a pattern gives to the layers that match it; what it leaves out stays as earlier patterns set it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    prune_ratio: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    granularity: str | None = None
    bit_width: Annotated[int, Field(ge=2, le=16)] | None = None
    shared_values: Annotated[int, Field(ge=0, le=65536)] | None = None
    activation_bits: Literal[2, 3, 4, 5, 6, 7, 8, 16] | None = None

    @field_validator("granularity")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        try:
            pattern_of(name or WEIGHT)
        except EmomcError as error:
            raise ValueError(str(error)) from None
        return name


_FILE = TypeAdapter(dict[str, Choices])


def configuration_names() -> tuple[str, ...]:
    """Names of the configurations that come with the package, sorted."""
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in _shipped().iterdir()))


def load_configuration(source: str | Path, layers: Sequence[str]) -> Configuration:
    """The configuration that a name or a file gives to a network.

    Args:
        source: a name that `configuration_names` lists, or a YAML file.
        layers: names of the network's layers.

    Raises:
        EmomcError: unknown name, or a file that does not fit these layers; names file, field, value and what was
            expected.
    """
    if isinstance(source, str) and source in configuration_names():
        with resources.as_file(_shipped() / f"{source}.yaml") as path:
            return parse_configuration(read_yaml(path), layers, source)
    path = Path(source).expanduser()
    if not path.suffix and not path.exists():
        error = unknown_name("configuration", str(source), configuration_names())
        raise EmomcError(f"{error} One of your own is given as a file, such as mine.yaml.")
    return parse_configuration(read_yaml(path), layers, str(path))


def parse_configuration(content: Any, layers: Sequence[str], where: str = "configuration") -> Configuration:
    """The configuration of patterns ``{pattern: {gene: choice}}``, for the genes of `Choices`.

    Later patterns win, choice by choice. An N:M granularity alone prunes as much as it says. Bits of activations are
    there for all layers where a pattern gives them, else for none.

    Raises:
        EmomcError: as `load_configuration`.
    """
    if not isinstance(content, dict) or not content:
        raise EmomcError(
            f'{where}: expected patterns of layer names with what they get, such as "*": {{bit_width: 4}}; '
            f"found {reprlib.repr(content)}."
        )
    try:
        patterns = _FILE.validate_python(content)
    except ValidationError as error:
        lines = [_explain(item) for item in error.errors(include_url=False)]
        raise EmomcError(f"{where} is not a valid configuration:\n" + "\n".join(lines)) from None
    chosen: dict[str, dict[str, Choice]] = {name: {} for name in layers}
    for pattern, choices in patterns.items():
        matching = fnmatch.filter(layers, pattern)
        if not matching:
            raise EmomcError(f"{where}: {pattern!r}: no layer matches. Layers: {', '.join(layers)}.")
        for name in matching:
            chosen[name] |= choices.model_dump(exclude_none=True)
    if any(ACTIVATION_BITS in choices for choices in chosen.values()):
        chosen = {
            name: {**choices, ACTIVATION_BITS: choices.get(ACTIVATION_BITS, UNQUANTIZED)}
            for name, choices in chosen.items()
        }
    return Configuration({name: _complete(choices) for name, choices in chosen.items()})


def _complete(choices: Mapping[str, Choice]) -> dict[str, Choice]:
    pattern = pattern_of(str(choices.get(GRANULARITY, WEIGHT)))
    implied: dict[str, Choice] = {PRUNE_RATIO: 1 - pattern[0] / pattern[1]} if pattern else {}
    return {**UNCOMPRESSED, **implied, **choices}


def _explain(item: Any) -> str:
    place = ".".join(map(str, item["loc"])) or "file"
    if item["type"] == "extra_forbidden":
        return f"  {place}: {unknown_name('choice', str(item['loc'][-1]), Choices.model_fields)}"
    return f"  {place}: {item['msg']} (got {reprlib.repr(item['input'])})"


def _shipped() -> Any:
    return resources.files("emomc.export") / "presets"
