"""The `emomc` command: one module for each group of commands; heavy imports happen when a command runs."""

from __future__ import annotations

import click

from emomc.cli.compress import compress
from emomc.cli.cost import cost
from emomc.cli.faults import ClearErrors
from emomc.cli.files import export, verify
from emomc.cli.finetune import finetune
from emomc.cli.inspect import inspect
from emomc.cli.runs import pick, plot, salvage, show
from emomc.cli.search import search
from emomc.cli.tasks import tasks
from emomc.cli.train import train

__all__ = ["main"]


@click.group(cls=ClearErrors, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="emomc")
def main() -> None:
    """Compress a trained network and see what it costs: error against energy and size, measured.

    A search prunes, quantizes and shares the weights of every layer in its own way, measures a few hundred of the
    resulting networks and leaves those that no other beats, each as a file that decodes and runs.

    \b
    Start here:
      emomc tasks                          what can be compressed
      emomc search digits                  search; everything is kept in runs/digits
      emomc show runs/digits               the networks found
      emomc pick runs/digits --max-loss 1% the best one that loses at most a point
      emomc export runs/digits p03 --out small.emomc
      emomc compress digits --config w4 --out w4.emomc   without a search

    `emomc COMMAND --help` explains each command with examples.
    """  # noqa: D301 - click's mark


for _command in (tasks, search, compress, show, plot, pick, export, verify, inspect, cost, salvage, train, finetune):
    main.add_command(_command)
