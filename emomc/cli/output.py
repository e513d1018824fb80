"""Where results are printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from emomc.report import RunData

_WIDTH_OF_FILES = 140  # a pipe has no width: keep rows whole
_WIDE = 1000


def console() -> Console:
    """Standard output; text is printed as it is, without guessing at markup or colours."""
    out = Console(highlight=False, markup=False, soft_wrap=False)
    return out if out.is_terminal else Console(highlight=False, markup=False, width=_WIDTH_OF_FILES)


def print_run(run: RunData) -> None:
    """The front as a table, without the files where the terminal is too narrow for them, and facts of the search."""
    from emomc.report import front_table, search_facts

    out, table = console(), front_table(run)
    needed = out.measure(table, options=out.options.update(width=_WIDE)).maximum
    out.print(table if needed <= out.width else front_table(run, files=False))
    for fact in search_facts(run):
        out.print(fact)
