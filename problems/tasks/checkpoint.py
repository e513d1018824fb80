"""Weights from a file into a network, with an error that says what does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from emomc.errors import EmomcError
from emomc.problems.tasks.checks import check_finite

_WRAPPERS = ("state_dict", "model_state_dict", "model")


def load_checkpoint(module: torch.nn.Module, path: Path) -> None:
    """Load a ``state_dict`` into a network and put it into eval mode.

    The file may hold the state_dict itself or one under a key such as ``state_dict``; names may carry the prefix
    ``module.`` of data-parallel training; values are converted to the network's types. Only tensors are unpickled.

    Raises:
        EmomcError: when the file is missing or no weights file, its names or shapes do not fit, or it holds NaN or
            infinity.
    """
    state = _read(path)
    expected = module.state_dict()
    # Files from before torch 0.4.1 lack this counter, which inference never reads.
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in expected]
    reshaped = [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "other shape": reshaped}
    complaints = [f"{kind}: {_first(names)}" for kind, names in kinds.items() if names]
    if complaints:
        raise EmomcError(
            f"the checkpoint {str(path)!r} does not fit the network {type(module).__name__}. {'. '.join(complaints)}. "
            "Give the checkpoint of this architecture."
        )
    module.load_state_dict(state, strict=False)
    try:
        check_finite(module.eval())
    except EmomcError as error:
        raise EmomcError(f"the checkpoint {str(path)!r}: {error}") from error


def _read(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise EmomcError(f"there is no checkpoint {str(path)!r}. Give the path of a file written by torch.save.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises almost any type
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EmomcError(
            f"cannot read {str(path)!r} as weights ({reason}). "
            "Expected a file written by torch.save(network.state_dict(), path)."
        ) from error
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise EmomcError(
            f"{str(path)!r} holds no state_dict. Expected names and tensors, or those under the key 'state_dict'."
        )
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def _first(names: list[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
