"""The points of a headline benchmark that were measured, by this command or an earlier one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emomc.benchmarks import environment
from emomc.benchmarks.headline.shown import figure, table

_KINDS = ("one-shot", "trained", "polished", "further")


class Results:
    """What is known of one dense network; what an earlier command measured of it stays."""

    def __init__(self, name: str, network: str, paper: Mapping[str, float]) -> None:
        """What the results of this name hold of the dense network with this fingerprint; ratios of the paper."""
        self.name, self.network, self.paper = name, network, paper
        before = environment.known(name)
        self.points: list[dict[str, Any]] = before["points"] if before.get("network") == network else []

    def source(self, file: Path) -> dict[str, Any]:
        """The point whose file this is.

        Raises:
            SystemExit: it is the file of none.
        """
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        for point in self.points:
            if point["sha256"] == digest:
                return point
        raise SystemExit(f"{file} is none of the files whose SHA-256 the results list: train one of those on.")

    def add(self, points: Sequence[dict[str, Any]]) -> None:
        """Put points in the place of what was known of them; write results, table and figure."""
        self.points = sorted(environment.with_earlier(points, self.points, _identity), key=_place)
        shown = table(self.points, self.paper)
        content = {"network": self.network, "points": self.points, "table": shown.splitlines()}
        path = environment.write_results(self.name, content)
        figure(self.points, self.paper, environment.RESULTS / f"{self.name}.png")
        print(shown, path, sep="\n", flush=True)


def _place(point: Mapping[str, Any]) -> tuple[Any, ...]:
    return _KINDS.index(point["kind"]), point["level"], point.get("seed", 0)


def _identity(point: Mapping[str, Any]) -> tuple[Any, ...]:
    return point["kind"], point["level"], point.get("of"), point.get("seed", 0)
