"""Which two loops the PE array unrolls, and how the extents of a layer divide over it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from types import MappingProxyType

from emomc.errors import unknown_name
from emomc.network.layers import LoopBounds

AXES: Mapping[str, str] = MappingProxyType({"X": "OX", "Y": "OY", "CI": "C", "CO": "K", "FX": "FX", "FY": "FY"})
"""Names used in a dataflow, and the loop that each stands for."""

DATAFLOWS = tuple(f"{rows}:{columns}" for rows, columns in permutations(AXES, 2))
"""Every pair of loops: the first runs along the array's rows, the second along its columns."""

NAMED = ("X:Y", "CI:CO", "FX:FY", "X:FX", "FY:Y")
"""The dataflows offered by default: the four of EMOMC, and the one nearest to row stationary."""

TEMPORAL = ("B", "K", "C", "OY", "OX", "FY", "FX")
"""Loops that the array steps through in time; groups are always outermost, since every operand depends on them."""


@dataclass(frozen=True)
class Unrolling:
    """A layer call on a PE array: ``rows`` and ``columns`` PEs execute consecutive indices of one loop each.

    An extent that the array's side does not divide leaves PEs idle in the loop's last step.
    """

    call: LoopBounds
    dataflow: str
    rows: int
    columns: int

    def __post_init__(self) -> None:
        if self.dataflow not in DATAFLOWS:
            raise unknown_name("dataflow", self.dataflow, DATAFLOWS)

    @cached_property
    def width(self) -> dict[str, int]:
        """PEs used along each loop: 1 for a loop that is not unrolled."""
        first, second = (AXES[axis] for axis in self.dataflow.split(":"))
        sides = {first: self.rows, second: self.columns}
        return {loop: min(sides.get(loop, 1), self.extent(loop)) for loop in TEMPORAL}

    def extent(self, loop: str) -> int:
        """The loop's trip count in the layer."""
        return int(getattr(self.call, loop))

    def steps(self, loop: str) -> int:
        """Steps in time that the loop takes, with ``width`` of its indices at once."""
        return -(-self.extent(loop) // self.width[loop])

    @property
    def cycles(self) -> int:
        """Cycles of one multiply-accumulate per PE that the call takes."""
        cycles = self.call.G
        for loop in TEMPORAL:
            cycles *= self.steps(loop)
        return cycles
