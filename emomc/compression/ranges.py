"""Which grid suits a layer's inputs: their distribution on calibration data, and the range that is worth its levels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from emomc.compression.activations import WIDTHS, ActivationGrid, layer_modules
from emomc.compression.quantization import storable_scale
from emomc.errors import EmomcError, unknown_name
from emomc.network.layers import Network

Doubles = NDArray[np.float64]

FEWEST_SAMPLES = 8
"""Calibration inputs without which ranges say little: a linear layer sees one vector of each."""
_BINS = 2048
_BATCH = 32  # images per forward pass
_VALUES = 2**18  # of a layer's input that are looked at in one pass: their histogram hardly changes with more
_PERCENTILE = 0.9999  # of all values lie within the range, on either side
_CUTS = 0.93 ** np.arange(64)  # ends that are tried, as shares of the largest value: down to a hundredth


@dataclass(frozen=True, eq=False)
class InputDistribution:
    """What a layer is fed with.

    Attributes:
        low: smallest value, or 0 if that is smaller.
        high: largest value, or 0 if that is larger.
        counts: of values other than zero in equal bins from low to high, ``(bins,)``.
        zeros: of the values counted, those that are exactly zero: no grid rounds them.
    """

    low: float
    high: float
    counts: Doubles
    zeros: float

    @property
    def centers(self) -> Doubles:
        """Middle of each bin."""
        edges = np.linspace(self.low, self.high, len(self.counts) + 1)
        return np.asarray((edges[1:] + edges[:-1]) / 2)


def collect_inputs(module: nn.Module, network: Network, inputs: torch.Tensor) -> dict[str, InputDistribution]:
    """Distribution of every layer's inputs over all of its calls, by layer name, in two passes.

    Args:
        module: in eval mode; not changed.
        network: its trace.
        inputs: network inputs, shape ``(n, ...)``.

    Raises:
        EmomcError: fewer than `FEWEST_SAMPLES` inputs, a layer that is not called or called as a function, or values
            that are not finite.
    """
    if len(inputs) < FEWEST_SAMPLES:
        raise EmomcError(
            f"the calibration split has {len(inputs)} samples; quantizing activations needs at least {FEWEST_SAMPLES} "
            "to find their ranges. Give a larger calibration split."
        )
    ends: dict[str, tuple[float, float]] = {}

    def widen(name: str, seen: torch.Tensor) -> None:
        low, high = (float(end) for end in torch.aminmax(seen))
        if not (np.isfinite(low) and np.isfinite(high)):
            raise EmomcError(
                f"layer {name!r} meets NaN or infinity in the calibration inputs: check that the network runs on them."
            )
        before = ends.get(name, (0.0, 0.0))
        ends[name] = min(before[0], low), max(before[1], high)

    _run(module, network, inputs, widen)
    missing = [layer.name for layer in network.layers if layer.name not in ends]
    if missing:
        raise EmomcError(f"layer {missing[0]!r} is not called on the calibration inputs, as it was when traced.")
    counts = {name: np.zeros(_BINS) for name in ends}
    zeros = dict.fromkeys(ends, 0.0)

    def count(name: str, seen: torch.Tensor) -> None:
        values = seen.flatten()[:: max(1, seen.numel() // _VALUES)]
        values, total = values[values != 0], len(values)
        zeros[name] += total - len(values)
        low, high = ends[name]
        if low < high:
            counts[name] += torch.histc(values.float(), _BINS, low, high).cpu().double().numpy()

    _run(module, network, inputs, count)
    return {name: InputDistribution(*ends[name], counts[name], zeros[name]) for name in ends}


def _run(module: nn.Module, network: Network, inputs: torch.Tensor, see: Callable[[str, torch.Tensor], None]) -> None:
    with torch.no_grad(), _watched(module, network, see):
        for batch in torch.split(inputs, _BATCH):
            module(batch)


@contextmanager
def _watched(module: nn.Module, network: Network, see: Callable[[str, torch.Tensor], None]) -> Iterator[None]:
    """For the length of a block, ``see(layer name, input)`` is called for every call of a layer."""
    handles = [
        layer.register_forward_pre_hook(lambda _, arguments, name=name: see(name, arguments[0]))
        for name, layers in layer_modules(module, network).items()
        for layer in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def fit_grid(inputs: InputDistribution, bit_width: int, method: str = "mse") -> ActivationGrid:
    """The grid of a width for a layer's inputs.

    Args:
        inputs: on calibration data.
        bit_width: 2 to 8.
        method: a key of `RANGES`: ``"minmax"`` reaches all values, ``"percentile"`` all but one in ten thousand at
            either end, ``"mse"`` cuts off what costs less, squared, than the finer steps gain.

    Raises:
        EmomcError: unknown method, or a width that inputs cannot be quantized to.
    """
    if bit_width not in WIDTHS:
        raise EmomcError(
            f"activation_bits cannot be {bit_width}: choose from {', '.join(map(str, WIDTHS))}, or 16 for activations "
            "that are not quantized."
        )
    if method not in RANGES:
        raise unknown_name("range of activations", method, RANGES)
    if inputs.low == inputs.high:  # zeros alone, which every grid holds
        return ActivationGrid(bit_width, 1.0, 0)
    return _grid(*RANGES[method](inputs, bit_width), bit_width)


def _grid(low: float, high: float, bit_width: int) -> ActivationGrid:
    """The grid that reaches from low to high, as far as zero lies on it."""
    levels = 2**bit_width - 1
    scale = float(storable_scale(np.array((high - low) / levels)))
    return ActivationGrid(bit_width, scale, min(levels, round(-low / scale)))


def _minmax(inputs: InputDistribution, _: int) -> tuple[float, float]:
    return inputs.low, inputs.high


def _percentile(inputs: InputDistribution, _: int) -> tuple[float, float]:
    outside = (1 - _PERCENTILE) * (inputs.counts.sum() + inputs.zeros)
    below, above = np.cumsum(inputs.counts), np.cumsum(inputs.counts[::-1])[::-1]
    inner = inputs.centers[(below > outside) & (above > outside)]
    if not inner.size:
        return inputs.low, inputs.high
    half = (inputs.high - inputs.low) / len(inputs.counts) / 2
    return min(0.0, float(inner[0]) - half), max(0.0, float(inner[-1]) + half)


def _least_squares(inputs: InputDistribution, bit_width: int) -> tuple[float, float]:
    """Both ends cut alike, then one after the other."""
    ends = _best([(inputs.low * cut, inputs.high * cut) for cut in _CUTS], inputs, bit_width)
    if inputs.low < 0 < inputs.high:
        for _ in range(2):
            ends = _best([(ends[0], inputs.high * cut) for cut in _CUTS], inputs, bit_width)
            ends = _best([(inputs.low * cut, ends[1]) for cut in _CUTS], inputs, bit_width)
    return ends


def _best(candidates: Sequence[tuple[float, float]], inputs: InputDistribution, bit_width: int) -> tuple[float, float]:
    errors = [squared_error(inputs, _grid(*ends, bit_width)) for ends in candidates]
    return candidates[int(np.argmin(errors))]


def squared_error(inputs: InputDistribution, grid: ActivationGrid) -> float:
    """Mean squared error of rounding a layer's inputs to a grid, from their distribution."""
    centers = inputs.centers
    rounded = np.clip(np.rint(centers / grid.scale), grid.lowest, grid.highest) * grid.scale
    return float(inputs.counts @ (rounded - centers) ** 2 / max(inputs.counts.sum() + inputs.zeros, 1))


RANGES: Mapping[str, Callable[[InputDistribution, int], tuple[float, float]]] = MappingProxyType(
    {"minmax": _minmax, "percentile": _percentile, "mse": _least_squares}
)
