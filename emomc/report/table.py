"""A run's front as a table in the terminal."""

from __future__ import annotations

import math

from rich.table import Table

from emomc.report.choosing import knee
from emomc.report.rundata import Point, RunData
from emomc.units import percent, points, si


def heading(run: RunData) -> str:
    """What was compressed, for what."""
    return f"{run.summary['task']}, accelerator {run.summary['accelerator']}, measured on the test split"


def front_table(run: RunData, files: bool = True) -> Table:
    """One row a point, the dense network above them; ratios are against the dense network in 32-bit floats.

    Args:
        run: a finished run.
        files: with a column of files.
    """
    table = Table(title=heading(run))
    table.add_column("point", no_wrap=True)
    table.add_column("error", justify="right", no_wrap=True)
    table.add_column("loss in points", justify="right", no_wrap=True)
    for column in run.cost_columns:
        table.add_column(run.name_and_unit(column)[0].replace("_", " "), justify="right", no_wrap=True)
        if run.reference(column):
            table.add_column("less", justify="right", no_wrap=True)
    if files:
        table.add_column("file", no_wrap=True)
    table.add_row("dense", percent(run.dense_error), "", *_dense_costs(run), style="dim")
    table.add_section()
    marked = knee(run).name if run.points else ""
    for point in run.points:
        is_knee = point.name == marked
        name = f"{point.name} knee" if is_knee else point.name
        cells = [*_cells(run, point), *([point.file] if files else [])]
        table.add_row(name, *cells, style="bold" if is_knee else None)
    return table


def _dense_costs(run: RunData) -> list[str]:
    cells = []
    for column in run.cost_columns:
        value = run.reference(column)
        cells += [si(value, run.name_and_unit(column)[1]), "1 x"] if value else [""]
    return cells


def _cells(run: RunData, point: Point) -> list[str]:
    cells = [percent(point.error), points(point.loss, point.standard_error)]
    for column in run.cost_columns:
        value, dense = point.costs[column], run.reference(column)
        cells.append(si(value, run.name_and_unit(column)[1]))
        if dense:
            cells.append(f"{dense / value:.1f} x")
    return cells


def search_facts(run: RunData) -> list[str]:
    """Sentences about the search: what was measured, and how well errors were predicted."""
    summary = run.summary
    found = f"{len(run.points)} networks on the front of {summary['evaluations']} measured."
    samples = summary["dense_test"]["samples"]
    meaning = f"Errors: the decoded file on {samples} test samples, ± the standard error of the loss."
    facts = [found, meaning, "Times less: against the dense network in 32-bit floats."]
    if run.points:
        estimated = any(point.estimated_error != point.selection_error for point in run.points)
        by = "errors on the selection split" + (", freed of chance by what was predicted" if estimated else "")
        facts.append(f"Knee: {knee(run).name}, the best compromise, by {by}.")
    tau = float(summary["rank_correlation"])
    if math.isfinite(tau):
        facts.append(f"Errors predicted before they were measured rank the networks with Kendall's tau {tau:.2f}.")
    if "predictor" in summary:
        facts.append(f"Of the predictors that compete, {summary['predictor']!r} was in use in the end.")
    return facts


def point_lines(run: RunData, point: Point) -> list[str]:
    """One point, a fact a line."""
    selection_loss = 100 * (point.selection_error - run.dense_selection_error)
    test_loss = points(point.loss, point.standard_error)
    lines = [
        f"point  {point.name}",
        f"file   {run.folder / point.file}",
        f"error  {percent(point.error)} on the test split, dense {percent(run.dense_error)}",
        f"loss   {test_loss} points on the test split, {selection_loss:+.2f} on the selection split",
    ]
    for column in run.cost_columns:
        name, unit = run.name_and_unit(column)
        dense = run.reference(column)
        ratio = f", {dense / point.costs[column]:.1f} x less than the dense network in 32-bit floats" if dense else ""
        lines.append(f"{name:<6} {si(point.costs[column], unit)}{ratio}")
    return lines
