"""Networks put together by hand, node by node, so that the hardware tests do not depend on tracing."""

from __future__ import annotations

from emomc.network.layers import Layer, LoopBounds, Network, Node


class Builder:
    """Adds nodes one by one; every method returns the new node's name."""

    def __init__(self, channels: int, size: int) -> None:
        self.layers: list[Layer] = []
        self.nodes = [Node("x", "input", "input", (), (1, channels, size, size))]

    def shape(self, name: str) -> tuple[int, ...]:
        return next(node.shape for node in self.nodes if node.name == name)

    def _add(self, kind: str, inputs: tuple[str, ...], shape: tuple[int, ...], layer: str | None = None) -> str:
        name = f"{kind}{len(self.nodes)}"
        self.nodes.append(Node(name, kind, kind, inputs, shape, layer))
        return name

    def conv(self, source: str, k: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> str:
        _, c, size, _ = self.shape(source)
        pad = kernel // 2
        out = (size + 2 * pad - kernel) // stride + 1
        loops = (1, groups, k // groups, c // groups, out, out, kernel, kernel, size, size)
        bounds = LoopBounds(*loops, (stride, stride), (pad, pad))
        name = f"conv_{len(self.layers)}"
        self.layers.append(Layer(name, "conv", f"{name}.weight", (k, c // groups, kernel, kernel), (bounds,)))
        return self._add("layer", (source,), (1, k, out, out), name)

    def relu(self, source: str) -> str:
        return self._add("activation", (source,), self.shape(source))

    def add(self, *sources: str) -> str:
        return self._add("add", sources, self.shape(sources[0]))

    def pool(self, source: str, ratio: int) -> str:
        b, c, size, _ = self.shape(source)
        return self._add("pool", (source,), (b, c, size // ratio, size // ratio))

    def network(self, source: str) -> Network:
        self._add("output", (source,), self.shape(source))
        return Network(tuple(self.layers), tuple(self.nodes))


def resnet(blocks: int) -> Network:
    """CIFAR ResNet without its classifier, shortcuts by 1x1 convolutions where the shape changes."""
    b = Builder(3, 32)
    x, width = b.relu(b.conv("x", 16)), 16
    for stage in (16, 32, 64):
        for _ in range(blocks):
            changes = stage != width
            inner = b.relu(b.conv(x, stage, stride=2 if changes else 1))
            inner = b.conv(inner, stage)
            skip = b.conv(x, stage, kernel=1, stride=2) if changes else x
            x, width = b.relu(b.add(inner, skip)), stage
    return b.network(x)
