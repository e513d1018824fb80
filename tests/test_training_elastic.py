"""Rounding in the forward pass, and training against compressed forms."""

from __future__ import annotations

import copy
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from emomc.coding.tensor import CodedTensor
from emomc.compression import METHODS, Setting, collect_grams
from emomc.compression.quantization import largest_level
from emomc.errors import EmomcError
from emomc.genome import Configuration
from emomc.network import trace
from emomc.training import Budget, Elastic, KeepCoded, RoundWeights, fit
from emomc.training.elastic import Form
from emomc.training.fakequant import round_to_grid, rounded
from emomc.training.loss import Loss
from emomc.training.swapped import backward_with
from tests.test_training import RECIPE, STEPS, error, images, network, pruned, same

NAMES = ("conv.weight", "linear.weight")


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.integers(0, 99), st.floats(1e-3, 1e3))
def test_rounding_is_storable_and_keeps_zeros(bits: int, seed: int, size: float) -> None:
    weight = size * torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(seed))
    weight[weight.abs() < 0.3 * size] = 0
    level = largest_level(bits)
    integers, step = round_to_grid(weight, level)
    assert float(integers.abs().max()) <= level
    assert torch.equal(integers, integers.round())
    coded = CodedTensor(integers.numpy().astype(np.int8), step.half().numpy(), bits)
    assert np.array_equal(coded.dequantize(), rounded(weight, level).numpy())
    assert not bool(integers[weight == 0].any())


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("zeros", [0.0, 0.8, 0.95])
def test_rounding_is_near_the_best_step(bits: int, zeros: float) -> None:
    weight = torch.randn(8, 3000, generator=torch.Generator().manual_seed(0))
    weight[weight.abs() < weight.abs().flatten().quantile(zeros)] = 0
    level = largest_level(bits)
    ends = weight.abs().amax(1, keepdim=True) * torch.linspace(0.2, 1, 81)[:, None, None] / level
    best = (((weight / ends).round().clamp(-level, level) * ends - weight) ** 2).sum(2).amin(0)
    found = ((rounded(weight, level) - weight) ** 2).sum(1)
    assert float(found.sum() / best.sum()) < 1.6


def test_a_layer_of_zeros_stays_one() -> None:
    assert not bool(rounded(torch.zeros(2, 3), 3).any())


def test_training_with_rounded_weights_beats_rounding_afterwards() -> None:
    levels = dict.fromkeys(NAMES, largest_level(2))

    def loss_when_rounded(module: torch.nn.Module) -> float:
        state = module.state_dict()
        for name in NAMES:
            state[name].copy_(rounded(state[name], levels[name]))
        with torch.no_grad():
            return float(torch.nn.functional.cross_entropy(module(images().inputs), images().targets))

    plain, aware = 0.0, 0.0
    for seed in range(4):  # one alone may go the other way
        recipe, budget = replace(RECIPE, seed=seed), Budget(epochs=10)
        plain += loss_when_rounded(fit(network(), images(), recipe, budget).module)
        aware += loss_when_rounded(fit(network(), images(), recipe, budget, regime=RoundWeights(levels)).module)
    assert aware < plain


def test_rounding_keeps_zeros_while_training() -> None:
    start = pruned()
    regime = RoundWeights.keeping_zeros(start, dict.fromkeys(NAMES, 3))
    after = fit(start, images(), RECIPE, STEPS, regime=regime).module.get_parameter("conv.weight")
    assert torch.equal(after == 0, start.get_parameter("conv.weight") == 0)


class Twice(nn.Module):
    """One weight in two convolutions, the second of which is called first."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 3, 3, padding=1)
        self.two = nn.Conv2d(3, 3, 3, padding=1) if tied else self.one
        self.two.weight = self.one.weight
        self.last = nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.one(torch.relu(self.two(x)))).mean((2, 3))
        return self.last(x)


@pytest.fixture(params=[False, True], ids=["shared", "tied"])
def twice(request: pytest.FixtureRequest) -> Twice:
    torch.manual_seed(0)
    return Twice(tied=request.param)


def test_another_weight_stands_in_wherever_the_parameter_is(twice: Twice) -> None:
    inputs, loss = images().inputs, Loss(RECIPE, images().targets)
    name = trace(twice, inputs[:1]).layers[0].weight  # of tied ones not the first: "two.weight"
    expected, weight = copy.deepcopy(twice), twice.one.weight
    expected.one.weight.data.mul_(3)
    expected_loss = loss(expected(inputs))
    expected_loss.backward()
    assert backward_with(twice, {name: 3 * weight}, inputs, loss) == expected_loss.detach()
    assert torch.allclose(weight.grad, 3 * expected.one.weight.grad)
    assert torch.allclose(twice.last.weight.grad, expected.last.weight.grad)
    assert twice.one.weight is twice.two.weight is weight


@pytest.mark.parametrize("kind", ["rounded", "elastic", "coded"])
def test_shared_modules_and_tied_weights_are_trained_as_one(kind: str, twice: Twice) -> None:
    layers = trace(twice, images().inputs[:1])
    name = layers.layers[0].weight
    coded = CodedTensor(np.ones((3, 3, 3, 3), np.int8), np.full(3, 0.1, np.float16), 4)
    regimes = {
        "rounded": RoundWeights({name: 3}),
        "elastic": Elastic(layers, images().inputs[:64], FRONT),
        "coded": KeepCoded({name: coded}),
    }
    trained = fit(twice, images(), RECIPE, STEPS, regime=regimes[kind]).module
    assert trained.one.weight is trained.two.weight
    assert not torch.equal(trained.one.weight, twice.one.weight)
    assert regimes["coded"].coded(trained)[name].integers.shape == (3, 3, 3, 3)


FRONT = (Setting(0.5, 4, 0), Setting(0.8, 3, 0), Setting(0.8, 4, 0))


def elastic(stages: int = 3, front: Sequence[Setting | Configuration] = FRONT, pull: float = 0.5) -> Elastic:
    return Elastic(trace(network(), images().inputs[:1]), images().inputs[:64], front, stages, pull)


def begun(regime: Elastic, module: nn.Module | None = None) -> list[Form]:
    regime.restore(network(), {})
    regime.before(module or network(), 0.0)
    return regime.forms


@pytest.fixture
def short_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emomc.training.elastic._LEAST_STEPS", 2)


def obs(module: nn.Module, setting: Setting) -> dict[str, torch.Tensor]:
    """Weights as a search would compress them."""
    layers = trace(module, images().inputs[:1])
    grams = collect_grams(module, layers, images().inputs[:64])
    made = {}
    for layer in layers.layers:
        weight = module.state_dict()[layer.weight].numpy()
        (coded,) = METHODS["obs"](weight, [setting], grams[layer.name])
        made[layer.weight] = torch.from_numpy(coded.dequantize())
    return made


def test_forms_are_what_compression_makes() -> None:
    start = network()
    for setting, form in zip(FRONT, begun(elastic(), start), strict=True):
        weights = form.weights(dict(start.named_parameters()))
        for name, expected in obs(start, setting).items():
            assert torch.allclose(weights[name], expected, atol=1e-6)
            assert torch.equal(weights[name] == 0, expected == 0)


def configuration(*ratios: float) -> Configuration:
    """The layers, each pruned by its own ratio."""
    layers = [layer.name for layer in elastic().network.layers]
    return Configuration({name: Setting(ratio, 3, 0)._asdict() for name, ratio in zip(layers, ratios, strict=True)})


def test_forms_of_a_front_treat_each_layer_as_its_networks_do() -> None:
    start = network()
    (form,) = begun(elastic(front=[configuration(0.3, 0.9)]), start)
    expected = {ratio: obs(start, Setting(ratio, 3, 0)) for ratio in (0.3, 0.9)}
    weights = form.weights(dict(start.named_parameters()))
    for name, ratio in zip(weights, expected, strict=True):
        assert torch.allclose(weights[name], expected[ratio][name], atol=1e-6)


def test_each_stage_draws_other_networks_spread_over_the_front() -> None:
    front = [configuration(*[round(0.05 * row, 2)] * 2) for row in range(1, 18)]
    regime, module = elastic(front=front, stages=2), network()
    stages = [begun(regime, module)]
    for _ in range(100):
        regime.after(module)
    regime.before(module, 0.5)
    stages.append(regime.forms)
    zeros = [[float((form.masks[NAMES[0]] == 0).float().mean()) for form in forms] for forms in stages]
    assert zeros[0] != zeros[1]
    for drawn in zeros:
        assert drawn == sorted(drawn)
        assert len(set(drawn)) == 5
        assert drawn[0] < 0.3
        assert drawn[-1] > 0.6


def test_a_front_of_another_network_is_refused() -> None:
    other = Configuration({"conv": Setting(0.5, 4, 0)._asdict()})
    with pytest.raises(EmomcError, match="of the same network"):
        elastic(front=[other])


def test_a_form_moves_with_its_weights_and_its_zeros_stay() -> None:
    parameters = dict(network().named_parameters())
    form = begun(elastic())[1]
    before = {name: weight.detach() for name, weight in form.weights(parameters).items()}
    moved = {name: (weight + 1).detach().requires_grad_() for name, weight in parameters.items()}
    after = form.weights(moved)
    for name, weight in after.items():
        pruned = before[name] == 0
        assert int(pruned.sum()) == round(0.8 * weight.numel())
        assert torch.allclose(weight - before[name], (~pruned).float(), atol=1e-5)
        weight.sum().backward()
        assert torch.equal(moved[name].grad, (~pruned).float())


def loss_of(module: nn.Module, weights: dict[str, torch.Tensor]) -> float:
    with torch.no_grad():
        output = functional_call(module, weights, (images().inputs,))
        return float(torch.nn.functional.cross_entropy(output, images().targets))


def test_elastic_training_improves_what_compression_makes_more_than_plain_training_does() -> None:
    setting, budget = Setting(0.85, 2, 0), Budget(epochs=40)
    start = fit(network(), images(), RECIPE, Budget(epochs=10)).module
    plain = fit(start, images(), RECIPE, budget).module
    trained = fit(start, images(), RECIPE, budget, regime=elastic(front=(setting,))).module
    assert error(trained, images()) < 0.1
    losses = [loss_of(module, obs(module, setting)) for module in (start, plain, trained)]
    assert losses[2] < 0.8 * min(losses[:2])


@pytest.mark.usefixtures("short_stages")
@pytest.mark.parametrize("front", [FRONT, 3 * FRONT], ids=["all", "drawn"])
def test_interrupted_in_any_stage_it_goes_on_to_the_same_bits(tmp_path: Path, front: tuple[Setting, ...]) -> None:
    whole = fit(network(), images(), RECIPE, STEPS, regime=elastic(front=front))
    assert same(whole.module, fit(network(), images(), RECIPE, STEPS, regime=elastic(front=front)).module)
    path = tmp_path / "net.pt"
    for stop in (1, 3, 6, 10):

        def tell(what: str, done: int, total: int, stop: int = stop) -> None:
            if done == stop * 16:
                signal.raise_signal(signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            fit(network(), images(), RECIPE, STEPS, regime=elastic(front=front), path=path, tell=tell)
        assert torch.load(path, weights_only=True)["training"]["steps"] == stop
    resumed = fit(network(), images(), RECIPE, STEPS, regime=elastic(front=front), path=path)
    assert same(whole.module, resumed.module)
    assert not torch.load(path, weights_only=True)["regime"]  # over: nothing to go on from


@pytest.mark.usefixtures("short_stages")
def test_a_regime_that_is_used_again_begins_anew() -> None:
    regime = elastic()
    first = fit(network(), images(), RECIPE, STEPS, regime=regime)
    assert same(first.module, fit(network(), images(), RECIPE, STEPS, regime=regime).module)


def test_between_stages_weights_go_towards_the_mean_of_their_forms() -> None:
    module, regime = network(), elastic(stages=2, pull=0.6)
    forms = begun(regime, module)
    before = {name: weight.detach().clone() for name, weight in module.named_parameters()}
    for _ in range(100):
        regime.before(module, 0.4)
        regime.after(module)
    assert all(torch.equal(weight, before[name]) for name, weight in module.named_parameters())
    regime.before(module, 0.5)
    assert regime.forms is not forms
    for name in NAMES:
        mean = torch.stack([form.weights(before)[name] for form in forms]).mean(0)
        assert torch.allclose(module.get_parameter(name), before[name] + 0.3 * (mean - before[name]), atol=1e-6)
    assert torch.equal(module.get_parameter("linear.bias"), before["linear.bias"])


def test_a_short_training_has_one_stage() -> None:
    regime = elastic(stages=6)
    fit(network(), images(), RECIPE, STEPS, regime=regime)
    assert all(torch.equal(weight, network().state_dict()[name]) for name, weight in regime.anchor.items())


def test_forms_leave_the_statistics_alone() -> None:
    module, regime = network(), elastic()
    begun(regime, module)
    before, forms = {name: value.clone() for name, value in module.named_buffers()}, 0
    inputs, loss = images().inputs, Loss(RECIPE, images().targets)
    for seed in range(12):
        torch.manual_seed(seed)
        fresh = copy.deepcopy(module).train()
        regime.backward(fresh, inputs, loss)
        unchanged = [torch.equal(value, before[name]) for name, value in fresh.named_buffers()]
        assert len(set(unchanged)) == 1  # of a form none changes, of the whole network all do
        forms += unchanged[0]
        assert fresh.get_submodule("norm").momentum == 0.1
    assert 0 < forms < 12


def test_settings_that_make_no_sense_are_refused() -> None:
    for arguments in ({"front": ()}, {"stages": 0}, {"pull": 1.5}):
        with pytest.raises(EmomcError, match="at least one form"):
            elastic(**arguments)  # type: ignore[arg-type]


def test_other_settings_are_another_training() -> None:
    keys = {elastic().key, elastic(2).key, elastic(pull=0.1).key, elastic(front=FRONT[:1]).key}
    other = Elastic(elastic().network, images().inputs[:32], FRONT, 3, 0.5)
    assert len(keys | {other.key}) == 5
