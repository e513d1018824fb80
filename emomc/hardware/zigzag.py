"""To and from ZigZag, so that users can check the physical model with an independent one, or reuse its files.

`from_zigzag` writes an accelerator description from a ZigZag accelerator file; `to_zigzag` writes ZigZag's three inputs
for a layer. ZigZag (3.9) counts differently in four ways that its users should know: energy of a multiply-accumulate
does not depend on widths, accesses are rounded up to port words, the first read of a partial sum is counted, and
neither interconnect nor sparsity costs anything.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingType
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emomc.errors import EmomcError
from emomc.hardware.accelerator import Accelerator
from emomc.hardware.accesses import Mapping
from emomc.hardware.dataflow import AXES, TEMPORAL, Unrolling
from emomc.network.layers import Layer

OPERANDS = {"weight": "I2", "input": "I1", "psum": "O"}
PICO = 1e-12


@dataclass(frozen=True)
class ZigZagInputs:
    """The contents of ZigZag's workload, mapping and accelerator files."""

    workload: list[dict[str, Any]]
    mapping: list[dict[str, Any]]
    accelerator: dict[str, Any]

    def write(self, folder: Path) -> dict[str, Path]:
        """Writes the three files into a folder; ZigZag reads memories from the innermost, so that their order stays."""
        import yaml

        folder.mkdir(parents=True, exist_ok=True)
        paths = {}
        for name in ("workload", "mapping", "accelerator"):
            paths[name] = folder / f"{name}.yaml"
            paths[name].write_text(yaml.safe_dump(getattr(self, name), sort_keys=False), encoding="utf-8")
        return paths


def from_zigzag(path: Path) -> dict[str, Any]:
    """An accelerator description, schema version 1, from a ZigZag accelerator file.

    The memory that serves every operand and is largest becomes the off-chip memory, memories that serve the whole array
    become one shared buffer (sizes and bandwidths add up, energies are averaged by size), and the innermost memory of
    each operand becomes its registers. What a ZigZag file does not say is marked as assumed.

    Raises:
        EmomcError: when the file cannot be read, or lacks a field.
    """
    from emomc.files import read_yaml  # brings yaml: only when a file is read

    content = read_yaml(path)
    try:
        return _description(content, path.name)
    except (KeyError, TypeError, IndexError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise EmomcError(
            f"{path}: not a ZigZag accelerator file as ZigZag 3.9 reads it: {type(error).__name__} {error}. Expected "
            "memories with size, r_cost, w_cost, operands, ports and served_dimensions, and an operational_array."
        ) from None


def _description(content: Any, file: str) -> dict[str, Any]:
    memories, array = dict(content["memories"]), content["operational_array"]
    if array.get("is_imc"):
        raise EmomcError(f"{file}: in-memory computing has no counterpart in the physical model.")
    sides = array["dimensions"]
    if len(sides) > 2:
        raise EmomcError(f"{file}: an array of {len(sides)} dimensions; the physical model has rows and columns.")
    serving_all = {name: memory for name, memory in memories.items() if len(memory["operands"]) == len(OPERANDS)}
    dram = max(serving_all, key=lambda name: int(memories[name]["size"]))
    shared = {
        name: memory
        for name, memory in memories.items()
        if name != dram and set(memory["served_dimensions"]) >= set(sides)
    }
    if not shared:
        raise EmomcError(f"{file}: no memory between the off-chip memory and the array serves the whole array.")
    inner = {name: memory for name, memory in memories.items() if name != dram and name not in shared}
    sizes = [int(size) for size in array["sizes"]] + [1]
    from_file = f"ZigZag file {file}"
    energy = float(array["unit_energy"])
    widths = [int(width) for width in array.get("input_precision", [8, 8])]
    return {
        "schema_version": 1,
        "model": "physical",
        "name": str(content["name"]).replace(" ", "-"),
        "summary": f"From {from_file}; shared buffer made of {', '.join(shared)}",
        "array": {
            "rows": _quantity(sizes[0], f"{from_file}: operational_array.sizes"),
            "columns": _quantity(sizes[1], f"{from_file}: operational_array.sizes"),
        },
        "registers": _registers(inner, widths, from_file),
        "buffer": {
            "bytes": _quantity(sum(int(m["size"]) for m in shared.values()) // 8, f"{from_file}: {', '.join(shared)}"),
            **_energies(shared, from_file),
            "bits_per_cycle": _quantity(sum(_bandwidth(m) for m in shared.values()), f"{from_file}: ports"),
            "double_buffered": any(m.get("force_double_buffering", False) for m in shared.values()),
        },
        "dram": {
            **_energies({dram: memories[dram]}, from_file),
            "bits_per_cycle": _quantity(_bandwidth(memories[dram]), f"{from_file}: {dram}.ports"),
        },
        "mac": {
            "constant_pj": _quantity(energy, f"{from_file}: operational_array.unit_energy, the same at every width"),
            "linear_pj_per_bit": _quantity(0.0, "assumed: ZigZag's unit energy does not depend on widths"),
            "product_pj_per_bit2": _quantity(0.0, "assumed: ZigZag's unit energy does not depend on widths"),
            "float32_pj": _quantity(energy, "assumed: ZigZag's unit energy does not depend on the number format"),
        },
        "network_hop_pj_per_bit": _quantity(0.0, "assumed: ZigZag charges no interconnect"),
        "clock_hertz": _quantity(1e9, "assumed: ZigZag counts cycles"),
        "leakage_watt": _quantity(0.0, "assumed: ZigZag charges no leakage"),
        "precision": {
            "weight_bits": _quantity(sorted({*range(1, 9), widths[1], 16}), f"assumed: {from_file} fixes no widths"),
            "activation_bits": _quantity(sorted({8, widths[0], 16}), f"assumed: {from_file} fixes no widths"),
            "psum_bits": _psum_bits(inner, widths, from_file),
        },
    }


def _quantity(value: Any, source: str) -> dict[str, Any]:
    return {"value": value, "source": source}


def _bandwidth(memory: MappingType[str, Any]) -> int:
    return sum(int(port["bandwidth_max"]) for port in memory["ports"])


def _access(memory: MappingType[str, Any], cost: str) -> float:
    """Picojoules per bit: ZigZag states the energy of one access of the port's whole width."""
    kind = "read" if cost == "r_cost" else "write"
    widths = [int(port["bandwidth_max"]) for port in memory["ports"] if kind in port["type"]]
    return float(memory[cost]) / max(widths)


def _energies(memories: MappingType[str, MappingType[str, Any]], from_file: str) -> dict[str, Any]:
    size = sum(int(memory["size"]) for memory in memories.values())
    energies = {}
    for field, cost in (("read_pj_per_bit", "r_cost"), ("write_pj_per_bit", "w_cost")):
        mean = sum(_access(memory, cost) * int(memory["size"]) for memory in memories.values()) / size
        energies[field] = _quantity(mean, f"{from_file}: {', '.join(f'{name}.{cost}' for name in memories)}, per bit")
    return energies


def _innermost(inner: MappingType[str, Any], operand: str) -> str | None:
    return next((name for name, memory in inner.items() if OPERANDS[operand] in memory["operands"]), None)


def _psum_bits(inner: MappingType[str, Any], widths: list[int], from_file: str) -> dict[str, Any]:
    """A partial sum is as wide as the port of the register that holds it."""
    found = _innermost(inner, "psum")
    if found is None:
        return _quantity(2 * max(widths), "assumed: twice the operands' width")
    width = max(int(port["bandwidth_max"]) for port in inner[found]["ports"])
    return _quantity(width, f"{from_file}: {found}.ports")


def _registers(inner: MappingType[str, Any], widths: list[int], from_file: str) -> dict[str, Any]:
    """Words of each operand's innermost memory; a single word where there is none, as in a pipeline register."""
    bits = {"weight": widths[1], "input": widths[0], "psum": _psum_bits(inner, widths, from_file)["value"]}
    section: dict[str, Any] = {}
    for operand in OPERANDS:
        found = _innermost(inner, operand)
        if found is None:
            section[f"{operand}_words"] = _quantity(1, f"assumed: {from_file} has no register for this operand")
        else:
            count = max(1, int(inner[found]["size"]) // bits[operand])
            section[f"{operand}_words"] = _quantity(count, f"{from_file}: {found}.size at {bits[operand]} bits")
    if inner:
        return section | _energies(inner, from_file)
    free = _quantity(0.0, f"assumed: {from_file} has no registers")
    return section | {"read_pj_per_bit": free, "write_pj_per_bit": free}


def to_zigzag(
    layer: Layer, device: Accelerator, dataflow: str, mapping: Mapping, weight_bits: int = 8, activation_bits: int = 8
) -> ZigZagInputs:
    """ZigZag's inputs for the first call of a layer under one mapping.

    Args:
        layer: the layer; it must have one group, since ZigZag keeps groups apart in its own way.
        device: the accelerator.
        dataflow: one of its dataflows.
        mapping: register block and loop order, for instance one that `PhysicalModel.plans` lists.
        weight_bits: width of a weight.
        activation_bits: width of a map's element.

    Raises:
        EmomcError: for a layer with several groups.
    """
    call = layer.calls[0]
    if call.G > 1:
        raise EmomcError(f"layer {layer.name!r} has {call.G} groups; hand ZigZag one of its groups as a layer.")
    unrolling = Unrolling(call, dataflow, device.rows, device.columns)
    entry = {
        "id": 0,
        "name": layer.name,
        "operator_type": "Conv",
        "equation": "O[b][k][oy][ox]+=W[k][c][fy][fx]*I[b][c][iy][ix]",
        "dimension_relations": [
            f"ix={call.stride[1]}*ox+{call.dilation[1]}*fx",
            f"iy={call.stride[0]}*oy+{call.dilation[0]}*fy",
        ],
        "loop_dims": list(TEMPORAL),
        "loop_sizes": [unrolling.extent(loop) for loop in TEMPORAL],
        "pr_loop_dims": ["IX", "IY"],
        "pr_loop_sizes": [call.IX, call.IY],
        "padding": [[call.padding[1]] * 2, [call.padding[0]] * 2],
        "operand_precision": {
            "I": activation_bits, "W": weight_bits, "O": device.psum_bits, "O_final": activation_bits
        },
        "operand_source": {"W": 0, "I": 0},
    }  # fmt: skip
    mappings = [_mapping(name, unrolling, mapping) for name in (layer.name, "default")]  # ZigZag insists on a default
    return ZigZagInputs([entry], mappings, _hardware(device))


def _mapping(name: str, unrolling: Unrolling, mapping: Mapping) -> dict[str, Any]:
    block = mapping.block
    inside = [(loop, block.length(unrolling, loop)) for loop in ("FX", "FY", "C", "K")]
    around = [(loop, block.steps(unrolling, loop)) for loop in mapping.order]
    first, second = (AXES[axis] for axis in unrolling.dataflow.split(":"))
    return {
        "name": name,
        "spatial_mapping": {
            "D1": [f"{first}, {unrolling.width[first]}"],
            "D2": [f"{second}, {unrolling.width[second]}"],
        },
        "temporal_ordering": [[loop, size] for loop, size in inside + around if size > 1],
        "memory_operand_links": {"O": "O", "W": OPERANDS["weight"], "I": OPERANDS["input"]},
    }


def _hardware(device: Accelerator) -> dict[str, Any]:
    widths = {"weight": device.weight_widths[-1], "input": device.activation_widths[-1], "psum": device.psum_bits}
    counts = {"weight": device.registers.weight, "input": device.registers.input, "psum": device.registers.psum}
    memories = {
        f"{operand}_registers": _zigzag_memory(
            counts[operand] * bits, bits, device.register.read, device.register.write, [OPERANDS[operand]], []
        )
        for operand, bits in widths.items()
    }
    everyone = list(OPERANDS.values())
    for name, size, memory in (
        ("buffer", device.buffer_bits, device.buffer),
        ("dram", 10**13, device.dram),
    ):
        port = max(8, int(memory.bandwidth))
        memories[name] = _zigzag_memory(size, port, memory.read, memory.write, everyone, ["D1", "D2"])
    width = widths["weight"] + widths["input"]
    unit = device.mac.constant + device.mac.linear * width + device.mac.product * widths["weight"] * widths["input"]
    return {
        "name": device.name,
        "memories": memories,
        "operational_array": {
            "unit_energy": unit / PICO,
            "unit_area": 1.0,
            "dimensions": ["D1", "D2"],
            "sizes": [device.rows, device.columns],
        },
    }


def _zigzag_memory(
    size: int, port: int, read: float, write: float, operands: list[str], served: list[str]
) -> dict[str, Any]:
    ports = []
    for kind, inputs, outputs in (("read", ["tl"], ["tl", "th"]), ("write", ["fh"], ["fh", "fl"])):
        uses = [f"{operand}, {use}" for operand in operands for use in (outputs if operand == "O" else inputs)]
        ports.append(
            {
                "name": f"{kind[0]}_port_1",
                "type": kind,
                "bandwidth_min": min(8, port),
                "bandwidth_max": port,
                "allocation": uses,
            }
        )
    return {
        "size": size,
        "r_cost": read / PICO * port,
        "w_cost": write / PICO * port,
        "area": 0.0,
        "latency": 1,
        "operands": list(operands),
        "ports": ports,
        "served_dimensions": list(served),
    }
