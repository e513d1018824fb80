"""The bank: every layer compressed alone in every way that the space allows, as the bytes that files are made of.

A network of the space is stitched from one blob per layer, so its size is a sum and its weights need no computing.
"""

from __future__ import annotations

import hashlib
import itertools
import mmap
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from emomc import coding
from emomc.compression.cachelimit import bank_limit, evict
from emomc.compression.hessian import Calibration
from emomc.compression.methods import CALIBRATED, METHODS, Setting
from emomc.compression.obs import relative_error
from emomc.errors import EmomcError, unknown_name
from emomc.files import atomic_write
from emomc.genome import (
    BIT_WIDTH,
    PRUNE_RATIO,
    SHARED_VALUES,
    STORED,
    Choice,
    Gene,
    SearchSpace,
)

Floats = NDArray[np.float32]
# Largest weights of a layer that half-precision scales resolve: at least a hundred steps, and no clipping at 2 bits.
_STORABLE = (1e-5, 65504.0)
_ROW = np.dtype(  # of a layer's index file
    [("length", "<i8"), ("checksum", "<u4"), ("distortion", "<f8"), ("nonzero", "<i8"), ("channels", "<i8")]
)
_VERSION = 7  # raise when a change to compression or coding makes stored blobs stale


@dataclass(frozen=True)
class LayerRecipe:
    """All that decides the variants of one layer: the weights, the method and the choices.

    A variant is one choice per gene in `STORED`; its number is the flat index of these choices, shape ``(P, Q, S)``.
    ``representative`` has that shape and holds the canonical variant of the network that the indices stand for; -1
    where the space does not allow them. ``calibration`` is the key of the inputs that it is calibrated on, or empty.
    """

    weight: Floats
    method: str
    calibration: str
    genes: tuple[Gene, ...]
    representative: NDArray[np.int64]

    @property
    def key(self) -> str:
        """Content hash: a change of any input gives another key, so that stale variants cannot be used."""
        choices = [(gene.name, gene.choices) for gene in self.genes]
        digest = hashlib.sha256(repr((_VERSION, self.method, self.calibration, choices, self.weight.shape)).encode())
        digest.update(np.ascontiguousarray(self.weight).tobytes())
        digest.update(self.representative.tobytes())
        return digest.hexdigest()[:32]

    def choices(self, variant: int) -> dict[str, Choice]:
        """The choice of every gene of a variant."""
        indices = np.unravel_index(variant, self.representative.shape)
        return {gene.name: gene.choices[index] for gene, index in zip(self.genes, indices, strict=True)}


@dataclass(frozen=True, eq=False)
class LayerVariants:
    """The stored variants of one layer. It travels to workers as numbers and a path, never as the blobs.

    Attributes:
        offsets: shape ``(n + 1,)`` for n variants; blob v lies from ``offsets[v]`` to ``offsets[v + 1]``, of no length
            where v is not canonical.
        distortion: shape ``(n,)``, as `Bank.distortions`.
        checksums: shape ``(n,)``, CRC-32 of each blob.
        nonzero: shape ``(n,)``, weights that are not zero.
        channels: shape ``(n,)``, input channels with a weight that is not zero.
        weights: of the layer.
        path: file of all blobs, one after the other.
    """

    offsets: NDArray[np.int64]
    distortion: NDArray[np.float64]
    checksums: NDArray[np.uint32]
    nonzero: NDArray[np.int64]
    channels: NDArray[np.int64]
    weights: int
    path: Path

    @cached_property
    def _mapped(self) -> mmap.mmap:
        """The file in memory, as far as it is read; it stays readable when the file is removed or replaced."""
        try:
            with self.path.open("rb") as stream:
                return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):
            raise EmomcError(
                f"{self.path}: a compressed layer is gone. Repeat the command to build it again."
            ) from None

    def __getstate__(self) -> dict[str, Any]:
        """What travels: all but the map of the file."""
        return {name: value for name, value in vars(self).items() if name != "_mapped"}

    def blob(self, variant: int) -> bytes:
        """Coded bytes of a variant, read from the file.

        Raises:
            EmomcError: the file has changed since it was written; it is removed, so that the bank is built again.
        """
        start, end = self.offsets[variant : variant + 2].tolist()
        blob = self._mapped[start:end]
        if zlib.crc32(blob) != self.checksums[variant]:
            self.path.unlink(missing_ok=True)
            raise EmomcError(f"{self.path}: a compressed layer is damaged. It was removed; repeat the command.")
        return blob


def check_storable(name: str, weight: Floats) -> None:
    """Raise EmomcError where a layer's weights are not finite, or beyond what half-precision scales resolve."""
    largest = float(np.abs(weight).max())
    if not np.isfinite(largest):
        raise EmomcError(f"layer {name!r}: weights contain NaN or infinity; the network cannot be compressed.")
    if largest and not _STORABLE[0] <= largest <= _STORABLE[1]:
        raise EmomcError(
            f"layer {name!r}: its largest weight is {largest:.3g}; files hold layers whose largest weight lies between "
            f"{_STORABLE[0]:g} and {_STORABLE[1]:g}. Scale its weights, and scale back in the layer that follows."
        )


def _compress_layer(recipe: LayerRecipe, gram: Floats | None) -> tuple[list[bytes], NDArray[np.void]]:
    """Blobs and index rows of every variant."""
    blobs = [b""] * recipe.representative.size
    rows = np.zeros(recipe.representative.size, _ROW)
    rows["distortion"] = np.nan
    variants = np.unique(recipe.representative[recipe.representative >= 0]).tolist()
    settings = [Setting.of(recipe.choices(variant)) for variant in variants]
    for variant, tensor in zip(variants, METHODS[recipe.method](recipe.weight, settings, gram), strict=True):
        blobs[variant] = coding.encode_tensor(tensor)
        nonzero = tensor.integers != 0
        rows[variant] = (
            len(blobs[variant]),
            zlib.crc32(blobs[variant]),
            _distortion(recipe.weight, tensor.dequantize(), gram),
            nonzero.sum(),
            np.moveaxis(nonzero, 1, 0).reshape(nonzero.shape[1], -1).any(axis=1).sum(),
        )
    return blobs, rows


def _distortion(weight: Floats, result: Floats, gram: Floats | None) -> float:
    if gram is not None:
        return relative_error(weight, result, gram)
    energy = float(np.square(weight, dtype=np.float64).sum()) or 1.0
    return float(np.square(result - weight, dtype=np.float64).sum()) / energy


def _build_layer(recipe: LayerRecipe, gram: Floats | None, folder: Path) -> None:
    """Compress one layer in every way and store it; the index is written last and marks the layer as complete."""
    blobs, rows = _compress_layer(recipe, gram)
    with atomic_write(folder / f"{recipe.key}.blobs") as stream:
        stream.write(b"".join(blobs))
    with atomic_write(folder / f"{recipe.key}.index") as stream:
        stream.write(zlib.crc32(rows.tobytes()).to_bytes(4, "little") + rows.tobytes())


def _open_layer(recipe: LayerRecipe, folder: Path) -> LayerVariants | None:
    """The stored variants, or None where they are absent or damaged."""
    path = folder / f"{recipe.key}.blobs"
    try:
        data = (folder / f"{recipe.key}.index").read_bytes()
        length = path.stat().st_size
    except OSError:
        return None
    checksum, body = int.from_bytes(data[:4], "little"), data[4:]
    if len(body) != recipe.representative.size * _ROW.itemsize or zlib.crc32(body) != checksum:
        return None
    rows = np.frombuffer(body, _ROW)
    offsets = np.concatenate([[0], np.cumsum(rows["length"])])
    if offsets[-1] != length:
        return None
    return LayerVariants(
        offsets, rows["distortion"], rows["checksum"], rows["nonzero"], rows["channels"], recipe.weight.size, path
    )


def _representatives(space: SearchSpace) -> NDArray[np.int64]:
    """Canonical variant for every layer and choice of stored genes, ``(L, P, Q, S)``; -1 if the choice is not allowed.

    Raises:
        EmomcError: the space lacks a gene that compression needs.
    """
    for gene in (PRUNE_RATIO, BIT_WIDTH, SHARED_VALUES):
        space.column(gene)
    axes = list(space.columns(STORED))
    shape = tuple(space.shape[axis] for axis in axes)
    table = np.full((space.n_layers, *shape), -1, dtype=np.int64)
    for flat, indices in enumerate(itertools.product(*map(range, shape))):
        genome = np.zeros((space.n_layers, space.n_genes), dtype=np.int64)
        genome[:, axes] = indices
        canonical = space.split(space.canonical(genome.reshape(1, -1)))[0][:, axes]
        allowed = np.array([all(i in row[a] for i, a in zip(indices, axes, strict=True)) for row in space.allowed])
        variant = np.ravel_multi_index(tuple(canonical.T), shape)
        table.reshape(space.n_layers, -1)[:, flat] = np.where(allowed, variant, -1)
    return table


class Bank:
    """Compressed variants of every layer of a network, opened from or built into a folder.

    Its tables have an axis for every gene in `STORED` that the space has; P, Q, S stand for them.

    Attributes:
        sizes: shape ``(L, P, Q, S)``, bytes of each blob; equal networks have equal entries. Entries that the space
            does not allow are those of the mildest allowed choice of the layer.
        key: content hash of everything that the variants depend on.
        distortions: shape ``(L, P, Q, S)``, squared weight error over squared weights; squared output error over
            squared output for layers that are calibrated.
        densities: shape ``(L, P, Q, S)``, fraction of stored weights that are not zero.
        channels: shape ``(L, P, Q, S)``, input channels (of a group) that are left: those with weights other than zero.
    """

    def __init__(self, space: SearchSpace, variants: Sequence[LayerVariants], key: str) -> None:
        self.space = space
        self.key = key
        self._variants = tuple(variants)
        self._table = _representatives(space)
        flat = self._table.reshape(space.n_layers, -1)
        fallback = np.array([row[row >= 0][0] for row in flat])[:, None]
        usable = np.where(flat >= 0, flat, fallback)

        def table(rows: Sequence[NDArray[Any]]) -> NDArray[Any]:
            return np.take_along_axis(np.stack(rows), usable, axis=1).reshape(self._table.shape)

        self.sizes: NDArray[np.int64] = table([np.diff(layer.offsets) for layer in self._variants])
        self.distortions: NDArray[np.float64] = table([layer.distortion for layer in self._variants])
        self.densities: NDArray[np.float64] = table([each.nonzero / each.weights for each in self._variants])
        self.channels: NDArray[np.int64] = table([layer.channels for layer in self._variants])

    @classmethod
    def open(
        cls,
        folder: Path,
        weights: Mapping[str, Floats],
        space: SearchSpace,
        method: str = "magnitude",
        workers: int = 1,
        progress: Callable[[int, int], None] | None = None,
        calibration: Calibration | None = None,
        limit: int | None = None,
    ) -> Bank:
        """The bank of these weights; layers that the folder does not hold yet are compressed and stored.

        A layer is stored whole or not at all, so that an interrupted build loses the layers in progress and no others.

        Args:
            folder: where variants are kept, by content hash; may be shared by runs and processes.
            weights: weight of each layer of the space, output channels first.
            space: the choices of its genes in `STORED` are the variants.
            method: name in `emomc.compression.METHODS`.
            workers: processes that compress.
            progress: called with (layers done, layers in all).
            calibration: for the methods in `emomc.compression.CALIBRATED`; used only where layers are missing.
            limit: bytes that the folder may take; beyond, the layers that were not used for the longest time are
                removed, but none of this bank. If not given, `emomc.compression.cachelimit.bank_limit`: 20 GB.

        Raises:
            EmomcError: unknown method, no calibration for a method that needs it, a weight that is not finite or
                beyond what files hold, or a folder that cannot be written.
        """
        if method not in METHODS:
            raise unknown_name("compression method", method, METHODS)
        if method not in CALIBRATED:
            calibration = None
        elif calibration is None:
            raise EmomcError(f"compression method {method!r} needs calibration inputs: give `calibration`.")
        recipes = cls._recipes(weights, space, method, calibration.key if calibration else "")
        named = zip(space.layers, recipes, strict=True)
        missing = [(name, recipe) for name, recipe in named if _open_layer(recipe, folder) is None]
        missing.sort(key=lambda entry: -entry[1].weight.size)  # the longest jobs first keeps the workers busy
        grams = calibration.grams() if calibration and missing else {}
        jobs = (delayed(_build_layer)(recipe, grams.get(name), folder) for name, recipe in missing)
        pool = Parallel(n_jobs=min(workers, max(len(missing), 1)), return_as="generator_unordered")
        for done, _ in enumerate(pool(jobs), start=1):
            if progress is not None:
                progress(len(recipes) - len(missing) + done, len(recipes))
        for recipe in recipes:
            with suppress(OSError):  # a folder that cannot be written may still be read
                os.utime(folder / f"{recipe.key}.index")
        if missing:
            evict(folder, bank_limit() if limit is None else limit, {recipe.key for recipe in recipes})
        key = hashlib.sha256("".join(recipe.key for recipe in recipes).encode()).hexdigest()
        opened = [variants for recipe in recipes if (variants := _open_layer(recipe, folder)) is not None]
        if len(opened) < len(recipes):
            raise EmomcError(
                f"{folder}: what was just written there cannot be read. Check the disk, or empty the folder."
            )
        return cls(space, opened, key)

    @staticmethod
    def _recipes(weights: Mapping[str, Floats], space: SearchSpace, method: str, calibration: str) -> list[LayerRecipe]:
        genes = tuple(space.genes[axis] for axis in space.columns(STORED))
        table = _representatives(space)
        for name in space.layers:
            check_storable(name, weights[name])
        return [
            LayerRecipe(
                np.ascontiguousarray(weights[name], dtype=np.float32),
                method,
                calibration,
                genes,
                table[layer],
            )
            for layer, name in enumerate(space.layers)
        ]

    def variant(self, layer: int, indices: tuple[int, ...]) -> int:
        """Number of the stored variant behind the choices of a layer, one index per stored gene in genome order."""
        return int(self._table[(layer, *indices)])

    def blob(self, layer: int, variant: int) -> bytes:
        """The coded bytes of a variant."""
        return self._variants[layer].blob(variant)

    def variants_of(self, genomes: NDArray[np.integer]) -> NDArray[np.int64]:
        """Variant numbers of canonical genomes, shape ``(n, L)``; equal rows are equal networks."""
        parts = self.space.split(genomes)[:, :, self.space.columns(STORED)]
        layer = np.arange(self.space.n_layers)[None, :]
        return np.asarray(self._table[(layer, *np.moveaxis(parts, 2, 0))])
