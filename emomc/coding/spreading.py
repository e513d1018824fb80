"""Coding the layers of a network in several processes, where that is faster than one after the other.

Threads are not: much of the work is many small steps under the interpreter's lock (docs/format.md, "How fast it is").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from emomc.coding.blob import encode_tensor
from emomc.coding.tensor import CodedTensor

WORTHWHILE = 5_000_000  # weights besides the largest layer's: with fewer, processes take longer to start than they save
_MOST = 4  # processes that are started unasked
_T = TypeVar("_T")


def encode_tensors(tensors: Sequence[CodedTensor], workers: int | None = None) -> list[bytes]:
    """``encode_tensor`` of each, the same bytes whatever the number of workers.

    Args:
        tensors: of one network.
        workers: processes; None for as many as are worthwhile.

    Raises:
        EmomcError: as ``encode_tensor``.
    """
    sizes = [tensor.integers.size for tensor in tensors]
    return list(spread(encode_tensor, [(tensor,) for tensor in tensors], sizes, workers))


def spread(
    function: Callable[..., _T], calls: Iterable[tuple[Any, ...]], sizes: Sequence[int], workers: int | None
) -> Iterator[_T]:
    """What a function gives for each of several arguments, in their order; later ones may be at work already.

    Args:
        function: of a module, so that processes find it.
        calls: arguments of each call.
        sizes: weights that each call is about.
        workers: processes; None for as many as are worthwhile.
    """
    count = worthwhile(sizes) if workers is None else workers
    if count == 1:
        return (function(*each) for each in calls)
    from joblib import Parallel, delayed  # here, as it takes a while and most files do without

    pool = Parallel(n_jobs=count, return_as="generator", max_nbytes=None)
    results: Iterator[_T] = pool(delayed(function)(*each) for each in calls)
    return results


def worthwhile(sizes: Sequence[int]) -> int:
    """Processes that layers of so many weights are worth; a layer is coded by one of them."""
    if sum(sizes) - max(sizes, default=0) < WORTHWHILE:
        return 1
    from joblib import cpu_count

    return int(min(cpu_count(), len(sizes), _MOST))
