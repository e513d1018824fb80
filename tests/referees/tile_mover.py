"""Tiles moved one by one between off-chip memory and a buffer: the referee for off-chip traffic."""

from __future__ import annotations

from itertools import product


def ranges(extent: int, size: int) -> list[range]:
    return [range(start, min(start + size, extent)) for start in range(0, extent, size)]


def box(outputs: range, taps: int, inputs: int, stride: int, padding: int, dilation: int) -> range:
    first = outputs[0] * stride - padding
    last = outputs[-1] * stride - padding + (taps - 1) * dilation
    return range(max(first, 0), max(first, 0, min(last, inputs - 1) + 1))


def tile_steps(call, tile, order):
    """Every visit of a tile in order: group, image, ranges of K, C, OY, OX and the input box."""
    images = list(product(range(call.B), ranges(call.OY, tile.OY), ranges(call.OX, tile.OX)))
    loops = {"s": images, "m": ranges(call.K, tile.K), "n": ranges(call.C, tile.C)}
    for group in range(call.G):
        for values in product(*(loops[loop] for loop in order)):
            step = dict(zip(order, values, strict=True))
            image, rows, columns = step["s"]
            tall = box(rows, call.FY, call.IY, call.stride[0], call.padding[0], call.dilation[0])
            wide = box(columns, call.FX, call.IX, call.stride[1], call.padding[1], call.dilation[1])
            yield group, image, step["m"], step["n"], rows, columns, tall, wide


def move(call, tile, order) -> dict[str, int]:
    """Words moved off chip, and the most words of each operand that the buffer held at once."""
    counts = dict.fromkeys(("inputs", "weights", "spill_writes", "spill_reads", "outputs"), 0)
    most = dict.fromkeys(("inputs", "weights", "outputs"), 0)
    held_input = held_weight = held_output = None
    channels_done: dict[tuple, int] = {}
    for group, image, m, n, rows, columns, tall, wide in tile_steps(call, tile, order):
        wants = (group, image, n, rows, columns)
        if held_input != wants:
            held_input = wants
            counts["inputs"] += len(n) * len(tall) * len(wide)
        if held_weight != (group, m, n):
            held_weight = (group, m, n)
            counts["weights"] += len(m) * len(n) * call.FY * call.FX
        target = (group, image, m, rows, columns)
        size = len(m) * len(rows) * len(columns)
        if held_output != target:
            evict(held_output, channels_done, call, counts)
            held_output = target
            counts["spill_reads"] += size if channels_done.get(target, 0) else 0
        channels_done[target] = channels_done.get(target, 0) + len(n)
        most["inputs"] = max(most["inputs"], len(n) * len(tall) * len(wide))
        most["weights"] = max(most["weights"], len(m) * len(n) * call.FY * call.FX)
        most["outputs"] = max(most["outputs"], size)
    evict(held_output, channels_done, call, counts)
    return counts | {f"most_{operand}": words for operand, words in most.items()}


def evict(held, channels_done, call, counts) -> None:
    if held is None:
        return
    _, _, m, rows, columns = held
    kind = "outputs" if channels_done[held] == call.C else "spill_writes"
    counts[kind] += len(m) * len(rows) * len(columns)
