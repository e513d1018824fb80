r"""ResNet-56 on CIFAR-10, from a trained checkpoint to the table of VGG-16.

What is done and measured is what ``python -m benchmarks.vgg16_cifar10 --help`` says. No ratios were published for this
network under the same energy model.

    python -m benchmarks.resnet56_cifar10 --data FOLDER --levels 0.15 0.25 0.35 0.5
    python -m benchmarks.resnet56_cifar10 --data FOLDER --levels 0.35 --train 0.35 --minutes 13
    python -m benchmarks.resnet56_cifar10 --data FOLDER --minutes 18 \
        --further runs/resnet56_cifar10/one-shot-0.35.emomc

Killing it and repeating the command continues it. Results go to benchmarks/results/resnet56_cifar10.json and .png;
what is not made again of the same dense network stays there.
"""

from emomc.benchmarks.headline.command import run

if __name__ == "__main__":
    run("cifar10-resnet56", "resnet56_cifar10", {}, __doc__)
