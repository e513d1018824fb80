"""A run's front as a table in the terminal."""

from __future__ import annotations

import math

from rich.table import Table

from emomc.report.choosing import knee
from emomc.report.rundata import Point, RunData, column_parts
from emomc.report.units import percent, points, si


def front_table(run: RunData) -> Table:
    """One row a point, the dense network above them; ratios are against the dense network in 32-bit floats."""
    table = Table(title=f"{run.summary['task']} on {run.summary['accelerator']}, measured on the test split")
    table.add_column("point", no_wrap=True)
    table.add_column("error", justify="right", no_wrap=True)
    table.add_column("loss in points", justify="right", no_wrap=True)
    for column in run.cost_columns:
        table.add_column(column_parts(column)[0].replace("_", " "), justify="right", no_wrap=True)
        if run.reference(column):
            table.add_column("less", justify="right", no_wrap=True)
    table.add_column("file", overflow="fold")
    table.add_row("dense", percent(run.dense_error), "", *_dense_costs(run), "32-bit floats", style="dim")
    table.add_section()
    marked = knee(run).name if run.points else ""
    for point in run.points:
        table.add_row(*_cells(run, point), style="bold" if point.name == marked else None)
    return table


def _dense_costs(run: RunData) -> list[str]:
    cells = []
    for column in run.cost_columns:
        value = run.reference(column)
        cells += [si(value, column_parts(column)[1]), "1 x"] if value else [""]
    return cells


def _cells(run: RunData, point: Point) -> list[str]:
    cells = [point.name, percent(point.error), points(point.loss, point.standard_error)]
    for column in run.cost_columns:
        value, dense = point.costs[column], run.reference(column)
        cells.append(si(value, column_parts(column)[1]))
        if dense:
            cells.append(f"{dense / value:.1f} x")
    return [*cells, point.file]


def search_facts(run: RunData) -> list[str]:
    """Sentences about the search: what was measured, and how well errors were predicted."""
    summary = run.summary
    samples = summary["dense_test"]["samples"]
    facts = [
        f"{len(run.points)} networks on the front of {summary['evaluations']} measured. Errors and losses: the decoded "
        f"file on {samples} test samples; ± is the standard error of the loss, paired with the dense network."
    ]
    if run.points:
        facts.append(f"In bold: {knee(run).name}, the best compromise by errors on the selection split.")
    tau = float(summary["rank_correlation"])
    if math.isfinite(tau):
        facts.append(f"Errors predicted before they were measured rank the networks with Kendall's tau {tau:.2f}.")
    return facts


def point_lines(run: RunData, point: Point) -> list[str]:
    """One point, a fact a line."""
    lines = [
        f"point  {point.name}",
        f"file   {run.folder / point.file}",
        f"error  {percent(point.error)} on the test split, dense {percent(run.dense_error)}",
        f"loss   {points(point.loss, point.standard_error)} points on the test split, "
        f"{100 * (point.selection_error - run.dense_selection_error):+.2f} on the selection split",
    ]
    for column in run.cost_columns:
        name, unit = column_parts(column)
        dense = run.reference(column)
        ratio = f", {dense / point.costs[column]:.1f} x less than the dense network in 32-bit floats" if dense else ""
        lines.append(f"{name:<6} {si(point.costs[column], unit)}{ratio}")
    return lines
