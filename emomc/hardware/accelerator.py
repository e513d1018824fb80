"""What the physical model needs to know of an accelerator, as plain numbers in SI units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from emomc.errors import EmomcError
from emomc.hardware.accesses import Registers
from emomc.hardware.dataflow import NAMED
from emomc.hardware.tiling import Buffer


class Sparsity(str, Enum):
    """What the hardware makes of a zero operand.

    GATING saves the energy of the multiply-accumulate and of its registers, but no cycle and no access to the buffer.
    SKIPPING saves cycles and accesses as well, and stores an index with every nonzero value.
    """

    NONE = "none"
    GATING = "gating"
    SKIPPING = "skipping"


@dataclass(frozen=True)
class Memory:
    """Energy of a bit read and written, in joules, and bits that the memory moves in a cycle."""

    read: float
    write: float
    bandwidth: float


@dataclass(frozen=True)
class MacEnergy:
    """Energy of a multiply-accumulate in joules: ``constant + linear (ba + bw) + product ba bw`` for widths ba, bw."""

    constant: float
    linear: float
    product: float
    float32: float


@dataclass(frozen=True)
class Accelerator:
    """A PE array with registers, a shared buffer, and off-chip memory.

    Attributes:
        rows, columns: PEs.
        registers: words per PE of each operand.
        register: energy of the PEs' registers; their bandwidth is not a limit.
        buffer: energy and bandwidth of the shared buffer.
        buffer_bits: its capacity.
        double_buffered: whether half of it is filled while the other half is used.
        dram: energy and bandwidth of the off-chip memory.
        hop: joules for a bit that travels between the buffer and a PE.
        clock: hertz.
        leakage: watts drawn while a layer runs, whatever it does.
        weight_widths, activation_widths: bits that the multipliers offer, ascending; others use the next wider.
        psum_bits: width of a partial sum.
        weight_sparsity, activation_sparsity: what is made of zeros.
        index_bits: bits stored with a nonzero value where zeros are skipped.
        decode: joules per coded bit of weights that are decoded as they come on chip; None where weights are stored
            off chip as they are used.
        run_bits: bits of a zero run in off-chip inputs; None where they are not coded.
        dataflows: names offered.
        sources: where each number comes from, by field of the description.
    """

    name: str
    rows: int
    columns: int
    registers: Registers
    register: Memory
    buffer: Memory
    buffer_bits: int
    double_buffered: bool
    dram: Memory
    mac: MacEnergy
    hop: float
    clock: float
    leakage: float
    weight_widths: tuple[int, ...]
    activation_widths: tuple[int, ...]
    psum_bits: int
    weight_sparsity: Sparsity = Sparsity.NONE
    activation_sparsity: Sparsity = Sparsity.NONE
    index_bits: float = 0.0
    decode: float | None = None
    run_bits: int | None = None
    dataflows: tuple[str, ...] = NAMED
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    def weight_width(self, bits: int) -> int:
        """Width at which weights of so many bits are multiplied. Raises EmomcError above the widest."""
        return self._width("bit_width", bits, self.weight_widths)

    def activation_width(self, bits: int) -> int:
        """Width at which feature maps of so many bits are multiplied. Raises EmomcError above the widest."""
        return self._width("activation_bits", bits, self.activation_widths)

    def tile_buffer(self, activation_bits: int) -> Buffer:
        """The buffer as tiling sees it."""
        return Buffer(self.buffer_bits, activation_bits, self.psum_bits, self.double_buffered)

    def _width(self, what: str, bits: int, offered: tuple[int, ...]) -> int:
        fitting = [width for width in offered if width >= bits]
        if not fitting:
            raise EmomcError(
                f"{what} {bits}: accelerator {self.name} multiplies {', '.join(map(str, offered))} bits at most. "
                "Narrow the search space, or choose another accelerator."
            )
        return min(fitting)
