"""Where results are printed."""

from __future__ import annotations

from rich.console import Console

_WIDTH_OF_FILES = 140  # a pipe has no width: keep rows whole


def console() -> Console:
    """Standard output; text is printed as it is, without guessing at markup or colours."""
    out = Console(highlight=False, markup=False, soft_wrap=False)
    return out if out.is_terminal else Console(highlight=False, markup=False, width=_WIDTH_OF_FILES)
