"""A search that another process runs and that may be killed; nothing but what it needs is imported here."""

from __future__ import annotations

from multiprocessing.connection import Connection

import emomc
from emomc.run import Session, run_search


def search(folder: str, options: emomc.Options, opened: Connection) -> None:
    """Open the run, say so, and search."""
    with Session(folder, options, workers=1) as session:
        opened.send("open")
        run_search(session)
