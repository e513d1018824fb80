"""Three networks on every accelerator, beside lower bounds and what others report.

    python -m benchmarks.accelerators

Where energy and traffic go, which dataflow wins, how far each layer is from its lower bound, what fusion saves; and the
figures of Eyeriss, Timeloop and ZigZag (``pip install emomc[zigzag]``) on the same layers. Networks are untrained:
weights play no part, and zeros of feature maps are not counted. Weights and, where the model allows it, maps have 8
bits. Results go to benchmarks/results/accelerators.json and two figures, tables to docs/accelerators.md.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import emomc
from emomc.benchmarks import referees
from emomc.benchmarks.environment import RESULTS, write_results

NAME = "accelerators"
PAGE = Path(__file__).resolve().parents[1] / "docs" / f"{NAME}.md"
BITS = 8
NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "VGG-16": emomc.vgg16,
    "ResNet-56": lambda: emomc.resnet(56),
    "MobileNetV1": emomc.mobilenet_v1,
}
SEARCHED = ("VGG-16", "edge-systolic")  # where ZigZag looks for mappings itself, which takes it a while
SEARCHED_LOOPS = 5

Row = dict[str, Any]


def layer_rows(model: emomc.CostModel, layers: Sequence[emomc.Layer]) -> list[Row]:
    """Of each layer: energy on each dataflow, the best one, and on that one traffic beside its lower bound."""
    bits = BITS if isinstance(model, emomc.PhysicalModel) else 16  # the published model has 16-bit maps only
    tables = model.tables(layers, emomc.CostAxes([0.0], [BITS], [0], model.dataflows, activation_bits=bits))
    rows = []
    for at, layer in enumerate(layers):
        energies = tables["energy"][at].ravel()
        best = int(np.argmin(energies))
        row: Row = {
            "layer": layer.name,
            "macs": layer.macs,
            "joules": dict(zip(model.dataflows, energies.tolist(), strict=True)),
            "best": model.dataflows[best],
        }
        if isinstance(model, emomc.PhysicalModel):
            row["traffic_bytes"] = float(tables["traffic"][at].ravel()[best])
            row["least_bytes"] = model.least_traffic(layer, BITS, activation_bits=BITS)
            row["pes_busy"] = model.utilization(layer, model.dataflows[best])
        rows.append(row)
    return rows


def add_zigzag(name: str, model: emomc.PhysicalModel, layers: Sequence[emomc.Layer], rows: Sequence[Row]) -> None:
    """Into each layer's row: ZigZag's figures on its best dataflow under our mapping, and where it searches itself."""
    common = referees.common_ground(model, BITS)
    for layer, row in zip(layers, rows, strict=True):
        row["zigzag"] = referees.beside_zigzag(common, layer, row["best"], BITS)
        if (name, model.name) == SEARCHED:
            found = referees.beside_zigzag(common, layer, row["best"], BITS, SEARCHED_LOOPS)
            row["zigzag"]["searched_energy_ratio"] = found["energy_ratio"]


def network_row(name: str, network: emomc.Network, model: emomc.CostModel) -> Row:
    """A network on an accelerator: sums, wins of dataflows, fusion, and the layers."""
    rows = layer_rows(model, network.layers)
    best = [row["joules"][row["best"]] for row in rows]
    single = {flow: sum(row["joules"][flow] for row in rows) for flow in model.dataflows}
    result: Row = {
        "network": name,
        "accelerator": model.name,
        "joules": sum(best),
        "wins": dict(Counter(row["best"] for row in rows).most_common()),
        "best_single_dataflow": min(single, key=lambda flow: single[flow]),
        "single_over_mixed": min(single.values()) / sum(best),
    }
    if isinstance(model, emomc.PhysicalModel):
        traffic = [row["traffic_bytes"] for row in rows]
        over = [row["traffic_bytes"] / row["least_bytes"] for row in rows]
        plan = emomc.fuse(network, model, [BITS] * len(rows), activation_bits=BITS)
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
        add_zigzag(name, model, network.layers, rows)
        ratios = [row["zigzag"]["energy_ratio"] for row in rows]
        ours, theirs = (sum(row["zigzag"][key] for row in rows) for key in ("joules", "zigzag_joules"))
        result["zigzag_over_ours"] = {"all": theirs / ours, "least": min(ratios), "most": max(ratios)}
    return result | {"layers": rows}


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def network_table(results: Sequence[Row]) -> str:
    """One row for each network and accelerator."""
    heads = [
        "network", "accelerator", "energy", "dataflows that win (layers)", "one dataflow only", "off chip",
        "over least (worst layer)", "fusion saves", "ZigZag's energy over ours (layers)",
    ]  # fmt: skip
    rows = []
    for row in results:
        wins = ", ".join(f"{flow} {count}" for flow, count in row["wins"].items())
        single = f"{row['best_single_dataflow']} +{100 * (row['single_over_mixed'] - 1):.1f} %"
        cells = [row["network"], f"`{row['accelerator']}`", f"{1e3 * row['joules']:.3g} mJ", wins, single]
        if "traffic_bytes" in row:
            over = f"{row['traffic_over_least']:.2f}x ({row['farthest_over_least']:.2f}x)"
            saved = 100 * (1 - row["fused_bytes"] / row["unfused_bytes"])
            zigzag = row.get("zigzag_over_ours")
            ratios = f"{zigzag['all']:.2f} ({zigzag['least']:.2f} to {zigzag['most']:.2f})" if zigzag else ""
            cells += [f"{row['traffic_bytes'] / 1e6:.3g} MB", over, f"{saved:.0f} %", ratios]
        rows.append(cells + [""] * (len(heads) - len(cells)))
    return markdown(heads, rows)


def layer_table(results: Sequence[Row]) -> str:
    """Layers on every accelerator: energy, dataflow, traffic over its least. Alike ones share a row."""
    physical = [row for row in results if "traffic_bytes" in row]
    names = [f"`{row['accelerator']}`" for row in results]
    heads = ("layer", *names, *(f"off chip, `{row['accelerator']}`" for row in physical))
    cells = []
    for at in range(len(results[0]["layers"])):
        energies = [row["layers"][at] for row in results]
        shown = [f"{1e6 * layer['joules'][layer['best']]:.3g} µJ {layer['best']}" for layer in energies]
        moved = [row["layers"][at] for row in physical]
        shown += [f"{m['traffic_bytes'] / 1e3:.4g} kB {m['traffic_bytes'] / m['least_bytes']:.2f}x" for m in moved]
        cells.append((energies[0]["layer"], shown))
    rows = []
    for shown, alike in groupby(cells, key=lambda cell: cell[1]):
        layers = [name for name, _ in alike]
        name = layers[0] if len(layers) == 1 else f"{layers[0]} and {len(layers) - 1} alike"
        rows.append([name, *shown])
    return markdown(heads, rows)


def golden_table(rows: Sequence[Row]) -> str:
    """Our counts, and whether they are the golden ones."""
    heads = ("layer (KxC, map, taps)", "dataflow", *(name.replace("_", " ") for name in referees.COUNTS), "golden")
    return markdown(
        heads,
        [
            [row["layer"], row["dataflow"], *(f"{n:,}" for n in row["ours"]),
             "equal" if row["ours"] == row["golden"] else ", ".join(f"{n:,}" for n in row["golden"])]
            for row in rows
        ],
    )  # fmt: skip


def eyeriss_tables(found: dict[str, list[Row]]) -> list[str]:
    """AlexNet and VGG-16 as measured on the chip, and AlexNet as simulated before it."""

    def pair(row: Row, name: str, digits: int) -> str:
        return f"{row[name]:.{digits}f} / {row['published_' + name]:.{digits}f}"

    chip = markdown(
        ("layer", "off chip, MB", "dense least, MB", "buffer, MB", "pJ per MAC on chip"),
        [
            [row["layer"], pair(row, "dram_mb", 1), f"{row['dense_least_mb']:.1f}", pair(row, "buffer_mb", 0),
             pair(row, "picojoules_per_mac", 1)]
            for row in found["alexnet"]
        ],
    )  # fmt: skip
    large = found["vgg16"]
    sums = {name: sum(row[name] for row in large) for name in ("dram_mb", "published_dram_mb", "dense_least_mb")}
    vgg = markdown(
        ("layer", "off chip, MB", "dense least, MB"),
        [
            [row["layer"], pair(row, "dram_mb", 1), f"{row['dense_least_mb']:.1f}"]
            for row in [*large, {"layer": "all"} | sums]
        ],
    )
    simulated = markdown(
        ("layer", "off-chip energy, 1e9 MACs"), [[row["layer"], pair(row, "dram", 2)] for row in found["figure_10"]]
    )
    return [chip, vgg, simulated]


def zigzag_table(results: Sequence[Row]) -> str:
    """Layers where ZigZag searched for mappings itself."""
    (row,) = [each for each in results if (each["network"], each["accelerator"]) == SEARCHED]
    ours = [(layer["layer"], layer["zigzag"]) for layer in row["layers"]]
    heads = [
        "layer", "dataflow", "weights read (ZigZag)", "inputs read (ZigZag)", "energy ratio, our mapping",
        "energy ratio, its own",
    ]  # fmt: skip
    return markdown(
        heads,
        [
            [name, z["dataflow"], f"{z['weight_reads']:,} ({z['zigzag_weight_reads']:,.0f})",
             f"{z['input_reads']:,} ({z['zigzag_input_reads']:,.0f})", f"{z['energy_ratio']:.2f}",
             f"{z['searched_energy_ratio']:.2f}"]
            for name, z in ours
        ],
    )  # fmt: skip


def rounded(value: Any) -> Any:
    """The same with six digits, so that results differ between machines only where they differ; counts stay whole."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) and not value.is_integer() else value


def _bare(axes: Any) -> None:
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def layers_figure(results: Sequence[Row]) -> None:
    """Energy, traffic and traffic over its lower bound by layer: a line for each accelerator."""
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(13, 8.5), layout="constrained")
    for axes, name in zip(canvas.subplots(len(NETWORKS), 3), NETWORKS, strict=True):
        for row in (each for each in results if each["network"] == name):
            depth = range(1, len(row["layers"]) + 1)
            energies = [1e6 * layer["joules"][layer["best"]] for layer in row["layers"]]
            (line,) = axes[0].plot(depth, energies, marker=".", ms=4, lw=1, label=row["accelerator"])
            if "traffic_bytes" in row:
                traffic, least = (np.array([x[key] for x in row["layers"]]) for key in ("traffic_bytes", "least_bytes"))
                axes[1].plot(depth, traffic / 1e3, marker=".", ms=4, lw=1, color=line.get_color())
                axes[2].plot(depth, traffic / least, marker=".", ms=4, lw=1, color=line.get_color())
        axes[0].set(yscale="log", ylabel=f"{name}\nenergy (µJ)")
        axes[1].set(yscale="log", ylabel="off chip (kB)")
        axes[2].set(ylabel="off chip over its least")
        for side in axes:
            _bare(side)
    canvas.axes[0].legend(fontsize=8, frameon=False)
    for axes in canvas.axes[-3:]:
        axes.set_xlabel("layer, in order of execution")
    canvas.savefig(RESULTS / f"{NAME}.png", dpi=110)


def referees_figure(results: Sequence[Row], published: dict[str, list[Row]]) -> None:
    """Ours beside the measured and simulated Eyeriss, and ZigZag's energy over ours by layer."""
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(13, 7), layout="constrained")
    panels = canvas.subplots(2, 3).ravel()
    shown = (
        ("alexnet", "dram_mb", "Eyeriss chip, AlexNet: off chip (MB)"),
        ("alexnet", "buffer_mb", "Eyeriss chip, AlexNet: buffer (MB)"),
        ("alexnet", "picojoules_per_mac", "Eyeriss chip, AlexNet: pJ per MAC"),
        ("vgg16", "dram_mb", "Eyeriss chip, VGG-16: off chip (MB)"),
        ("figure_10", "dram", "Eyeriss simulated, AlexNet: off-chip energy (1e9 MACs)"),
    )
    for axes, (table, name, title) in zip(panels[:5], shown, strict=True):
        rows = published[table]
        at = np.arange(len(rows))
        axes.bar(at - 0.2, [row[name] for row in rows], 0.4, label="emomc")
        axes.bar(at + 0.2, [row[f"published_{name}"] for row in rows], 0.4, label="published", color="0.6")
        if name == "dram_mb":
            least = [row["dense_least_mb"] for row in rows]
            axes.scatter(at, least, marker="_", s=120, color="k", label="each word once, 16 bits", zorder=3)
        axes.set_title(title, fontsize=9)
        axes.set_xticks(at, [row["layer"] for row in rows], fontsize=8)
        axes.legend(fontsize=8, frameon=False)
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    for row in (each for each in results if "zigzag_over_ours" in each and each["network"] == "VGG-16"):
        ratios = [layer["zigzag"]["energy_ratio"] for layer in row["layers"]]
        panels[5].plot(range(1, len(ratios) + 1), ratios, marker=".", lw=1, label=row["accelerator"])
    panels[5].axhline(1, color="0.6", lw=0.8)
    panels[5].set_title("VGG-16 layers: ZigZag's energy over ours, same mapping", fontsize=9)
    panels[5].set_xlabel("layer, in order of execution")
    panels[5].legend(fontsize=8, frameon=False)
    _bare(panels[5])
    canvas.savefig(RESULTS / f"{NAME}_referees.png", dpi=110)


def fill_page(tables: dict[str, str]) -> None:
    """Put tables into the page, between their marks."""
    text = PAGE.read_text(encoding="utf-8")
    for name, table in tables.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n{table}\n\n{end}{after}"
    PAGE.write_text(text, encoding="utf-8")


def main() -> None:
    """Compute everything, write results, draw, and fill the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    if find_spec("zigzag") is None:
        parser.error("ZigZag's figures stand beside ours in the results: pip install emomc[zigzag]")
    models = [emomc.load_accelerator(name) for name in emomc.accelerators() if name != "emomc-fpga"]
    results = []
    for name, make in NETWORKS.items():
        network = emomc.trace(make().eval(), torch.zeros(1, 3, 32, 32))
        for model in models:
            results.append(rounded(network_row(name, network, model)))
            print(name, model.name, flush=True)
    golden, published = referees.golden_counts(), rounded(referees.eyeriss_rows())
    found = {"bits": BITS, "golden_counts": golden, "eyeriss": published, "networks": results}
    path = write_results(NAME, found)
    import matplotlib.style

    with matplotlib.style.context("default", after_reset=True):  # ZigZag changes matplotlib's settings
        layers_figure(results)
        referees_figure(results, published)
    tables = {"networks": network_table(results), "golden counts": golden_table(golden)}
    tables |= dict(zip(("chip", "chip on VGG-16", "simulated"), eyeriss_tables(published), strict=True))
    tables |= {name: layer_table([row for row in results if row["network"] == name]) for name in NETWORKS}
    tables["ZigZag"] = zigzag_table(results)
    fill_page(tables)
    print(tables["networks"])
    print(path)


if __name__ == "__main__":
    main()
