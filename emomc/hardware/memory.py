"""Working memory of a network: the most that its maps and weights take at any step."""

from __future__ import annotations

from collections.abc import Sequence

from emomc.errors import EmomcError
from emomc.hardware.steps import Steps, words
from emomc.network.layers import Network


def peak_memory(network: Network, weight_bits: Sequence[float], activation_bits: int = 16) -> float:
    """Bytes of the fullest step: maps that are still needed, the map being made, and all weights.

    Glue works in place, and only maps that pass from step to step are stored. Weights stay in memory throughout, as on
    a microcontroller.

    Args:
        network: a traced network.
        weight_bits: (L,) bits of each layer's stored weights.
        activation_bits: bits of a map's element.

    Raises:
        EmomcError: when ``weight_bits`` does not have one entry for each layer.
    """
    if len(weight_bits) != len(network.layers):
        raise EmomcError(f"weight_bits: expected {len(network.layers)} entries, one a layer, got {len(weight_bits)}.")
    steps = Steps(network)
    fullest = 0
    for position, step in enumerate(steps.calls):
        waiting = sum(
            words(node) for name, node in steps.nodes.items() if steps.home[name] < position <= steps.last_use[name]
        )
        fullest = max(fullest, waiting + step.call.outputs)
    return (fullest * activation_bits + sum(weight_bits)) / 8
