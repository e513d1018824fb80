"""How many threads torch uses, for the length of a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

_T = TypeVar("_T")


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Torch's thread count for the length of a block.

    Results that are stored must not depend on how many threads happened to be free: sums of another number of threads
    may differ in the last bit.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def on_one_thread(parts: Iterator[_T]) -> Iterator[_T]:
    """Parts as they come, each made with one thread of torch; whoever takes them has as many as before."""
    while True:
        with torch_threads(1):
            try:
                part = next(parts)
            except StopIteration:
                return
        yield part
