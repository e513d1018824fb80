"""Statistics correction: what compression shifts and scales inside a network is shifted and scaled back.

Batch norms follow the change that compression makes to the mean and variance of their inputs. Where there is no batch
norm, because it was folded into the convolution before it or because the network has other norms, a module's bias is
moved so that the mean of its output stays where it was (bias correction: Nagel et al. 2019, section 4.2).

Re-estimating running statistics from a few images costs accuracy even on the dense network; moving them by the *change
against the dense network* on the same images does not, and leaves the dense network as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.instancenorm import _InstanceNorm

from emomc.compression.glue import batch_norms
from emomc.network.layers import Network

Statistics = Mapping[str, tuple[torch.Tensor, ...]]
"""By module path: mean and variance per channel of a batch norm's input; the mean alone of another module's output."""

# A channel whose variance collapsed would be amplified without limit and drown the others, so the ratio is bounded.
MAX_VARIANCE_RATIO = 4.0
_TINY = 1e-8
_BIASED = (nn.Conv1d, nn.Conv2d, nn.Linear, nn.GroupNorm, nn.LayerNorm, _InstanceNorm)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm)


def movable_biases(module: nn.Module, network: Network) -> tuple[str, ...]:
    """Paths of the modules whose bias correction moves: all that have one per channel, unless a batch norm follows.

    Args:
        module: the network.
        network: its trace.
    """
    norms = batch_norms(module)
    fed_to_norms = {source for node in network.nodes if node.module in norms for source in node.inputs}
    before_norms = {node.module for node in network.nodes if node.name in fed_to_norms}
    children = dict(module.named_modules())
    called = dict.fromkeys(node.module for node in network.nodes)
    return tuple(
        path
        for path in called
        if isinstance(child := children.get(path), _BIASED)
        and child.bias is not None
        and child.bias.dim() == 1
        and path not in before_norms
    )


def _moments(inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    # What a batch norm computes while training: twelve times as fast as torch.var_mean on channels-last maps.
    mean, variance = torch.batch_norm_update_stats(inputs, None, None, 0.0)
    return mean, variance


def _channel_axis(module: nn.Module, output: torch.Tensor) -> int:
    """The axis that a bias is added along; a subclass of LayerNorm may have moved it to the front."""
    last = isinstance(module, _CHANNELS_LAST) and output.shape[-1] == len(module.bias)
    return output.dim() - 1 if last else 1


def _mean(output: torch.Tensor, axis: int) -> torch.Tensor:
    return output.mean([each for each in range(output.dim()) if each != axis])


Visit = Callable[[str, nn.Module, torch.Tensor], torch.Tensor | None]
"""``(path, module, input or output)``; what it returns takes an output's place."""


@contextmanager
def _visited(module: nn.Module, names: Sequence[str], at_norm: Visit, at_bias: Visit) -> Iterator[None]:
    """For the length of a block, see the first input of batch norms and the first output of other modules."""
    norms, seen = batch_norms(module), set[str]()

    def before(norm: nn.Module, arguments: tuple[torch.Tensor, ...], name: str) -> None:
        if name not in seen:
            seen.add(name)
            at_norm(name, norm, arguments[0])

    def after(child: nn.Module, _: Any, output: torch.Tensor, name: str) -> torch.Tensor | None:
        if name in seen:
            return None
        seen.add(name)
        return at_bias(name, child, output)

    handles = [
        norms[name].register_forward_pre_hook(partial(before, name=name))
        if name in norms
        else module.get_submodule(name).register_forward_hook(partial(after, name=name))
        for name in names
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def collect_statistics(
    module: nn.Module, inputs: torch.Tensor, biased: Sequence[str] = ()
) -> tuple[Statistics, torch.Tensor]:
    """Input statistics of every batch norm and output means of other modules on one batch, and the module's output.

    Args:
        module: in eval mode; not changed.
        inputs: shape ``(n, ...)``, all n in one pass.
        biased: paths from `movable_biases`.
    """
    collected: dict[str, tuple[torch.Tensor, ...]] = {}

    def at_norm(name: str, _: nn.Module, seen: torch.Tensor) -> None:
        collected[name] = _moments(seen)

    def at_bias(name: str, child: nn.Module, output: torch.Tensor) -> None:
        collected[name] = (_mean(output, _channel_axis(child, output)),)

    with _visited(module, [*batch_norms(module), *biased], at_norm, at_bias):
        output = module(inputs)
    return collected, output


@torch.inference_mode()
def correct_statistics(module: nn.Module, inputs: torch.Tensor, dense: Statistics, strength: float) -> torch.Tensor:
    """Correct running statistics and biases of a compressed module, in place and in forward order, in one pass.

    At full strength, what compression does to the mean and variance of each channel on these inputs happens to the
    running statistics too: with ``r = variance now / variance dense``, bounded by `MAX_VARIANCE_RATIO`, the running
    variance is multiplied by ``r``, and the running mean keeps its distance from the mean of the inputs, multiplied by
    ``sqrt(r)``. So an affine change is undone for all inputs, whatever the sample. A bias is lowered by what the mean
    of its module's output has risen by. "Now" is seen with all that comes before already corrected. Other strengths
    multiply the means' moves and are the exponent of ``r``.

    Args:
        module: compressed, in eval mode, with the dense network's running statistics and biases.
        inputs: the batch that ``dense`` was collected on.
        dense: statistics of the dense network; what is missing is not corrected.
        strength: 0 for none, 1 for the whole change.

    Returns:
        The corrected module's output for the batch.
    """
    if strength == 0:
        return module(inputs)  # type: ignore[no-any-return]

    def at_norm(name: str, norm: nn.Module, seen: torch.Tensor) -> None:
        _follow_change(norm, _moments(seen), dense[name], strength)

    def at_bias(name: str, child: nn.Module, output: torch.Tensor) -> torch.Tensor:
        axis = _channel_axis(child, output)
        move = (dense[name][0] - _mean(output, axis)) * strength
        child.bias.add_(move)  # type: ignore[operator]
        return output + move.reshape([-1 if each == axis else 1 for each in range(output.dim())])

    with _visited(module, list(dense), at_norm, at_bias):
        return module(inputs)  # type: ignore[no-any-return]


def _follow_change(
    norm: nn.Module, now: tuple[torch.Tensor, ...], dense: tuple[torch.Tensor, ...], strength: float
) -> None:
    ratio = ((now[1] + _TINY) / (dense[1] + _TINY)).clamp(1 / MAX_VARIANCE_RATIO, MAX_VARIANCE_RATIO)
    distance = norm.running_mean - dense[0]  # type: ignore[operator]
    norm.running_mean.add_((now[0] - dense[0] + distance * (ratio.sqrt() - 1)) * strength)  # type: ignore[operator]
    norm.running_var.mul_(ratio**strength)  # type: ignore[operator]


def running_statistics(module: nn.Module, biased: Sequence[str] = ()) -> Statistics:
    """Copies of what correction changes: running mean and variance of every batch norm, biases of other modules."""
    return {name: tuple(each.clone() for each in state) for name, state in _correctable(module, biased).items()}


@torch.no_grad()
def load_statistics(module: nn.Module, statistics: Statistics) -> None:
    """Put running means, variances and biases back, in place."""
    biased = [name for name, values in statistics.items() if len(values) == 1]
    for name, state in _correctable(module, biased).items():
        for tensor, value in zip(state, statistics[name], strict=True):
            tensor.copy_(value)


def _correctable(module: nn.Module, biased: Sequence[str]) -> dict[str, tuple[torch.Tensor, ...]]:
    norms = batch_norms(module).items()
    state: dict[str, Any] = {name: (norm.running_mean, norm.running_var) for name, norm in norms}
    return state | {name: (module.get_submodule(name).bias,) for name in biased}
