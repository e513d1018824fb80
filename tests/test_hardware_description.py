"""Accelerator descriptions: presets, sources, and what each mistake in a file is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from emomc.errors import EmomcError
from emomc.hardware import CostAxes, CostModel, PublishedModel, accelerators, load_accelerator
from emomc.hardware.description import parse_description, read_description, sources
from emomc.hardware.physical import PhysicalModel
from tests.referees.shapes import resnet_cifar, vgg16_cifar

PRESETS = Path(__file__).parents[1] / "emomc" / "hardware" / "presets"
NAMES = sorted(path.stem for path in PRESETS.glob("*.yaml"))


def content(name: str = "generic-45nm") -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((PRESETS / f"{name}.yaml").read_text(encoding="utf-8"))
    return loaded


@pytest.mark.parametrize("name", NAMES)
def test_presets_load_under_their_name(name: str) -> None:
    model = load_accelerator(name)
    assert isinstance(model, CostModel)
    assert model.name == name and name in accelerators()
    tables = model.tables(resnet_cifar(1), CostAxes([0.0, 0.5], [4, 8], [0], model.dataflows))
    assert set(tables) == set(model.metrics)
    assert all(np.all(table > 0) for table in tables.values())


def test_five_kinds_of_machine_are_described() -> None:
    assert NAMES == ["edge-systolic", "emomc-fpga", "eyeriss-65nm", "generic-45nm", "npu-coded"]


def test_emomc_fpga_is_the_published_model() -> None:
    described, published = load_accelerator("emomc-fpga"), load_accelerator("published")
    assert isinstance(described, PublishedModel) and isinstance(published, PublishedModel)
    assert described.energies == published.energies


def numbers(node: Any, inside_quantity: bool = False) -> list[Any]:
    """Every number of a loaded file that does not stand beside a source."""
    if isinstance(node, dict):
        sourced = "source" in node
        return [n for key, value in node.items() if key != "schema_version" for n in numbers(value, sourced)]
    if isinstance(node, list):
        return [n for value in node for n in numbers(value, inside_quantity)]
    bare = isinstance(node, (int, float)) and not isinstance(node, bool) and not inside_quantity
    return [node] if bare else []


@pytest.mark.parametrize("name", NAMES)
def test_every_number_has_a_source(name: str) -> None:
    assert numbers(content(name)) == []
    listed = sources(read_description(PRESETS / f"{name}.yaml"))
    assert len(listed) >= 3 and all(listed.values())


def test_values_reach_the_model_in_si_units() -> None:
    model = load_accelerator("eyeriss-65nm")
    assert isinstance(model, PhysicalModel)
    device = model.accelerator
    assert (device.rows, device.columns, device.buffer_bits) == (12, 14, 108 * 1024 * 8)
    assert device.dram.read * 16 == pytest.approx(460e-12)
    assert device.buffer.write * 16 == pytest.approx(15e-12)
    assert device.mac.product * 256 == pytest.approx(2e-12)
    assert device.sources["dram.read_pj_per_bit"].startswith("nn_dataflow")


def test_a_users_file_is_used_like_a_preset(tmp_path: Path) -> None:
    changed = content() | {"name": "mine", "dataflows": ["FY:Y", "CI:X"]}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(changed), encoding="utf-8")
    model = load_accelerator(path)
    assert (model.name, model.dataflows) == ("mine", ("FY:Y", "CI:X"))
    assert load_accelerator(str(path)).name == "mine"


def edited(path: str, value: Any) -> dict[str, Any]:
    """The preset with one field changed; None deletes it."""
    whole = content()
    node, (*parents, last) = whole, path.split(".")
    for parent in parents:
        node = node[parent]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return whole


SOURCE = "assumed: for a test"


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("dram.read_pj_per_bit", None, r"dram.read_pj_per_bit: missing; expected \{value: ..., source: ...\}"),
        ("dram.read_pj_per_bit.value", -1, r"dram.read_pj_per_bit.value: .*greater than or equal to 0 \(got -1\)"),
        ("dram.read_pj_per_bit.value", float("nan"), r"dram.read_pj_per_bit.value: .*finite"),
        ("dram.read_pj_per_bit.source", None, r"dram.read_pj_per_bit.source: missing; expected str"),
        ("dram.read_pj_per_bit.source", "", r"dram.read_pj_per_bit.source"),
        ("clock_hertz.value", 0, r"clock_hertz.value: .*greater than 0"),
        ("clock_hertz.value", "fast", r"clock_hertz.value: .*number.*'fast'"),
        ("array.rows.value", 2.5, r"array.rows.value: .*integer"),
        ("buffer.bytes.value", 0, r"buffer.bytes.value"),
        ("cache", {"value": 1, "source": SOURCE}, r"cache: unknown field \(got .*; expected the fields .*buffer, dram"),
        (
            "buffer.level_two",
            3,
            r"buffer.level_two: unknown field \(got 3\); expected the fields bytes, read_pj_per_bit",
        ),
        ("dram", None, r"dram: missing; expected the fields read_pj_per_bit, write_pj_per_bit, bits_per_cycle"),
        ("coding.runs", 3, r"coding.runs: unknown field .*activation_run_bits"),
        ("buffer.bytes.value", -4, r"buffer.bytes.value: .*greater than or equal to 1 \(got -4\)"),
        ("precision.weight_bits.value", [8, 99], r"weight_bits.value.1: .*less than or equal to 64 \(got 99\)"),
        ("dataflows", ["XY"], r"dataflows: .*Did you mean 'X:Y'"),
        ("dataflows", [], r"at least one name"),
        ("sparsity.weights", "ignored", r"sparsity.weights: .*'none', 'gating' or 'skipping'"),
        ("sparsity.index_bits", None, r"sparsity.index_bits: needed"),
        ("precision.weight_bits.value", [], r"precision.weight_bits.value"),
        ("schema_version", 2, r"schema_version: .*1"),
        ("schema_version", None, r"schema_version: missing; expected 1$"),
        ("model", "phisical", r"unknown kind of model 'phisical'. Did you mean 'physical'"),
        ("model", None, r"model: expected physical or published, got None"),
        ("model", ["physical"], r"model: expected physical or published, got \['physical'\]"),
        ("dram", 3, r"dram: expected the fields read_pj_per_bit, write_pj_per_bit, bits_per_cycle \(got 3\)"),
        ("array.rows", 16, r"array.rows: expected \{value: ..., source: ...\}, the value and .* \(got 16\)"),
        ("clock_hertz.value", "5e8", r"clock_hertz.value: .*number without its unit.* \(got '5e8'\)"),
        ("buffer.bytes.value", "32KB", r"buffer.bytes.value: .*number without its unit.* \(got '32KB'\)"),
        (
            "coding.activation_run_bits",
            {"value": 2000, "source": SOURCE},
            r"run_bits.value: .*less than or equal to 64 \(got 2000\)",
        ),
    ],
)
def test_mistakes_name_field_value_and_expectation(field: str, value: Any, says: str) -> None:
    with pytest.raises(EmomcError, match=says):
        parse_description(edited(field, value), "mine.yaml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1, 2]", "expected a mapping"),
        ("a: [", "not valid YAML"),
        ("a: &x [1]\nb: *x", "aliases"),
        ("buffer: {bytes: 1}\ndram: {}\nbuffer: {bytes: 2}", "'buffer' is given twice, again in line 3"),
        ("a: {b: 1, c: {b: 1}, b: 1}", "'b' is given twice, again in line 1"),
        ("a: 2024-13-45", "not valid YAML: month"),
        ("!!python/object/apply:os.getcwd []", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
        ("", "expected a mapping"),
        ("x: 1\n" * 300_000, "larger than"),
    ],
)
def test_malformed_files_give_one_clear_error(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(EmomcError, match=says):
        load_accelerator(path)


def test_missing_file_and_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(EmomcError, match="cannot be read"):
        load_accelerator(tmp_path / "absent.yaml")
    with pytest.raises(EmomcError, match="Did you mean 'eyeriss-65nm'"):
        load_accelerator("eyeriss-65")


def test_a_dataflow_that_the_accelerator_does_not_offer() -> None:
    with pytest.raises(EmomcError, match="dataflow of accelerator edge-systolic 'CI:FX'"):
        load_accelerator("edge-systolic").tables(vgg16_cifar(), CostAxes([0.0], [8], [0], ("CI:FX",)))
