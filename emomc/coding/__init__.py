"""How weights are stored: codecs, exact sizes, the network file, and published size conventions."""

from emomc.coding.blob import BlobInfo, decode_floats, decode_tensor, describe_tensor, encode_floats, encode_tensor
from emomc.coding.codecs import CODECS, SHAPED, Codec, smallest
from emomc.coding.container import NetworkFile, blob_cost, container_overhead, is_whole, read_network, write_network
from emomc.coding.contents import FileContents, LayerContent, file_contents
from emomc.coding.conventions import CONVENTIONS, SizeConvention, entropy_bound, size_convention
from emomc.coding.spreading import encode_tensors
from emomc.coding.tensor import CodedTensor

__all__ = [
    "CODECS",
    "CONVENTIONS",
    "SHAPED",
    "BlobInfo",
    "Codec",
    "CodedTensor",
    "FileContents",
    "LayerContent",
    "NetworkFile",
    "SizeConvention",
    "blob_cost",
    "container_overhead",
    "decode_floats",
    "decode_tensor",
    "describe_tensor",
    "encode_floats",
    "encode_tensor",
    "encode_tensors",
    "entropy_bound",
    "file_contents",
    "is_whole",
    "read_network",
    "size_convention",
    "smallest",
    "write_network",
]
