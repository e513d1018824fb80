"""What training minimizes: labels, a teacher's output, or both."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from emomc.training.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Pasted:
    """What other images have in those of a batch.

    Attributes:
        targets: (n,) class labels of the other images.
        areas: (n,) their shares of the area.
    """

    targets: torch.Tensor
    areas: torch.Tensor


@dataclass(frozen=True, eq=False)
class Loss:
    """The loss of one batch.

    Attributes:
        recipe: label smoothing, weight and temperature of distillation.
        targets: (n,) class labels.
        teacher: (n, classes) logits to come close to; None without a teacher.
        pasted: the part that other images have; None where there is none.
    """

    recipe: Recipe
    targets: torch.Tensor
    teacher: torch.Tensor | None = None
    pasted: Pasted | None = None

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Mean loss in nats of logits (n, classes)."""
        share = self.recipe.distillation if self.teacher is not None else 0.0
        loss = torch.zeros((), device=logits.device)
        if share < 1:
            loss = loss + (1 - share) * self._labels(logits.float())
        if share > 0 and self.teacher is not None:
            loss = loss + share * self.towards(logits, self.teacher)
        return loss

    def _labels(self, logits: torch.Tensor) -> torch.Tensor:
        smoothing = self.recipe.label_smoothing
        if self.pasted is None:
            return cross_entropy(logits, self.targets, label_smoothing=smoothing)
        own = cross_entropy(logits, self.targets, label_smoothing=smoothing, reduction="none")
        other = cross_entropy(logits, self.pasted.targets, label_smoothing=smoothing, reduction="none")
        return torch.lerp(own, other, self.pasted.areas).mean()

    def towards(self, logits: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Divergence from other logits, times the squared temperature T: gradients then keep their size at any T.

        Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015.
        """
        t = self.recipe.temperature
        soft = log_softmax(teacher.detach().float() / t, 1)
        return kl_div(log_softmax(logits.float() / t, 1), soft, reduction="batchmean", log_target=True) * t**2
