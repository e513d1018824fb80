"""Stands where the evaluator does in tests of workers: what it does is told by the job."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path


class Toy:
    """Methods that work, end their process, hang, or ask for more memory than there is."""

    def square(self, number: int) -> int:
        """``number`` squared, in a moment."""
        time.sleep(0.02)
        return number * number

    def die(self) -> None:
        """End this process as the kernel does when memory runs out."""
        os.kill(os.getpid(), signal.SIGKILL)

    def die_once(self, mark: Path) -> int:
        """End this process when called for the first time."""
        if not mark.exists():
            mark.touch()
            self.die()
        return 1

    def hang(self, seconds: float) -> int:
        """Take some time."""
        time.sleep(seconds)
        return 1

    def hoard(self) -> int:
        """Ask for a terabyte where a process may have no more than it has and a gigabyte."""
        torch_size = 2**40
        limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (2**36, limits[1]))
        try:
            import torch

            return len(torch.zeros(torch_size, dtype=torch.uint8))
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)

    def hoard_list(self) -> int:
        """Ask Python for as much."""
        limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (2**36, limits[1]))
        try:
            return len(bytearray(2**40))
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)

    def fail(self) -> None:
        """A mistake, which must be seen."""
        raise RuntimeError("a mistake")

    def pid(self) -> int:
        """Of the process."""
        time.sleep(0.1)
        return os.getpid()
