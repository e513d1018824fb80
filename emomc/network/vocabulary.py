"""What a network that is stored as plain data may be made of: the lists to extend when one cannot be stored.

Only what computes a tensor from tensors is listed: nothing that makes tensors of a size of its own, reads files or runs
code. A file from anywhere can ask for nothing else.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.nn import functional

_ARITHMETIC = "abs add clamp div exp log maximum minimum mul neg pow rsqrt sqrt square sub"
_ACTIVATIONS = """celu elu gelu hardshrink log_softmax logsigmoid mish prelu relu rrelu selu sigmoid silu
    softmax softplus softshrink softsign tanh tanhshrink"""
_REDUCTIONS = "amax amin max mean min std sum var"
_SHAPES = """cat chunk concat concatenate flatten hstack movedim narrow permute reshape select split squeeze stack
    swapaxes transpose unbind unflatten unsqueeze vstack"""
_FUNCTIONAL = f"""{_ACTIVATIONS} adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool1d adaptive_max_pool2d
    avg_pool1d avg_pool2d batch_norm channel_shuffle conv1d conv2d dropout dropout2d glu group_norm hardsigmoid
    hardswish hardtanh instance_norm interpolate layer_norm leaky_relu linear local_response_norm lp_pool2d
    max_pool1d max_pool2d normalize pad pixel_shuffle pixel_unshuffle relu6 rms_norm threshold"""
_OPERATORS = "add floordiv getitem iadd imul isub itruediv mod mul neg sub truediv"
_METHODS = f"""{_ARITHMETIC} {_REDUCTIONS} {_SHAPES} contiguous dim expand expand_as float relu relu_ reshape_as repeat
    sigmoid sigmoid_ size softmax tanh t to_dense view view_as add_ mul_ sub_ div_ clamp_"""


def _listed(module: Any, prefix: str, names: str) -> dict[str, Callable[..., Any]]:
    return {f"{prefix}.{name}": getattr(module, name) for name in names.split() if hasattr(module, name)}


FUNCTIONS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    _listed(torch, "torch", f"{_ARITHMETIC} {_ACTIVATIONS} {_REDUCTIONS} {_SHAPES} conv1d conv2d relu_ sigmoid_")
    | _listed(functional, "torch.nn.functional", _FUNCTIONAL)
    | _listed(operator, "operator", _OPERATORS)
)
NAMES: Mapping[Callable[..., Any], str] = MappingProxyType({function: name for name, function in FUNCTIONS.items()})
_CLASSES = """AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveMaxPool1d AdaptiveMaxPool2d AvgPool1d AvgPool2d
    BatchNorm1d BatchNorm2d CELU ChannelShuffle ConstantPad1d ConstantPad2d Conv1d Conv2d Dropout Dropout1d
    Dropout2d ELU Flatten GELU GLU GroupNorm Hardshrink Hardsigmoid Hardswish Hardtanh Identity InstanceNorm1d
    InstanceNorm2d LPPool2d LayerNorm LeakyReLU Linear LocalResponseNorm LogSigmoid LogSoftmax MaxPool1d
    MaxPool2d Mish PReLU PixelShuffle PixelUnshuffle RMSNorm ReLU ReLU6 ReflectionPad1d ReflectionPad2d
    ReplicationPad1d ReplicationPad2d SELU SiLU Sigmoid Softmax Softmax2d Softmin Softplus Softshrink Softsign
    Tanh Tanhshrink Threshold Unflatten Upsample UpsamplingBilinear2d UpsamplingNearest2d ZeroPad1d ZeroPad2d"""
METHODS = frozenset(_METHODS.split())
ATTRIBUTES = frozenset({"ndim", "shape"})
MODULES: Mapping[str, type[nn.Module]] = MappingProxyType({name: getattr(nn, name) for name in _CLASSES.split()})
DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64, "int64": torch.int64}
)


def constructor_arguments(module: nn.Module) -> dict[str, Any] | None:
    """Arguments that make a module like this one, those at their defaults left out; None where they are not kept."""
    arguments: dict[str, Any] = {}
    for name, parameter in inspect.signature(type(module)).parameters.items():
        if name in ("device", "dtype") or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if not hasattr(module, name):
            if parameter.default is parameter.empty:
                return None
            continue  # a deprecated name of another argument
        value = getattr(module, name)
        if name == "bias":  # the tensor stands for the wish to have one
            value = value is not None
        if value is not parameter.default and value != parameter.default:
            arguments[name] = value
    return arguments
