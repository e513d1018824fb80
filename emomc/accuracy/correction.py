"""Statistics correction: batch norms follow the change that compression makes to their inputs.

Compression shifts and scales what reaches a batch norm. Re-estimating running statistics from a few images costs
accuracy even on the dense network; moving them by the *change against the dense network* on the same images does not,
and leaves the dense network as it is.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from emomc.compression.glue import batch_norms

Statistics = Mapping[str, tuple[torch.Tensor, torch.Tensor]]
"""Mean and variance per channel of each batch norm's input, by module path."""

# A channel whose variance collapsed would be amplified without limit and drown the others, so the ratio is bounded.
MAX_VARIANCE_RATIO = 4.0
_TINY = 1e-8


def _moments(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    # What a batch norm computes while training: twelve times as fast as torch.var_mean on channels-last maps.
    mean, variance = torch.batch_norm_update_stats(inputs, None, None, 0.0)
    return mean, variance


@torch.inference_mode()
def collect_statistics(module: nn.Module, inputs: torch.Tensor) -> tuple[Statistics, torch.Tensor]:
    """Input statistics of every batch norm on one batch, and the module's output for it.

    Args:
        module: in eval mode; not changed.
        inputs: shape ``(n, ...)``, all n in one pass.
    """
    collected: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    handles: list[RemovableHandle] = []
    for name, norm in batch_norms(module).items():

        def record(_: nn.Module, arguments: tuple[torch.Tensor, ...], name: str = name) -> None:
            collected.setdefault(name, _moments(arguments[0]))

        handles.append(norm.register_forward_pre_hook(record))
    try:
        output = module(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return collected, output


@torch.inference_mode()
def correct_statistics(module: nn.Module, inputs: torch.Tensor, dense: Statistics, strength: float) -> torch.Tensor:
    """Correct the running statistics of a compressed module, in place and in forward order, in one pass.

    At full strength, what compression does to the mean and variance of each channel on these inputs happens to the
    running statistics too: with ``r = variance now / variance dense``, bounded by `MAX_VARIANCE_RATIO`, the running
    variance is multiplied by ``r``, and the running mean keeps its distance from the mean of the inputs, multiplied by
    ``sqrt(r)``. So an affine change is undone for all inputs, whatever the sample. "Now" is seen with the batch norms
    before it already corrected. Other strengths multiply the mean's move and are the exponent of ``r``.

    Args:
        module: compressed, in eval mode, with the dense network's running statistics.
        inputs: the batch that ``dense`` was collected on.
        dense: statistics of the dense network.
        strength: 0 for none, 1 for the whole change.

    Returns:
        The corrected module's output for the batch.
    """
    corrected: set[str] = set()
    handles: list[RemovableHandle] = []
    for name, norm in batch_norms(module).items():

        def follow(norm: nn.Module, arguments: tuple[torch.Tensor, ...], name: str = name) -> None:
            if name not in corrected:
                corrected.add(name)
                _follow_change(norm, _moments(arguments[0]), dense[name], strength)

        handles.append(norm.register_forward_pre_hook(follow))
    try:
        return module(inputs)  # type: ignore[no-any-return]
    finally:
        for handle in handles:
            handle.remove()


def _follow_change(
    norm: nn.Module,
    now: tuple[torch.Tensor, torch.Tensor],
    dense: tuple[torch.Tensor, torch.Tensor],
    strength: float,
) -> None:
    ratio = ((now[1] + _TINY) / (dense[1] + _TINY)).clamp(1 / MAX_VARIANCE_RATIO, MAX_VARIANCE_RATIO)
    distance = norm.running_mean - dense[0]  # type: ignore[operator]
    norm.running_mean.add_((now[0] - dense[0] + distance * (ratio.sqrt() - 1)) * strength)  # type: ignore[operator]
    norm.running_var.mul_(ratio**strength)  # type: ignore[operator]


def running_statistics(module: nn.Module) -> Statistics:
    """Copies of the running mean and variance of every batch norm."""
    return {
        name: (norm.running_mean.clone(), norm.running_var.clone())  # type: ignore[union-attr]
        for name, norm in batch_norms(module).items()
    }


@torch.no_grad()
def load_statistics(module: nn.Module, statistics: Statistics) -> None:
    """Put running means and variances back, in place."""
    for name, norm in batch_norms(module).items():
        norm.running_mean.copy_(statistics[name][0])  # type: ignore[union-attr]
        norm.running_var.copy_(statistics[name][1])  # type: ignore[union-attr]
