"""What training minimizes: the loss on targets, the distance from a teacher's output, or both."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from emomc.accuracy.divergence import is_classification
from emomc.errors import EmomcError
from emomc.training.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Pasted:
    """What other images have in those of a batch.

    Attributes:
        targets: (n, ...) those of the other images.
        areas: (n,) their shares of the area.
    """

    targets: torch.Tensor
    areas: torch.Tensor


@dataclass(frozen=True, eq=False)
class Loss:
    """The loss of one batch.

    Attributes:
        recipe: label smoothing, weight and temperature of distillation.
        targets: (n,) class labels, or (n, ...) values to be predicted.
        teacher: (n, ...) outputs to come close to; None without a teacher.
        pasted: the part that other images have; None where there is none.
    """

    recipe: Recipe
    targets: torch.Tensor
    teacher: torch.Tensor | None = None
    pasted: Pasted | None = None

    def __call__(self, outputs: torch.Tensor) -> torch.Tensor:
        """Mean loss of outputs (n, ...): in nats of class scores, a squared error of predicted values."""
        share = self.recipe.distillation if self.teacher is not None else 0.0
        loss = torch.zeros((), device=outputs.device)
        if share < 1:
            loss = loss + (1 - share) * self._labels(outputs)
        if share > 0 and self.teacher is not None:
            loss = loss + share * self.towards(outputs, self.teacher)
        return loss

    def _labels(self, outputs: torch.Tensor) -> torch.Tensor:
        smoothing = self.recipe.label_smoothing
        own = image_losses(outputs, self.targets, smoothing)
        if self.pasted is None:
            return own.mean()
        other = image_losses(outputs, self.pasted.targets, smoothing)
        return torch.lerp(own, other, self.pasted.areas).mean()

    def towards(self, outputs: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Mean squared distance of predicted values from a teacher's; of class scores the divergence.

        The divergence is taken at a temperature T and times its square: gradients then keep their size at any T.
        Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015.
        """
        if not is_classification(self.targets):
            return image_losses(outputs, teacher.detach().float()).mean()
        t = self.recipe.temperature
        soft = log_softmax(teacher.detach().float() / t, 1)
        return kl_div(log_softmax(outputs.float() / t, 1), soft, reduction="batchmean", log_target=True) * t**2


def image_losses(outputs: torch.Tensor, targets: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """What each image loses, (n,).

    Args:
        outputs: (n, classes) scores, or (n, ...) predicted values.
        targets: (n,) class labels, whose loss is the cross-entropy in nats; or values in the shape of the outputs,
            whose loss is the squared error, averaged over the outputs of an image.
        label_smoothing: share of a label that is spread over all classes.

    Raises:
        EmomcError: the values to be predicted have another shape than the outputs.
    """
    if is_classification(targets):
        return cross_entropy(outputs.float(), targets, label_smoothing=label_smoothing, reduction="none")
    if outputs.shape != targets.shape:
        raise EmomcError(
            f"the network gives outputs of shape {tuple(outputs.shape)} for targets of shape {tuple(targets.shape)}. "
            "To train on values that are predicted, give targets in the shape of the outputs."
        )
    return (outputs.float() - targets).square().reshape(len(targets), -1).mean(1)
