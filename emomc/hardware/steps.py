"""A network as the accelerator executes it: layer calls in order, and the maps that pass between them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from emomc.network.layers import Layer, LoopBounds, Network, Node

INPUT = -1
"""Home of maps that exist before the first step."""


@dataclass(frozen=True)
class Step:
    """One call of a layer."""

    layer: Layer
    call: LoopBounds
    node: str


@dataclass(frozen=True)
class Steps:
    """A traced network in the order of execution.

    Glue runs as part of the last step that it waits for: an addition at the end of a block belongs to the block's last
    convolution. That step is the *home* of the glue's output.
    """

    network: Network

    @cached_property
    def nodes(self) -> dict[str, Node]:
        """Nodes by name, in order of execution."""
        return {node.name: node for node in self.network.nodes}

    @cached_property
    def calls(self) -> tuple[Step, ...]:
        """Every layer call, in order of execution."""
        layers = self.network.layers
        return tuple(
            Step(layer, layer.calls[node.call], node.name)
            for node in self.network.nodes
            if node.layer is not None
            for layer in (layers[self.network.index[node.layer]],)
        )

    @cached_property
    def home(self) -> dict[str, int]:
        """The step that each node runs in; `INPUT` for what waits for no layer."""
        position = {step.node: at for at, step in enumerate(self.calls)}
        home: dict[str, int] = {}
        for node in self.network.nodes:
            home[node.name] = position.get(node.name, max((home[name] for name in node.inputs), default=INPUT))
        return home

    @cached_property
    def last_use(self) -> dict[str, int]:
        """The last step that each node's output is used in; beyond the last step for what the network returns."""
        last = dict(self.home)
        for node in self.network.nodes:
            for name in node.inputs:
                last[name] = max(last[name], len(self.calls) if node.kind == "output" else self.home[node.name])
        return last

    @cached_property
    def leaving(self) -> dict[int, int]:
        """For each step, the last step that uses any map made in it."""
        leaving: dict[int, int] = {}
        for name, home in self.home.items():
            leaving[home] = max(leaving.get(home, home), self.last_use[name])
        return leaving


def words(node: Node) -> int:
    """Elements of a node's output; 0 where it yields no tensor."""
    return math.prod(node.shape) if node.shape else 0


def rows(node: Node) -> int:
    """Height of a node's output map; 1 for a vector."""
    return node.shape[2] if len(node.shape) == 4 else 1


def columns(node: Node) -> int:
    """Width of a node's output map; 1 for a vector."""
    return node.shape[3] if len(node.shape) == 4 else 1
