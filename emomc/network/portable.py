"""A traced network as plain data, and back: readable without the code that defined it, and without running any.

The data is a list of steps. Each calls a function, a tensor method or a module of `emomc.network.vocabulary` on results
of earlier steps, on stored tensors and on constants. It is what ``docs/format.md`` calls the graph.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.parametrize import is_parametrized

from emomc.errors import EmomcError
from emomc.network import kinds
from emomc.network.graph import GraphTracer
from emomc.network.graphnetwork import GraphNetwork, rebuild
from emomc.network.output import single_output
from emomc.network.trace import trace
from emomc.network.vocabulary import ATTRIBUTES, DTYPES, METHODS, MODULES, NAMES, constructor_arguments


def portable(module: nn.Module, example_input: torch.Tensor) -> GraphNetwork:
    """A copy of a network that its own graph defines; computes the same, and keeps only the tensors that it uses.

    Args:
        module: in eval mode; not changed.
        example_input: that the copy is checked on.

    Raises:
        EmomcError: the network does not return one tensor, has something that cannot be accounted for or is not in the
            vocabulary, or the copy computes other values.
    """
    root = _copied(module).eval().requires_grad_(False)
    expected = single_output(root, example_input)
    try:
        description = _Writer(root).describe(_ModuleTracer("cpu").trace(root))  # keeps constants of forward in the root
    except EmomcError:
        trace(module, example_input)  # says what is in the way with a factory, too
        raise
    network = _filled(description, root)
    found = single_output(network, example_input)
    if not torch.equal(torch.nan_to_num(expected), torch.nan_to_num(found)):
        raise EmomcError(f"{type(module).__name__} computes other values once rebuilt from its graph. {_REMEDY}")
    return network


def _copied(module: nn.Module) -> nn.Module:
    """A copy whose tensors are laid out as a file's are: another layout may be computed otherwise in the last bit."""
    made = [name for name, part in module.named_modules() if is_parametrized(part)]
    if made:
        raise EmomcError(
            f"the weights of {made[0] or type(module).__name__} are parametrized. Store their final values first: "
            "torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')."
        )
    try:
        copied = copy.deepcopy(module)
    except RuntimeError as error:
        raise EmomcError(
            f"{type(module).__name__} cannot be copied: {error} Remove weight norms, pruning masks and other "
            "hooks that make weights, as torch.nn.utils.remove_weight_norm and torch.nn.utils.prune.remove do."
        ) from None
    for tensor in (*copied.parameters(), *copied.buffers()):
        # depthwise weights count as contiguous in either layout, so `contiguous` would leave them as they are
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    return copied


def _filled(description: Mapping[str, Any], module: nn.Module) -> GraphNetwork:
    rebuilt = rebuild(description)
    for key, tensor in rebuilt.state_dict().items():
        owner, _, name = key.rpartition(".")
        tensor.copy_(getattr(module.get_submodule(owner), name).detach())
    return rebuilt.eval().requires_grad_(False)


class _ModuleTracer(GraphTracer):
    """Leaves layers whole: what quantizes a layer's input is attached to its module."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return fx.Tracer.is_leaf_module(self, m, module_qualified_name)


_REMEDY = "Give the task a factory that builds the network, so that its files need not describe it."


class _Writer:
    """Turns the steps of a traced graph into plain data."""

    def __init__(self, root: nn.Module) -> None:
        self._root = root
        self._position: dict[fx.Node, Any] = {}
        self._modules: dict[str, Any] = {}
        self._tensors: dict[str, Any] = {}

    def describe(self, graph: fx.Graph) -> dict[str, Any]:
        steps: list[list[Any]] = []
        output: Any = None
        for node in graph.nodes:
            if node.op == "placeholder":
                self._position[node] = {"n": 0}
            elif node.op == "get_attr":
                self._position[node] = {"t": self._tensor(str(node.target))}
            elif node.op == "output":
                output = self._plain(node.args[0])
            elif _passes(node):
                self._position[node] = self._position[node.args[0]]
            elif node.target is not torch._assert:
                steps.append(self._step(node))
                self._position[node] = {"n": len(steps)}
        parts = {"modules": self._modules, "tensors": self._tensors, "ties": self._ties()}
        return {**parts, "steps": steps, "output": output}

    def _ties(self) -> list[list[str]]:
        """Names of tensors that are one, where there is more than one name."""
        names: dict[int, list[str]] = {}
        for key, tensor in self._root.state_dict(keep_vars=True).items():
            if key in self._tensors or key.rpartition(".")[0] in self._modules:
                names.setdefault(id(tensor), []).append(key)
        return [keys for keys in names.values() if len(keys) > 1]

    def _step(self, node: fx.Node) -> list[Any]:
        kwargs = {name: self._plain(value) for name, value in node.kwargs.items()}
        if node.target is getattr and node.args[1] in ATTRIBUTES:
            return ["attribute", node.args[1], [self._plain(node.args[0])], {}]
        args = [self._plain(value) for value in node.args]
        if node.op == "call_module":
            return ["module", self._module(str(node.target)), args, kwargs]
        if node.op == "call_method" and node.target in METHODS:
            return ["method", node.target, args, kwargs]
        if isinstance(node.target, str):
            name = f"torch.Tensor.{node.target}"
        elif node.target in NAMES:
            return ["function", NAMES[node.target], args, kwargs]
        else:
            name = kinds.function_operator(node.target)
        raise EmomcError(f"{name} is not among the functions that a file can name. {_REMEDY}")

    def _module(self, path: str) -> str:
        module = self._root.get_submodule(path)
        name, arguments = type(module).__name__, constructor_arguments(module)
        if MODULES.get(name) is not type(module) or arguments is None:
            raise EmomcError(f"{kinds.module_operator(module)} is not a module that a file can name. {_REMEDY}")
        self._modules[path] = [name, {key: self._plain(value) for key, value in arguments.items()}]
        return path

    def _tensor(self, path: str) -> str:
        owner, _, name = path.rpartition(".")
        holder = self._root.get_submodule(owner)
        if type(holder) in MODULES.values():
            raise EmomcError(f"{path!r} is read outside of the {type(holder).__name__} that holds it. {_REMEDY}")
        tensor = getattr(holder, name)
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in DTYPES:
            raise EmomcError(f"{path!r} is of type {dtype}; a file holds {', '.join(DTYPES)}. {_REMEDY}")
        self._tensors[path] = [dtype, list(tensor.shape), isinstance(tensor, nn.Parameter)]
        return path

    def _plain(self, value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, fx.Node):
            return self._position[value]
        if isinstance(value, list):
            return [self._plain(part) for part in value]
        return self._tagged(value)

    def _tagged(self, value: Any) -> dict[str, Any]:
        if isinstance(value, tuple):
            return {"tuple": [self._plain(part) for part in value]}
        if isinstance(value, slice):
            return {"slice": [self._plain(part) for part in (value.start, value.stop, value.step)]}
        if value is Ellipsis:
            return {"ellipsis": True}
        name = str(value).removeprefix("torch.")
        if isinstance(value, torch.dtype) and name in DTYPES:
            return {"dtype": name}
        raise EmomcError(f"a constant {value!r} of type {type(value).__name__} is none that a file holds. {_REMEDY}")


def _passes(node: fx.Node) -> bool:
    """Whether a step hands its input on: stochastic depth drops nothing outside of training."""
    if getattr(node.target, "__name__", "") != "stochastic_depth":
        return False
    return not (node.args[3] if len(node.args) > 3 else node.kwargs.get("training", True))
