"""Elastic training: one network trained so that the networks that compression makes of it lose less.

At the start of each stage the weights at hand are compressed in several ways, from mild to aggressive, as a search
would compress them: all layers alike, or as networks on the front of a search, of which each stage draws others. Each
step then trains one of these forms, or the network as it is; all learn the outputs of the same teacher. A form moves
with the weights that it was made of, and its zeros stay zero. Between two stages the weights go a part of the way to
the mean of their forms, so that the next compression changes them less.

Training a network and its reduced forms with shared weights, taught by the whole one, is that of Yu and Huang,
"Universally slimmable networks", 2019, and Cai et al., "Once for all", 2020; moving weights towards their compressed
values in turns with training is that of Zhang et al., "A systematic DNN weight pruning framework using ADMM", 2018.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from emomc.compression import METHODS, Setting, collect_grams
from emomc.errors import EmomcError
from emomc.genome import Configuration
from emomc.network import Network
from emomc.training.loss import Loss
from emomc.training.recipe import Recipe, recovery_recipe
from emomc.training.regime import Plain
from emomc.training.swapped import backward_with, parameters_by_name

FRONT = (
    Setting(0.6, 4, 0),
    Setting(0.7, 3, 0),
    Setting(0.8, 3, 0),
    Setting(0.85, 3, 0),
    Setting(0.9, 3, 0),
)
"""Settings along the front of networks whose layers are all treated alike."""

_FORMS = 5  # of a stage, at most
_COUNTS, _ANCHOR = "counts", "anchor."  # names in a checkpoint
_LEAST_STEPS = 100  # of a stage: in fewer, training does not make up for what the weights are moved by


def elastic_recipe(recipe: Recipe) -> Recipe:
    """How a trained network is trained elastically: as it is recovered, in small batches, without weight decay.

    Args:
        recipe: of the training that made it; augmentation, precision and seed are taken from it.
    """
    return replace(recovery_recipe(recipe), batch=min(recipe.batch, 64), weight_decay=0.0)


@dataclass(frozen=True, eq=False)
class Form:
    """A compressed network that moves with the weights that it was made of.

    Attributes:
        masks: 1 where a weight is not pruned, in its shape, by parameter name.
        changes: what compression added to the weights that it kept; where it pruned them, zero.
    """

    masks: Mapping[str, torch.Tensor]
    changes: Mapping[str, torch.Tensor]

    def weights(self, parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Compressed weights by name, with the gradient of the weight where it is not pruned."""
        return {name: parameters[name] * self.masks[name] + change for name, change in self.changes.items()}

    def to(self, device: torch.device) -> Form:
        """On a device."""
        return Form(
            {name: mask.to(device) for name, mask in self.masks.items()},
            {name: change.to(device) for name, change in self.changes.items()},
        )


class Elastic(Plain):
    """Each step trains the network as it is or one of its compressed forms, drawn at random.

    Attributes:
        forms: of the stage at hand, one for each setting.
        anchor: state of the network that they were made of.
    """

    def __init__(
        self,
        network: Network,
        inputs: torch.Tensor,
        front: Sequence[Setting | Configuration] = FRONT,
        stages: int = 8,
        pull: float = 0.5,
    ) -> None:
        """An elastic training.

        Args:
            network: trace of the network that is trained.
            inputs: to calibrate compression on, ``(n, ...)`` float32.
            front: networks to train for, mildest first: what all layers get, or what each of them does. Of more than
                five, every stage draws five that are spread over the front. Inputs of layers are not quantized.
            stages: how often the weights are compressed, evenly over the budget; less often where a stage would have
                fewer than 100 steps.
            pull: share of the way to the mean of their forms that weights go between two stages, 0 to 1; it falls to
                nothing in line with the budget that is left.

        Raises:
            EmomcError: there is no form, no stage, the pull is not a share, or a configuration is of other layers.
        """
        if not front or stages < 1 or not 0 <= pull <= 1:
            raise EmomcError(
                f"elastic training with {len(front)} forms, {stages} stages and pull {pull}: "
                "expected at least one form and one stage, and a pull from 0 to 1."
            )
        self.network, self.inputs, self.front = network, inputs, tuple(front)
        self._settings = [_by_layer(network, each) for each in self.front]
        self.stages, self.pull = stages, pull
        self._stage, self._steps = 0, 0
        self.anchor: dict[str, torch.Tensor] = {}
        self.forms: list[Form] = []

    @property
    def key(self) -> str:
        inputs = hashlib.sha256(self.inputs.contiguous().numpy().data).hexdigest()
        return f"Elastic {self.front} {self.stages} {self.pull} {inputs}"

    def before(self, module: nn.Module, fraction: float) -> None:
        stage = int(fraction * self.stages)
        if self.forms and (stage == self._stage or self._steps < _LEAST_STEPS):
            return
        if self.forms:
            self._draw_near(module, self.pull * (1 - fraction))
        self._stage, self._steps = stage, 0
        self.anchor = {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}
        self.forms = self._compressed(module)

    def backward(self, module: nn.Module, images: torch.Tensor, loss: Loss) -> torch.Tensor:
        drawn = int(torch.randint(len(self.forms) + 1, ()))
        if drawn == len(self.forms):
            return super().backward(module, images, loss)
        with _kept_statistics(module):
            weights = self.forms[drawn].weights(parameters_by_name(module))
            return backward_with(module, weights, images, loss)

    def after(self, module: nn.Module) -> None:
        self._steps += 1

    def state(self) -> dict[str, torch.Tensor]:
        anchor = {_ANCHOR + name: tensor for name, tensor in self.anchor.items()}
        return {_COUNTS: torch.tensor([self._stage, self._steps]), **anchor} if anchor else {}

    def restore(self, module: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
        self._stage, self._steps, self.anchor, self.forms = 0, 0, {}, []
        if state:
            self._stage, self._steps = state[_COUNTS].tolist()
            self.anchor = {name.removeprefix(_ANCHOR): each for name, each in state.items() if name != _COUNTS}
            before = copy.deepcopy(module)
            before.load_state_dict(self.anchor)
            self.forms = self._compressed(before)

    @torch.no_grad()
    def _draw_near(self, module: nn.Module, share: float) -> None:
        parameters = parameters_by_name(module)
        forms = [form.weights(parameters) for form in self.forms]
        for name in forms[0]:
            mean = torch.stack([form[name] for form in forms]).mean(0)
            parameters[name].lerp_(mean, share)

    def _drawn(self) -> list[tuple[Setting, ...]]:
        """What each layer gets in each form of the stage: one of every stretch of the front, by the stage's number."""
        stretches = np.array_split(np.arange(len(self._settings)), min(_FORMS, len(self._settings)))
        generator = np.random.default_rng(self._stage)
        return [self._settings[generator.choice(stretch)] for stretch in stretches]

    @torch.no_grad()
    def _compressed(self, module: nn.Module) -> list[Form]:
        """The forms of a network."""
        dense = copy.deepcopy(module).cpu().eval()
        grams, state = collect_grams(dense, self.network, self.inputs), dense.state_dict()
        drawn = self._drawn()
        masks: list[dict[str, torch.Tensor]] = [{} for _ in drawn]
        changes: list[dict[str, torch.Tensor]] = [{} for _ in drawn]
        for layer, settings in zip(self.network.layers, zip(*drawn, strict=True), strict=True):
            weight = state[layer.weight]
            made = METHODS["obs"](weight.contiguous().numpy(), settings, grams.get(layer.name))
            for coded, mask, change in zip(made, masks, changes, strict=True):
                form = torch.from_numpy(coded.dequantize())
                mask[layer.weight] = (form != 0).to(weight.dtype)
                change[layer.weight] = form - weight * mask[layer.weight]
        device = next(module.parameters()).device
        return [Form(mask, change).to(device) for mask, change in zip(masks, changes, strict=True)]


def _by_layer(network: Network, form: Setting | Configuration) -> tuple[Setting, ...]:
    """What each layer gets, in their order."""
    names = [layer.name for layer in network.layers]
    if isinstance(form, Setting):
        return (form,) * len(names)
    if set(form.layers) != set(names):
        raise EmomcError(
            f"a network of the front has the layers {', '.join(form.layers)}; the one that is trained has "
            f"{', '.join(names)}. Take the front of a search of the same network."
        )
    return tuple(Setting.of(form.layers[name]) for name in names)


@contextmanager
def _kept_statistics(module: nn.Module) -> Iterator[None]:
    """Running statistics of batch norms as they are: those of the network that is not compressed."""
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    before = [norm.momentum for norm in norms]
    counted = [norm.num_batches_tracked.clone() for norm in norms if norm.num_batches_tracked is not None]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
        tracking = [norm for norm in norms if norm.num_batches_tracked is not None]
        for norm, count in zip(tracking, counted, strict=True):
            norm.num_batches_tracked.copy_(count)  # type: ignore[union-attr]
