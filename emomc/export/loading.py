"""A compressed network's file as a torch module."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from torch import nn

from emomc.coding import NetworkFile, read_network
from emomc.compression.networkfile import INPUT_SHAPE, load_network
from emomc.errors import EmomcError
from emomc.network.graphnetwork import rebuild

_TASKS = "emomc.problems.tasks"

# A file may come from anywhere, so it may only ask for what is listed here: each factory with the arguments that it
# may be called with.
KNOWN_FACTORIES: Mapping[str, tuple[Mapping[str, object], ...]] = MappingProxyType(
    {
        f"{_TASKS}.digits:build": ({},),
        f"{_TASKS}.networks:resnet": tuple({"depth": depth} for depth in (20, 32, 44, 56, 110)),
        f"{_TASKS}.networks:vgg16": ({},),
    }
)
_MOST_INPUTS = 2**24  # elements of the example input, 64 MB: a file must not make us allocate more


def load(path: str | os.PathLike[str], build: Callable[[], nn.Module] | None = None) -> nn.Module:
    """Decode a compressed network into a new torch module in eval mode, on the CPU.

    Args:
        path: a file that a search wrote.
        build: makes the network with any weights, which are overwritten. It may be left out where the file holds the
            network's graph, and for the networks of the built-in tasks; a file never makes us import other code.

    Raises:
        EmomcError: the file is damaged or of another network, or ``build`` is needed.

    Example:
        >>> module = emomc.load("digits.emomc")
        >>> module = emomc.load("mine.emomc", build=MyNetwork)
    """
    return load_file(read_network(path), build)


def load_file(file: NetworkFile, build: Callable[[], nn.Module] | None = None) -> nn.Module:
    """As `load`, from a file that has been read."""
    check_header(file)
    return load_network(file, build or builder(file))


def check_header(file: NetworkFile) -> None:
    """Raise EmomcError where the header does not tell a usable shape of the input."""
    shape = file.header.get(INPUT_SHAPE)
    is_shape = isinstance(shape, list) and 0 < len(shape) <= 8 and all(type(size) is int and size > 0 for size in shape)
    if not is_shape or math.prod(shape or ()) > _MOST_INPUTS:
        raise EmomcError(
            f"{file.path}: damaged network file: {INPUT_SHAPE}: expected up to 8 positive sizes with at most "
            f"{_MOST_INPUTS} elements in all, found {str(shape)[:80]}."
        )


def builder(file: NetworkFile) -> Callable[[], nn.Module]:
    """What makes the network of a file: its own graph, or one of the built-in tasks' factories.

    Raises:
        EmomcError: the file names another factory, or its graph is malformed or beyond all bounds.
    """
    return partial(_from_graph, file) if "graph" in file.header else _known_factory(file)


def _from_graph(file: NetworkFile) -> nn.Module:
    try:
        network = rebuild(file.header["graph"])
        network.check(file.header[INPUT_SHAPE])
    except EmomcError as error:
        raise EmomcError(f"{file.path}: damaged network file: {error}") from None
    return network


def _known_factory(file: NetworkFile) -> Callable[[], nn.Module]:
    name, arguments = file.header.get("factory"), file.header.get("factory_arguments", {})
    known = KNOWN_FACTORIES.get(name, ()) if isinstance(name, str) else ()
    for allowed in known:
        if arguments == allowed:
            module, _, function = str(name).partition(":")
            build: Callable[..., nn.Module] = getattr(importlib.import_module(module), function)
            return partial(build, **allowed)
    raise EmomcError(
        f"{file.path}: its network is made by {str(name)[:200]!r} with {str(arguments)[:200]}, which is not one of the "
        f"built-in tasks' networks, and a file must not make other code run. Give the network yourself: "
        f"emomc.load(path, build=function_that_makes_it)."
    )
