"""Training on of a compressed network: zeros, grids and codebooks stay as they are, the values on them move."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from emomc.coding.tensor import CodedTensor
from emomc.compression.quantization import largest_level, to_integers
from emomc.training.fakequant import straight_through
from emomc.training.loss import Loss
from emomc.training.regime import Plain, keep_statistics
from emomc.training.swapped import backward_with, parameters_by_name

_LARGEST_CODEBOOK = 256  # distinct values; above, a grid with one scale is taken for a grid


@dataclass(frozen=True, eq=False)
class Codes:
    """How the weight of one layer may move.

    Attributes:
        step: of the grid, float32, broadcasts to the weight.
        level: largest integer of the grid.
        signs: -1, 0 or 1 in the weight's shape; weights at 0 stay zero, no other becomes zero.
        entries: number of each weight's codebook entry, int64, in the weight's shape; None where a weight is free to
            take any value of the grid.
        members: weights of each entry, ``(entries,)``.
    """

    step: torch.Tensor
    level: int
    signs: torch.Tensor
    entries: torch.Tensor | None = None
    members: torch.Tensor | None = None

    @classmethod
    def of(cls, coded: CodedTensor) -> Codes:
        """Those of a stored weight: a codebook where one scale is shared and few distinct values occur."""
        integers = torch.from_numpy(coded.integers.astype(np.int64))
        step = torch.from_numpy(coded.scale.astype(np.float32)).reshape(-1, *[1] * (integers.dim() - 1))
        level = largest_level(coded.bit_width)
        values, entries, members = torch.unique(integers, return_inverse=True, return_counts=True)
        if coded.scale.size > 1 or len(values) > min(_LARGEST_CODEBOOK, 2 * level):
            return cls(step, level, integers.sign().float())
        return cls(step, level, integers.sign().float(), entries, members.float())

    def to(self, device: torch.device) -> Codes:
        """On a device."""
        entries = None if self.entries is None else self.entries.to(device)
        members = None if self.members is None else self.members.to(device)
        return Codes(self.step.to(device), self.level, self.signs.to(device), entries, members)

    def shared(self, weight: torch.Tensor) -> torch.Tensor:
        """A weight whose codebook entries are the means of their members, who move by their mean gradient."""
        if self.entries is None or self.members is None:
            return weight * self.signs.abs()
        sums = torch.zeros_like(self.members).index_add(0, self.entries.flatten(), weight.flatten())
        return (sums / self.members)[self.entries] * self.signs.abs()

    @torch.no_grad()
    def integers(self, shared: torch.Tensor) -> torch.Tensor:
        """Nearest whole numbers of what `shared` gives, float32: zeros where they were, and only there."""
        levels = (shared / self.step).round_().clamp_(-self.level, self.level)
        nearest = torch.where(shared == 0, self.signs, shared.sign())
        return torch.where(levels == 0, nearest, levels) * self.signs.abs()


class KeepCoded(Plain):
    """Stored weights move on their own grids or codebooks, with straight-through gradients.

    Zeros, steps, widths and the assignment of weights to codebook entries stay. Batch norms stay the scale and shift
    that files hold: their statistics are not touched, their parameters are trained.
    """

    def __init__(self, tensors: Mapping[str, CodedTensor]) -> None:
        """Stored weights by parameter name."""
        self._tensors = dict(tensors)
        self._codes = {name: Codes.of(tensor) for name, tensor in tensors.items()}

    @property
    def key(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in self._tensors.items():
            digest.update(f"{name} {tensor.bit_width} {tensor.integers.shape}".encode())
            digest.update(np.ascontiguousarray(tensor.integers, np.int16).data)
            digest.update(np.ascontiguousarray(tensor.scale).data)
        return f"KeepCoded {digest.hexdigest()}"

    def before(self, module: nn.Module, fraction: float) -> None:
        keep_statistics(module)

    def backward(self, module: nn.Module, images: torch.Tensor, loss: Loss) -> torch.Tensor:
        parameters, weights = parameters_by_name(module), {}
        self._codes = {name: codes.to(images.device) for name, codes in self._codes.items()}
        for name, codes in self._codes.items():
            shared = codes.shared(parameters[name])
            weights[name] = straight_through(shared, codes.integers(shared) * codes.step)
        return backward_with(module, weights, images, loss)

    @torch.no_grad()
    def coded(self, module: nn.Module) -> dict[str, CodedTensor]:
        """The weights of a trained network, on the CPU, in the form of the stored ones, by parameter name."""
        parameters, found = parameters_by_name(module), {}
        for name, tensor in self._tensors.items():
            codes = self._codes[name].to(torch.device("cpu"))
            integers = codes.integers(codes.shared(parameters[name])).numpy()
            found[name] = CodedTensor(to_integers(integers, tensor.bit_width), tensor.scale, tensor.bit_width)
        return found
