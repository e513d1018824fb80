"""A network that runs the steps of a description, and what it must not be made to do."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from emomc.errors import EmomcError
from emomc.network.graphform import (
    MOST_ELEMENTS,
    check_form,
    constant,
    malformed,
    mentioned,
    module_arguments,
    tensor_form,
)
from emomc.network.vocabulary import FUNCTIONS, MODULES

_MOST_PIECES = 2**12  # that a tensor is split into
_LONGEST_SHAPE = 64
_LARGEST_INTEGER = 2**62


@dataclass(frozen=True)
class _Step:
    kind: str  # "function", "method", "module" or "attribute"
    target: str
    args: list[Any]
    kwargs: dict[str, Any]
    last_uses: tuple[int, ...] = ()  # results that no later step needs


class GraphNetwork(nn.Module):
    """A network that runs the steps of a description; made by `rebuild`.

    Attributes:
        description: JSON values: the steps, and the forms of modules and tensors, without any weights.
    """

    def __init__(self, description: Mapping[str, Any]) -> None:
        super().__init__()
        self._steps = _read_steps(description)
        self._output = description["output"]
        self.description = dict(description)

    def forward(self, x: torch.Tensor) -> Any:
        """The network's output for a batch of inputs."""
        values: list[Any] = [x]
        for step in self._steps:
            values.append(self._take(step, values))
            for used in step.last_uses:
                values[used] = None
        return self._value(self._output, values)

    def check(self, shape: Sequence[int]) -> None:
        """Run on shapes alone and see that nothing grows out of bounds.

        Raises:
            EmomcError: a step fails, or makes more than a file may ask for.
        """
        skeleton = copy.deepcopy(self).to("meta")
        values: list[Any] = [torch.empty(tuple(shape), device="meta")]
        with torch.device("meta"), torch.no_grad():
            for number, step in enumerate(skeleton._steps, start=1):
                place = f"graph: step {number} ({step.target})"
                try:
                    _check_operands(step, skeleton._operands(step, values))
                    values.append(skeleton._take(step, values))
                except Exception as error:  # whatever torch says of arguments that do not fit
                    raise EmomcError(f"{place} cannot be run: {str(error)[:300]}") from error
                if not _is_bounded(values[-1]):
                    raise EmomcError(f"{place}: expected results of at most {MOST_ELEMENTS} elements.")
            self._value(self._output, values)

    def extra_repr(self) -> str:
        """The graph: two networks of other steps are other networks."""
        return repr(self.description)

    def _operands(self, step: _Step, values: list[Any]) -> tuple[list[Any], dict[str, Any]]:
        args = [self._value(each, values) for each in step.args]
        return args, {name: self._value(each, values) for name, each in step.kwargs.items()}

    def _take(self, step: _Step, values: list[Any]) -> Any:
        args, kwargs = self._operands(step, values)
        if step.kind == "module":
            return self.get_submodule(step.target)(*args, **kwargs)
        if step.kind == "function":
            return FUNCTIONS[step.target](*args, **kwargs)
        attribute = getattr(args[0], step.target)
        return attribute if step.kind == "attribute" else attribute(*args[1:], **kwargs)

    def _value(self, plain: Any, values: list[Any]) -> Any:
        if isinstance(plain, list):
            return [self._value(part, values) for part in plain]
        if not isinstance(plain, dict):
            return plain
        ((tag, content),) = plain.items()
        if tag == "n":
            return values[content]
        if tag == "t":
            owner, _, name = content.rpartition(".")
            return getattr(self.get_submodule(owner), name)
        return constant(tag, content, lambda part: self._value(part, values))


def rebuild(description: Mapping[str, Any]) -> GraphNetwork:
    """The network that a description stands for, with weights of any value; nothing that it names is imported.

    Raises:
        EmomcError: the description is malformed, names what is not in the vocabulary, or asks for too much memory.
    """
    check_form(description)
    modules = {path: module_arguments(path, entry) for path, entry in description["modules"].items()}
    tensors = {path: tensor_form(path, entry) for path, entry in description["tensors"].items()}
    with torch.device("meta"):
        parts = [tensor for path in modules for tensor in _made(path, *modules[path]).state_dict().values()]
    elements = sum(part.numel() for part in parts) + sum(math.prod(shape) for _, shape, _ in tensors.values())
    if elements > MOST_ELEMENTS:
        raise EmomcError(f"graph: its tensors have {elements} elements; a file may ask for {MOST_ELEMENTS}.")
    network = GraphNetwork(description)
    for path, (kind, arguments) in modules.items():
        _place(network, path, _made(path, kind, arguments))
    for path, (dtype, shape, is_parameter) in tensors.items():
        empty = torch.zeros(shape, dtype=dtype)
        _place(network, path, nn.Parameter(empty, requires_grad=False) if is_parameter else empty)
    for keys in description["ties"]:
        _tie(network, keys)
    for step in network._steps:
        if step.kind == "module" and step.target not in modules:
            raise malformed(f"module {step.target!r}", "one that it describes")
    for key in mentioned("t", [*((step.args, step.kwargs) for step in network._steps), network._output]):
        if key not in tensors:
            raise malformed(f"tensor {key!r}", "one that it describes")
    return network.eval().requires_grad_(False)


def _made(path: str, kind: str, arguments: Mapping[str, Any]) -> nn.Module:
    try:
        return MODULES[kind](**arguments)
    except Exception as error:  # whatever torch says of arguments that do not fit
        raise EmomcError(f"graph: module {path!r}: {kind} does not take {arguments}: {str(error)[:200]}") from error


def _place(network: nn.Module, path: str, part: nn.Module | torch.Tensor) -> None:
    """Put a module or tensor at a path, with empty modules on the way."""
    *way, name = path.split(".")
    place = network
    for step in way:
        if step not in place._modules:
            place.add_module(step, nn.Module())
        place = place.get_submodule(step)
    if type(place) is not nn.Module and place is not network:
        raise malformed(repr(path), f"a place of its own, not one within a {type(place).__name__}")
    try:
        if isinstance(part, nn.Module):
            place.add_module(name, part)
        elif isinstance(part, nn.Parameter):
            place.register_parameter(name, part)
        else:
            place.register_buffer(name, part)
    except KeyError:
        raise malformed(repr(path), "a name that is not in use") from None


def _tie(network: nn.Module, keys: list[str]) -> None:
    """Make several tensors one: that of the first name."""
    tensors = dict(network.state_dict(keep_vars=True))
    if any(key not in tensors or tensors[key].shape != tensors[keys[0]].shape for key in keys):
        raise malformed("ties", "names of tensors of one shape")
    for key in keys[1:]:
        owner, _, name = key.rpartition(".")
        place = network.get_submodule(owner)
        if not (isinstance(tensors[key], nn.Parameter) and isinstance(tensors[keys[0]], nn.Parameter)):
            raise malformed("ties", "parameters")
        place.register_parameter(name, tensors[keys[0]])


def _read_steps(description: Mapping[str, Any]) -> tuple[_Step, ...]:
    steps = [_Step(kind, target, args, kwargs) for kind, target, args, kwargs in description["steps"]]
    kept = set(mentioned("n", description["output"]))
    result: list[_Step] = []
    for number in range(len(steps), 0, -1):
        step = steps[number - 1]
        uses = dict.fromkeys(mentioned("n", [step.args, step.kwargs]))
        result.append(
            _Step(step.kind, step.target, step.args, step.kwargs, tuple(use for use in uses if use not in kept))
        )
        kept |= set(uses)
    return tuple(result[::-1])


def _check_operands(step: _Step, operands: tuple[list[Any], dict[str, Any]]) -> None:
    """Refuse what takes long or much memory on shapes already: long sequences, and tensors in thousands of pieces."""
    name = step.target.rpartition(".")[2]
    parts = [*operands[0], *operands[1].values()]
    if step.kind == "function" and step.target.startswith("operator.") and name != "getitem":
        sequences = [part for part in parts if isinstance(part, (str, list, tuple))]
        if sequences and (name not in ("add", "iadd") or sum(map(len, sequences)) > _LONGEST_SHAPE):
            raise EmomcError("expected numbers and tensors")
    if name in ("chunk", "split", "unbind") and max(parts[0].shape, default=0) > _MOST_PIECES:
        raise EmomcError(f"expected a tensor of at most {_MOST_PIECES} along each axis")


def _is_bounded(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.numel() <= MOST_ELEMENTS
    if isinstance(value, (int, float)):
        return abs(value) <= _LARGEST_INTEGER
    return all(map(_is_bounded, value)) if isinstance(value, (list, tuple)) else True
