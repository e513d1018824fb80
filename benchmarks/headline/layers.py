"""Every layer at every prune ratio, what each loses alone, and the layers of a level rounded in one go."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emomc import coding
from emomc.accuracy.divergence import divergence
from emomc.benchmarks.headline.costs import PATH, RATIOS
from emomc.compression import collect_grams
from emomc.compression.obs import OutputError, quantize_obs
from emomc.compression.whole import prune_path
from emomc.files import atomic_write
from emomc.network import Layer, Network
from emomc.problems.tasks import Task

CALIBRATION, MORE = 512, 2048  # training images for Gram matrices
PROBING = 128  # calibration images for sensitivities


def grams(task: Task, network: Network, folder: Path) -> dict[str, Any]:
    """Gram matrices of every layer's inputs, read from the folder when they are there.

    Layers with small maps see few input patches an image, so that they get more images.
    """
    files = {layer.name: folder / f"gram-{layer.name}.npy" for layer in network.layers}
    missing = [layer for layer in network.layers if not files[layer.name].exists()]
    if missing:
        assert task.training is not None
        images = task.training.load()
        module = copy.deepcopy(task.module).to(memory_format=torch.channels_last)
        for count, layers in ((CALIBRATION, missing), (MORE, [layer for layer in missing if small(layer)])):
            print(f"Gram matrices of {len(layers)} layers from {count} images", flush=True)
            inputs, _ = next(images.batches(count))
            inputs = inputs.contiguous(memory_format=torch.channels_last)
            for name, gram in collect_grams(module, replace(network, layers=tuple(layers)), inputs).items():
                np.save(files[name], gram)
    return {name: np.load(file, mmap_mode="r") for name, file in files.items()}


def small(layer: Layer) -> bool:
    """Whether a layer sees fewer patches than it has inputs."""
    call = layer.calls[0]
    return call.OX * call.OY * CALIBRATION < layer.weight_count // layer.weight_shape[0]


def paths(task: Task, network: Network, folder: Path) -> dict[str, Any]:
    """Every layer at every ratio: arrays ``errors`` and ``w0``, ``w1``, ... by layer."""
    known, state = grams(task, network, folder), task.module.state_dict()
    for done, layer in enumerate(network.layers, start=1):
        file = folder / f"path-{layer.name}.npz"
        if not file.exists():
            path = prune_path(state[layer.weight].contiguous().numpy(), np.array(known[layer.name]), PATH)
            with atomic_write(file) as stream:
                weights: dict[str, Any] = {f"w{i}": weight.astype(np.float16) for i, weight in enumerate(path.weights)}
                np.savez(stream, **weights, errors=path.errors)
            print(f"pruned {layer.name}: {done} of {len(network.layers)}", flush=True)
    return {layer.name: np.load(folder / f"path-{layer.name}.npz") for layer in network.layers}


def sensitivities(task: Task, network: Network, folder: Path, pruned: Mapping[str, Any]) -> NDArray[np.float64]:
    """Divergence that each layer causes alone at every ratio, ``(L, P)``."""
    file = folder / "probes.json"
    if not file.exists():
        file.write_text(json.dumps(_probe(task, network, pruned)))
    scale = json.loads(file.read_text())
    return np.array([[0.0, *(scale[layer.name] * pruned[layer.name]["errors"])] for layer in network.layers])


@torch.no_grad()
def _probe(task: Task, network: Network, pruned: Mapping[str, Any]) -> dict[str, float]:
    """Divergence per relative output error, layer by layer, at the ratio whose error is nearest to 5 %."""
    module = copy.deepcopy(task.module).to(memory_format=torch.channels_last)
    inputs, _ = next(task.splits.calibration.batches(PROBING))
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    dense, state, found = module(inputs), module.state_dict(), {}
    for layer in network.layers:
        errors = pruned[layer.name]["errors"]
        at = int(np.abs(np.log(errors) - math.log(0.05)).argmin())
        before = state[layer.weight].clone()
        state[layer.weight].copy_(torch.from_numpy(pruned[layer.name][f"w{at}"].astype(np.float32)))
        found[layer.name] = divergence(dense, module(inputs), True) / float(errors[at])
        state[layer.weight].copy_(before)
        print(f"probed {layer.name}: {found[layer.name]:.3g} nats per relative error", flush=True)
    return found


def rounded_in_one_go(
    task: Task, network: Network, folder: Path, pruned: Mapping[str, Any], chosen: Sequence[int], bits: Sequence[int]
) -> dict[str, bytes]:
    """Coded layers, the pruned weights rounded with compensation; each is kept, as levels share layers."""
    known, state, blobs = grams(task, network, folder), task.module.state_dict(), {}
    for layer, index, width in zip(network.layers, chosen, bits, strict=True):
        file = folder / f"blob-{layer.name}-{RATIOS[index]:g}-{width}"
        if not file.exists():
            dense = state[layer.weight].contiguous().numpy()
            weight = pruned[layer.name][f"w{index - 1}"].astype(np.float32) if index else dense
            objective = OutputError.of(dense, np.array(known[layer.name]))
            (coded,) = quantize_obs(objective, [(weight, width)])
            with atomic_write(file) as stream:
                stream.write(coding.encode_tensor(coded))
            print(f"rounded {layer.name}", flush=True)
        blobs[layer.name] = file.read_bytes()
    return blobs
