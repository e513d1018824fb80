"""Search strategies, one file each, named after their source.

A strategy is a pure function of a `SearchTask` and a seed: it asks for measurements and knows neither torch nor files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from emomc.search.front import front_of, hypervolume
from emomc.search.ledger import Genomes, Ledger, SearchTask
from emomc.search.published import published
from emomc.search.two_stage import two_stage

Strategy = Callable[[SearchTask, Ledger, int], None]
"""``strategy(task, ledger, seed)``: spends the ledger's budget; what it found is in the ledger."""

STRATEGIES: Mapping[str, Strategy] = {"two-stage": two_stage, "published": published}

__all__ = ["STRATEGIES", "Genomes", "Ledger", "SearchTask", "Strategy", "front_of", "hypervolume"]
