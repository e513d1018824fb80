"""Rows pushed one by one through a group of fused layers: the referee for line buffers."""

from __future__ import annotations

from emomc.network.layers import Network


def most_rows_held(network: Network) -> dict[str, int]:
    """The most rows of each map that wait at once when every node makes a row as soon as its inputs allow.

    Of nodes that can go on, the last one in the network does, and rows of the network's input are fetched only when
    nothing else can be done. A row is dropped when no consumer needs it any more.
    """
    nodes = {node.name: node for node in network.nodes}
    consumers = {name: [n for n in network.nodes if name in n.inputs] for name in nodes}
    made = dict.fromkeys(nodes, 0)
    dropped = dict.fromkeys(nodes, 0)
    most = dict.fromkeys(nodes, 0)

    def needed(node, row) -> tuple[int, int]:
        """First and last input row that an output row needs."""
        if node.layer is None:
            return row, row
        call = network.layers[network.index[node.layer]].calls[0]
        first = row * call.stride[0] - call.padding[0]
        return max(0, first), min(call.IY - 1, first + call.dilation[0] * (call.FY - 1))

    def can_run(node) -> bool:
        row = made[node.name]
        return row < node.shape[2] and all(made[name] > needed(node, row)[1] for name in node.inputs)

    while True:
        ready = next((node for node in reversed(network.nodes) if node.inputs and can_run(node)), None)
        if ready is None:
            if made["x"] == nodes["x"].shape[2]:
                return most
            ready = nodes["x"]
        made[ready.name] += 1
        for name in nodes:
            most[name] = max(most[name], made[name] - dropped[name])
            wanted = [
                needed(node, made[node.name])[0] if made[node.name] < node.shape[2] else made[name]
                for node in consumers[name]
            ]
            dropped[name] = max(dropped[name], min([*wanted, made[name]])) if wanted else made[name]
