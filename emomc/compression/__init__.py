"""How a layer is compressed: pruning, quantization, sharing, the bank of variants, and files of whole networks."""

from emomc.compression.bank import Bank
from emomc.compression.methods import METHODS, Method
from emomc.compression.networkfile import file_overhead, load_network, save_network
from emomc.compression.pruning import prune_magnitude
from emomc.compression.quantization import quantize_largest, quantize_uniform
from emomc.compression.sharing import cluster_nonzero, kmeans_1d, share_values

__all__ = [
    "METHODS",
    "Bank",
    "Method",
    "cluster_nonzero",
    "file_overhead",
    "kmeans_1d",
    "load_network",
    "prune_magnitude",
    "quantize_largest",
    "quantize_uniform",
    "save_network",
    "share_values",
]
