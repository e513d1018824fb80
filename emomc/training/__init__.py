"""Training: recovering what compression lost, and making networks to compress."""

from emomc.training.coded import KeepCoded
from emomc.training.elastic import Elastic, elastic_recipe
from emomc.training.fakequant import RoundWeights
from emomc.training.loop import Trained, fit
from emomc.training.recipe import Augmentation, Budget, Recipe, recovery_recipe
from emomc.training.regime import GrowZeros, KeepZeros, Plain, Regime, zero_masks

__all__ = [
    "Augmentation",
    "Budget",
    "Elastic",
    "GrowZeros",
    "KeepCoded",
    "KeepZeros",
    "Plain",
    "Recipe",
    "Regime",
    "RoundWeights",
    "Trained",
    "elastic_recipe",
    "fit",
    "recovery_recipe",
    "zero_masks",
]
