"""`emomc cost`."""

from __future__ import annotations

import click


@click.command(short_help="Energy by layer and dataflow.")
@click.argument("task")
def cost(task: str) -> None:
    """Energy by layer and dataflow."""
