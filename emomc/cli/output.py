"""Where results are printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from rich.table import Table

    from emomc.report import RunData

_WIDTH_OF_FILES = 140  # a pipe has no width: keep rows whole
_WIDE = 1000


def console() -> Console:
    """Standard output; text is printed as it is, without guessing at markup or colours."""
    out = Console(highlight=False, markup=False, soft_wrap=False)
    return out if out.is_terminal else Console(highlight=False, markup=False, width=_WIDTH_OF_FILES)


def print_run(run: RunData) -> None:
    """The front as a table, without files on a terminal too narrow for them, and facts of the search.

    A row is never cut: a terminal that is narrower still folds it.
    """
    from emomc.report import front_table, search_facts

    out, table = console(), front_table(run)
    if out.is_terminal and _width(out, table) > out.width:
        table = front_table(run, files=False)
    narrow, out.width = out.width, max(out.width, _width(out, table))
    out.print(table)
    out.width = narrow
    for fact in search_facts(run):
        out.print(fact)


def _width(out: Console, table: Table) -> int:
    return out.measure(table, options=out.options.update(width=_WIDE)).maximum
