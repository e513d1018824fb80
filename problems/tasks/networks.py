"""The CIFAR-10 networks of the built-in tasks, with the parameter names of their public checkpoints."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from emomc.errors import EmomcError

_VGG16 = (64, 64, None, 128, 128, None, 256, 256, 256, None, 512, 512, 512, None, 512, 512, 512, None)
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

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, 1, blocks)
        self.layer2 = _stage(16, 32, 2, blocks)
        self.layer3 = _stage(32, 64, 2, blocks)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 3, 32, 32) to logits (n, 10)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = functional.adaptive_avg_pool2d(x, 1)
        return self.linear(torch.flatten(x, 1))  # type: ignore[no-any-return]


class CifarVgg(nn.Module):
    """VGG-16 with batch normalisation and a single linear layer, for 32 x 32 images."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(*_vgg_layers())
        self.classifier = nn.Linear(512, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 3, 32, 32) to logits (n, 10)."""
        return self.classifier(torch.flatten(self.features(x), 1))  # type: ignore[no-any-return]


class CifarMobileNet(nn.Module):
    """MobileNet (Howard et al. 2017) for 32 x 32 images: the stem keeps the size, four blocks halve it."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [_conv(3, 32, 3, 1)]
        channels = 32
        for width, stride in _MOBILENET:
            blocks += [_conv(channels, channels, 3, stride, groups=channels), _conv(channels, width, 1, 1)]
            channels = width
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 3, 32, 32) to logits (n, 10)."""
        x = functional.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(torch.flatten(x, 1))  # type: ignore[no-any-return]


def resnet(depth: int) -> nn.Module:
    """He et al.'s CIFAR ResNet of depth 20, 32, 44, 56 or 110, untrained.

    Raises:
        EmomcError: when the depth is not 6 n + 2.
    """
    if depth < 8 or depth % 6 != 2:
        raise EmomcError(f"a CIFAR ResNet has a depth of 6 n + 2, such as 20 or 56, not {depth}.")
    return CifarResNet((depth - 2) // 6)


def vgg16() -> nn.Module:
    """VGG-16 for CIFAR-10, untrained."""
    return CifarVgg()


def mobilenet_v1() -> nn.Module:
    """MobileNetV1 of width 1 for CIFAR-10, untrained."""
    return CifarMobileNet()


def _conv(channels_in: int, channels: int, kernel: int, stride: int, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())


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
