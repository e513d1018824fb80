"""Compression that keeps a layer's output: whatever a weight loses, the other weights make up for.

All functions lower the same objective, the squared output error ``tr(E H E^T)`` of a layer on calibration inputs, H
being their Gram matrix. Pruning removes weights a few at a time by their optimal-brain-surgeon saliency and solves for
those that remain (Hassibi and Stork 1993; Frantar and Alistarh 2022). Rounding goes through the columns in order and
passes each column's error on to those that follow (Frantar et al. 2023, "GPTQ"), then revisits them one by one.

Inside, weights are tensors ``(G, d, R)``: groups, inputs of an output channel, output channels of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from emomc.coding.tensor import CodedTensor
from emomc.compression.pruning import keep_largest
from emomc.compression.quantization import largest_level, to_integers
from emomc.compression.sharing import Clusters, cluster_nonzero

Floats = NDArray[np.float32]
Snap = Callable[[torch.Tensor], torch.Tensor]
"""Nearest values of the grid for one column of weights, ``(G, R)``."""
_T = TypeVar("_T")

# Share of the mean diagonal that is added to H. Accuracy is flat between 0.001 and 0.1; it matters when there are
# fewer inputs than weights.
_DAMPING = 0.02
STEP = 0.95  # share of the weights that a pruning step keeps
_SOLVING = 6  # conjugate-gradient iterations after a step: it starts from the solution of the step before
POLISHING = 20  # iterations after the last step
_SALIENCY = 0.6  # between w^2 H_jj (all other weights gone: 0) and w^2 / [H^-1]_jj (none gone: 1)
_BLOCK = 64  # columns after which changes are passed on in one product
_ELEMENTS = 2**22  # of alternatives that are worked on side by side: 16 MB, a few times over
_SCALES = 8  # clipping ranges that are tried
_REFITS = 3  # rounds of fitting scales, or codebooks, and revisiting the weights
_NARROWEST = {2: 0.3, 3: 0.4, 4: 0.5, 5: 0.65, 6: 0.75, 7: 0.85, 8: 0.9}  # tightest clipping; 0.95 above
_SMALLEST_SCALE = float(np.finfo(np.float16).smallest_subnormal)


@dataclass(frozen=True, eq=False)
class OutputError:
    """The squared output error of one layer as a function of its weights.

    Columns are sorted by descending diagonal of H, group by group: rounding errors of the inputs that matter most are
    then passed on to the most others.

    Attributes:
        shape: of the layer's weight.
        target: the dense weight, ``(G, d, R)``.
        gram: damped H, ``(G, d, d)``.
        order: the layer's column behind each sorted one, ``(G, d)``.
    """

    shape: tuple[int, ...]
    target: torch.Tensor
    gram: torch.Tensor
    order: torch.Tensor

    @classmethod
    def of(cls, weight: Floats, gram: Floats) -> OutputError:
        """The objective of a layer.

        Args:
            weight: output channels first.
            gram: ``(G, d, d)``, from `emomc.compression.collect_grams`.
        """
        H = torch.tensor(gram)
        mean = H.diagonal(dim1=1, dim2=2).mean(1)
        damping = torch.where(mean > 0, _DAMPING * mean, 1.0)
        H = H + damping[:, None, None] * torch.eye(H.shape[1])
        order = H.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
        H = H.gather(1, order[:, :, None].expand_as(H)).gather(2, order[:, None, :].expand_as(H))
        return cls(weight.shape, _sorted(weight, order), H, order)

    def columns(self, weight: Floats) -> torch.Tensor:
        """A weight in the form of ``target``."""
        return _sorted(weight, self.order)

    def weight(self, columns: torch.Tensor) -> Floats:
        """The inverse of `columns`."""
        restored = torch.empty_like(columns).scatter_(1, self.order[:, :, None].expand_as(columns), columns)
        return restored.transpose(1, 2).reshape(self.shape).numpy()

    @cached_property
    def diagonal(self) -> torch.Tensor:
        """Diagonal of H, ``(G, d)``."""
        return torch.diagonal(self.gram, dim1=1, dim2=2)

    @cached_property
    def nonzero(self) -> torch.Tensor:
        """1 where the dense weight is not zero, ``(G, d, R)``: a weight that is zero already stays zero."""
        return (self.target != 0).float()

    @cached_property
    def factor(self) -> torch.Tensor:
        """Upper triangular U with ``H^-1 = U^T U``, ``(G, d, d)``."""
        lower = torch.linalg.cholesky(self.gram.double().flip(1, 2))
        identity = torch.eye(lower.shape[1], dtype=lower.dtype)
        inverse: torch.Tensor = torch.linalg.solve_triangular(lower, identity, upper=False)
        return inverse.flip(1, 2).float()

    @cached_property
    def saliency(self) -> torch.Tensor:
        """What removing a weight of size 1 costs, ``(G, d)``."""
        alone = 1 / self.factor.square().sum(1)
        return alone**_SALIENCY * self.diagonal ** (1 - _SALIENCY)

    def __call__(self, columns: torch.Tensor) -> torch.Tensor:
        """Squared error per output channel, ``(G, R)``, or of several weights side by side."""
        error = columns - _repeat(self.target, columns)
        return (error * (self.gram @ error)).sum(1)


def _sorted(weight: Floats, order: torch.Tensor) -> torch.Tensor:
    groups, width = order.shape
    columns = torch.tensor(weight).reshape(groups, -1, width).transpose(1, 2)
    return columns.gather(1, order[:, :, None].expand_as(columns)).contiguous()


def _repeat(columns: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """``(G, d, R)`` side by side until it is as wide as another."""
    return columns.repeat(1, 1, like.shape[2] // columns.shape[2])


def relative_error(weight: Floats, result: Floats, gram: Floats) -> float:
    """Squared output error of a compressed layer over its squared output.

    Args:
        weight: dense, output channels first.
        result: compressed, same shape.
        gram: ``(G, d, d)``.
    """
    rows = weight.reshape(len(gram), -1, gram.shape[1])
    error = result.reshape(rows.shape) - rows
    total = float(np.sum(rows @ gram * rows, dtype=np.float64))
    return float(np.sum(error @ gram * error, dtype=np.float64)) / (total or 1.0)


def solve_kept(objective: OutputError, columns: torch.Tensor, kept: torch.Tensor, iterations: int) -> torch.Tensor:
    """The kept weights that minimise the error, by preconditioned conjugate gradients, all output channels at once.

    Args:
        objective: of the layer.
        columns: where to start, ``(G, d, R)``.
        kept: 1 where a weight may differ from zero, ``(G, d, R)``.
        iterations: of conjugate gradients; d of them are exact.
    """
    diagonal = objective.diagonal[:, :, None]
    columns = columns * kept
    residual = (objective.gram @ (objective.target - columns)) * kept
    step = residual / diagonal
    direction, size = step, (residual * step).sum(1, keepdim=True)
    for _ in range(iterations):
        curved = (objective.gram @ direction) * kept
        length = size / (direction * curved).sum(1, keepdim=True).clamp_min(torch.finfo(size.dtype).tiny)
        columns = columns + length * direction
        residual = residual - length * curved
        step = residual / diagonal
        before, size = size, (residual * step).sum(1, keepdim=True)
        direction = step + size / before.clamp_min(torch.finfo(size.dtype).tiny) * direction
    return columns


def prune_obs(objective: OutputError, prune_ratios: Sequence[float]) -> list[Floats]:
    """Weights of least saliency removed step by step, the others solved for after each step.

    ``round(prune_ratio * n)`` weights are zero afterwards, wherever in the layer they cost least. Weights that are zero
    in the dense layer count, and stay zero. Every ratio ends the same course of steps where it is reached, so that what
    comes out does not depend on which others are asked for.

    Args:
        objective: of the layer.
        prune_ratios: fractions of the weights to remove, 0 to 1.

    Returns:
        The pruned weight of each ratio, in the layer's shape.
    """
    columns, kept, total = objective.target, objective.nonzero, objective.target.numel()
    left = int(kept.sum())
    keeps = [min(total - round(ratio * total), left) for ratio in prune_ratios]
    found = {left: objective.weight(columns)}
    for keep in sorted(set(keeps) - set(found), reverse=True):
        while (after := int(STEP * left)) > keep:
            columns, kept = remove_cheapest(objective, columns, kept, after, _SOLVING)
            left = after
        found[keep] = objective.weight(remove_cheapest(objective, columns, kept, keep, POLISHING)[0])
    return [found[keep] for keep in keeps]


def remove_cheapest(
    objective: OutputError, columns: torch.Tensor, kept: torch.Tensor, keep: int, iterations: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of least saliency removed until so many are left, which are then solved for.

    Args:
        objective: of the layer.
        columns: weights, ``(G, d, R)``.
        kept: 1 where one may differ from zero, at more than ``keep`` places.
        keep: weights that are left.
        iterations: of `solve_kept`.

    Returns:
        The weights, and where they may differ from zero.
    """
    cost = torch.where(kept > 0, columns.square() * objective.saliency[:, :, None], -1.0).flatten()
    cheapest = cost.topk(cost.numel() - keep, largest=False, sorted=False).indices
    kept = kept.flatten().index_fill(0, cheapest, 0.0).view_as(kept)
    return solve_kept(objective, columns, kept, iterations), kept


def prune_n_m(objective: OutputError, keep: int, of: int) -> Floats:
    """At most ``keep`` non-zero weights among every ``of`` neighbouring input channels, the others solved for.

    Weights that are zero in the dense layer count, and stay zero.

    Args:
        objective: of the layer.
        keep: non-zero weights of a group, 1 to ``of``.
        of: input channels of a group; a last group with fewer channels keeps as many.

    Returns:
        The pruned weight, in the layer's shape.
    """
    columns, kept = objective.target, objective.nonzero
    for left in range(of - 1, keep - 1, -1):
        cost = torch.where(kept > 0, columns.square() * objective.saliency[:, :, None], -1.0)
        kept = kept * objective.columns(keep_largest(objective.weight(cost), left, of))
        columns = solve_kept(objective, columns, kept, POLISHING if left == keep else _SOLVING)
    return objective.weight(columns)


def round_in_order(objective: OutputError, columns: torch.Tensor, kept: torch.Tensor, snap: Snap) -> torch.Tensor:
    """Snap column after column, each column's error passed on to the columns that follow (GPTQ).

    Args:
        objective: of the layer.
        columns: weights to round, ``(G, d, n R)``: n alternatives side by side.
        kept: 1 where a weight may differ from zero, in the same shape.
        snap: to the grids of the alternatives.
    """
    U, columns, width = objective.factor, columns.clone(), columns.shape[1]
    for start in range(0, width, _BLOCK):
        end = min(start + _BLOCK, width)
        errors = torch.zeros_like(columns[:, start:end])
        for j in range(start, end):
            snapped = snap(columns[:, j]) * kept[:, j]
            error = (columns[:, j] - snapped) / U[:, j, j, None]
            columns[:, j] = snapped
            columns[:, j + 1 : end] -= U[:, j, j + 1 : end, None] * error[:, None]
            errors[:, j - start] = error
        columns[:, end:] -= U[:, start:end, end:].transpose(1, 2) @ errors
    return columns


def revisit(objective: OutputError, columns: torch.Tensor, kept: torch.Tensor, snap: Snap) -> torch.Tensor:
    """One round of coordinate descent: every weight to the best value of its grid, given all others.

    Arguments as of `round_in_order`; ``columns`` are on their grids already. The error never grows.
    """
    columns, gram, width = columns.clone(), objective.gram, columns.shape[1]
    gradient = gram @ (columns - _repeat(objective.target, columns))
    for start in range(0, width, _BLOCK):
        end = min(start + _BLOCK, width)
        local, changes = gradient[:, start:end].clone(), torch.zeros_like(columns[:, start:end])
        for j in range(start, end):
            best = columns[:, j] - local[:, j - start] / gram[:, j, j, None]
            change = snap(best) * kept[:, j] - columns[:, j]
            columns[:, j] += change
            local[:, j - start + 1 :] += gram[:, j + 1 : end, j, None] * change[:, None]
            changes[:, j - start] = change
        gradient += gram[:, :, start:end] @ changes
    return columns


def quantize_obs(objective: OutputError, choices: Sequence[tuple[Floats, int]]) -> Iterator[CodedTensor]:
    """Round to symmetric grids with one scale per output channel; clipping and scale as they cost least.

    Zeros of a pruned weight stay zero.

    Args:
        objective: of the dense layer.
        choices: (weight to round, bit-width from 2 to 16); weights from `prune_obs`, or the dense one.

    Yields:
        One tensor per choice.
    """
    rows = objective.target.shape[2]
    for batch in _batches(choices, _SCALES * objective.target.numel()):
        widths = [bits for _, bits in batch]
        columns, kept = _side_by_side(objective, [weight for weight, _ in batch])
        levels, scale = _clip(objective, columns, kept, widths)
        largest = _largest_levels(widths).repeat_interleave(rows)
        for _ in range(_REFITS):
            scale = _fit_scale(objective, levels, scale)
            snap = _uniform(scale, largest)
            levels = (revisit(objective, levels * scale[:, None], kept, snap) / scale[:, None]).round()
        for level, step, bits in zip(torch.split(levels, rows, 2), torch.split(scale, rows, 1), widths, strict=True):
            yield _coded(objective, level, step, bits)


def _side_by_side(objective: OutputError, weights: Sequence[Floats]) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns of several weights, ``(G, d, n R)``, and 1 where they are not zero."""
    columns = torch.cat([objective.columns(weight) for weight in weights], 2)
    return columns, (columns != 0).float()


def _batches(choices: Sequence[_T], elements: int) -> Iterator[Sequence[_T]]:
    """Choices that are worked on side by side, as many as memory allows when each takes so many elements."""
    size = max(1, _ELEMENTS // elements)
    return (choices[start : start + size] for start in range(0, len(choices), size))


def _largest_levels(bit_widths: Sequence[int]) -> torch.Tensor:
    return torch.tensor([float(largest_level(bits)) for bits in bit_widths])


def _clip(
    objective: OutputError, columns: torch.Tensor, kept: torch.Tensor, bit_widths: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Levels ``(G, d, n R)`` and scales ``(G, n R)`` of n widths, each channel clipped where its error is least."""
    rows = columns.shape[2] // len(bit_widths)

    def scales_apart(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.reshape(*tensor.shape[:-1], len(bit_widths), -1, rows)

    def every_scale(tensor: torch.Tensor) -> torch.Tensor:
        return scales_apart(tensor).expand(*[-1] * tensor.dim(), _SCALES, -1).flatten(-3)

    level = _largest_levels(bit_widths)
    fractions = torch.stack([torch.linspace(1.0, _NARROWEST.get(bits, 0.95), _SCALES) for bits in bit_widths])
    steps = fractions / level[:, None]
    scale = _stored((scales_apart(columns.abs().amax(1)) * steps[:, :, None]).flatten(1))
    snap = _uniform(scale, level.repeat_interleave(_SCALES * rows))
    rounded = round_in_order(objective, every_scale(columns), every_scale(kept), snap)
    best = scales_apart(objective(rounded)).argmin(2, keepdim=True)
    scale = scales_apart(scale).gather(2, best).flatten(1)
    chosen = best[:, None].expand(-1, columns.shape[1], -1, -1, -1)
    rounded = scales_apart(rounded).gather(3, chosen).flatten(2)
    return (rounded / scale[:, None]).round(), scale


def _stored(scale: torch.Tensor) -> torch.Tensor:
    """Scales as they are stored, never zero."""
    return scale.clamp_min(_SMALLEST_SCALE).half().float()


def _uniform(scale: torch.Tensor, level: torch.Tensor) -> Snap:
    return lambda column: (column / scale).round().clamp(-level, level) * scale


def _fit_scale(objective: OutputError, levels: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Scale of each output channel that minimises its error for given levels: a least-squares fit of one number."""
    outputs = objective.gram @ levels
    fitted = (outputs * _repeat(objective.target, levels)).sum(1) / (outputs * levels).sum(1)
    return _stored(torch.where(fitted > 0, fitted, scale))


def _coded(objective: OutputError, levels: torch.Tensor, scale: torch.Tensor, bit_width: int) -> CodedTensor:
    integers = to_integers(objective.weight(levels.contiguous()), bit_width)
    return CodedTensor(integers, scale.flatten().numpy().astype(np.float16), bit_width)


def cluster_obs(objective: OutputError, pruned: Floats, counts: Sequence[int]) -> Clusters:
    """Optimal clusters of the non-zero weights, each weighted by its diagonal entry of H, for `share_obs`."""
    importance = objective.weight(objective.diagonal[:, :, None].expand_as(objective.target).contiguous())
    return cluster_nonzero(pruned, counts, importance)


def share_obs(objective: OutputError, choices: Sequence[tuple[Floats, Clusters, int, int]]) -> Iterator[CodedTensor]:
    """Let the non-zero weights take few shared values on the grid of a bit-width; zeros stay zero.

    Args:
        objective: of the dense layer.
        choices: (weight to share, its clusters from `cluster_obs`, bits of a codebook entry, number of shared values);
            weights from `prune_obs`, or the dense one.

    Yields:
        One tensor per choice.
    """
    rows = objective.target.shape[2]
    for batch in _batches(choices, objective.target.numel()):
        codebooks = [clusters.codebook(count, bits) for _, clusters, bits, count in batch]
        snap = _nearest([levels * np.float32(scale[0]) for scale, levels in codebooks], rows)
        columns, kept = _side_by_side(objective, [weight for weight, *_ in batch])
        shared = revisit(objective, round_in_order(objective, columns, kept, snap), kept, snap)
        for part, (scale, _), (*_, bits, _) in zip(torch.split(shared, rows, 2), codebooks, batch, strict=True):
            step = torch.from_numpy(scale.astype(np.float32))
            yield _coded(objective, (part / step).round(), step, bits)


def _nearest(codebooks: Sequence[Floats], rows: int) -> Snap:
    """Nearest entry of each alternative's codebook, entries ascending."""
    longest = max(map(len, codebooks))
    entries = torch.from_numpy(np.stack([np.pad(book, (0, longest - len(book)), "edge") for book in codebooks]))
    edges = (entries[:, 1:] + entries[:, :-1]) / 2

    def snap(column: torch.Tensor) -> torch.Tensor:
        values = column.reshape(len(column), -1, rows).transpose(0, 1)
        position = torch.searchsorted(edges, values.flatten(1).contiguous())
        return entries.gather(1, position).reshape(values.shape).transpose(0, 1).flatten(1)

    return snap
