"""What the rest of the project knows of a network: layers with loop bounds, and the graph that connects them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property


@dataclass(frozen=True)
class LoopBounds:
    """Extents of the loops that one call of a layer executes.

    ``K`` and ``C`` count channels *per group*, so that the product of the eight loops is the number of
    multiply-accumulates. A linear operator is a 1x1 convolution; its token axes, if any, are ``OY`` and ``OX``.
    ``IY`` and ``IX`` are the extents of the input map without padding.
    """

    B: int
    G: int
    K: int
    C: int
    OY: int
    OX: int
    FY: int
    FX: int
    IY: int
    IX: int
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one call."""
        return self.B * self.G * self.K * self.C * self.OY * self.OX * self.FY * self.FX

    @property
    def weights(self) -> int:
        """Number of weights that one call reads at least once."""
        return self.G * self.K * self.C * self.FY * self.FX

    @property
    def inputs(self) -> int:
        """Elements of the input map, padding not counted."""
        return self.B * self.G * self.C * self.IY * self.IX

    @property
    def outputs(self) -> int:
        """Elements of the output map."""
        return self.B * self.G * self.K * self.OY * self.OX


@dataclass(frozen=True)
class Layer:
    """One weight tensor of a convolution or linear operator, with every call that the network makes of it.

    A module that is called twice, or two modules that share one weight tensor, are one layer with two calls: the
    weights are stored once and executed twice.
    """

    name: str
    kind: str  # "conv" or "linear"
    weight: str  # key of the weight in the module's state_dict
    weight_shape: tuple[int, ...]  # output channels first
    calls: tuple[LoopBounds, ...]
    bias: str | None = None  # key of the bias of the first call
    aliases: tuple[str, ...] = ()  # further state_dict keys that hold the same tensor

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all calls."""
        return sum(call.macs for call in self.calls)

    @property
    def weight_count(self) -> int:
        """Number of weights."""
        return math.prod(self.weight_shape)

    def with_inputs(self, channels: int) -> Layer:
        """The layer as it runs on so many input channels (of each group) instead of all."""
        outputs, _, *window = self.weight_shape
        calls = tuple(replace(call, C=channels) for call in self.calls)
        return replace(self, weight_shape=(outputs, channels, *window), calls=calls)


@dataclass(frozen=True)
class Node:
    """One step of the traced graph: a layer call, or glue between layers."""

    name: str
    kind: str  # "input", "layer", "add", "concat", "norm", "activation", "pool", "reshape", "output", "other"
    operator: str  # what was traced, e.g. "torch.nn.BatchNorm2d" or "torch.flatten"
    inputs: tuple[str, ...]  # names of the producing nodes: the edges of the graph
    shape: tuple[int, ...]  # of the output tensor, batch first; () where the node does not yield a tensor
    layer: str | None = None  # Layer.name, for kind "layer"
    call: int = 0  # index into Layer.calls, for kind "layer"
    module: str = ""  # path of the module whose forward takes this step; "" for the traced module itself


@dataclass(frozen=True)
class Network:
    """A traced network: layers in the order of their first call, and nodes in the order of execution."""

    layers: tuple[Layer, ...]
    nodes: tuple[Node, ...]

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of each layer, by name."""
        return {layer.name: position for position, layer in enumerate(self.layers)}

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one forward pass of the traced input."""
        return sum(layer.macs for layer in self.layers)

    @property
    def weight_count(self) -> int:
        """Weights of all layers, biases and glue parameters not counted."""
        return sum(layer.weight_count for layer in self.layers)
