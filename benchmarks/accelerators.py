"""Three networks on every accelerator: where energy and traffic go, which dataflow wins, how far from the lower bound.

    python -m benchmarks.accelerators

Networks are untrained: weights play no part, and zeros of feature maps are not counted. Weights and, where the model
allows it, maps have 8 bits. Results go to benchmarks/results/accelerators.json and .png.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

import emomc
from emomc.benchmarks.environment import RESULTS, write_results
from emomc.hardware import CostAxes, PhysicalModel, compulsory_words, fuse
from emomc.network import Layer
from emomc.problems.tasks.networks import mobilenet_v1, resnet, vgg16

NAME = "accelerators"
BITS = 8
NETWORKS = {"VGG-16": vgg16, "ResNet-56": lambda: resnet(56), "MobileNetV1": mobilenet_v1}


def layer_rows(model: emomc.CostModel, layers: Sequence[Layer]) -> list[dict[str, Any]]:
    """Of each layer: energy on each dataflow, the best one, and on that one traffic beside its lower bound."""
    bits = BITS if isinstance(model, PhysicalModel) else 16  # the published model has 16-bit maps only
    tables = model.tables(layers, CostAxes([0.0], [BITS], [0], model.dataflows, activation_bits=bits))
    rows = []
    for at, layer in enumerate(layers):
        energies = tables["energy"][at].ravel()
        best = int(np.argmin(energies))
        row: dict[str, Any] = {
            "layer": layer.name,
            "macs": layer.macs,
            "joules": dict(zip(model.dataflows, energies.tolist(), strict=True)),
            "best": model.dataflows[best],
        }
        if isinstance(model, PhysicalModel):
            row["traffic_bytes"] = float(tables["traffic"][at].ravel()[best])
            row["least_bytes"] = least_bytes(model, layer)
            row["pes_busy"] = model.utilization(layer, model.dataflows[best])
        rows.append(row)
    return rows


def least_bytes(model: PhysicalModel, layer: Layer) -> float:
    """Every input, weight and output once, as wide as the accelerator stores them."""
    device = model.accelerator
    total = 0
    for call in layer.calls:
        inputs, weights, outputs = compulsory_words(call)
        total += (inputs + outputs) * device.activation_width(BITS) + weights * device.weight_width(BITS)
    return total / 8


def network_row(name: str, network: emomc.Network, model: emomc.CostModel) -> dict[str, Any]:
    """A network on an accelerator: sums, wins of dataflows, fusion, and the layers."""
    rows = layer_rows(model, network.layers)
    best = [row["joules"][row["best"]] for row in rows]
    single = {flow: sum(row["joules"][flow] for row in rows) for flow in model.dataflows}
    result: dict[str, Any] = {
        "network": name,
        "accelerator": model.name,
        "joules": sum(best),
        "wins": dict(Counter(row["best"] for row in rows).most_common()),
        "best_single_dataflow": min(single, key=lambda flow: single[flow]),
        "single_over_mixed": min(single.values()) / sum(best),
    }
    if isinstance(model, PhysicalModel):
        traffic = [row["traffic_bytes"] for row in rows]
        over = [row["traffic_bytes"] / row["least_bytes"] for row in rows]
        plan = fuse(network, model, [BITS] * len(rows), activation_bits=BITS)
        result |= {
            "traffic_bytes": sum(traffic),
            "traffic_over_least": sum(traffic) / sum(row["least_bytes"] for row in rows),
            "farthest_layer": rows[int(np.argmax(over))]["layer"],
            "farthest_over_least": max(over),
            "layers_at_least": sum(ratio < 1 + 1e-9 for ratio in over),
            "unfused_bytes": plan.unfused_traffic,
            "fused_bytes": plan.traffic,
            "fused_groups": sum(group.fused for group in plan.groups),
        }
    return result | {"layers": rows}


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: one row for each network and accelerator with off-chip memory."""
    heads: tuple[str, ...] = ("network", "accelerator", "energy", "dataflows that win (layers)", "one dataflow only")
    heads += ("off chip", "over least (worst layer)", "fusion saves")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in results:
        wins = ", ".join(f"{flow} {count}" for flow, count in row["wins"].items())
        single = f"{row['best_single_dataflow']} +{100 * (row['single_over_mixed'] - 1):.1f} %"
        cells = [row["network"], f"`{row['accelerator']}`", f"{1e3 * row['joules']:.3g} mJ", wins, single]
        if "traffic_bytes" in row:
            over = f"{row['traffic_over_least']:.2f}x ({row['farthest_over_least']:.2f}x)"
            saved = 100 * (1 - row["fused_bytes"] / row["unfused_bytes"])
            cells += [f"{row['traffic_bytes'] / 1e6:.3g} MB", over, f"{saved:.0f} %"]
        else:
            cells += ["", "", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def rounded(value: Any) -> Any:
    """The same with six digits, so that results differ between machines only where they differ."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def figure(results: Sequence[dict[str, Any]]) -> None:
    """Traffic over its lower bound by layer, a line for each accelerator and a panel for each network."""
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(10, 8), layout="constrained")
    for axes, name in zip(canvas.subplots(len(NETWORKS), 2), NETWORKS, strict=True):
        rows = [row for row in results if row["network"] == name]
        for row in rows:
            depth = range(1, len(row["layers"]) + 1)
            energies = [1e6 * layer["joules"][layer["best"]] for layer in row["layers"]]
            (line,) = axes[0].plot(depth, energies, marker=".", ms=4, lw=1, label=row["accelerator"])
            if "traffic_bytes" in row:
                over = [layer["traffic_bytes"] / layer["least_bytes"] for layer in row["layers"]]
                axes[1].plot(depth, over, marker=".", ms=4, lw=1, color=line.get_color())
        axes[0].set(yscale="log", ylabel=f"{name}\nenergy (µJ)")
        axes[1].set(ylabel="off-chip traffic over least")
        for side in axes:
            side.grid(alpha=0.3)
            side.spines[["top", "right"]].set_visible(False)
    canvas.axes[0].legend(fontsize=8, frameon=False)
    for axes in canvas.axes[-2:]:
        axes.set_xlabel("layer, in order of execution")
    canvas.savefig(RESULTS / f"{NAME}.png", dpi=120)


def main() -> None:
    """Compute everything and write results."""
    models = [emomc.load_accelerator(name) for name in emomc.accelerators() if name != "emomc-fpga"]
    results = []
    for name, make in NETWORKS.items():
        network = emomc.trace(make().eval(), torch.zeros(1, 3, 32, 32))
        for model in models:
            results.append(network_row(name, network, model))
            print(name, model.name, flush=True)
    found = {"bits": BITS, "table": table(results).splitlines(), "networks": rounded(results)}
    path = write_results(NAME, found)
    figure(results)
    print(table(results))
    print(path)


if __name__ == "__main__":
    main()
