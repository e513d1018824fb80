"""Tables of what is in a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from emomc.coding import CODECS, CONVENTIONS, FileContents, LayerContent
from emomc.units import percent, si

if TYPE_CHECKING:
    from rich.table import Table

_FLOAT = 4  # bytes
_COUNT_SHARING = frozenset({"dupuis", "haq"})
_DUPUIS_ENTRY = 32  # bits


def _table(title: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(title=title)
    for number, name in enumerate(columns):
        left = number == 0 or name in {"shape", "codec"}
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    return table


def contents_table(contents: FileContents) -> Table:
    """One row for each layer, then everything else, then the file's length, which is their sum."""
    table = _table("What the bytes are", "", "shape", "codec", "bits", "zeros", "values", "bits/weight", "entropy")
    for name in ("codes", "scales", "head", "bytes"):
        table.add_column(name, justify="right", no_wrap=True)
    for layer in contents.layers:
        info = layer.info
        parts = (info.payload_bytes, info.scale_bytes, layer.bytes - info.payload_bytes - info.scale_bytes)
        table.add_row(
            layer.name,
            "x".join(map(str, info.shape)),
            info.codec,
            str(info.bit_width),
            percent(layer.zeros / info.weights),
            str(layer.distinct),
            f"{layer.bits_per_weight:.3f}",
            f"{layer.entropy_bits / info.weights:.3f}",
            *map(str, (*parts, layer.bytes)),
        )
    table.add_section()
    rest = [
        (f"{len(contents.arrays)} arrays as they are", sum(contents.arrays.values())),
        ("header and names", contents.index_bytes),
        ("framing and checksum", contents.framing_bytes),
    ]
    for name, length in rest:
        table.add_row(name, *[""] * 10, str(length))
    table.add_section()
    table.add_row("file", *[""] * 10, str(contents.total), style="bold")
    return table


def codecs_table(contents: FileContents) -> Table:
    """Bytes of every layer's codes under each codec, the stored one marked."""
    table = _table("Bytes of the codes, by codec; * is stored", "", *CODECS)
    for layer in contents.layers:
        cells = (f"{'*' if name == layer.info.codec else ''}{layer.codec_bytes[name]}" for name in CODECS)
        table.add_row(layer.name, *cells)
    table.add_section()
    table.add_row("all", *(str(sum(layer.codec_bytes[name] for layer in contents.layers)) for name in CODECS))
    return table


def conventions_table(contents: FileContents) -> Table:
    """The layers' weights as papers count them."""
    table = _table("The same weights as papers count them", "convention", "bytes")
    table.add_column("counts")
    for name, convention in CONVENTIONS.items():
        each = [_arguments(layer, name in _COUNT_SHARING) for layer in contents.layers]
        bits = sum(float(convention.bits(*arguments)) for arguments in each)
        impossible = any(keep < convention.decodable_from for _, keep, _, _ in each)
        note = "; fewer than any decoder needs" if impossible else ""
        table.add_row(name, f"{bits / 8:.0f}", convention.counts + note)
    return table


def _arguments(layer: LayerContent, sharing: bool) -> tuple[int, float, int, int]:
    """Weights, keep fraction, bits of a value, and shared values, for a convention that counts sharing or not."""
    kept = 1 - layer.zeros / layer.info.weights
    if not sharing:
        return layer.info.weights, kept, layer.info.bit_width, 0
    return layer.info.weights, kept, _DUPUIS_ENTRY, layer.distinct + (layer.zeros > 0)


def contents_facts(contents: FileContents) -> list[str]:
    """Sentences: the ratio, and how near the codes are to the order-0 entropy."""

    def total(part: Callable[[LayerContent], float]) -> float:
        return float(np.sum([part(layer) for layer in contents.layers]))

    weights = total(lambda layer: layer.info.weights)
    if not weights:
        return ["No coded layers."]
    coded, entropy = total(lambda layer: layer.bytes), total(lambda layer: layer.entropy_bits) / 8
    zeros = total(lambda layer: layer.zeros)
    each, share = f"{8 * coded / weights:.3f} bits each", percent(zeros / weights)
    return [
        f"{si(weights, '')} weights in {si(coded, 'B')}, {each}; {share} are zero.",
        f"As 32-bit floats they take {si(_FLOAT * weights, 'B')}: {_FLOAT * weights / coded:.1f} x.",
        f"Order-0 entropy of the integers: {si(entropy, 'B')}, with nothing counted that a decoder needs beside them.",
    ]
