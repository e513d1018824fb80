"""What training minimizes, beside closed forms."""

from __future__ import annotations

import pytest
import torch

from emomc.errors import EmomcError
from emomc.training import (
    Recipe,
)
from emomc.training.loss import Loss, Pasted


def test_pasted_labels_count_by_area() -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
    targets, others = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([1, 1, 0, 2, 0])
    areas = torch.tensor([0.0, 0.3, 1.0, 0.5, 0.9])
    wanted = torch.zeros(5, 3, dtype=torch.float64)
    for row, (own, other, area) in enumerate(zip(targets, others, areas.tolist(), strict=True)):
        wanted[row, own] += 1 - area
        wanted[row, other] += area
    expected = -(wanted * torch.log_softmax(logits, 1)).sum(1).mean()
    found = Loss(Recipe(), targets, None, Pasted(others, areas))(logits)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_the_loss_is_labels_and_teacher_in_the_shares_given() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, teacher = torch.randn(2, 5, 3, generator=generator).double()
    targets = torch.tensor([0, 1, 2, 0, 1])
    recipe = Recipe(distillation=0.25, temperature=3.0, label_smoothing=0.1)
    p, q = torch.softmax(teacher / 3, 1), torch.softmax(logits / 3, 1)
    expected_teacher = 9 * (p * (p / q).log()).sum(1).mean()
    smooth = torch.full((5, 3), 0.1 / 3, dtype=torch.float64)
    smooth[torch.arange(5), targets] += 0.9
    expected_labels = -(smooth * torch.log_softmax(logits, 1)).sum(1).mean()
    expected = 0.75 * expected_labels + 0.25 * expected_teacher
    assert float(Loss(recipe, targets, teacher)(logits)) == pytest.approx(float(expected), rel=1e-5)
    assert float(Loss(recipe, targets)(logits)) == pytest.approx(float(expected_labels), rel=1e-5)


@pytest.mark.parametrize("shape", [(5,), (5, 2), (5, 2, 3)])
def test_values_that_are_predicted_have_squared_errors(shape: tuple[int, ...]) -> None:
    outputs, targets, others, teacher = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    recipe = Recipe(distillation=0.25, temperature=3.0, label_smoothing=0.1)
    assert torch.allclose(Loss(recipe, targets)(outputs), ((outputs - targets) ** 2).mean())
    expected = 0.75 * ((outputs - targets) ** 2).mean() + 0.25 * ((outputs - teacher) ** 2).mean()
    assert torch.allclose(Loss(recipe, targets, teacher)(outputs), expected)
    areas = torch.tensor([0.0, 0.3, 1.0, 0.5, 0.9])
    found = Loss(recipe, targets, None, Pasted(others, areas))(outputs)
    whole = [
        (1 - area) * (o - t).square().mean() + area * (o - p).square().mean()
        for o, t, p, area in zip(outputs, targets, others, areas, strict=True)
    ]
    assert torch.allclose(found, torch.stack(whole).mean())
    with pytest.raises(EmomcError, match="give targets in the shape of the outputs"):
        Loss(recipe, targets[:, None])(outputs)
