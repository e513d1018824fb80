"""Tracing a torch module into layers, loop bounds and edges."""

from __future__ import annotations

from emomc.network.layers import Layer, LoopBounds, Network, Node
from emomc.network.trace import trace

__all__ = ["Layer", "LoopBounds", "Network", "Node", "trace"]
