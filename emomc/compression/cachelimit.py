"""Keeping the folder of compressed layers from growing without bound."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from emomc.errors import EmomcError

VARIABLE = "EMOMC_BANK_LIMIT"
DEFAULT_LIMIT = 20_000_000_000
_UNITS = {"": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def bank_limit() -> int:
    """Bytes that a folder of compressed layers may take: the environment variable EMOMC_BANK_LIMIT, else 20 GB.

    Raises:
        EmomcError: the variable holds something else than a size such as ``5GB``.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return DEFAULT_LIMIT
    number = text.rstrip("kMGTB")
    try:
        size = float(number) * _UNITS[text[len(number) :].strip()]
    except (KeyError, ValueError):
        size = -1.0
    if not 0 <= size < float("inf"):
        raise EmomcError(f"{VARIABLE} is {text!r}: expected a size such as 5GB or 500MB.")
    return int(size)


def evict(folder: Path, limit: int, keep: Collection[str]) -> int:
    """Remove the layers that were not used for the longest time until the others fit, and return the bytes removed.

    Args:
        folder: of `emomc.compression.Bank`; layers are pairs of files with one stem, and using one touches its index.
        limit: bytes.
        keep: stems that stay, whatever they take.
    """
    layers: dict[str, list[os.stat_result]] = {}
    for path in folder.glob("*.*"):
        if path.suffix in (".index", ".blobs"):
            with suppress(OSError):  # another process may be removing it, too
                layers.setdefault(path.stem, []).append(path.stat())
    size = {stem: sum(each.st_size for each in found) for stem, found in layers.items()}
    excess, removed = sum(size.values()) - limit, 0
    for stem in sorted(layers, key=lambda stem: max(each.st_mtime for each in layers[stem])):
        if removed >= excess:
            break
        if stem not in keep:
            for suffix in (".index", ".blobs"):  # the index first: without it, the layer does not count as stored
                with suppress(OSError):
                    (folder / f"{stem}{suffix}").unlink()
            removed += size[stem]
    return removed
