"""Plain weights for programs that know nothing of compression."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from emomc.export.loading import load
from emomc.files import atomic_write


def export_state_dict(
    path: str | os.PathLike[str], out: str | os.PathLike[str], build: Callable[[], nn.Module] | None = None
) -> int:
    """Decode a file into a ``state_dict`` of ordinary tensors and save it with ``torch.save``.

    It is as large as the uncompressed network's: the savings are in the compressed file alone.

    Args:
        path: a file that a search wrote.
        out: read it with ``torch.load(out, weights_only=True)``.
        build: as for `load`.

    Returns:
        Bytes written.

    Raises:
        EmomcError: as for `load`.
    """
    state = load(path, build).state_dict()
    with atomic_write(Path(out)) as stream:
        torch.save(dict(state), stream)
    return Path(out).stat().st_size
