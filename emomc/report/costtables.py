"""Tables of what a network costs: one accelerator in detail, or several side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from emomc.report.costs import LayerCost, NetworkCost
from emomc.units import si

if TYPE_CHECKING:
    from rich.table import Table

_UNITS = {"traffic": "B", "latency": "s", "peak_memory": "B"}
_HEADS = {"traffic": "off chip", "latency": "time", "peak_memory": "memory"}


def cost_tables(cost: NetworkCost, what: str) -> list[Table]:
    """Energy by layer and dataflow; by layer and level; by level and operand; and the model's other metrics."""
    tables = [_by_dataflow(cost, what), _by_level(cost), _by_operand(cost)]
    return [*tables, _other_metrics(cost)] if len(cost.metrics) > 1 else tables


def comparison_tables(costs: Sequence[NetworkCost], what: str) -> list[Table]:
    """Energy of each layer, and levels and metrics of the whole network, on several accelerators side by side."""
    layers = _table(what, "layer")
    for cost in costs:
        layers.add_column(cost.accelerator, justify="right", no_wrap=True)
        layers.add_column("on", no_wrap=True)
    for rows in zip(*(cost.layers for cost in costs), strict=True):
        cells = (cell for row in rows for cell in (si(row.metrics["energy"], "J"), row.dataflow))
        layers.add_row(rows[0].layer.name, *cells)
    layers.add_section()
    sums = (cell for cost in costs for cell in (si(cost.metrics["energy"], "J"), ""))
    layers.add_row("all", *sums, style="bold")
    parts = _table("The whole network", "", *(cost.accelerator for cost in costs))
    for level in dict.fromkeys(name for cost in costs for name in cost.levels):
        parts.add_row(level, *(_share(cost, level) for cost in costs))
    parts.add_section()
    parts.add_row("energy", *(si(cost.metrics["energy"], "J") for cost in costs), style="bold")
    for name, unit in _UNITS.items():
        if any(name in cost.metrics for cost in costs):
            parts.add_row(_HEADS[name], *(si(c.metrics[name], unit) if name in c.metrics else "-" for c in costs))
    if any(cost.utilization is not None for cost in costs):
        parts.add_row("PEs busy", *(_busy(cost.utilization) or "-" for cost in costs))
    return [layers, parts]


def _busy(utilization: float | None) -> str:
    return "" if utilization is None else f"{100 * utilization:.0f} %"


def _share(cost: NetworkCost, level: str) -> str:
    if level not in cost.levels:
        return "-"
    return f"{si(cost.levels[level], 'J')} {100 * cost.levels[level] / cost.metrics['energy']:3.0f} %"


def _table(title: str, first: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(title=title)
    table.add_column(first, no_wrap=True)
    for name in columns:
        table.add_column(name, justify="left" if name == "runs on" else "right", no_wrap=True)
    return table


def _by_dataflow(cost: NetworkCost, what: str) -> Table:
    names = tuple(cost.layers[0].energies)
    table = _table(f"{what} on {cost.accelerator}", "layer", "MACs", "weights", *names, "runs on", "energy")

    def counts(rows: Sequence[LayerCost]) -> list[str]:
        totals = (sum(row.layer.macs for row in rows), sum(row.layer.weight_count for row in rows))
        return [si(value, "") for value in totals]

    def energies(rows: Sequence[LayerCost]) -> list[str]:
        return [si(sum(row.energies[name] for row in rows), "J") for name in names]

    for row in cost.layers:
        table.add_row(row.layer.name, *counts([row]), *energies([row]), row.dataflow, si(row.metrics["energy"], "J"))
    table.add_section()
    all_energy = si(cost.metrics["energy"], "J")
    table.add_row("all", *counts(cost.layers), *energies(cost.layers), "", all_energy, style="bold")
    return table


def _by_level(cost: NetworkCost) -> Table:
    table = _table("Energy by level", "layer", *cost.levels, "sum")
    for row in cost.layers:
        cells = (si(row.levels[level], "J") for level in cost.levels)
        table.add_row(row.layer.name, *cells, si(row.metrics["energy"], "J"))
    table.add_section()
    cells = (si(energy, "J") for energy in cost.levels.values())
    table.add_row("all", *cells, si(cost.metrics["energy"], "J"), style="bold")
    return table


def _by_operand(cost: NetworkCost) -> Table:
    """Rows are levels; an item without a second word has its level's whole energy."""
    operands = list(dict.fromkeys(item.partition(" ")[2] for item in cost.items if " " in item))
    table = _table("Of all layers, by operand", "level", *operands, "all of it")
    for level, energy in cost.levels.items():
        parts = (cost.items.get(f"{level} {operand}") for operand in operands)
        table.add_row(level, *("" if part is None else si(part, "J") for part in parts), si(energy, "J"))
    return table


def _other_metrics(cost: NetworkCost) -> Table:
    """Traffic, latency, peak memory, and how full the array is."""
    names = [name for name in _UNITS if name in cost.metrics]
    table = _table("Beyond energy", "layer", *(_HEADS[name] for name in names), "PEs busy")

    def cells(metrics: Callable[[str], float]) -> list[str]:
        return [si(metrics(name), _UNITS[name]) for name in names]

    for row in cost.layers:
        table.add_row(row.layer.name, *cells(row.metrics.__getitem__), _busy(row.utilization))
    table.add_section()
    table.add_row("all", *cells(cost.metrics.__getitem__), _busy(cost.utilization), style="bold")
    return table
