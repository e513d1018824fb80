"""The training loop: resumable, ends on time, and leaves a network that works whatever happens."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from emomc.accuracy.splits import Split
from emomc.errors import EmomcError
from emomc.training.augment import augment, check_augmentable, cut_mix
from emomc.training.checkpoint import Progress, State, load_training, save_training, training_key
from emomc.training.interrupt import deferred_interrupt
from emomc.training.loss import Loss, Pasted
from emomc.training.precision import chosen_precision
from emomc.training.recipe import Budget, Recipe
from emomc.training.regime import Plain, Regime

Tell = Callable[[str, int, int], None]
"""``tell("training", done, total)``: images, or seconds where the budget is in minutes."""

_KEEP_EVERY = 50  # steps between two copies of a good state
_MEMORY = 0.98  # of the running mean of the loss
_GOOD = 1.5  # a state is good while the mean loss is at most so many times the lowest


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training leaves.

    Attributes:
        module: the trained network, in eval mode, on the CPU.
        progress: how far it went.
    """

    module: nn.Module
    progress: Progress


def _silent(what: str, done: int, total: int) -> None:
    """Progress that nobody sees."""


def _unheard(message: str) -> None:
    """A notice that nobody hears."""


def fit(
    module: nn.Module,
    images: Split,
    recipe: Recipe,
    budget: Budget,
    *,
    regime: Regime | None = None,
    teacher: nn.Module | None = None,
    path: Path | None = None,
    save_every: float = 60.0,
    device: str = "cpu",
    tell: Tell = _silent,
    notice: Callable[[str], None] = _unheard,
) -> Trained:
    """Train a copy of a network.

    Killed and repeated with the same arguments, it goes on from the last checkpoint; on the CPU, with a budget of steps
    or epochs, the result is the same to the last bit. Ctrl-C writes a checkpoint first.

    Args:
        module: where to start; not changed.
        images: to train on.
        recipe: how the weights move.
        budget: how long.
        regime: what happens around a step; nothing by default.
        teacher: network whose output is learnt, where the recipe has distillation.
        path: checkpoint, written now and then and at the end; the weights in it are under ``state_dict``.
        save_every: seconds between two checkpoints.
        device: ``"cpu"`` or a CUDA device.
        tell: progress.
        notice: told in words of what goes wrong and what is done about it.

    Raises:
        EmomcError: the checkpoint is of another training or architecture, a batch of two images is too large for the
            GPU, one image is too few for a batch norm, inputs that are no images are to be augmented, values to be
            predicted have another shape than the outputs, or the very first loss is not finite.
    """
    saver = _Saver(path, save_every)
    run = _Run(module, images, recipe, budget, regime or Plain(), teacher, torch.device(device), tell, notice)
    if path is not None:
        taught_by = "" if run.teacher is None else training_key(run.teacher)
        saver.key = training_key(module, recipe, budget, run.regime.key, images.fingerprint, taught_by)
        run.resume(load_training(path, saver.key, module))
    return run.result(saver)


@dataclass
class _Saver:
    """Writes checkpoints where there is a path for them."""

    path: Path | None
    every: float
    key: str = ""
    last: float = field(default_factory=time.monotonic)

    def save(self, run: _Run, *, if_due: bool = False) -> None:
        """Write all of a training's state; if ``if_due``, only when the last time is long enough ago."""
        if self.path is None or (if_due and time.monotonic() - self.last < self.every):
            return
        save_training(self.path, self.key, run.state())
        self.last = time.monotonic()


class _Run:
    """One training, with all of its state in one place."""

    def __init__(
        self,
        module: nn.Module,
        images: Split,
        recipe: Recipe,
        budget: Budget,
        regime: Regime,
        teacher: nn.Module | None,
        device: torch.device,
        tell: Tell,
        notice: Callable[[str], None],
    ) -> None:
        check_augmentable(images.stored, recipe.augmentation)
        self.images, self.recipe, self.budget, self.regime = images, recipe, budget, regime
        self.device, self.tell, self.notice = device, tell, notice
        self.module = _fast_copy(module, device)
        if not any(parameter.requires_grad for parameter in self.module.parameters()):
            self.module.requires_grad_(True)  # networks that come from files or traced graphs are frozen as a whole
        self.teacher = _fast_copy(teacher, device).eval() if teacher is not None and recipe.distillation else None
        self.optimizer = _optimizer(self.module, recipe)
        self.regime.restore(self.module, {})
        self.progress = Progress(batch=min(recipe.batch, len(images)))
        steps = budget.planned_steps(len(images), self.progress.batch)
        self.total = None if steps is None else steps * self.progress.batch
        self.good, self.lowest = self._copy(), math.inf
        self._epoch, self._order = -1, torch.zeros(0, dtype=torch.int64)

    def state(self) -> State:
        """What is stored of it."""
        network = self.module.state_dict()
        if self.progress.stopped:
            return State(network, self.progress, None, {})
        return State(network, self.progress, self.optimizer.state_dict(), self.regime.state())

    def resume(self, found: State | None) -> None:
        """Take over a stored state."""
        if found is None:
            return
        self.module.load_state_dict(found.network)
        self.progress = found.progress
        if found.optimizer is not None:
            self.optimizer.load_state_dict(found.optimizer)  # type: ignore[arg-type]
            self.regime.restore(self.module, found.regime)
        self.good = self._copy()

    def result(self, saver: _Saver) -> Trained:
        """Train to the end of the budget."""
        if not self.progress.stopped:
            with torch.random.fork_rng(), _training_mode(self.module), deferred_interrupt() as interrupted:
                while self._advance():
                    saver.save(self, if_due=not interrupted())
                    if interrupted():
                        raise KeyboardInterrupt
                saver.save(self)
        return Trained(copy.deepcopy(self.module).cpu().eval(), self.progress)

    def fraction(self) -> float:
        """Share of the budget that is spent."""
        if self.total is not None:
            return self.progress.seen / self.total
        assert self.budget.minutes is not None
        return self.progress.seconds / (60 * self.budget.minutes)

    def _advance(self) -> bool:
        """One step, or what it takes to make the next one possible; False at the end."""
        start = time.monotonic()
        try:
            done = self._step(self.fraction())
        except torch.OutOfMemoryError:
            self._halve()
            return True
        except ValueError as error:
            if self.progress.batch > 1:
                raise
            # The one known reason is a batch norm over single values; torch's own words tell which.
            raise EmomcError(
                f"the network cannot be trained on one image at a time: {str(error)[:300]}. "
                "Batch norms need several: give more training images, or a larger batch."
            ) from error
        if not done:
            self._diverged()
            return False
        self.progress.seconds += time.monotonic() - start
        self._report()
        if self.fraction() < 1:
            return True
        self.progress.stopped = "budget spent"
        return False

    def _step(self, fraction: float) -> bool:
        """One step; False where loss or gradient is not finite, and nothing has moved."""
        progress = self.progress
        torch.manual_seed(_mix(self.recipe.seed, progress.seen))
        self.regime.before(self.module, fraction)
        rate = self.recipe.learning_rate * _schedule(fraction, self.recipe.warmup) * progress.batch / self.recipe.batch
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        inputs, loss = self._batch()
        self.optimizer.zero_grad(set_to_none=True)
        with self._precision():
            value = float(self.regime.backward(self.module, inputs, loss))
        norm = float(nn.utils.clip_grad_norm_(self.module.parameters(), self.recipe.clip))
        if not (math.isfinite(value) and math.isfinite(norm)):
            return False
        progress.loss = value if progress.steps == 0 else _MEMORY * progress.loss + (1 - _MEMORY) * value
        self.lowest = min(self.lowest, progress.loss)
        if progress.steps % _KEEP_EVERY == 0 and progress.loss <= _GOOD * self.lowest:
            self.good = self._copy()
        self.optimizer.step()
        self.regime.after(self.module)
        progress.steps += 1
        progress.seen += len(inputs)
        return True

    def _batch(self) -> tuple[torch.Tensor, Loss]:
        """Augmented inputs of the next images, and their loss."""
        rows = self._rows(self.progress.seen, self.progress.batch)
        generator = torch.Generator().manual_seed(_mix(self.recipe.seed, self.progress.seen, 1))
        augmentation, targets, pasted = self.recipe.augmentation, self.images.targets[rows].to(self.device), None
        stored = augment(self.images.stored[rows], augmentation, generator)
        if augmentation.cutmix:
            stored, partners, areas = cut_mix(stored, augmentation.cutmix, generator)
            pasted = Pasted(targets[partners.to(self.device)], areas.to(self.device))
        stored = stored.to(self.device)
        inputs = stored if self.images.normalisation is None else self.images.normalisation(stored)
        if inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        taught = None
        if self.teacher is not None:
            with torch.no_grad(), self._precision():
                taught = self.teacher(inputs)
        return inputs, Loss(self.recipe, targets, taught, pasted)

    def _rows(self, first: int, count: int) -> torch.Tensor:
        """Numbers of the images at positions from ``first`` on; every epoch is in an order of its own."""
        parts = []
        while count > 0:
            epoch, at = divmod(first, len(self.images))
            if epoch != self._epoch:
                generator = torch.Generator().manual_seed(_mix(self.recipe.seed, epoch, 2))
                self._epoch, self._order = epoch, torch.randperm(len(self.images), generator=generator)
            parts.append(self._order[at : at + count])
            first, count = first + len(parts[-1]), count - len(parts[-1])
        return torch.cat(parts)

    def _precision(self) -> AbstractContextManager[None]:
        return chosen_precision(self.device.type, self.recipe.precision)

    def _halve(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.progress.batch < 4:
            raise EmomcError(
                f"the GPU runs out of memory with {self.progress.batch} images at a time. "
                "Use another device, or close what else runs on this one."
            )
        self.progress.batch //= 2
        self.notice(f"out of memory: going on with {self.progress.batch} images a step, and half the learning rate.")

    def _diverged(self) -> None:
        if self.progress.steps == 0:
            raise EmomcError(
                "the loss is not finite on the first images: check weights, labels and normalisation of the task."
            )
        self.module.load_state_dict(self.good)
        self.progress.stopped = "diverged"
        self.notice(
            f"the training diverged after {self.progress.steps} steps: the loss is no longer finite. It was stopped, "
            f"and the last good state is kept. Train with a learning rate below {self.recipe.learning_rate:g}."
        )

    def _report(self) -> None:
        if self.total is not None:
            self.tell("training", min(self.progress.seen, self.total), self.total)
        else:
            assert self.budget.minutes is not None
            total = math.ceil(60 * self.budget.minutes)
            self.tell("training", min(int(self.progress.seconds), total), total)

    def _copy(self) -> dict[str, torch.Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.module.state_dict().items()}


def _fast_copy(module: nn.Module, device: torch.device) -> nn.Module:
    """A copy in the memory layout that convolutions are fastest in."""
    return copy.deepcopy(module).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@contextmanager
def _training_mode(module: nn.Module) -> Iterator[None]:
    module.train()
    try:
        yield
    finally:
        module.eval()


def _optimizer(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [each for each in parameters if each.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [each for each in parameters if each.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, recipe.learning_rate)
    return torch.optim.SGD(groups, recipe.learning_rate, momentum=0.9, nesterov=True)


def _schedule(fraction: float, warmup: float) -> float:
    """Share of the highest learning rate at a share of the budget: a linear rise, then half a cosine.

    Source: Loshchilov and Hutter, "SGDR", 2017; the rise from Goyal et al. 2017.
    """
    if fraction < warmup:
        return max(fraction / warmup, 0.02)
    return 0.5 * (1 + math.cos(math.pi * (fraction - warmup) / (1 - warmup)))


def _mix(*numbers: int) -> int:
    """One seed of several numbers, equal on every machine."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 1_000_003 + number + 1) % (2**63 - 25)
    return mixed
