"""A task's network compressed as one given configuration says, without any search."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from emomc import coding
from emomc.accuracy import Evaluator, Measurement, Settings
from emomc.coding.tensor import CodedTensor
from emomc.compression import CALIBRATED, METHODS, Calibration, Setting, compress_in_order
from emomc.compression.bank import check_storable
from emomc.errors import unknown_name
from emomc.export.configurations import load_configuration, parse_configuration
from emomc.genome import (
    ACTIVATION_BITS,
    STORED,
    UNQUANTIZED,
    Configuration,
)
from emomc.network import trace
from emomc.problems.tasks import Task, check_task, load_task

IN_ORDER = "in-order"
Tell = Callable[[str, int, int], None]
"""``tell(what, done, total)``: called as work gets done."""


@dataclass(frozen=True)
class CompressedFile:
    """A compressed network and what was measured of it.

    Attributes:
        path: the file.
        configuration: choices of every layer.
        measurement: of the decoded file.
        size_bytes: bytes of the file.
        weight_bytes: bytes of it that are coded weights.
        dense_bytes: of the uncompressed network in 32-bit floats.
    """

    path: Path
    configuration: Configuration
    measurement: Measurement
    size_bytes: int
    weight_bytes: int
    dense_bytes: int

    @property
    def dense_error(self) -> float:
        """Error of the uncompressed network on the same images."""
        return self.measurement.error - self.measurement.difference


def _silent(what: str, done: int, total: int) -> None:
    """Progress that nobody sees."""


def compress(
    task: Task | str,
    configuration: Configuration | Mapping[str, Any] | str | Path,
    out: str | os.PathLike[str],
    *,
    method: str = IN_ORDER,
    split: str = "test",
    settings: Settings | None = None,
    progress: Tell = _silent,
) -> CompressedFile:
    """Compress a task's network at one configuration, write it, decode the file and measure what was decoded.

    Args:
        task: or its name.
        configuration: choices by layer; or patterns, a YAML file of them, or one of `configuration_names`.
        out: replaced if it exists.
        method: ``"in-order"``: one layer after the other, each making up for those before it; or one of
            `emomc.compression.METHODS`, which compress each layer alone.
        split: that it is measured on.
        settings: how networks are evaluated.
        progress: told of long work.

    Raises:
        EmomcError: something does not fit together; the message says what to do.

    Example:
        >>> made = emomc.compress("digits", {"*": {"bit_width": 4}, "linear": {"bit_width": 8}}, "digits.emomc")
        >>> made.measurement.difference, made.size_bytes
    """
    loaded = load_task(task) if isinstance(task, str) else task
    return Compressor(loaded, settings).compress(configuration, out, method=method, split=split, progress=progress)


class Compressor:
    """Compresses the network of one task, several times over; what the configurations share is computed once."""

    def __init__(self, task: Task, settings: Settings | None = None) -> None:
        check_task(task)
        self.task = task
        self.network = trace(task.module, task.example_input)
        self._current: list[bytes] = []
        self._evaluator = Evaluator(task.module, self.network, task.splits, self, task.error, settings)
        self._count = 0

    def compress(
        self,
        configuration: Configuration | Mapping[str, Any] | str | Path,
        out: str | os.PathLike[str],
        *,
        method: str = IN_ORDER,
        split: str = "test",
        progress: Tell = _silent,
    ) -> CompressedFile:
        """As the function `compress`."""
        if method not in (IN_ORDER, *METHODS):
            raise unknown_name("compression method", method, [IN_ORDER, *METHODS])
        chosen = self.configuration(configuration)
        coded = self._coded(chosen, method, progress)
        self._current = coding.encode_tensors([coded[layer.name] for layer in self.network.layers])
        self._count += 1
        path = Path(out)
        path.parent.mkdir(parents=True, exist_ok=True)
        progress("measuring", 0, 1)
        widths = [int(each.get(ACTIVATION_BITS, UNQUANTIZED)) for each in chosen.layers.values()]
        quantized = widths if any(ACTIVATION_BITS in each for each in chosen.layers.values()) else None
        variants = [self._count] * len(self.network.layers)
        found = self._evaluator.finish(variants, path, self.task.header, split, quantized)
        return CompressedFile(
            path,
            chosen,
            found,
            path.stat().st_size,
            sum(map(len, self._current)),
            self.task.dense_bytes,
        )

    def configuration(self, given: Configuration | Mapping[str, Any] | str | Path) -> Configuration:
        """Every layer's choices, whatever form they are given in."""
        layers = [layer.name for layer in self.network.layers]
        if isinstance(given, (str, Path)):
            return load_configuration(given, layers)
        if isinstance(given, Configuration):
            for name in given.layers:
                if name not in layers:
                    raise unknown_name("layer", name, layers)
            wanted = (*STORED, ACTIVATION_BITS)
            given = {
                name: {gene: choices[gene] for gene in wanted if gene in choices}
                for name, choices in given.layers.items()
            }
        return parse_configuration(dict(given), layers, "configuration")

    def blob(self, layer: int, variant: int, /) -> bytes:
        """The coded weight of a layer of the network at hand; variants are networks, in order."""
        assert variant == self._count, "only the network at hand is kept"
        return self._current[layer]

    def _coded(self, configuration: Configuration, method: str, progress: Tell) -> dict[str, CodedTensor]:
        state = self.task.module.state_dict()
        weights = {layer.name: state[layer.weight].detach().cpu().numpy() for layer in self.network.layers}
        for name, weight in weights.items():
            check_storable(name, weight)
        choices = {name: Setting.of(each) for name, each in configuration.layers.items()}
        if method == IN_ORDER:
            return compress_in_order(self._calibration, choices, lambda done, all_: progress("compressing", done, all_))
        grams = self._grams if method in CALIBRATED else {}
        coded = {}
        for done, (name, weight) in enumerate(weights.items()):
            progress("compressing", done, len(weights))
            coded[name] = next(METHODS[method](weight, [choices[name]], grams.get(name)))
        return coded

    @cached_property
    def _calibration(self) -> Calibration:
        return Calibration(self.task.module, self.network, self.task.splits.calibration.inputs)

    @cached_property
    def _grams(self) -> dict[str, Any]:
        return self._calibration.grams()
