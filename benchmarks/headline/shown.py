"""Levels as a table and as a figure, beside what was published."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emomc.benchmarks.headline.costs import SIZES, TARGETS


def seeds_together(points: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Points in their order, those in one list that differ in the seed of training alone."""
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for point in points:
        found.setdefault((point["kind"], point["level"], point.get("of")), []).append(point)
    return list(found.values())


def label(seeds: Sequence[Mapping[str, Any]]) -> str:
    """Such as ``one-shot, level 0.7``."""
    point = seeds[0]
    minutes = f" {point['minutes']:.0f} min" if "minutes" in point else ""
    kind = "trained on" if point["kind"] == "further" else point["kind"]
    return f"{kind}{minutes}, level {point['level']:g}" + (f", {len(seeds)} seeds" if len(seeds) > 1 else "")


def _loss(seeds: Sequence[Mapping[str, Any]], split: str) -> str:
    """Mean over the seeds that saw the split (least to largest) +- its standard error, as all see the same images."""
    losses = [100 * point[split]["loss"] for point in seeds if split in point]
    if not losses:
        return ""
    spread = f" ({min(losses):.2f} to {max(losses):.2f})" if len(losses) > 1 else ""
    noise = np.mean([100 * point[split]["standard_error"] for point in seeds if split in point])
    return f"{np.mean(losses):.2f}{spread} +- {noise:.2f}"


def _ratio(seeds: Sequence[Mapping[str, Any]], name: str) -> float:
    return float(np.mean([point["ratios"][name] for point in seeds]))


def table(points: Sequence[Mapping[str, Any]], paper: Mapping[str, float]) -> str:
    """Markdown: every ratio of the paper, its target, and ours."""
    columns = seeds_together(points)
    rows = ["| | paper | target | " + " | ".join(map(label, columns)) + " |", "|---" * (3 + len(columns)) + "|"]
    for split in ("validation", "test"):
        limit = "0.3" if split == "test" else ""
        losses = " | ".join(_loss(seeds, split) for seeds in columns)
        rows.append(f"| loss on {split} images, points | {limit} | {limit} | {losses} |")
    for name in (*TARGETS, "emomc-normal", "emomc-csr", "csr with fillers", "emomc-coo", "file"):
        published = f"{paper[name]:g}x" if name in paper else ""
        target = {**TARGETS, **SIZES}.get(name)
        ours = [f"{_ratio(seeds, name):.1f}x" for seeds in columns]
        rows.append(f"| {name} | {published} | {'' if target is None else f'{target:g}x'} | {' | '.join(ours)} |")
    return "\n".join(rows)


def figure(points: Sequence[Mapping[str, Any]], paper: Mapping[str, float], path: Path) -> None:
    """Ratios of every level beside the paper's, and the measured loss."""
    from matplotlib.figure import Figure

    names = [*TARGETS, "emomc-normal", "csr with fillers", "emomc-coo", "file"]
    canvas = Figure(figsize=(10, 4), layout="constrained")
    axes = canvas.subplots()
    columns = seeds_together(points)
    width = 0.8 / (len(columns) + bool(paper))
    series = []
    if paper:
        published = [paper.get("emomc-csr" if name == "csr with fillers" else name, math.nan) for name in names]
        series.append(("EMOMC as published, loss 0.3 points (csr without fillers)", published))
    for seeds in columns:
        where = "test" if "test" in seeds[0] else "validation"
        title = f"{label(seeds)}, loss {_loss(seeds, where)} ({where})"
        series.append((title, [_ratio(seeds, name) for name in names]))
    for number, (name, values) in enumerate(series):
        axes.bar(
            np.arange(len(names)) + (number - (len(columns) + bool(paper) - 1) / 2) * width, values, width, label=name
        )
    targets = [{**TARGETS, **SIZES}[name] for name in names]
    axes.hlines(targets, np.arange(len(names)) - 0.45, np.arange(len(names)) + 0.45, "k", lw=1, label="target")
    axes.set_xticks(np.arange(len(names)), [name.replace(" with ", "\nwith ") for name in names])
    axes.set(yscale="log", ylabel="times less than 32-bit floats")
    axes.grid(axis="y", which="both", alpha=0.3)
    ticks = (2, 5, 10, 20, 30, 50)
    axes.set_yticks(ticks, [f"{tick}x" for tick in ticks])
    axes.yaxis.set_minor_formatter("")
    canvas.legend(loc="outside lower center", ncols=2, fontsize=8)
    canvas.savefig(path, dpi=120)
