"""One search, kept in a folder: options, store, worker processes, and what it leaves."""

from emomc.run.options import Options, read_options
from emomc.run.outcome import FrontPoint, read_rows, read_summary
from emomc.run.search import Outcome, run_search
from emomc.run.session import Progress, Session
from emomc.run.store import salvage

__all__ = [
    "FrontPoint",
    "Options",
    "Outcome",
    "Progress",
    "Session",
    "read_options",
    "read_rows",
    "read_summary",
    "run_search",
    "salvage",
]
