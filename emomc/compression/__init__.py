"""How a layer is compressed: pruning, quantization, sharing, the bank of variants, and files of whole networks."""

from emomc.compression.activations import ActivationGrid, InputQuantizer, attach_quantizers
from emomc.compression.bank import Bank
from emomc.compression.channels import prune_channels
from emomc.compression.hessian import Calibration, collect_grams
from emomc.compression.methods import CALIBRATED, METHODS, Method, Setting
from emomc.compression.networkfile import file_overhead, load_network, save_network
from emomc.compression.obs import (
    OutputError,
    cluster_obs,
    prune_n_m,
    prune_obs,
    quantize_obs,
    relative_error,
    share_obs,
)
from emomc.compression.pruning import prune_channels_magnitude, prune_magnitude, prune_n_m_magnitude
from emomc.compression.quantization import AffineTensor, quantize_affine, quantize_largest, quantize_uniform
from emomc.compression.ranges import InputDistribution, collect_inputs, fit_grid
from emomc.compression.sequence import compress_in_order
from emomc.compression.sharing import cluster_nonzero, kmeans_1d, share_values
from emomc.compression.shrinking import Kept, Shrunk, shrink

__all__ = [
    "CALIBRATED",
    "METHODS",
    "ActivationGrid",
    "AffineTensor",
    "Bank",
    "Calibration",
    "InputDistribution",
    "InputQuantizer",
    "Kept",
    "Method",
    "OutputError",
    "Setting",
    "Shrunk",
    "attach_quantizers",
    "cluster_nonzero",
    "cluster_obs",
    "collect_grams",
    "collect_inputs",
    "compress_in_order",
    "file_overhead",
    "fit_grid",
    "kmeans_1d",
    "load_network",
    "prune_channels",
    "prune_channels_magnitude",
    "prune_magnitude",
    "prune_n_m",
    "prune_n_m_magnitude",
    "prune_obs",
    "quantize_affine",
    "quantize_largest",
    "quantize_obs",
    "quantize_uniform",
    "relative_error",
    "save_network",
    "share_obs",
    "share_values",
    "shrink",
]
