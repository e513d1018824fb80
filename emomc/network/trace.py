"""From a torch module to the layers and the graph that the rest of the project works with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emomc.network.layers import Network

if TYPE_CHECKING:
    import torch


def trace(module: torch.nn.Module, example_input: torch.Tensor) -> Network:
    """Trace a module into layers with loop bounds and a graph of nodes.

    The module is traced as in evaluation mode, through ``torch.fx``. It is only read: what runs is a copy without data
    and without hooks, on shapes alone, so that tracing takes no memory for weights or activations.

    Args:
        module: a network whose ``forward`` takes one tensor; further arguments keep their defaults.
        example_input: a tensor of the shape and type that the network takes, batch first; its values are not read.

    Raises:
        EmomcError: the module cannot be copied or traced, the example input does not fit, or an operator has weights
            or multiply-accumulates that cannot be accounted for.
    """
    import torch  # here, so that the types of a network can be imported without torch

    from emomc.errors import EmomcError
    from emomc.network.graph import GraphTracer, Recorder
    from emomc.network.skeleton import skeleton

    if not isinstance(example_input, torch.Tensor):
        raise EmomcError(f"the example input must be a tensor, not {type(example_input).__name__}.")
    copy = skeleton(module)
    recorder = Recorder(copy, GraphTracer().trace(copy))
    with torch.device("meta"), torch.no_grad():
        recorder.run(torch.empty_like(example_input, device="meta"))
    return Network(recorder.layers, tuple(recorder.nodes))
