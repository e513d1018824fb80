"""What the Eyeriss publications report, and the layers that they ran.

Sources: Y.-H. Chen et al., "Eyeriss: an energy-efficient reconfigurable accelerator", JSSC 52(1), 2017, tables V and
VI (as collected in cucapra/fodlam), and Y.-H. Chen et al., "Eyeriss: a spatial architecture for energy-efficient
dataflow", ISCA 2016, figure 10 (numbers as in the tests of nn_dataflow). MB are 2^20 bytes. DRAM bytes were counted
after the chip's run-length coding.
"""

from __future__ import annotations

from dataclasses import dataclass

import emomc


@dataclass(frozen=True)
class Measured:
    """A row of a table: one layer on the chip.

    Attributes:
        layer: its name.
        milliwatts: power of the chip.
        milliseconds: time of the whole batch.
        gigamacs: multiply-accumulates of the whole batch.
        zeros: fraction of zeros in its input maps.
        buffer_mb: words moved at the buffer, in MB.
        dram_mb: words moved off chip, in MB.
    """

    layer: str
    milliwatts: float
    milliseconds: float
    gigamacs: float
    zeros: float
    buffer_mb: float
    dram_mb: float

    @property
    def picojoules_per_mac(self) -> float:
        """Energy of the chip without its off-chip memory."""
        return self.milliwatts * self.milliseconds / self.gigamacs / 1e3


ALEXNET_BATCH, VGG16_BATCH, FIGURE_10_BATCH = 4, 3, 16

ALEXNET = (
    Measured("conv1", 332, 20.9, 0.42, 0.0001, 18.5, 5.0),
    Measured("conv2", 288, 41.9, 0.90, 0.387, 77.6, 4.0),
    Measured("conv3", 266, 23.6, 0.60, 0.725, 50.2, 3.0),
    Measured("conv4", 235, 18.4, 0.45, 0.793, 37.4, 2.1),
    Measured("conv5", 236, 10.5, 0.30, 0.776, 24.9, 1.3),
)
"""Table V: 200 MHz, 1 V."""

VGG16 = (
    Measured("1-1", 247, 76.2, 0.26, 0.016, 112.6, 15.4),
    Measured("1-2", 218, 910.3, 5.55, 0.477, 2402.8, 54.0),
    Measured("2-1", 242, 470.3, 2.77, 0.248, 1201.4, 33.4),
    Measured("2-2", 231, 894.3, 5.55, 0.387, 2402.8, 48.5),
    Measured("3-1", 254, 241.1, 2.77, 0.397, 607.4, 20.2),
    Measured("3-2", 235, 460.9, 5.55, 0.581, 1214.8, 32.2),
    Measured("3-3", 233, 457.7, 5.55, 0.587, 1214.8, 30.8),
    Measured("4-1", 278, 135.8, 2.77, 0.643, 321.8, 17.8),
    Measured("4-2", 261, 254.8, 5.55, 0.747, 643.7, 28.6),
    Measured("4-3", 240, 246.3, 5.55, 0.854, 643.7, 22.8),
    Measured("5-1", 258, 54.3, 1.39, 0.794, 90.0, 6.3),
    Measured("5-2", 236, 53.7, 1.39, 0.874, 90.0, 5.7),
    Measured("5-3", 230, 53.7, 1.39, 0.885, 90.0, 5.6),
)
"""Table VI: 200 MHz, 1 V."""

FIGURE_10 = {
    "conv1": (1.69, 2.46),
    "conv2": (3.58, 2.27),
    "conv3": (2.39, 2.02),
    "conv4": (1.79, 1.57),
    "conv5": (1.20, 1.05),
    "fc1": (0.60, 7.78),
    "fc2": (0.27, 3.39),
    "fc3": (0.07, 0.84),
}
"""AlexNet with a buffer of 128 KB and 16-bit words: arithmetic and off-chip energy, 1e9 multiply-accumulates."""

_ALEXNET_SHAPES = {  # K, C, output, taps, input, stride, padding, groups
    "conv1": (96, 3, 55, 11, 227, 4, 0, 1),
    "conv2": (256, 96, 27, 5, 27, 1, 2, 2),
    "conv3": (384, 256, 13, 3, 13, 1, 1, 1),
    "conv4": (384, 384, 13, 3, 13, 1, 1, 2),
    "conv5": (256, 384, 13, 3, 13, 1, 1, 2),
    "fc1": (4096, 256, 1, 6, 6, 1, 0, 1),
    "fc2": (4096, 4096, 1, 1, 1, 1, 0, 1),
    "fc3": (1000, 4096, 1, 1, 1, 1, 0, 1),
}
_VGG16_SHAPES = {  # K, C, map
    "1-1": (64, 3, 224),
    "1-2": (64, 64, 224),
    "2-1": (128, 64, 112),
    "2-2": (128, 128, 112),
    "3-1": (256, 128, 56),
    "3-2": (256, 256, 56),
    "3-3": (256, 256, 56),
    "4-1": (512, 256, 28),
    "4-2": (512, 512, 28),
    "4-3": (512, 512, 28),
    "5-1": (512, 512, 14),
    "5-2": (512, 512, 14),
    "5-3": (512, 512, 14),
}


def alexnet(name: str, batch: int) -> emomc.Layer:
    """A layer of AlexNet over a batch of images."""
    k, c, out, taps, size, stride, pad, groups = _ALEXNET_SHAPES[name]
    loops = (batch, groups, k // groups, c // groups, out, out, taps, taps, size, size)
    call = emomc.LoopBounds(*loops, (stride, stride), (pad, pad))
    return emomc.Layer(name, "conv", f"{name}.weight", (k, c // groups, taps, taps), (call,))


def vgg16(name: str, batch: int) -> emomc.Layer:
    """A convolution of VGG-16 on 224x224 images, over a batch of them."""
    k, c, size = _VGG16_SHAPES[name]
    call = emomc.LoopBounds(batch, 1, k, c, size, size, 3, 3, size, size, padding=(1, 1))
    return emomc.Layer(name, "conv", f"{name}.weight", (k, c, 3, 3), (call,))
