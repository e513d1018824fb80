"""The CIFAR networks of the built-in tasks; those with public checkpoints have their parameter names."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from emomc.errors import EmomcError

_VGG16 = (64, 64, None, 128, 128, None, 256, 256, 256, None, 512, 512, 512, None, 512, 512, 512, None)
_MOBILENET_V2 = (  # expansion, channels, blocks, stride of the first
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_MOBILENET = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters (He et al. 2016, option A)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.padding = (channels - channels_in) // 2

    def shortcut(self, x: torch.Tensor) -> torch.Tensor:
        """Every ``stride``-th pixel, with as many zero channels before as after."""
        if self.padding == 0:
            return x
        subsampled = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(subsampled, (0, 0, 0, 0, self.padding, self.padding))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, channels_in, H, W) to (n, channels, H / stride, W / stride)."""
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """Three stages of n residual blocks with 16, 32 and 64 channels: depth 6 n + 2."""

    def __init__(self, blocks: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, 1, blocks)
        self.layer2 = _stage(16, 32, 2, blocks)
        self.layer3 = _stage(32, 64, 2, blocks)
        self.linear = nn.Linear(64, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 3, 32, 32) to logits (n, classes)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = functional.adaptive_avg_pool2d(x, 1)
        return self.linear(torch.flatten(x, 1))  # type: ignore[no-any-return]


class CifarVgg(nn.Module):
    """VGG-16 with batch normalisation and a single linear layer, for 32 x 32 images."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*_vgg_layers())
        self.classifier = nn.Linear(512, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 3, 32, 32) to logits (n, classes)."""
        return self.classifier(torch.flatten(self.features(x), 1))  # type: ignore[no-any-return]


class CifarMobileNet(nn.Module):
    """MobileNet (Howard et al. 2017) for 32 x 32 images: the stem keeps the size, four blocks halve it."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        blocks = [_conv(3, 32, 3, 1)]
        channels = 32
        for width, stride in _MOBILENET:
            blocks += [_conv(channels, channels, 3, stride, groups=channels), _conv(channels, width, 1, 1)]
            channels = width
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 3, 32, 32) to logits (n, classes)."""
        x = functional.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(torch.flatten(x, 1))  # type: ignore[no-any-return]


class InvertedResidual(nn.Module):
    """Widen, filter each channel alone, narrow again without a nonlinearity (Sandler et al. 2018)."""

    def __init__(self, channels_in: int, channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        width = expansion * channels_in
        widen = [_conv(channels_in, width, 1, 1, relu=nn.ReLU6)] if expansion > 1 else []
        narrow = nn.Sequential(nn.Conv2d(width, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.layers = nn.Sequential(*widen, _conv(width, width, 3, stride, groups=width, relu=nn.ReLU6), narrow)
        self.adds = stride == 1 and channels_in == channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, channels_in, H, W) to (n, channels, H / stride, W / stride)."""
        return self.layers(x) + x if self.adds else self.layers(x)  # type: ignore[no-any-return]


class CifarMobileNetV2(nn.Module):
    """MobileNetV2 (Sandler et al. 2018) for 32 x 32 images: the stem and the second stage keep the size."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = [_conv(3, 32, 3, 1, relu=nn.ReLU6)]
        channels = 32
        for expansion, width, count, stride in _MOBILENET_V2:
            for number in range(count):
                blocks.append(InvertedResidual(channels, width, expansion, stride if number == 0 else 1))
                channels = width
        self.features = nn.Sequential(*blocks, _conv(channels, 1280, 1, 1, relu=nn.ReLU6))
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 3, 32, 32) to logits (n, classes)."""
        x = functional.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(torch.flatten(x, 1))  # type: ignore[no-any-return]


class DenseLayer(nn.Module):
    """Batch norm, 1x1 bottleneck, batch norm, 3x3, and everything before it beside the result."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, channels, H, W) to (n, channels + growth, H, W)."""
        y = self.conv1(functional.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(functional.relu(self.norm2(y)))], 1)


class CifarDenseNet(nn.Module):
    """DenseNet-BC (Huang et al. 2017): three dense blocks, between them half of the channels and of the size."""

    def __init__(self, depth: int, growth: int, classes: int) -> None:
        super().__init__()
        channels = 2 * growth
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1, bias=False)]
        for block in range(3):
            for _ in range((depth - 4) // 6):
                layers.append(DenseLayer(channels, growth))
                channels += growth
            if block < 2:
                narrow = nn.Conv2d(channels, channels // 2, 1, bias=False)
                layers.append(nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), narrow, nn.AvgPool2d(2)))
                channels //= 2
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU())
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 3, 32, 32) to logits (n, classes)."""
        x = functional.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(torch.flatten(x, 1))  # type: ignore[no-any-return]


def resnet(depth: int, classes: int = 10) -> nn.Module:
    """He et al.'s CIFAR ResNet of depth 20, 32, 44, 56 or 110, untrained.

    Raises:
        EmomcError: when the depth is not 6 n + 2.
    """
    if depth < 8 or depth % 6 != 2:
        raise EmomcError(f"a CIFAR ResNet has a depth of 6 n + 2, such as 20 or 56, not {depth}.")
    return CifarResNet((depth - 2) // 6, classes)


def vgg16(classes: int = 10) -> nn.Module:
    """VGG-16 with batch normalisation, untrained."""
    return CifarVgg(classes)


def mobilenet_v1(classes: int = 10) -> nn.Module:
    """MobileNetV1 of width 1, untrained."""
    return CifarMobileNet(classes)


def mobilenet_v2(classes: int = 10) -> nn.Module:
    """MobileNetV2 of width 1, untrained."""
    return CifarMobileNetV2(classes)


def densenet_bc(depth: int = 100, growth: int = 12, classes: int = 10) -> nn.Module:
    """DenseNet-BC, untrained.

    Raises:
        EmomcError: when the depth is not 6 n + 4.
    """
    if depth < 10 or depth % 6 != 4:
        raise EmomcError(f"a DenseNet-BC has a depth of 6 n + 4, such as 40 or 100, not {depth}.")
    return CifarDenseNet(depth, growth, classes)


def _conv(
    channels_in: int, channels: int, kernel: int, stride: int, groups: int = 1, relu: type[nn.Module] = nn.ReLU
) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), relu())


def _stage(channels_in: int, channels: int, stride: int, blocks: int) -> nn.Sequential:
    first = Residual(channels_in, channels, stride)
    return nn.Sequential(first, *(Residual(channels, channels, 1) for _ in range(blocks - 1)))


def _vgg_layers() -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels = 3
    for width in _VGG16:
        if width is None:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return layers
