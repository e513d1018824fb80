"""How small compressed layers get: our codecs beside general compressors and an independent coder of weights.

Every layer of a network is compressed at several settings; the integers of each layer are coded by every coder alone,
and bytes are summed over the layers. Scales, which are the same for all, are left out. The bound is the order-0 entropy
of each layer's integers, without anything that a decoder needs beside them.

    python -m benchmarks.coding cifar10-resnet20:obs cifar10-resnet20:magnitude --data FOLDER
    python -m benchmarks.coding --timed cifar10-vgg16 --data FOLDER

A task is followed by the compression method. What is timed is a whole network at one setting, on one core, and its
layers spread over two threads and over two processes, that have to be started and that run already. Results go to
benchmarks/results/coding_TASK_METHOD.csv and .json, and coding_speed.json; coding.png shows all tables there.
`mlw` needs the extra of that name.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import lzma
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from constriction import stream
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from numpy.typing import NDArray

import emomc
from emomc import coding
from emomc.benchmarks.environment import RESULTS, write_results
from emomc.compression import METHODS, Calibration, Setting

Integers = NDArray[np.signedinteger]
CHOICES = {  # prune ratio -> (bit-width, shared values)
    0.0: ((2, 0), (4, 0), (8, 0), (8, 16)),
    0.5: ((4, 0), (8, 0), (8, 16)),
    0.7: ((4, 0), (8, 0), (8, 16)),
    0.9: ((4, 0), (8, 0), (8, 16)),
}
TIMED = {0.7: ((4, 0),)}  # of the network that is timed


def entropy_bytes(values: Integers) -> float:
    """Order-0 entropy: no code that gives every weight of the layer the same table is shorter."""
    counts = np.unique(values, return_counts=True)[1]
    return float(-(counts * np.log2(counts / values.size)).sum() / 8)


def plain_ans(values: Integers) -> int:
    """Bytes of a static asymmetric numeral system, its table stored plainly: 16 bits a symbol."""
    symbols, index, counts = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    if symbols.size == 1:
        return 2
    frequencies = np.maximum(np.rint(counts / values.size * 2**16), 1)
    coder = stream.stack.AnsCoder()
    coder.encode_reverse(index.astype(np.int32), stream.model.Categorical(frequencies, perfect=False))
    return int(coder.get_compressed().nbytes) + 2 * symbols.size


def mlw(values: Integers) -> int:
    """Bytes of the weight coder of Arm's Ethos-U compiler, weights in storage order, without its padding of layers."""
    mlw_codec = importlib.import_module("ethosu.mlw_codec")  # of the extra `mlw`
    flat = values.ravel().tolist()
    data = mlw_codec.encode(flat)
    if list(mlw_codec.decode(data))[: values.size] != flat:
        raise AssertionError("mlw_codec does not decode what it encoded")
    return len(data)


def ours(values: Integers) -> int:
    """Bytes of the smallest codec, and the byte that names it."""
    return 1 + len(coding.smallest(values)[1])


def octets(values: Integers) -> bytes:
    """One byte a value: what a general compressor is given."""
    return values.astype(np.int8).tobytes()


def with_codec(name: str) -> Callable[[Integers], int]:
    """Bytes under one of our codecs alone."""
    return lambda values: coding.CODECS[name].bits(values if name in coding.SHAPED else values.ravel()) // 8


CODERS: dict[str, Callable[[Integers], int]] = {
    "ours": ours,
    "ans": plain_ans,
    "mlw": mlw,
    "huffman": with_codec("huffman"),
    "xz": lambda values: len(lzma.compress(octets(values), preset=9 | lzma.PRESET_EXTREME)),
    "zlib": lambda values: len(zlib.compress(octets(values), 9)),
    **{name: with_codec(name) for name in coding.CODECS if name not in {"entropy", "huffman"}},
}


def compressed(
    task: emomc.Task, method: str, settings: Mapping[float, tuple[tuple[int, int], ...]]
) -> Iterator[tuple[tuple[float, int, int], dict[str, coding.CodedTensor]]]:
    """Each setting with the tensors of all layers."""
    network, state = emomc.trace(task.module, task.example_input), task.module.state_dict()
    calibrated = method == "obs"
    grams = Calibration(task.module, network, task.splits.calibration.inputs).grams() if calibrated else {}
    for ratio, choices in settings.items():
        layers = {
            layer.name: list(
                METHODS[method](
                    np.ascontiguousarray(state[layer.weight].numpy()),
                    [Setting(ratio, *choice) for choice in choices],
                    grams.get(layer.name),
                )
            )
            for layer in network.layers
        }
        for number, choice in enumerate(choices):
            yield (ratio, *choice), {name: tensors[number] for name, tensors in layers.items()}


def codebook_bytes(values: Integers, bits: int) -> float:
    """What the values other than zero take at their width."""
    return bits * np.unique(values[values != 0]).size / 8


def table_row(tensors: Mapping[str, coding.CodedTensor], bits: int, shared: int) -> dict[str, Any]:
    """Bytes of all layers by each coder, and by how much ours exceeds the bound on layers of over 10,000 weights.

    Of these layers together, and of the one that is farthest above it; where values are shared, also above the bound
    and the codebook, which is not on a grid that a decoder could know.
    """
    every = [tensor.integers for tensor in tensors.values()]
    large = [values for values in every if values.size > 10_000]
    excess = sum(map(ours, large)) / sum(map(entropy_bytes, large)) - 1
    most = max(ours(values) / entropy_bytes(values) - 1 for values in large)
    told = [entropy_bytes(values) + (codebook_bytes(values, bits) if shared else 0) for values in large]
    informed = max(ours(values) / bound - 1 for values, bound in zip(large, told, strict=True))
    return {
        "weights": sum(values.size for values in every),
        "zeros": round(1 - sum(np.count_nonzero(values) for values in every) / sum(values.size for values in every), 4),
        "entropy": round(sum(map(entropy_bytes, every))),
        **{name: sum(map(coder, every)) for name, coder in CODERS.items()},
        "large_layers_over_entropy_percent": round(100 * excess, 3),
        "worst_large_layer_over_entropy_percent": round(100 * most, 3),
        "worst_large_layer_over_entropy_and_codebook_percent": round(100 * informed, 3),
    }


def timings(tensors: Mapping[str, coding.CodedTensor]) -> dict[str, Any]:
    """Best of three: coding all layers and writing the file, reading it and decoding all layers; one thread.

    Seconds of the processor beside those of the clock, which other programs lengthen.
    """
    encode, decode = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network"
        for _ in range(3):
            start = time.perf_counter(), time.process_time()
            blobs = {name: coding.encode_tensor(tensor) for name, tensor in tensors.items()}
            coding.write_network(path, {}, blobs, {})
            middle = time.perf_counter(), time.process_time()
            file = emomc.read_network(path)
            decoded = {name: file.tensor(name) for name in blobs}
            end = time.perf_counter(), time.process_time()
            encode.append([after - before for before, after in zip(start, middle, strict=True)])
            decode.append([after - before for before, after in zip(middle, end, strict=True)])
        predicted = coding.container_overhead({}, blobs, {}) + sum(coding.blob_cost(len(b)) for b in blobs.values())
        exact = all(np.array_equal(decoded[name].integers, tensor.integers) for name, tensor in tensors.items())
        return {
            "weights": sum(tensor.integers.size for tensor in tensors.values()),
            "encode_seconds": round(min(clock for clock, _ in encode), 3),
            "encode_processor_seconds": round(min(processor for _, processor in encode), 3),
            "decode_seconds": round(min(clock for clock, _ in decode), 3),
            "decode_processor_seconds": round(min(processor for _, processor in decode), 3),
            "predicted_bytes": predicted,
            "file_bytes": path.stat().st_size,
            "decoded_exactly": exact,
        }


def one_thread(function: Callable[[Any], Any], work: list[Any]) -> list[Any]:
    """One after the other."""
    return list(map(function, work))


def two_threads(function: Callable[[Any], Any], work: list[Any]) -> list[Any]:
    """In threads of one process, which share the interpreter's lock."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(function, work))


def two_processes(function: Callable[[Any], Any], work: list[Any]) -> list[Any]:
    """In processes, which stay for the next call."""
    return list(Parallel(n_jobs=2, max_nbytes=None)(delayed(function)(each) for each in work))


def spread(tensors: Mapping[str, coding.CodedTensor]) -> dict[str, dict[str, float]]:
    """Seconds of the clock to encode and to decode all layers, large ones first, by what shares the work.

    Best of three, but for processes that have to be started.
    """
    ordered = sorted(tensors.values(), key=lambda tensor: -tensor.integers.size)
    blobs = one_thread(coding.encode_tensor, ordered)
    found: dict[str, dict[str, float]] = {}
    for function, work in ((coding.encode_tensor, ordered), (coding.decode_tensor, blobs)):
        get_reusable_executor().shutdown()
        seconds: dict[str, list[float]] = {}
        for way in (one_thread, two_threads, two_processes) * 3:
            start = time.perf_counter()
            done = way(function, work)
            seconds.setdefault(way.__name__, []).append(round(time.perf_counter() - start, 3))
            assert function is coding.decode_tensor or done == blobs, "other bytes"
        started = seconds["two_processes"].pop(0)
        best = {name: min(taken) for name, taken in seconds.items()}
        found[function.__name__] = {**best, "two_processes_to_be_started": started}
    return found


def draw() -> None:
    """Bytes over the order-0 entropy, one panel a table, one mark a coder and setting."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    shown = {"ours": "o", "ans": "s", "mlw": "^", "huffman": "v", "xz": "D", "zlib": "P"}
    tables = sorted(RESULTS.glob("coding_*_*.csv"))
    figure, panels = plt.subplots(1, len(tables), figsize=(1 + 4.6 * len(tables), 4.6), squeeze=False, sharey=True)
    for panel, path in zip(panels[0], tables, strict=True):
        with path.open(newline="") as file:
            chosen = list(csv.DictReader(file))
        ticks = range(len(chosen))
        for coder, mark in shown.items():
            over = [float(row[coder]) / float(row["entropy"]) for row in chosen]
            panel.plot(
                ticks, over, mark, label=coder, markersize=8 if coder == "ours" else 5, linestyle="-", linewidth=0.6
            )
        panel.axhline(1, color="black", linewidth=0.8)
        names = [
            f"{100 * float(row['prune_ratio']):.0f} %, "
            + (f"{row['shared_values']} values" if row["shared_values"] != "0" else f"{row['bit_width']} bits")
            for row in chosen
        ]
        panel.set_xticks(list(ticks), names, rotation=60, ha="right", fontsize=8)
        panel.set_title(f"{chosen[0]['task']}, {chosen[0]['method']}", fontsize=10)
        panel.grid(axis="y", linewidth=0.3)
        panel.set_ylim(0.9, 2.0)
    panels[0][0].set_ylabel("bytes / order-0 entropy")
    panels[0][-1].legend(fontsize=8, loc="upper left")
    figure.tight_layout()
    figure.savefig(RESULTS / "coding.png", dpi=150)


def tabulate(task_name: str, method: str, options: Mapping[str, Any]) -> None:
    """Code all settings of a task and write the table."""
    task, rows = emomc.load_task(task_name, **options), []
    for (ratio, bits, shared), layers in compressed(task, method, CHOICES):
        choice = {"prune_ratio": ratio, "bit_width": bits, "shared_values": shared}
        rows.append({"task": task_name, "method": method, **choice, **table_row(layers, bits, shared)})
        print(*rows[-1].values(), flush=True)
    name = f"coding_{task_name}_{method}"
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    print(write_results(name, {"settings": len(rows)}))


def main() -> None:
    """Write tables, timings and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK:METHOD")
    parser.add_argument("--timed", metavar="TASK", help="time the coding of this network, compressed by magnitude")
    parser.add_argument("--data", help="folder with cifar10/ and checkpoints/; else EMOMC_DATA")
    arguments = parser.parse_args()
    options = {"data": arguments.data} if arguments.data else {}
    for name in arguments.tasks:
        task_name, _, method = name.partition(":")
        tabulate(task_name, method, options)
    if arguments.tasks:
        draw()
    if arguments.timed:
        ((setting, tensors),) = compressed(emomc.load_task(arguments.timed, **options), "magnitude", TIMED)
        timed = {"task": arguments.timed, "prune_ratio_bits_shared": setting, **timings(tensors), **spread(tensors)}
        print(timed)
        print(write_results("coding_speed", timed))


if __name__ == "__main__":
    main()
