"""All methods on problems whose exact front is known: hypervolume found, as a fraction of the exact.

Each seed is another problem and another search. 340 evaluations are a published budget; ours ends at 150, and Optuna's
Parzen estimator at 100, as its own time grows with the square of the evaluations.

    python -m benchmarks.search_proxies

Results go to benchmarks/results/search_proxies.json; what is not run again, such as other methods, stays there.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from emomc.benchmarks.curves import curve, in_order, known_curves, table
from emomc.benchmarks.environment import known, write_results
from emomc.benchmarks.methods import METHODS, spend
from emomc.benchmarks.proxies import NOISE, PROXIES

NAME = "search_proxies"
BUDGET = 340
BUDGETS = {"emomc": 150, "Optuna TPE": 100}
SHOWN = (40, 100, 340)


def main() -> None:
    """Run the methods over the seeds and write results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proxies", nargs="+", choices=PROXIES, default=list(PROXIES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    arguments = parser.parse_args()
    for name in arguments.proxies:
        proxies = {seed: PROXIES[name](seed) for seed in arguments.seeds}
        for method in arguments.methods:
            start, budget = time.perf_counter(), BUDGETS.get(method, BUDGET)
            found = []
            for seed, proxy in proxies.items():
                task = proxy.task(seed)
                trace = spend(method, task, proxy.errors, budget, seed)
                found.append(curve(task.problem, trace, seed, proxy.quality, budget))
            _store(name, method, found, {str(n): [p.best_of_front(n) for p in proxies.values()] for n in SHOWN[:2]})
            print(f"{name}, {time.perf_counter() - start:.0f} s:", table({method: found}, SHOWN)[-1], flush=True)


def _store(proxy: str, method: str, found: list[dict[str, Any]], best: dict[str, list[float]]) -> None:
    problems = {}
    for name in PROXIES:
        curves = known_curves(NAME, "problems", name)
        if name == proxy:
            curves = in_order({**curves, method: found})
        reached = best if name == proxy else known(NAME).get("problems", {}).get(name, {}).get("best_of_front", {})
        if curves:
            problems[name] = {"table": table(curves, SHOWN), "best_of_front": reached, "curves": curves}
    write_results(NAME, {"noise": NOISE, "problems": problems})


if __name__ == "__main__":
    main()
