"""What each step of a traced graph is: the tables to extend when an operator should be recognised."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import resolve_name

# The file in torch.nn.modules that defines a module says what it does.
_MODULE_KINDS = {
    "activation": "activation",
    "batchnorm": "norm",
    "channelshuffle": "reshape",
    "flatten": "reshape",
    "instancenorm": "norm",
    "normalization": "norm",
    "pixelshuffle": "reshape",
    "pooling": "pool",
}

# Functions and tensor methods, in-place or not, by name.
_NAMES = {
    "add": "add",
    "concat": "cat concat concatenate dstack hstack stack vstack",
    "norm": "batch_norm group_norm instance_norm layer_norm local_response_norm rms_norm",
    "activation": """celu elu gelu glu hardshrink hardsigmoid hardswish hardtanh leaky_relu log_softmax logsigmoid mish
        prelu relu relu6 rrelu selu sigmoid silu softmax softmin softplus softshrink softsign tanh tanhshrink
        threshold""",
    "pool": "amax mean",
    "reshape": """channel_shuffle flatten movedim permute pixel_shuffle pixel_unshuffle reshape reshape_as squeeze
        swapaxes t transpose unflatten unsqueeze view view_as""",
}
_NAME_KINDS = {name: kind for kind, names in _NAMES.items() for name in names.split()}

_aten = torch.ops.aten

# Steps that multiply and accumulate, or look weights up. Kept in terms of what runs rather than of what was written,
# so that einsum, @, torch.matmul and a wrapped function that calls them are all found.
_UNACCOUNTED = frozenset(
    {
        *(_aten.mm, _aten.addmm, _aten.bmm, _aten.baddbmm, _aten.addbmm, _aten.mv, _aten.addmv, _aten.dot, _aten.vdot),
        *(_aten.linear, _aten.convolution, _aten._convolution, _aten._trilinear, _aten._cdist_forward),
        *(_aten.lstm, _aten.gru, _aten.rnn_tanh, _aten.rnn_relu, _aten.mkldnn_rnn_layer),
        *(_aten._native_multi_head_attention, _aten._transformer_encoder_layer_fwd),
        *(_aten.embedding, _aten._embedding_bag, _aten._embedding_bag_forward_only),
    }
)


def module_kind(module: nn.Module) -> str:
    """Kind of a module that torch provides, as in ``Node.kind``; "other" if none fits."""
    if isinstance(module, nn.MultiheadAttention):  # defined among the activations
        return "other"
    package, _, file = type(module).__module__.rpartition(".")
    return _MODULE_KINDS.get(file, "other") if package == "torch.nn.modules" else "other"


def module_operator(module: nn.Module) -> str:
    """Name of a module's class as its user writes it, e.g. ``torch.nn.BatchNorm2d``."""
    name = type(module).__name__
    return f"torch.nn.{name}" if getattr(nn, name, None) is type(module) else f"{type(module).__module__}.{name}"


def name_kind(name: str) -> str:
    """Kind of a function or tensor method, from its bare name; "other" if none fits."""
    name = name.strip("_")
    return "pool" if "_pool" in name else _NAME_KINDS.get(name, "other")


def function_operator(function: Callable[..., Any]) -> str:
    """Name of a function as its user writes it, e.g. ``torch.flatten`` or ``operator.add``."""
    if getattr(operator, function.__name__, None) is function:
        return f"operator.{function.__name__}"
    return resolve_name(function) or f"{function.__module__}.{function.__name__}"


def is_glue(operation: Any) -> bool:
    """Whether a dispatched operation is glue: one of torch's own that neither accumulates products nor holds weights.

    Operations that other packages register are never glue, because nothing is known of what they do.
    """
    packet = operation.overloadpacket
    attention = "scaled_dot_product" in str(packet)
    return operation.namespace in ("aten", "prim", "prims") and packet not in _UNACCOUNTED and not attention
