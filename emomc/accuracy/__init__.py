"""What compression loses: splits, measuring, statistics correction, sensitivities and predictors."""

from emomc.accuracy.activations import ZERO_IMAGES, input_sparsity
from emomc.accuracy.evaluator import DENSE, Evaluator, Measurement, Settings
from emomc.accuracy.predictor import AdditivePredictor, Predictor, rank_correlation
from emomc.accuracy.sensitivity import activation_table, plan_activation_probes, plan_probes, sensitivity_table
from emomc.accuracy.splits import Split, Splits

__all__ = [
    "DENSE",
    "ZERO_IMAGES",
    "AdditivePredictor",
    "Evaluator",
    "Measurement",
    "Predictor",
    "Settings",
    "Split",
    "Splits",
    "activation_table",
    "input_sparsity",
    "plan_activation_probes",
    "plan_probes",
    "rank_correlation",
    "sensitivity_table",
]
