"""One codebook for a layer against one for each of its output channels, at equal bytes.

    python -m benchmarks.sharing_scope --data FOLDER

Weights of every layer are clustered by exact k-means, codebook entries of 8 bits. A layer with one codebook takes the
bytes that files spend on it; of channels with codebooks of their own we count, in their favour, the order-0 entropy of
each channel's indices, a byte for each entry and two for the scale, as if their codes were ideal and tables free. The
error is the squared error as a part of the squared weights, summed over layers. Scopes are compared at the bytes of the
channels', along the line through the logarithms of the layers' errors. Results go to
benchmarks/results/sharing_scope.json.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from numpy.typing import NDArray

import emomc
from emomc import coding
from emomc.benchmarks.environment import write_results
from emomc.compression.sharing import cluster_nonzero, share_values

TASKS = ("cifar10-resnet20", "cifar10-resnet56")
COUNTS = (4, 8, 16, 32, 64)
ENTRY_BITS = 8


def index_bytes(integers: NDArray[np.integer[Any]]) -> float:
    """Order-0 entropy."""
    counts = np.unique(integers, return_counts=True)[1]
    return float(-(counts * np.log2(counts / integers.size)).sum() / 8)


def shared(weight: NDArray[np.float32], count: int, ideal: bool) -> tuple[float, float]:
    """Squared error and bytes of weights that share one codebook."""
    count = min(count, weight.size)
    tensor = share_values(weight, cluster_nonzero(weight, [count]), count, ENTRY_BITS)
    told = np.unique(tensor.integers).size + 2
    size = index_bytes(tensor.integers) + told if ideal else len(coding.encode_tensor(tensor))
    return float(((tensor.dequantize() - weight) ** 2).sum()), size


def totals(weights: list[NDArray[np.float32]], count: int, by_channel: bool) -> tuple[float, float]:
    """Sum of the layers' relative errors, and bytes of all layers."""
    errors, sizes = 0.0, 0.0
    for weight in weights:
        parts = list(weight) if by_channel else [weight]
        found = np.array([shared(part, count, ideal=by_channel) for part in parts]).sum(0)
        errors, sizes = errors + float(found[0] / (weight**2).sum()), sizes + float(found[1])
    return errors, sizes


def main() -> None:
    """Measure and write results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with cifar10/ and checkpoints/; else EMOMC_DATA")
    arguments = parser.parse_args()
    rows = []
    for name in TASKS:
        task = emomc.load_task(name, **({"data": arguments.data} if arguments.data else {}))
        state = task.module.state_dict()
        weights = [state[layer.weight].numpy() for layer in emomc.trace(task.module, task.example_input).layers]
        by_layer = np.array([totals(weights, count, by_channel=False) for count in COUNTS])
        for count in COUNTS[:-1]:  # beyond the largest codebook of a layer there is no line to read off
            error, size = totals(weights, count, by_channel=True)
            at_equal = float(np.exp(np.interp(size, by_layer[:, 1], np.log(by_layer[:, 0]))))
            row = {"task": name, "values_a_channel": count, "bytes": round(size), "error_by_channel": round(error, 4)}
            rows.append({**row, "error_by_layer_at_these_bytes": round(at_equal, 4)})
            print(*rows[-1].values(), flush=True)
    print(write_results("sharing_scope", {"rows": rows}))


if __name__ == "__main__":
    main()
