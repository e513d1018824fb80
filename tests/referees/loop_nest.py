"""A loop nest executed step by step: the referee for counts of buffer accesses.

Nothing here knows a closed form. Every PE's registers are dictionaries of words; every step of every loop is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

LOOPS = ("G", "B", "K", "C", "OY", "OX", "FY", "FX")
WEIGHT_LOOPS = ("G", "K", "C", "FY", "FX")
INPUT_LOOPS = ("G", "B", "C", "OY", "OX", "FY", "FX")
COUNTED = (
    "weight_reads",
    "input_reads",
    "psum_writes",
    "psum_reads",
    "weight_deliveries",
    "input_deliveries",
    "psum_deliveries",
    "macs",
    "cycles",
)


class Nest:
    """Executes a layer call on a ``rows`` x ``columns`` array that unrolls loops ``first`` and ``second``.

    ``block`` gives, for K, C, FY and FX, how many consecutive steps of the loop a PE holds in registers.
    ``order`` lists loops from the innermost outwards; loops left out are taken outside of it.
    """

    def __init__(self, call, first, second, rows, columns, block, order):
        self.call = call
        self.extent = {loop: getattr(call, loop) for loop in LOOPS}
        side = {first: rows, second: columns}
        self.width = {loop: min(side.get(loop, 1), self.extent[loop]) for loop in LOOPS}
        steps = {loop: -(-self.extent[loop] // self.width[loop]) for loop in LOOPS}
        self.block = {loop: block.get(loop, 1) for loop in LOOPS}
        self.outer = {loop: -(-steps[loop] // self.block[loop]) for loop in LOOPS}
        self.order = [loop for loop in LOOPS if loop not in order] + list(order)[::-1]
        self.first, self.second = first, second
        self.counts = dict.fromkeys(COUNTED, 0)

    def indices(self, loop: str, block_step: int, pe: int) -> list[int]:
        """Loop indices that a PE covers during one block."""
        if loop not in (self.first, self.second) and pe:
            return []
        start = block_step * self.block[loop]
        covered = [step * self.width[loop] + pe for step in range(start, start + self.block[loop])]
        return [index for index in covered if index < self.extent[loop]]

    def steps(self) -> Iterator[dict[str, int]]:
        for values in product(*(range(self.outer[loop]) for loop in self.order)):
            yield dict(zip(self.order, values, strict=True))

    def pes(self, step: dict[str, int]) -> Iterator[tuple[tuple[int, int], dict[str, list[int]]]]:
        """Each PE and the indices it covers in this step: none of some loop where it idles."""
        for row, column in product(range(self.width[self.first]), range(self.width[self.second])):
            pe = {self.first: row, self.second: column}
            covered = {loop: self.indices(loop, step[loop], pe.get(loop, 0)) for loop in LOOPS}
            yield (row, column), covered

    def input_word(self, g, b, c, oy, ox, fy, fx):
        call = self.call
        y = oy * call.stride[0] + fy * call.dilation[0] - call.padding[0]
        x = ox * call.stride[1] + fx * call.dilation[1] - call.padding[1]
        return (g, b, c, y, x) if 0 <= y < call.IY and 0 <= x < call.IX else None

    def run(self) -> dict[str, int]:
        weights, inputs, outputs = {}, {}, {}
        visited: set[tuple] = set()
        for step in self.steps():
            lacked_weights, lacked_inputs, due = set(), set(), {}
            cycles = 0
            for pe, covered in self.pes(step):
                if not all(covered.values()):
                    self.forget(pe, covered, weights, inputs)
                    continue
                g, b, k, c, oy, ox, fy, fx = (covered[loop] for loop in LOOPS)
                needs_w = set(product(g, k, c, fy, fx))
                needs_i = {self.input_word(*index) for index in product(g, b, c, oy, ox, fy, fx)} - {None}
                needs_o = frozenset(product(g, b, k, oy, ox))
                work = len(needs_w) * len(b) * len(oy) * len(ox)
                self.counts["macs"] += work
                cycles = max(cycles, work)
                lacked_weights |= needs_w - weights.get(pe, set())
                self.counts["weight_deliveries"] += len(needs_w - weights.get(pe, set()))
                lacked_inputs |= needs_i - inputs.get(pe, set())
                self.counts["input_deliveries"] += len(needs_i - inputs.get(pe, set()))
                weights[pe], inputs[pe] = needs_w, needs_i
                due[pe] = needs_o
            self.counts["cycles"] += cycles
            self.counts["weight_reads"] += len(lacked_weights)
            self.counts["input_reads"] += len(lacked_inputs)
            if any(outputs.get(pe) != needs for pe, needs in due.items()):
                self.evict(outputs)
                outputs = {}
                returning = set().union(*due.values()) & visited
                self.counts["psum_reads"] += len(returning)
            outputs.update(due)
            visited |= set().union(*due.values())
        self.evict(outputs)
        return self.counts

    def forget(self, pe, covered, weights, inputs) -> None:
        """An idle PE keeps an operand only if the loop that idles it does not index the operand."""
        if not all(covered[loop] for loop in WEIGHT_LOOPS):
            weights.pop(pe, None)
        if not all(covered[loop] for loop in INPUT_LOOPS):
            inputs.pop(pe, None)

    def evict(self, outputs: dict) -> None:
        self.counts["psum_writes"] += len(set().union(*outputs.values())) if outputs else 0
        self.counts["psum_deliveries"] += sum(len(held) for held in outputs.values())
