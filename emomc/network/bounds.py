"""Loop bounds of one call, from the shapes of its tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence

from emomc.network.layers import LoopBounds


def conv_bounds(
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    output_shape: Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> LoopBounds:
    """Loop bounds of a 1-D or 2-D convolution; the one axis of a 1-D convolution is X.

    ``padding="same"`` is given as what is added before the first element, which is the smaller half where the two
    sides differ.

    Args:
        input_shape: ``(B, G*C, IY, IX)`` or ``(B, G*C, IX)``, or either without ``B``.
        weight_shape: ``(G*K, C, FY, FX)`` or ``(G*K, C, FX)``.
        output_shape: like ``input_shape``, with ``G*K`` channels.
        stride: as in ``torch.nn.functional.conv2d``, and so are the following.
        padding: one number, one for each axis, ``"valid"`` or ``"same"``.
        dilation: one number, or one for each axis.
        groups: number of groups.
    """
    axes = len(weight_shape) - 2
    FY, FX = _plane(weight_shape[2:])
    IY, IX = _plane(input_shape[-axes:])
    OY, OX = _plane(output_shape[-axes:])
    dilations = _pair(dilation, axes, 1)
    return LoopBounds(
        B=input_shape[0] if len(input_shape) == axes + 2 else 1,
        G=groups,
        K=weight_shape[0] // groups,
        C=weight_shape[1],
        OY=OY,
        OX=OX,
        FY=FY,
        FX=FX,
        IY=IY,
        IX=IX,
        stride=_pair(stride, axes, 1),
        padding=_named_padding(padding, (FY, FX), dilations) if isinstance(padding, str) else _pair(padding, axes, 0),
        dilation=dilations,
    )


def linear_bounds(input_shape: Sequence[int], weight_shape: Sequence[int]) -> LoopBounds:
    """Loop bounds of a linear operator, a 1x1 convolution over its token axes.

    Args:
        input_shape: ``(C,)``, ``(B, C)``, ``(B, OX, C)`` or ``(B, ..., OX, C)``, where the axes ``...`` make up ``OY``.
        weight_shape: ``(K, C)``.
    """
    batch, *tokens = input_shape[:-1] or (1,)
    OY, OX = math.prod(tokens[:-1]), (tokens or [1])[-1]
    return LoopBounds(B=batch, G=1, K=weight_shape[0], C=weight_shape[1], OY=OY, OX=OX, FY=1, FX=1, IY=OY, IX=OX)


def _plane(extents: Sequence[int]) -> tuple[int, int]:
    return (1, extents[0]) if len(extents) == 1 else (extents[0], extents[1])


def _pair(value: int | Sequence[int], axes: int, neutral: int) -> tuple[int, int]:
    """What a convolution takes for each of its axes, as (Y, X); an axis that it does not have is neutral."""
    if isinstance(value, int):
        value = (value,) * axes
    elif len(value) == 1:
        value = tuple(value) * axes
    return (neutral, value[0]) if axes == 1 else (value[0], value[1])


def _named_padding(name: str, kernel: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, int]:
    if name == "valid":
        return 0, 0
    return dilation[0] * (kernel[0] - 1) // 2, dilation[1] * (kernel[1] - 1) // 2
