"""Compressing one given configuration layer after layer, each making up for what those before it lost.

Compressing every layer alone, as the bank does, assumes that a layer sees the inputs of the dense network. Here the
inputs are those that the compressed layers before it give, and the outputs to keep are still the dense network's, as
in GPFQ (Lybrand and Saab 2021) and in the asymmetric reconstruction of Zhang et al. (2016).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from emomc.coding.tensor import CodedTensor
from emomc.compression.hessian import Calibration, InputTap, check_seen, tell_few, weight_addresses
from emomc.compression.methods import METHODS, Setting
from emomc.compression.obs import POLISHING, OutputError, solve_kept
from emomc.errors import unknown_name
from emomc.network.graph import LAYER_FUNCTIONS, GraphTracer
from emomc.network.layers import Layer, Network

Floats = NDArray[np.float32]
_BATCH = 32  # images per forward pass
_DAMPING = 0.02  # share of the mean diagonal, as when a layer is compressed alone
_LIVE_MAPS = 4  # feature maps of the largest size that a network keeps at a time, at most
_LIVE_ELEMENTS = 2**29  # of all images' feature maps: 2 GB


def compress_in_order(
    calibration: Calibration,
    choices: Mapping[str, Setting | tuple[float, int, int]],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, CodedTensor]:
    """Compress a network at one setting per layer, in the order of the first calls.

    Both networks advance side by side, one step of the graph after the other, so that all layers together take two
    forward passes. The gain over layers compressed alone grows with the number of inputs; with too few of them the
    layers fit those rather than the data. A layer that is called several times is calibrated on its first call.

    Args:
        calibration: the dense network and its inputs; of large feature maps, as many inputs as fit into 2 GB are used.
        choices: by layer name; layers without any stay dense.
        progress: called with (layers done, layers in all).

    Raises:
        EmomcError: ``choices`` names a layer that the network does not have, or a layer's inputs are not finite.
    """
    network = calibration.network
    for name in choices:
        if name not in network.index:
            raise unknown_name("layer", name, network.index)
    batches = torch.split(calibration.inputs[: _fitting(network)], _BATCH)
    module = copy.deepcopy(calibration.module).requires_grad_(False)
    graph = GraphTracer("cpu").trace(module)
    dense, compressed = _Walk(module, graph, batches), _Walk(copy.deepcopy(module), graph, batches)
    narrow = set(weight_addresses(module, network).values())
    layers = {key: layer for layer in network.layers for key in (layer.weight, *layer.aliases)}
    coded: dict[str, CodedTensor] = {}
    done: set[str] = set()
    seen: dict[str, tuple[int, int]] = {}
    with torch.no_grad():
        for step in graph.nodes:
            layer = _layer_of(step, layers)
            if layer is not None and layer.name not in done:
                if layer.name in choices:
                    moments = None
                    if layer.name in narrow:
                        gram, cross, count = _moments(dense, compressed, step, layer)
                        moments, seen[layer.name] = (gram, cross), (count, gram.shape[1])
                    coded[layer.name] = _compress(compressed.weight(layer), moments, Setting(*choices[layer.name]))
                    compressed.weight(layer).copy_(torch.from_numpy(coded[layer.name].dequantize()))
                done.add(layer.name)
                if progress is not None:
                    progress(len(done), len(network.layers))
            dense.advance(step)
            compressed.advance(step)
    tell_few(seen)
    return coded


def _fitting(network: Network) -> int:
    """Inputs whose feature maps fit into memory."""
    largest = max(math.prod(node.shape) / node.shape[0] for node in network.nodes if node.shape)
    return max(_BATCH, int(_LIVE_ELEMENTS / (_LIVE_MAPS * largest)))


class _Walk:
    """A network that goes through its graph step by step, with all batches at the same step."""

    def __init__(self, module: nn.Module, graph: fx.Graph, batches: Sequence[torch.Tensor]) -> None:
        self._interpreter = fx.Interpreter(module, graph=graph)
        self._state = module.state_dict()
        self._values: list[dict[fx.Node, Any]] = [{} for _ in batches]
        self._batches = batches

    def weight(self, layer: Layer) -> torch.Tensor:
        """The stored tensor."""
        stored: torch.Tensor = self._state[layer.weight]
        return stored

    def advance(self, step: fx.Node) -> None:
        """Take a step with every batch, and forget what no later step needs."""
        for number, values in enumerate(self._values):
            values[step] = self._run(step, number)
            for used in self._interpreter.user_to_last_uses.get(step, ()):
                del values[used]

    def inputs(self, step: fx.Node, layer: Layer, number: int) -> torch.Tensor:
        """Input patches of one call of a layer with one batch, ``(G, d, n)``."""
        seen: list[torch.Tensor] = []
        with InputTap({self.weight(layer).data_ptr(): layer.name}, lambda _, patches: seen.append(patches)):
            self._run(step, number)
        return torch.cat(seen, dim=2)

    def _run(self, step: fx.Node, number: int) -> Any:
        self._interpreter.env = self._values[number]
        self._interpreter.args_iter = iter((self._batches[number],))
        return self._interpreter.run_node(step)

    def __len__(self) -> int:
        return len(self._batches)


def _layer_of(step: fx.Node, layers: Mapping[str, Layer]) -> Layer | None:
    """The layer that a step calls, if it calls one; its weight is the second argument."""
    if step.op != "call_function" or step.target not in LAYER_FUNCTIONS:
        return None
    weight = step.args[1] if len(step.args) > 1 else step.kwargs["weight"]
    return layers[str(weight.target)] if isinstance(weight, fx.Node) else None


def _compress(weight: torch.Tensor, moments: tuple[torch.Tensor, torch.Tensor] | None, choice: Setting) -> CodedTensor:
    """One layer whose weight is still dense."""
    dense = weight.cpu().numpy().copy()
    target = dense if moments is None else _target(dense, *moments)
    gram = None if moments is None else moments[0].float().numpy()
    return next(METHODS["obs"](target, [choice], gram))


def _target(weight: Floats, gram: torch.Tensor, cross: torch.Tensor) -> Floats:
    """The weight that gives the dense outputs best on the inputs at hand, by ridge regression around the dense one.

    Weights that are zero stay zero: of all weights with those zeros it is the best.
    """
    groups, width = gram.shape[:2]
    rows = torch.from_numpy(weight).double().reshape(groups, -1, width)
    damping = _DAMPING * gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(torch.finfo(torch.float32).tiny)
    damped = gram + damping[:, None, None] * torch.eye(width, dtype=gram.dtype)
    change = torch.linalg.solve(damped, (rows @ (cross - gram)).transpose(1, 2)).transpose(1, 2)
    target = np.asarray((rows + change).float().reshape(weight.shape).numpy())
    if weight.all():
        return target
    objective = OutputError.of(target, gram.float().numpy())
    kept = objective.columns((weight != 0).astype(np.float32))
    return objective.weight(solve_kept(objective, objective.target, kept, POLISHING))


def _moments(dense: _Walk, compressed: _Walk, step: fx.Node, layer: Layer) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Means of x x^T and of z x^T, ``(G, d, d)``, and of how many: x inputs in the compressed network, z in the dense.

    Raises:
        EmomcError: they are not finite.
    """
    gram, cross, count = torch.zeros(()), torch.zeros(()), 0
    for number in range(len(dense)):
        z, x = dense.inputs(step, layer, number), compressed.inputs(step, layer, number)
        gram = gram + (x @ x.transpose(1, 2)).double()
        cross = cross + (z @ x.transpose(1, 2)).double()
        count += x.shape[2]
    check_seen(layer.name, gram + cross)
    return (gram / count).cpu(), (cross / count).cpu(), count
