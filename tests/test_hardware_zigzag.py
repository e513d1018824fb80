"""ZigZag files to and from descriptions; with ZigZag itself (pip install zigzag-dse six), counts side by side."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from emomc.errors import EmomcError
from emomc.hardware import load_accelerator
from emomc.hardware.accelerator import Accelerator
from emomc.hardware.accesses import Block, Mapping, count_accesses
from emomc.hardware.dataflow import Unrolling
from emomc.hardware.description import parse_description
from emomc.hardware.physical import PhysicalModel
from emomc.hardware.zigzag import ZigZagInputs, from_zigzag, to_zigzag
from emomc.network.layers import Layer, LoopBounds
from tests.referees.shapes import conv
from tests.test_hardware_accesses import CONV3_2, ORDERS, SMALL


def device(**changes: Any) -> Accelerator:
    model = load_accelerator("edge-systolic")
    assert isinstance(model, PhysicalModel)
    return replace(model.accelerator, **changes)


def exported(call: LoopBounds, flow: str, machine: Accelerator) -> tuple[ZigZagInputs, Unrolling, Mapping]:
    unrolling = Unrolling(call, flow, machine.rows, machine.columns)
    mapping = Mapping(Block(), tuple(loop for loop in ORDERS[flow] if unrolling.steps(loop) > 1))
    layer = Layer("layer", "conv", "w", (call.K, call.C, call.FY, call.FX), (call,))
    return to_zigzag(layer, machine, flow, mapping), unrolling, mapping


def test_a_description_survives_the_round_trip(tmp_path: Path) -> None:
    """Export to ZigZag, import again: array, registers, buffer and energies per bit are those we began with."""
    before = device(weight_widths=(8,), activation_widths=(8,))
    inputs, _, _ = exported(SMALL, "X:Y", before)
    content = from_zigzag(inputs.write(tmp_path)["accelerator"])
    model = parse_description(content, "imported").build()
    assert isinstance(model, PhysicalModel)
    after = model.accelerator
    assert (after.rows, after.columns, after.registers) == (before.rows, before.columns, before.registers)
    assert after.buffer_bits == before.buffer_bits
    for level in ("register", "buffer", "dram"):
        for access in ("read", "write"):
            assert getattr(getattr(after, level), access) == pytest.approx(getattr(getattr(before, level), access))
    mac = before.mac.constant + before.mac.linear * 16 + before.mac.product * 64
    assert after.mac.constant == pytest.approx(mac)


def port(name: str, kind: str, width: int, *uses: str) -> dict[str, Any]:
    return {"name": name, "type": kind, "bandwidth_min": width, "bandwidth_max": width, "allocation": list(uses)}


def memory(size: int, read: float, write: float, operands: list[str], width: int, served: list[str]) -> dict[str, Any]:
    ports = [port("r_port_1", "read", width, *(f"{o}, tl" for o in operands))]
    ports.append(port("w_port_1", "write", width, *(f"{o}, fh" for o in operands)))
    return {
        "size": size, "r_cost": read, "w_cost": write, "area": 0, "latency": 1,
        "operands": operands, "ports": ports, "served_dimensions": served,
    }  # fmt: skip


def foreign() -> dict[str, Any]:
    """Two shared buffers, a register for weights only, no register for inputs."""
    return {
        "name": "foreign",
        "memories": {
            "weights": memory(256, 0.8, 1.6, ["I2"], 8, []),
            "sums": memory(64, 3.2, 3.2, ["O"], 32, []),
            "maps": memory(3 * 8192, 30.0, 60.0, ["I1", "O"], 30, ["D1", "D2"]),
            "filters": memory(8192, 64.0, 32.0, ["I2"], 16, ["D1", "D2"]),
            "outside": memory(10**10, 1280, 640, ["I1", "I2", "O"], 64, ["D1", "D2"]),
        },
        "operational_array": {
            "unit_energy": 0.5, "unit_area": 1, "dimensions": ["D1", "D2"], "sizes": [4, 6], "input_precision": [8, 8]
        },
    }  # fmt: skip


def test_a_foreign_file_becomes_a_description(tmp_path: Path) -> None:
    path = tmp_path / "foreign.yaml"
    path.write_text(yaml.safe_dump(foreign(), sort_keys=False), encoding="utf-8")
    content = from_zigzag(path)
    model = parse_description(content, "foreign").build()
    assert isinstance(model, PhysicalModel)
    machine = model.accelerator
    assert (machine.rows, machine.columns) == (4, 6)
    assert (machine.registers.weight, machine.registers.input, machine.registers.psum) == (32, 1, 2)
    assert machine.buffer_bits == 4 * 8192
    assert machine.buffer.read == pytest.approx((1.0 * 3 + 4.0 * 1) / 4 * 1e-12)  # per bit, averaged by size
    assert machine.buffer.write == pytest.approx((2.0 * 3 + 2.0 * 1) / 4 * 1e-12)
    assert machine.dram.read == pytest.approx(20e-12)
    assert machine.sources["registers.input_words"].startswith("assumed")
    assert "foreign.yaml" in machine.sources["buffer.bytes"]


@pytest.mark.parametrize("field", ["memories", "operational_array"])
def test_a_file_of_another_kind_is_named(tmp_path: Path, field: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in foreign().items() if k != field}), encoding="utf-8")
    with pytest.raises(EmomcError, match=r"broken.yaml: not a ZigZag accelerator"):
        from_zigzag(path)


def test_groups_are_left_to_the_user() -> None:
    layer = conv("depthwise", 8, 8, 6, groups=8)
    with pytest.raises(EmomcError, match="8 groups"):
        to_zigzag(layer, device(), "X:Y", Mapping(Block(), ()))


def test_workload_and_mapping_say_what_runs() -> None:
    call = LoopBounds(1, 1, 8, 6, 5, 7, 3, 2, 11, 9, (2, 1), (1, 2), (1, 2))
    inputs, _, _ = exported(call, "X:FX", device(rows=4, columns=2))
    (entry,) = inputs.workload
    assert entry["dimension_relations"] == ["ix=1*ox+2*fx", "iy=2*oy+1*fy"]
    assert dict(zip(entry["loop_dims"], entry["loop_sizes"], strict=True))["OX"] == 7
    assert (entry["pr_loop_dims"], entry["pr_loop_sizes"]) == (["IX", "IY"], [9, 11])
    assert entry["padding"] == [[2, 2], [1, 1]]
    first = inputs.mapping[0]
    assert first["spatial_mapping"] == {"D1": ["OX, 4"], "D2": ["FX, 2"]}
    assert first["temporal_ordering"] == [["FY", 3], ["C", 6], ["OY", 5], ["K", 8]]


@pytest.mark.parametrize("call", [SMALL, CONV3_2], ids=["small", "conv3_2"])
@pytest.mark.parametrize("flow", sorted(ORDERS))
def test_counts_equal_zigzag(call: LoopBounds, flow: str, tmp_path: Path) -> None:
    """Words read and written at the buffer, in ports of 8 bits: a psum of 32 bits is four accesses."""
    pytest.importorskip("zigzag.api", reason="needs zigzag-dse and six")
    from zigzag.api import get_hardware_performance_zigzag
    from zigzag.datatypes import LayerOperand  # noqa: F401  # fails early where another ZigZag is installed

    side = 8 if flow != "CI:CO" else (4 if call is SMALL else 16)
    base = device()
    machine = replace(
        base, rows=side, columns=side, weight_widths=(8,), activation_widths=(8,), buffer_bits=8 * 10**7,
        buffer=replace(base.buffer, bandwidth=8),
    )  # fmt: skip
    inputs, unrolling, mapping = exported(call, flow, machine)
    paths = inputs.write(tmp_path)
    logging.disable(logging.CRITICAL)
    try:
        _, _, evaluations = get_hardware_performance_zigzag(
            str(paths["workload"]), str(paths["accelerator"]), str(paths["mapping"]), opt="energy",
            dump_folder=str(tmp_path / "out"), lpf_limit=6, loma_show_progress_bar=False,
        )  # fmt: skip
    finally:
        logging.disable(logging.NOTSET)
    found = {
        str(operand): {str(direction.value): count for direction, count in levels[1].data.items()}
        for operand, levels in evaluations[0][0].memory_word_access.items()
    }
    ours = count_accesses(unrolling, [mapping])
    assert found["W"]["rd_out_to_low"] == ours.weight_reads[0]
    assert found["I"]["rd_out_to_low"] == ours.input_reads[0]
    spills = int(ours.psum_reads[0]) > 0  # ZigZag counts sums that never leave the registers as finished outputs
    if spills:
        assert found["O"]["wr_in_by_low"] == 4 * ours.psum_writes[0]
        assert found["O"]["rd_out_to_low"] == 4 * ours.psum_writes[0]  # the first read of every sum is counted too
