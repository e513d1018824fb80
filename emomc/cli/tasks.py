"""`emomc tasks`."""

from __future__ import annotations

import inspect

import click

_OPTIONS = ("data", "checkpoint", "download")  # of commands, handed on to the task


@click.command(short_help="List what can be compressed.")
def tasks() -> None:
    """List the installed tasks, what they are, and the options that they take.

    A task is a trained network with its data. One of your own is a function that returns an emomc Task; name it as
    module:function or path/to/file.py:function wherever a task is asked for. A package that installs an entry point of
    the group emomc.tasks is listed here.
    """
    from rich.table import Table

    from emomc.cli.output import console

    table = Table("task", "what it is", "options")
    for name, description, options in _described():
        table.add_row(name, description, options)
    console().print(table)


def _described() -> list[tuple[str, str, str]]:
    """Name, first line of the description, and options of every installed task, without loading its data."""
    from importlib.metadata import entry_points

    rows = []
    for entry in sorted(entry_points(group="emomc.tasks")):
        try:
            function = entry.load()
        except (ImportError, AttributeError) as error:
            rows.append((entry.name, f"cannot be loaded: {error}", ""))
            continue
        description = (inspect.getdoc(function) or "").partition("\n")[0]
        options = " ".join(
            f"--{name.replace('_', '-')}" for name in inspect.signature(function).parameters if name in _OPTIONS
        )
        rows.append((entry.name, description, options))
    return rows
