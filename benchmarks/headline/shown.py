"""Levels as a table and as a figure, beside what was published."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emomc.benchmarks.headline.costs import SIZES, TARGETS


def label(point: Mapping[str, Any]) -> str:
    """Such as ``one-shot, level 0.7``."""
    minutes = f" {point['minutes']:.0f} min" if "minutes" in point else ""
    kind = "trained on" if point["kind"] == "further" else point["kind"]
    return f"{kind}{minutes}, level {point['level']:g}"


def _loss(point: Mapping[str, Any], split: str) -> str:
    if split not in point:
        return ""
    return f"{100 * point[split]['loss']:.2f} +- {100 * point[split]['standard_error']:.2f}"


def table(points: Sequence[Mapping[str, Any]], paper: Mapping[str, float]) -> str:
    """Markdown: every ratio of the paper, its target, and ours."""
    rows = ["| | paper | target | " + " | ".join(map(label, points)) + " |", "|---" * (3 + len(points)) + "|"]
    for split in ("validation", "test"):
        limit = "0.3" if split == "test" else ""
        losses = " | ".join(_loss(point, split) for point in points)
        rows.append(f"| loss on {split} images, points | {limit} | {limit} | {losses} |")
    for name in (*TARGETS, "emomc-normal", "emomc-csr", "csr with fillers", "emomc-coo", "file"):
        published = f"{paper[name]:g}x" if name in paper else ""
        target = {**TARGETS, **SIZES}.get(name)
        ours = [f"{point['ratios'][name]:.1f}x" for point in points]
        rows.append(f"| {name} | {published} | {'' if target is None else f'{target:g}x'} | {' | '.join(ours)} |")
    return "\n".join(rows)


def figure(points: Sequence[Mapping[str, Any]], paper: Mapping[str, float], path: Path) -> None:
    """Ratios of every level beside the paper's, and the measured loss."""
    from matplotlib.figure import Figure

    names = [*TARGETS, "emomc-normal", "csr with fillers", "emomc-coo", "file"]
    canvas = Figure(figsize=(10, 4), layout="constrained")
    axes = canvas.subplots()
    width = 0.8 / (len(points) + bool(paper))
    series = []
    if paper:
        published = [paper.get("emomc-csr" if name == "csr with fillers" else name, math.nan) for name in names]
        series.append(("EMOMC as published, loss 0.3 points (csr without fillers)", published))
    for point in points:
        where = "test" if "test" in point else "validation"
        series.append(
            (f"{label(point)}, loss {_loss(point, where)} ({where})", [point["ratios"][name] for name in names])
        )
    for number, (name, values) in enumerate(series):
        axes.bar(
            np.arange(len(names)) + (number - (len(points) + bool(paper) - 1) / 2) * width, values, width, label=name
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
