"""Measuring compressed networks: stitching variants from the bank, correcting statistics, counting errors."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from emomc import coding
from emomc.accuracy.correction import (
    collect_statistics,
    correct_statistics,
    load_statistics,
    movable_biases,
    running_statistics,
)
from emomc.accuracy.divergence import distance, divergence, is_classification
from emomc.accuracy.splits import Split, Splits
from emomc.compression.activations import ActivationGrid, attach_quantizers
from emomc.compression.glue import make_storable
from emomc.compression.networkfile import load_network, save_network
from emomc.compression.ranges import InputDistribution, collect_inputs, fit_grid
from emomc.compression.threads import torch_threads
from emomc.errors import EmomcError
from emomc.genome import UNQUANTIZED
from emomc.network.layers import Network

ErrorMetric = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

DENSE = -1  # variant number of an uncompressed layer
_CACHED_WEIGHTS = 64_000_000  # decoded weights kept per process: 256 MB


class Blobs(Protocol):
    """Where coded weights come from: the bank, or anything else that numbers the variants of a layer."""

    def blob(self, layer: int, variant: int, /) -> bytes:
        """The coded bytes of a variant."""


@dataclass(frozen=True)
class Settings:
    """What an evaluation does beside compressing; part of the key under which a measurement is stored.

    Attributes:
        strengths: strengths of the statistics correction that are tried; the one of least divergence from the dense
            network on the calibration split is kept. ``(0.0,)`` turns the correction off.
        calibration: samples of the calibration split that statistics are corrected on, all in one pass.
        batch_size: samples per forward pass.
        threads: threads of one evaluation; fixed, as results of other numbers of threads may differ in the last bit.
        device: ``"cpu"`` or a CUDA device, on which convolutions are float32 from then on, not TF32.
        activation_range: how the range of quantized activations is chosen, a key of `emomc.compression.RANGES`.
    """

    strengths: tuple[float, ...] = (0.0, 0.5, 1.0)
    calibration: int = 256
    batch_size: int = 128
    threads: int = 1
    device: str = "cpu"
    activation_range: str = "mse"

    def __post_init__(self) -> None:
        """Check what would only show once networks are measured.

        Raises:
            EmomcError: there is no strength, or a number is below one.
        """
        if not self.strengths:
            raise EmomcError("strengths is empty: give those to try, or (0.0,) for no correction.")
        for name in ("calibration", "batch_size", "threads"):
            if getattr(self, name) < 1:
                raise EmomcError(f"{name} {getattr(self, name)!r}: expected at least 1.")


@dataclass(frozen=True)
class Measurement:
    """A network measured on one split.

    Attributes:
        error: mean error, a fraction.
        difference: mean of (error - dense error) over the same samples.
        standard_error: standard error of ``difference``; pairing removes what both networks get wrong.
        loss: mean cross-entropy, nats; NaN for outputs that are not class scores.
        divergence: from the dense network's output on the calibration split, as in `emomc.accuracy.divergence`.
        distance: from the same output, as in `emomc.accuracy.divergence`.
        strength: strength of statistics correction that was kept.
        samples: number of samples measured.
    """

    error: float
    difference: float
    standard_error: float
    loss: float
    divergence: float
    distance: float
    strength: float
    samples: int


FAILED = Measurement(math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, 0)
"""Stands for a network whose measuring failed."""


@dataclass(frozen=True)
class Probed:
    """What compressing some layers does on the calibration split; no other split is used.

    Attributes:
        distance: from the dense network's output, as in `emomc.accuracy.divergence`.
        loss: mean of (error - dense error).
    """

    distance: float
    loss: float


@dataclass(frozen=True)
class _Change:
    """How far a network is from the dense one on the calibration split, and the strength it was corrected with."""

    divergence: float = 0.0
    distance: float = 0.0
    strength: float = 0.0


class Evaluator:
    """Measures networks that are given as one variant of the bank per layer.

    It keeps one copy of the network, the decoded weights that were used last and the dense network's answers, so that
    an evaluation costs little more than its forward passes. The caller's module is not changed.
    """

    def __init__(
        self,
        module: nn.Module,
        network: Network,
        splits: Splits,
        bank: Blobs | None,
        error: ErrorMetric,
        settings: Settings | None = None,
    ) -> None:
        """An evaluator of one dense network.

        Args:
            module: the dense network.
            network: the traced module.
            splits: data of the task.
            bank: variants of the layers; None where only whole modules are measured.
            error: error of each sample.
            settings: how networks are evaluated.
        """
        self.settings = settings or Settings()
        self._network = network
        self._splits = splits
        self._bank = bank
        self._error = error
        self._device = torch.device(self.settings.device)
        if self._device.type == "cuda":  # convolutions would drop 13 bits of every factor unless told otherwise
            torch.backends.cudnn.allow_tf32 = False
        self._dense_state = {key: value.detach().clone().to(self._device) for key, value in module.state_dict().items()}
        self._module = _fast_copy(module, self._device)
        self._weights: OrderedDict[tuple[int, int], torch.Tensor] = OrderedDict()
        inputs, targets = next(splits.calibration.batches(self.settings.calibration))
        self._calibration, self._calibration_targets = self._prepared(inputs), targets.to(self._device)
        self._classes = is_classification(splits.calibration.targets)
        self._dense_errors: dict[str, torch.Tensor] = {}
        self._inputs: dict[str, InputDistribution] | None = None
        self._known_grids: dict[tuple[int, int], ActivationGrid] = {}
        with torch_threads(self.settings.threads):
            self._biased = movable_biases(self._module, network)
            self._dense_statistics, self._dense_output = collect_statistics(
                self._module, self._calibration, self._biased
            )

    def twin(self) -> Evaluator:
        """Another evaluator of the same networks, for another thread; it shares the images and the bank."""
        return copy.deepcopy(self, {id(shared): shared for shared in (self._splits, self._bank, self._calibration)})

    def measure(self, variants: Sequence[int], split: str, activation_bits: Sequence[int] | None = None) -> Measurement:
        """Stitch, correct and measure a network.

        Args:
            variants: one variant number per layer, `DENSE` for an uncompressed layer.
            split: name of a split of the task.
            activation_bits: bits of each layer's input, 2 to 8, or 16 for inputs as they are; None for all as they are.

        Raises:
            EmomcError: activations that cannot be quantized: see `emomc.compression.collect_inputs`.
        """
        with torch_threads(self.settings.threads):
            dense = self._dense_outcomes(split)
            change, _ = self._assemble(variants, activation_bits)
            return self._count(self._module, split, dense, change)

    def probe_layers(self, variants: Sequence[int], activation_bits: Sequence[int] | None = None) -> Probed:
        """What a network with few compressed layers loses, told by the calibration split alone."""
        with torch_threads(self.settings.threads):
            change, output = self._assemble(variants, activation_bits, storable=False)
            outputs = (output, self._dense_output)
            errors, dense = (self._error(each, self._calibration_targets).double() for each in outputs)
            return Probed(change.distance, float((errors - dense).mean()))

    def measure_dense(self, split: str) -> Measurement:
        """The dense network on a split."""
        with torch_threads(self.settings.threads):
            dense = self._dense_outcomes(split)
            self._restore()
            return self._count(self._module, split, dense, _Change())

    def finish(
        self,
        variants: Sequence[int],
        path: Path,
        header: Mapping[str, Any],
        split: str,
        activation_bits: Sequence[int] | None = None,
    ) -> Measurement:
        """Write a network to a file, decode the file again and measure what was decoded.

        The file holds the blobs as they are in the bank, the corrected glue, and the quantizers of the activations
        unless ``activation_bits`` is None.
        """
        with torch_threads(self.settings.threads):
            dense = self._dense_outcomes(split)
            change, _ = self._assemble(variants, activation_bits)
            blobs = {
                layer.name: self._blob(index, int(variants[index])) for index, layer in enumerate(self._network.layers)
            }
            grids = None if activation_bits is None else self._grids(activation_bits)
            save_network(path, self._module, self._network, blobs, header, grids)
            decoded = load_network(
                coding.read_network(path), self._blank, workers=1
            )  # networks are what is spread here
            return self._count(_fast_copy(decoded, self._device), split, dense, change)

    def measure_module(self, module: nn.Module, split: str) -> Measurement:
        """Any network of the task as it is, e.g. one decoded from a file."""
        with torch_threads(self.settings.threads):
            fast = _fast_copy(module, self._device)
            with torch.inference_mode():
                change = self._change(fast(self._calibration), math.nan)
            return self._count(fast, split, self._dense_outcomes(split), change)

    def measure_file(self, path: Path, split: str) -> Measurement:
        """A network decoded from a file of the task."""
        with torch_threads(self.settings.threads):
            decoded = load_network(coding.read_network(path), self._blank, workers=1)
        return self.measure_module(decoded, split)

    def _blank(self) -> nn.Module:
        """The architecture with weights that would show if a file left any of them out."""
        blank = copy.deepcopy(self._module).cpu()
        with torch.no_grad():
            for tensor in blank.state_dict().values():
                tensor.fill_(math.nan if tensor.is_floating_point() else 0)
        return blank

    def _prepared(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs on the device, in the memory layout that convolutions are fastest in."""
        inputs = inputs.to(self._device)
        return inputs.contiguous(memory_format=torch.channels_last) if inputs.dim() == 4 else inputs

    def _batches(self, split: Split) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for inputs, targets in split.batches(self.settings.batch_size):
            yield self._prepared(inputs), targets.to(self._device)

    def _restore(self) -> None:
        """The dense network's state, in place, its activations as they are."""
        attach_quantizers(self._module, self._network, {})
        with torch.no_grad():
            for key, tensor in self._module.state_dict().items():
                tensor.copy_(self._dense_state[key])

    def _grids(self, activation_bits: Sequence[int]) -> dict[str, ActivationGrid]:
        """Grids of the layers whose inputs are quantized; their ranges are those in the dense network."""
        quantized = {index: int(bits) for index, bits in enumerate(activation_bits) if bits != UNQUANTIZED}
        if quantized and self._inputs is None:
            self._restore()
            self._inputs = collect_inputs(self._module, self._network, self._calibration)
        for key in quantized.items():
            if key not in self._known_grids:
                inputs = self._inputs[self._network.layers[key[0]].name]  # type: ignore[index]
                self._known_grids[key] = fit_grid(inputs, key[1], self.settings.activation_range)
        return {self._network.layers[key[0]].name: self._known_grids[key] for key in quantized.items()}

    def _assemble(
        self, variants: Sequence[int], activation_bits: Sequence[int] | None, storable: bool = True
    ) -> tuple[_Change, torch.Tensor]:
        """Stitch and correct in place, with the strength of least divergence; also the calibration split's output."""
        grids = {} if activation_bits is None else self._grids(activation_bits)
        self._restore()
        state = self._module.state_dict()
        with torch.no_grad():
            for index, (layer, variant) in enumerate(zip(self._network.layers, variants, strict=True)):
                if variant != DENSE:
                    state[layer.weight].copy_(self._decoded(index, int(variant)))
        attach_quantizers(self._module, self._network, grids)
        strengths = self.settings.strengths if self._dense_statistics else (0.0,)
        dense = running_statistics(self._module, self._biased)
        tried = []
        for strength in strengths:
            load_statistics(self._module, dense)
            output = correct_statistics(self._module, self._calibration, self._dense_statistics, strength)
            now = running_statistics(self._module, self._biased)
            tried.append((self._change(output, strength), output, now))
        change, output, statistics = min(tried, key=lambda entry: entry[0].divergence)
        load_statistics(self._module, statistics)
        if storable:
            make_storable(self._module, self._network)
        return change, output

    def _change(self, output: torch.Tensor, strength: float) -> _Change:
        apart = (self._dense_output, output, self._classes)
        return _Change(divergence(*apart), distance(*apart), strength)

    def _blob(self, layer: int, variant: int) -> bytes:
        assert self._bank is not None, "variants are measured from a bank"
        return self._bank.blob(layer, variant)

    def _decoded(self, layer: int, variant: int) -> torch.Tensor:
        """Weight of a stored variant; the most recently used ones stay in memory."""
        key = (layer, variant)
        if key not in self._weights:
            shape = self._network.layers[layer].weight_shape
            tensor = coding.decode_tensor(self._blob(layer, variant), shape)
            self._weights[key] = torch.from_numpy(tensor.dequantize()).to(self._device)
            while len(self._weights) > 1 and sum(map(torch.numel, self._weights.values())) > _CACHED_WEIGHTS:
                self._weights.popitem(last=False)
        self._weights.move_to_end(key)
        return self._weights[key]

    def _outcomes(self, module: nn.Module, split: str) -> tuple[torch.Tensor, float]:
        """Error of every sample, shape ``(n,)``, and the mean cross-entropy."""
        errors, losses = [], []
        with torch.inference_mode():
            for inputs, targets in self._batches(getattr(self._splits, split)):
                output = module(inputs)
                errors.append(self._error(output, targets).float())
                losses.append(_cross_entropy(output, targets))
        return torch.cat(errors).cpu(), float(torch.cat(losses).mean())

    def _count(self, module: nn.Module, split: str, dense_errors: torch.Tensor, change: _Change) -> Measurement:
        errors, loss = self._outcomes(module, split)
        paired = (errors - dense_errors).double()
        n = len(errors)
        spread = float(paired.std(correction=1)) / math.sqrt(n) if n > 1 else math.nan
        error, difference = float(errors.double().mean()), float(paired.mean())
        return Measurement(error, difference, spread, loss, change.divergence, change.distance, change.strength, n)

    def _dense_outcomes(self, split: str) -> torch.Tensor:
        """Errors of the dense network, ``(n,)``; to be called before another network is assembled."""
        if split not in self._dense_errors:
            self._restore()
            self._dense_errors[split], _ = self._outcomes(self._module, split)
        return self._dense_errors[split]


def _cross_entropy(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of every sample; NaN where the outputs are not class scores."""
    if output.dim() != 2 or targets.dim() != 1 or not is_classification(targets):
        return torch.full((len(output),), math.nan)
    return cross_entropy(output, targets, reduction="none")


def _fast_copy(module: nn.Module, device: torch.device) -> nn.Module:
    """Copy for inference: no gradients, and the memory layout that convolutions are fastest in."""
    clone = copy.deepcopy(module).requires_grad_(False).eval()
    return clone.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
