"""All methods on problems whose exact front is known: hypervolume found, as a fraction of the exact.

Each seed is another problem and another search. 340 evaluations are a published budget; ours ends at 150, and Optuna's
Parzen estimator at 100, as its own time grows with the square of the evaluations.

    python -m benchmarks.search_proxies

Results go to benchmarks/results/search_proxies.json.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from emomc.benchmarks.curves import curve, table
from emomc.benchmarks.environment import write_results
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
    problems: dict[str, Any] = {}
    for name in arguments.proxies:
        curves: dict[str, list[dict[str, Any]]] = {method: [] for method in arguments.methods}
        points = []
        start = time.perf_counter()
        for seed in arguments.seeds:
            proxy = PROXIES[name](seed)
            points.append(len(proxy.exact_front))
            task = proxy.task(seed)
            for method in arguments.methods:
                budget = BUDGETS.get(method, BUDGET)
                trace = spend(method, task, proxy.errors, budget, seed)
                curves[method].append(curve(task.problem, trace, seed, proxy.quality, budget))
        problems[name] = {"exact_front_points": points, "table": table(curves, SHOWN), "curves": curves}
        print(f"{name}, {time.perf_counter() - start:.0f} s", *table(curves, SHOWN), sep="\n", flush=True)
    print(write_results(NAME, {"noise": NOISE, "problems": problems}))


if __name__ == "__main__":
    main()
