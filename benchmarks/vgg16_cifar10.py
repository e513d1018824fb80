"""VGG-16 on CIFAR-10, from a trained checkpoint to a table: pruned and rounded in one go, then trained for minutes.

Every layer is pruned along one path with compensation of its output error, on training images; the ratios are those
that together lose least while all four dataflows of the published energy model, and the published size conventions,
save a given share of the targets: a level. What remains is rounded with compensation. With ``--minutes`` the pruned
network is also trained, with fixed zeros and rounded weights, taught by the dense network, each level going on from the
one before; with ``--polish`` the file of the last is trained on at its size by `emomc.finetune`, and with ``--further``
so is a file that the results list, such as benchmarks/results/vgg16_cifar10_level1.emomc. Every level is written to a
file, decoded and measured on validation images. One of each kind is measured on the 10,000 test images, once: of those
made in one go the largest that validation images cannot tell from the limit, if there is any; of the trained ones the
largest, whatever validation says.

    python -m benchmarks.vgg16_cifar10 --data FOLDER
    python -m benchmarks.vgg16_cifar10 --data FOLDER --levels 0.3 0.4 1.0 --train 1.0 --minutes 95 --polish 1000
    python -m benchmarks.vgg16_cifar10 --data FOLDER --further FILE --minutes 50

Killing it and repeating the command continues it. Results go to benchmarks/results/vgg16_cifar10.json and .png;
what is not made again of the same dense network stays there.
"""

from emomc.benchmarks.headline.command import run

# Table II and III of the paper: times less than the dense network in 32-bit floats, at a loss of 0.3 points.
PAPER = {
    "X:Y": 14.0,
    "CI:CO": 12.2,
    "FX:FY": 10.4,
    "X:FX": 8.9,
    "emomc-normal": 6.1,
    "emomc-csr": 7.4,
    "emomc-coo": 2.4,
}

if __name__ == "__main__":
    run("cifar10-vgg16", "vgg16_cifar10", PAPER, __doc__)
