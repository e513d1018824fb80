r"""MobileNetV1 on CIFAR-10, from a trained checkpoint to the table of VGG-16.

What is done and measured is what ``python -m benchmarks.vgg16_cifar10 --help`` says. No ratios were published for this
network under the same energy model. The checkpoint is trained first:

    emomc train cifar10-mobilenetv1 --data FOLDER --scratch --epochs 30 --out mobilenetv1.pt
    python -m benchmarks.mobilenetv1_cifar10 --data FOLDER --checkpoint mobilenetv1.pt --levels 0.1 0.2 0.3 0.4 0.5
    python -m benchmarks.mobilenetv1_cifar10 --data FOLDER --checkpoint mobilenetv1.pt --minutes 30 \
        --further runs/mobilenetv1_cifar10/one-shot-0.4.emomc

Killing it and repeating the command continues it. Results go to benchmarks/results/mobilenetv1_cifar10.json and .png;
what is not made again of the same dense network stays there.
"""

from emomc.benchmarks.headline.command import run

if __name__ == "__main__":
    run("cifar10-mobilenetv1", "mobilenetv1_cifar10", {}, __doc__)
