"""The two passes of a trace: write the graph down symbolically, then run it on shapes and record what each step is."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils._python_dispatch import TorchDispatchMode

from emomc.errors import EmomcError
from emomc.network import kinds
from emomc.network.bounds import conv_bounds, linear_bounds
from emomc.network.layers import Layer, Node

_OPEN_MODULES = (nn.Conv1d, nn.Conv2d, nn.Linear, ParametrizationList)
LAYER_FUNCTIONS = (functional.conv1d, functional.conv2d, functional.linear)
_TRACING = threading.RLock()  # torch.fx replaces the call of every module of the process while it traces
_LAYER_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


class GraphTracer(fx.Tracer):
    """Symbolic tracer of modules with one input tensor.

    Convolutions and linear operators are traced down to their functional form, so that modules, subclasses of them
    and plain calls of ``torch.nn.functional`` are all seen in one way. Tensors that ``forward`` makes are kept on
    ``device``: without data on ``meta``, to be run on ``cpu``. Other threads may run modules, or wait to trace.
    """

    def __init__(self, device: str = "meta") -> None:
        super().__init__()
        self._device, self._thread = device, threading.get_ident()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module stays one step of the graph."""
        return not isinstance(m, _OPEN_MODULES) and super().is_leaf_module(m, module_qualified_name)

    def create_args_for_root(
        self,
        root_fn: Callable[..., Any],
        is_module: bool,
        concrete_args: Any = None,
    ) -> tuple[Callable[..., Any], list[Any]]:
        """One placeholder; further arguments of ``forward`` keep their default values instead of becoming inputs."""
        return root_fn, [self.root, self.create_proxy("placeholder", "input", (), {})]

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Trace one module and say in which one it failed; one that another thread runs is none of ours."""
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception as error:  # what a module's forward raises is anyone's code
            raise _untraceable(self.path_of_module(m), error) from error

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """Symbolic graph of a module.

        Raises:
            EmomcError: ``forward`` does something that depends on the values or the shape of a tensor.
        """
        try:
            with _TRACING, torch.device(self._device):
                return super().trace(root, concrete_args)
        except Exception as error:
            raise _untraceable("", error) from error


class Recorder(fx.Interpreter):
    """Runs a traced graph on meta tensors and records its layers and nodes.

    Attributes:
        nodes: the steps so far, in the order of execution.
    """

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        super().__init__(module, graph=graph)
        self.extra_traceback = False  # our messages say already where the failure is
        self.nodes: list[Node] = []
        self._layers: dict[int, Layer] = {}
        self._keys: dict[int, list[str]] = {}
        for key, value in module.state_dict(keep_vars=True).items():
            if isinstance(value, torch.Tensor):
                self._keys.setdefault(id(value), []).append(key)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers so far, in the order of their first call."""
        return tuple(self._layers.values())

    def run_node(self, n: fx.Node) -> Any:
        """Execute one step of the graph and record it.

        Raises:
            EmomcError: the step fails, or it holds weights or does work that cannot be accounted for.
        """
        if n.op == "get_attr":  # stored tensors are no steps: what uses them is
            return super().run_node(n)
        kind, operator = self._classify(n)
        if self._holds_weights(n, kind):
            raise _unaccounted(operator, n)
        with _WorkWatch() as work:
            result = self._run_on_shapes(n, operator)
        if isinstance(result, (int, float)):  # arithmetic on shapes
            kind = "other"
        shape = tuple(result.shape) if isinstance(result, torch.Tensor) else ()
        inputs = tuple(source.name for source in n.all_input_nodes if source.op != "get_attr")
        node = Node(n.name, kind, operator, inputs, shape, module=_path(n))
        if kind == "layer":
            layer = self._record_call(n, operator, shape)
            node = replace(node, layer=layer.name, call=len(layer.calls) - 1)
        elif work.found:
            raise _unaccounted(operator, n)
        self.nodes.append(node)
        return result

    def _classify(self, n: fx.Node) -> tuple[str, str]:
        """Kind and operator of a step."""
        if n.op in ("placeholder", "output"):
            kind = "input" if n.op == "placeholder" else "output"
            return kind, kind
        if n.op == "call_module":
            module = self.fetch_attr(str(n.target))
            return kinds.module_kind(module), kinds.module_operator(module)
        if isinstance(n.target, str):
            return kinds.name_kind(n.target), f"torch.Tensor.{n.target}"
        kind = "layer" if n.target in LAYER_FUNCTIONS else kinds.name_kind(n.target.__name__)
        return kind, kinds.function_operator(n.target)

    def _holds_weights(self, n: fx.Node, kind: str) -> bool:
        """Whether a step is a module with parameters that are not those of a normalization or an activation."""
        if n.op != "call_module" or kind in ("norm", "activation"):
            return False
        return next(self.fetch_attr(str(n.target)).parameters(), None) is not None

    def _run_on_shapes(self, n: fx.Node, operator: str) -> Any:
        try:
            return super().run_node(n)
        except Exception as error:  # a shape that does not fit, or anyone's function
            raise EmomcError(
                f"cannot run {operator}{_place(_path(n))} on the shape of the example input: {error}. "
                "Check the shape and type of the example input, and that nothing here reads the values of a tensor."
            ) from error

    def _record_call(self, n: fx.Node, operator: str, output_shape: tuple[int, ...]) -> Layer:
        """Add one call to the layer that the weight of this step belongs to."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        settings = dict(zip(_LAYER_ARGUMENTS, args, strict=False)) | kwargs
        source, weight, bias = settings.pop("input"), settings.pop("weight"), settings.pop("bias", None)
        if id(weight) not in self._keys or (bias is not None and id(bias) not in self._keys):
            raise EmomcError(
                f"{operator}{_place(_path(n))} uses a weight or bias that is computed while the network runs, so there "
                "is no stored tensor to compress. Remove parametrizations, pruning masks and weight hooks from the "
                "module first, so that it stores the final values."
            )
        layer = self._layers.get(id(weight)) or self._new_layer(n, weight, bias)
        if n.target is functional.linear:
            bounds = linear_bounds(source.shape, weight.shape)
        else:
            bounds = conv_bounds(source.shape, weight.shape, output_shape, **settings)
        self._layers[id(weight)] = replace(layer, calls=(*layer.calls, bounds))
        return self._layers[id(weight)]

    def _new_layer(self, n: fx.Node, weight: torch.Tensor, bias: torch.Tensor | None) -> Layer:
        key, *aliases = self._keys_from(_path(n), weight)
        return Layer(
            name=key.removesuffix(".weight"),
            kind="linear" if n.target is functional.linear else "conv",
            weight=key,
            weight_shape=tuple(weight.shape),
            calls=(),
            bias=None if bias is None else self._keys_from(_path(n), bias)[0],
            aliases=tuple(aliases),
        )

    def _keys_from(self, path: str, tensor: torch.Tensor) -> list[str]:
        """State-dict keys of a stored tensor, the one in the module that uses it first."""
        return sorted(self._keys[id(tensor)], key=lambda key: key.rpartition(".")[0] != path)


class _WorkWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Notices operations that are more than glue, however they were written."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found |= not kinds.is_glue(func)
        return func(*args, **(kwargs or {}))


def _path(n: fx.Node) -> str:
    """Path of the module whose forward made a step; "" for the traced module itself."""
    stack = n.meta.get("nn_module_stack")
    return next(reversed(stack.values()))[0] if stack else ""


def _place(path: str) -> str:
    return f" in module {path!r}" if path else ""


def _unaccounted(operator: str, n: fx.Node) -> EmomcError:
    return EmomcError(
        f"cannot account for {operator}{_place(_path(n))}: it holds weights or multiplies and accumulates, but is "
        "neither a 1-D or 2-D convolution nor a linear operator with stored weights. Replace it, or trace only the "
        "part of the network without it."
    )


def _untraceable(path: str, error: Exception) -> EmomcError:
    """Error for a forward that raised while it was traced, with the line of the user's code that did it."""
    if isinstance(error, EmomcError):  # from a module further in
        return error
    inner = (Path(torch.__file__).parent, Path(__file__).parent)
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not any(folder in Path(frame.filename).parents for folder in inner)]
    where = (theirs or frames)[-1]
    return EmomcError(
        f"cannot trace the network{_place(path)}, at {where.filename}:{where.lineno} ({where.line}): {error}. "
        "The operations may not depend on the values or the shape of a tensor: take branches and loops over them out "
        "of forward, or decide them from the module's settings."
    )
