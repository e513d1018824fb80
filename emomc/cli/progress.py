"""How far a long command is: a bar with the time left on a terminal, sparse lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

Tell = Callable[[str, int, int], None]
"""``tell(what, done, total)``, as `emomc.run.Session` calls it."""

_PAUSE = 15.0  # seconds between two lines about the same work
SEARCHING = "searching"


@contextmanager
def shown_progress(budget: int) -> Iterator[Tell]:
    """Shows progress on standard error while the block runs."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Whole(_Lines(), budget)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        yield _Whole(_Bar(bars), budget)


class _Whole:
    """Counts the steps of a round, which have no name, as part of the whole search."""

    def __init__(self, tell: Tell, budget: int) -> None:
        self._tell, self._budget, self._searched = tell, budget, 0

    def __call__(self, what: str, done: int, total: int) -> None:
        if what == SEARCHING:
            self._searched = done
        if what:
            self._tell(what, done, total)
        else:
            self._tell(SEARCHING, min(self._searched + done, self._budget), self._budget)


class _Bar:
    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._what = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            for task in self._bars.task_ids:
                self._bars.remove_task(task)
            self._bars.add_task(what, total=total)
            self._what = what
        self._bars.update(self._bars.task_ids[0], completed=done, total=total)


class _Lines:
    def __init__(self) -> None:
        self._what = ""
        self._since = self._last = 0.0
        self._from = 0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what:
            self._what, self._since, self._last, self._from = what, now, now, done
            click.echo(what if total <= 1 else f"{what}: {total}", err=True)
        elif now - self._last > _PAUSE and self._from < done < total:
            left = (now - self._since) / (done - self._from) * (total - done)
            click.echo(f"{what}: {done} of {total}, about {duration(left)} left", err=True)
            self._last = now


def duration(seconds: float) -> str:
    """``"42 s"``, ``"3 min 20 s"`` or ``"2 h 5 min"``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
