"""What a network file holds, byte for byte: its parts sum to its length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emomc.coding.alphabet import histogram
from emomc.coding.blob import BlobInfo, describe_tensor
from emomc.coding.codecs import CODECS, SHAPED
from emomc.coding.container import NetworkFile, blob_cost


@dataclass(frozen=True)
class LayerContent:
    """One coded layer.

    Attributes:
        name: of the layer.
        info: codec, shape, bit-width, and the bytes of the blob's parts.
        zeros: how many of its weights are zero.
        distinct: how many non-zero values its weights take.
        entropy_bits: order-0 entropy of its integers, all weights together.
        codec_bytes: what each codec takes for its integers; the smallest is the one that is stored.
        bytes: of the file: the blob and its length field.
    """

    name: str
    info: BlobInfo
    zeros: int
    distinct: int
    entropy_bits: float
    codec_bytes: dict[str, int]
    bytes: int

    @property
    def bits_per_weight(self) -> float:
        """Bits of the file for each weight, scales and side information included."""
        return 8 * self.bytes / self.info.weights


@dataclass(frozen=True)
class FileContents:
    """A file in parts.

    Attributes:
        layers: the coded weights.
        arrays: bytes of each array that stays uncompressed, its length field included.
        index_bytes: header, names, types and shapes, deflated.
        framing_bytes: magic, version, checksum, and the heads of lists.
        total: length of the file; the sum of everything above.
    """

    layers: tuple[LayerContent, ...]
    arrays: dict[str, int]
    index_bytes: int
    framing_bytes: int
    total: int


def file_contents(file: NetworkFile) -> FileContents:
    """Decode every layer of a file and account for all of its bytes.

    Raises:
        EmomcError: a layer is damaged.
    """
    layers = tuple(_layer(file, name, blob) for name, blob in file.blobs.items())
    arrays = {key: blob_cost(array.nbytes) for key, array in file.arrays.items()}
    index = blob_cost(file.index_length)
    framing = file.length - index - sum(arrays.values()) - sum(layer.bytes for layer in layers)
    return FileContents(layers, arrays, index, framing, file.length)


def _layer(file: NetworkFile, name: str, blob: bytes) -> LayerContent:
    integers = file.tensor(name).integers
    values = integers.ravel()
    symbols, counts = histogram(values)
    seen = counts > 0
    zeros = int(counts[symbols == 0].sum())
    entropy = float(counts[seen] @ np.log2(values.size / counts[seen]))
    distinct = int(np.count_nonzero(seen & (symbols != 0)))
    codecs = {codec.name: codec.bits(integers if codec.name in SHAPED else values) // 8 for codec in CODECS.values()}
    return LayerContent(name, describe_tensor(blob), zeros, distinct, entropy, codecs, blob_cost(len(blob)))
