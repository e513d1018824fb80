"""Layer shapes that several hardware tests use, built by hand so that the tests do not depend on tracing."""

from __future__ import annotations

from emomc.network.layers import Layer, LoopBounds


def conv(name: str, k: int, c: int, size: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> Layer:
    """A square convolution with "same" padding from a ``size`` x ``size`` map of c channels to k channels."""
    out = -(-size // stride)
    pad = kernel // 2
    bounds = LoopBounds(
        1, groups, k // groups, c // groups, out, out, kernel, kernel, size, size, (stride, stride), (pad, pad)
    )
    return Layer(name, "conv", f"{name}.weight", (k, c // groups, kernel, kernel), (bounds,))


def linear(name: str, k: int, c: int) -> Layer:
    """A fully connected layer from c to k features."""
    return Layer(name, "linear", f"{name}.weight", (k, c), (LoopBounds(1, 1, k, c, 1, 1, 1, 1, 1, 1),))


def vgg16_cifar() -> list[Layer]:
    """VGG-16 for 32x32 images: 13 convolutions and one linear layer with 10 outputs."""
    plan: list[int | str] = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512]
    layers, channels, size = [], 3, 32
    for step in plan:
        if isinstance(step, str):
            size //= 2
            continue
        layers.append(conv(f"conv{len(layers) + 1}", step, channels, size))
        channels = step
    return [*layers, linear("linear", 10, 512)]


def resnet_cifar(blocks: int) -> list[Layer]:
    """CIFAR ResNet of depth 6 * blocks + 2, with parameter-free shortcuts."""
    layers, channels, size = [conv("stem", 16, 3, 32)], 16, 32
    for width in (16, 32, 64):
        for block in range(blocks):
            stride = 2 if block == 0 and width > 16 else 1
            layers.append(conv(f"stage{width}.{block}.a", width, channels, size, stride=stride))
            size, channels = size // stride, width
            layers.append(conv(f"stage{width}.{block}.b", width, width, size))
    return [*layers, linear("linear", 10, 64)]


def mobilenet_cifar() -> list[Layer]:
    """MobileNetV1 for 32x32 images: depthwise and pointwise pairs."""
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    layers, channels, size = [conv("stem", 32, 3, 32)], 32, 32
    for position, (width, stride) in enumerate(plan):
        layers.append(conv(f"dw{position}", channels, channels, size, stride=stride, groups=channels))
        size = -(-size // stride)
        layers.append(conv(f"pw{position}", width, channels, size, kernel=1))
        channels = width
    return [*layers, linear("linear", 10, 1024)]
