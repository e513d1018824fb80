"""How a network is trained: plain values that are compared when a training is resumed."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

from emomc.errors import EmomcError


@dataclass(frozen=True)
class Budget:
    """How long to train; exactly one of the three is given.

    Steps and epochs give the same network on every run on one machine's CPU. A budget of minutes ends on time whatever
    the machine's speed, and the number of steps, hence the network, differs from run to run.

    Attributes:
        steps: optimizer steps.
        epochs: passes over the training images; a fraction is a part of a pass.
        minutes: of training, interruptions not counted.
    """

    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.steps, self.epochs, self.minutes) if value is not None]
        if len(given) != 1 or given[0] <= 0:
            raise EmomcError(f"{self}: give exactly one of steps, epochs and minutes, above 0.")
        for name in ("epochs", "minutes"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else float(value))  # 3 epochs are 3.0 in checkpoints

    def planned_steps(self, images: int, batch: int) -> int | None:
        """Steps in all, at least one; None where time decides."""
        if self.epochs is not None:
            return max(1, round(self.epochs * images / batch))
        return self.steps


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images.

    Attributes:
        shift: pixels that an image may move in each direction, zeros moving in: the random crop of He et al. 2016.
        flip: whether an image may be mirrored left to right.
        cutmix: share of the images that get a rectangle of another one, whose target then counts by area; a teacher
            sees what the network sees.
    """

    shift: int = 0
    flip: bool = False
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.cutmix <= 1:
            raise EmomcError(f"cutmix is {self.cutmix}; expected a fraction from 0 to 1.")


@dataclass(frozen=True)
class Recipe:
    """How the weights move. The learning rate rises linearly, then falls as half a cosine to zero.

    Attributes:
        optimizer: ``"sgd"`` with Nesterov momentum 0.9, or ``"adamw"``.
        learning_rate: the highest.
        batch: images a step.
        weight_decay: of weights with two or more axes; biases and batch norms have none.
        warmup: share of the budget in which the rate rises.
        label_smoothing: share of a class label that is spread over all classes.
        distillation: weight of the teacher's output in the loss, 0 to 1; the targets have the rest.
        temperature: of the softmax that class scores of teacher and network are compared at.
        clip: largest norm of the gradient; a longer one is shortened to it.
        precision: ``"float32"``, ``"bfloat16"`` (autocast), or ``"auto"``: bfloat16 where the GPU has it, or the
            processor has instructions for it (AMX, AVX-512).
        augmentation: of the images.
        seed: of order, augmentation, dropout and sampled configurations.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.01
    batch: int = 128
    weight_decay: float = 5e-4
    warmup: float = 0.05
    label_smoothing: float = 0.0
    distillation: float = 0.0
    temperature: float = 2.0
    clip: float = 5.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    augmentation: Augmentation = Augmentation()
    seed: int = 0

    def __post_init__(self) -> None:
        allowed = {"optimizer": ("sgd", "adamw"), "precision": ("auto", "float32", "bfloat16")}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise EmomcError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(values)}.")
        for name in ("learning_rate", "batch", "temperature", "clip"):
            if not getattr(self, name) > 0:
                raise EmomcError(f"{name} is {getattr(self, name)}; expected a number above 0.")
        for name in ("warmup", "label_smoothing", "distillation"):
            if not 0 <= getattr(self, name) <= 1:
                raise EmomcError(f"{name} is {getattr(self, name)}; expected a fraction from 0 to 1.")

    def differences(self, other: Recipe) -> list[str]:
        """Names of the fields in which two recipes differ."""
        return [field.name for field in fields(self) if getattr(self, field.name) != getattr(other, field.name)]


def recovery_recipe(recipe: Recipe) -> Recipe:
    """How a trained network goes on after it was pruned or rounded: gently, and taught by what it was before.

    On training images that the teacher knows by heart its outputs say little but the label. A high temperature brings
    out what else they say, and images put together of two are new to it. Those are for tasks whose images are changed
    in training anyway.

    Args:
        recipe: of the training that made it; batch, augmentation, precision and the like are taken from it.
    """
    changed = recipe.augmentation != Augmentation()
    return replace(
        recipe,
        optimizer="sgd",
        learning_rate=0.01,
        weight_decay=5e-4,
        warmup=0.05,
        label_smoothing=0.0,
        distillation=1.0,
        temperature=4.0,
        augmentation=replace(recipe.augmentation, cutmix=1.0) if changed else recipe.augmentation,
    )
