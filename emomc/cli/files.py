"""Commands about the files of points: export, verify."""

from __future__ import annotations

import click


@click.command(short_help="Copy a point's file.")
def export() -> None:
    """Copy a point's file."""


@click.command(short_help="Decode points and measure them again.")
def verify() -> None:
    """Decode and measure."""
