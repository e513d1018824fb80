"""One search, kept in a folder: options, store, worker processes, and what it leaves.

Names are loaded when they are first used: reading a run needs no torch, and neither does a worker process before it
is given a network.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emomc.run.elastic import search_with_elastic_training
    from emomc.run.options import ElasticTraining, Options, Recovery, read_options
    from emomc.run.outcome import FrontPoint, read_rows, read_summary
    from emomc.run.recovery import search_with_recovery
    from emomc.run.search import Outcome, run_search
    from emomc.run.session import Progress, Session
    from emomc.run.store import salvage

_HOME_OF = {
    "ElasticTraining": "options",
    "FrontPoint": "outcome",
    "Options": "options",
    "Outcome": "search",
    "Progress": "session",
    "Recovery": "options",
    "Session": "session",
    "read_options": "options",
    "read_rows": "outcome",
    "read_summary": "outcome",
    "run_search": "search",
    "salvage": "store",
    "search_with_elastic_training": "elastic",
    "search_with_recovery": "recovery",
}

__all__ = [
    "ElasticTraining",
    "FrontPoint",
    "Options",
    "Outcome",
    "Progress",
    "Recovery",
    "Session",
    "read_options",
    "read_rows",
    "read_summary",
    "run_search",
    "salvage",
    "search_with_elastic_training",
    "search_with_recovery",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'emomc.run' has no attribute {name!r}")
    return getattr(import_module(f"emomc.run.{_HOME_OF[name]}"), name)
