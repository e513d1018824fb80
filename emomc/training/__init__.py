"""Training: recovering what compression lost, and making networks to compress."""

from emomc.training.loop import Trained, fit
from emomc.training.recipe import Augmentation, Budget, Recipe
from emomc.training.regime import GrowZeros, KeepZeros, Plain, Regime, zero_masks

__all__ = [
    "Augmentation",
    "Budget",
    "GrowZeros",
    "KeepZeros",
    "Plain",
    "Recipe",
    "Regime",
    "Trained",
    "fit",
    "zero_masks",
]
