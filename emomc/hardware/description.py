"""Accelerator descriptions: YAML files checked against a schema, every number with its source."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from emomc.errors import EmomcError, unknown_name
from emomc.files import read_yaml
from emomc.hardware.accelerator import Accelerator, MacEnergy, Memory, Sparsity
from emomc.hardware.accesses import Registers
from emomc.hardware.dataflow import DATAFLOWS, NAMED
from emomc.hardware.interface import CostModel
from emomc.hardware.physical import PhysicalModel
from emomc.hardware.published import Energies, PublishedModel

PICO = 1e-12


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Sourced(_Section):
    source: Annotated[str, Field(min_length=3)]


class Quantity(_Sourced):
    """A number that is not negative, and where it comes from."""

    value: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Positive(Quantity):
    """A number above zero, and where it comes from."""

    value: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Count(_Sourced):
    """A whole number of at least one, and where it comes from."""

    value: Annotated[int, Field(ge=1, le=2**48)]


class Width(_Sourced):
    """A number of bits, and where it comes from."""

    value: Annotated[int, Field(ge=1, le=64)]


class Widths(_Sourced):
    """Bit-widths that the multipliers offer, and where they come from."""

    value: Annotated[list[Annotated[int, Field(ge=1, le=64)]], Field(min_length=1)]


class ArraySection(_Section):
    """PEs along the two sides of the array."""

    rows: Count
    columns: Count


class RegisterSection(_Section):
    """Words per PE of each operand, and energy per bit."""

    weight_words: Count
    input_words: Count
    psum_words: Count
    read_pj_per_bit: Quantity
    write_pj_per_bit: Quantity


class BufferSection(_Section):
    """The shared buffer."""

    bytes: Count
    read_pj_per_bit: Quantity
    write_pj_per_bit: Quantity
    bits_per_cycle: Positive
    double_buffered: bool


class DramSection(_Section):
    """The off-chip memory."""

    read_pj_per_bit: Quantity
    write_pj_per_bit: Quantity
    bits_per_cycle: Positive


class MacSection(_Section):
    """Energy of a multiply-accumulate: constant + linear (ba + bw) + product ba bw; and in 32-bit floats."""

    constant_pj: Quantity
    linear_pj_per_bit: Quantity
    product_pj_per_bit2: Quantity
    float32_pj: Quantity


class PrecisionSection(_Section):
    """Widths of operands."""

    weight_bits: Widths
    activation_bits: Widths
    psum_bits: Count


class SparsitySection(_Section):
    """What is made of zero operands."""

    weights: Literal["none", "gating", "skipping"] = "none"
    activations: Literal["none", "gating", "skipping"] = "none"
    index_bits: Quantity | None = None


class CodingSection(_Section):
    """What is coded off chip: weights, decoded as they come in, and zero runs of inputs."""

    weight_decode_pj_per_bit: Quantity | None = None
    activation_run_bits: Width | None = None


class PhysicalDescription(_Section):
    """The file of an accelerator for the physical model."""

    schema_version: Literal[1]
    model: Literal["physical"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    summary: str
    dataflows: list[str] = list(NAMED)
    array: ArraySection
    registers: RegisterSection
    buffer: BufferSection
    dram: DramSection
    mac: MacSection
    network_hop_pj_per_bit: Quantity
    clock_hertz: Positive
    leakage_watt: Quantity
    precision: PrecisionSection
    sparsity: SparsitySection = SparsitySection()
    coding: CodingSection = CodingSection()

    @field_validator("dataflows")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in DATAFLOWS:
                raise ValueError(str(unknown_name("dataflow", name, DATAFLOWS)))
        return names

    @model_validator(mode="after")
    def _complete(self) -> PhysicalDescription:
        if not self.dataflows:
            raise ValueError("dataflows: expected at least one name")
        skips = "skipping" in (self.sparsity.weights, self.sparsity.activations)
        if skips and self.sparsity.index_bits is None:
            raise ValueError(
                "sparsity.index_bits: needed where zeros are skipped; give 0 with a source if they are free"
            )
        return self

    def build(self) -> CostModel:
        """The cost model of this description."""
        return PhysicalModel(_accelerator(self))


class PublishedDescription(_Section):
    """The file of an accelerator for the published model."""

    schema_version: Literal[1]
    model: Literal["published"]
    name: str
    summary: str
    mac_pj_per_bit: Positive
    read_pj_per_word: Positive
    write_pj_per_word: Positive

    def build(self) -> CostModel:
        """The cost model of this description."""
        energies = Energies(self.mac_pj_per_bit.value, self.read_pj_per_word.value, self.write_pj_per_word.value)
        return PublishedModel(self.name, energies)


Description = PhysicalDescription | PublishedDescription
_KINDS: dict[str, type[Description]] = {"physical": PhysicalDescription, "published": PublishedDescription}


def _memory(section: RegisterSection | BufferSection | DramSection) -> Memory:
    limit = float("inf") if isinstance(section, RegisterSection) else section.bits_per_cycle.value
    return Memory(section.read_pj_per_bit.value * PICO, section.write_pj_per_bit.value * PICO, limit)


def _accelerator(file: PhysicalDescription) -> Accelerator:
    decode, runs, index = (
        file.coding.weight_decode_pj_per_bit,
        file.coding.activation_run_bits,
        file.sparsity.index_bits,
    )
    mac = file.mac
    return Accelerator(
        name=file.name,
        rows=file.array.rows.value,
        columns=file.array.columns.value,
        registers=Registers(
            file.registers.weight_words.value, file.registers.input_words.value, file.registers.psum_words.value
        ),
        register=_memory(file.registers),
        buffer=_memory(file.buffer),
        buffer_bits=file.buffer.bytes.value * 8,
        double_buffered=file.buffer.double_buffered,
        dram=_memory(file.dram),
        mac=MacEnergy(
            mac.constant_pj.value * PICO,
            mac.linear_pj_per_bit.value * PICO,
            mac.product_pj_per_bit2.value * PICO,
            mac.float32_pj.value * PICO,
        ),
        hop=file.network_hop_pj_per_bit.value * PICO,
        clock=file.clock_hertz.value,
        leakage=file.leakage_watt.value,
        weight_widths=tuple(sorted(set(file.precision.weight_bits.value))),
        activation_widths=tuple(sorted(set(file.precision.activation_bits.value))),
        psum_bits=file.precision.psum_bits.value,
        weight_sparsity=Sparsity(file.sparsity.weights),
        activation_sparsity=Sparsity(file.sparsity.activations),
        index_bits=index.value if index else 0.0,
        decode=decode.value * PICO if decode else None,
        run_bits=runs.value if runs else None,
        dataflows=tuple(file.dataflows),
        sources=sources(file),
    )


def sources(description: BaseModel, prefix: str = "") -> dict[str, str]:
    """Source of every number of a description, by dotted field name."""
    found: dict[str, str] = {}
    for name in type(description).model_fields:
        value = getattr(description, name)
        if isinstance(value, BaseModel):
            source = getattr(value, "source", None)
            found |= {prefix + name: source} if source else sources(value, f"{prefix}{name}.")
    return found


def read_description(path: Path) -> Description:
    """The checked contents of a description file.

    Raises:
        EmomcError: naming the file, and each field that is missing, unknown or out of range.
    """
    return parse_description(read_yaml(path), str(path))


def parse_description(content: Any, where: str) -> Description:
    """Checks an already loaded description. Raises EmomcError as `read_description` does."""
    if not isinstance(content, dict):
        raise EmomcError(f"{where}: expected a mapping of fields, got {type(content).__name__}.")
    kind = content.get("model")
    if not isinstance(kind, str):
        raise EmomcError(f"{where}: model: expected {' or '.join(_KINDS)}, got {reprlib.repr(kind)}.")
    if kind not in _KINDS:
        raise EmomcError(f"{where}: model: {unknown_name('kind of model', kind, _KINDS)}")
    try:
        return _KINDS[kind].model_validate(content)
    except ValidationError as error:
        lines = [_explain(item, _KINDS[kind]) for item in error.errors(include_url=False)]
        raise EmomcError(f"{where} is not a valid accelerator description:\n" + "\n".join(lines)) from None


def _explain(item: Any, kind: type[BaseModel]) -> str:
    """One line: the field, what is wrong or expected, and the value given."""
    place = ".".join(map(str, item["loc"])) or "file"
    if item["type"] == "missing":
        return f"  {place}: missing; expected {_expected(_section(kind, item['loc']))}"
    if item["type"] == "extra_forbidden":
        known = _section(kind, item["loc"][:-1])
        return f"  {place}: unknown field (got {reprlib.repr(item['input'])}); expected {_expected(known)}"
    if item["type"] == "value_error" and not item["loc"]:
        return f"  {item['ctx']['error']}"
    given = f"(got {reprlib.repr(item['input'])})"
    if item["type"] == "model_type":
        return f"  {place}: expected {_expected(_section(kind, item['loc']))} {given}"
    if item["type"] in ("int_type", "float_type") and isinstance(item["input"], str):
        return f"  {place}: expected a number without its unit; to YAML 5e8 is text, 5.0e+8 a number {given}"
    return f"  {place}: {item['msg']} {given}"


def _section(kind: type[BaseModel], place: Sequence[str | int]) -> Any:
    """The type of a field, from the field names that lead to it."""
    found: Any = kind
    for name in place:
        annotation = found.model_fields[name].annotation
        options = [each for each in get_args(annotation) if each is not type(None)]
        found = options[0] if isinstance(annotation, UnionType) else annotation
    return found


def _expected(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return getattr(kind, "__name__", str(kind))
    if issubclass(kind, _Sourced):
        return "{value: ..., source: ...}, the value and where it comes from"
    return f"the fields {', '.join(kind.model_fields)}"
