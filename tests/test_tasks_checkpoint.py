"""Checkpoints: their layouts, and files that are none, do not fit or are damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from emomc.errors import EmomcError
from emomc.problems.tasks.checkpoint import load_checkpoint


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_checkpoint_layouts(tmp_path: Path, wrap: object, prefix: str) -> None:
    source = network()
    state = {prefix + name: value for name, value in source.state_dict().items() if "num_batches" not in name}
    loaded = network().train()
    load_checkpoint(loaded, saved(tmp_path / "weights.pt", wrap(state)))  # type: ignore[operator]
    assert not loaded.training
    for name, value in source.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_half_precision_weights_become_the_networks_type(tmp_path: Path) -> None:
    source, loaded = network(), network()
    load_checkpoint(loaded, saved(tmp_path / "half.pt", source.half().state_dict()))
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())
    assert torch.equal(loaded[3].weight.half(), source[3].weight)  # type: ignore[index]


def test_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    state = network().state_dict()
    with_nan = {**state, "3.bias": torch.tensor([0.0, torch.inf, 0.0])}
    cases: list[tuple[object, str]] = [
        ({k: v for k, v in state.items() if k != "3.bias"}, r"missing: 3\.bias\."),
        ({**state, "extra": torch.zeros(1)}, r"unexpected: extra\."),
        ({**state, "3.weight": torch.zeros(3, 9)}, r"other shape: 3\.weight is \(3, 9\), expected \(3, 8\)"),
        ({}, r"missing: 0\.weight, 1\.weight, 1\.bias and 4 more"),
        (with_nan, "'3.bias' holds NaN or infinity in 1 of 3"),
        ([1, 2], "holds no state_dict"),
        ({"state_dict": 3}, "holds no state_dict"),
        (network(), "cannot read .* as weights"),
    ]
    for number, (content, message) in enumerate(cases):
        path = saved(tmp_path / f"{number}.pt", content)
        with pytest.raises(EmomcError, match=message):
            load_checkpoint(network(), path)


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 cut off", b"\x80\x02}q\x00."])
def test_files_that_are_no_weights(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(EmomcError, match=r"weights\.pt"):
        load_checkpoint(network(), path)


def test_a_truncated_checkpoint(tmp_path: Path) -> None:
    path = saved(tmp_path / "weights.pt", network().state_dict())
    whole = path.read_bytes()
    for length in (1, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(EmomcError, match="cannot read"):
            load_checkpoint(network(), path)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch remarks on protocols that the damage makes up
def test_damaged_checkpoints_load_or_are_refused(tmp_path: Path) -> None:
    legacy, modern = tmp_path / "legacy.pt", saved(tmp_path / "modern.pt", network().state_dict())
    torch.save(network().state_dict(), legacy, _use_new_zipfile_serialization=False)
    rng, refused = np.random.default_rng(0), set()
    for path in (legacy, modern):
        whole = path.read_bytes()
        for _ in range(150):
            damaged = bytearray(whole)
            for position in rng.integers(len(whole), size=rng.integers(1, 4)):
                damaged[position] = rng.integers(256)
            path.write_bytes(damaged[: rng.integers(1, len(whole) + 1)] if rng.random() < 0.2 else damaged)
            try:
                load_checkpoint(network(), path)
            except EmomcError:
                refused.add(path)
    assert refused == {legacy, modern}


def test_a_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(EmomcError, match="there is no checkpoint"):
        load_checkpoint(network(), tmp_path / "none.pt")


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "touched",)  # type: ignore[return-value]

    path = saved(tmp_path / "weights.pt", {"0.weight": Payload()})
    with pytest.raises(EmomcError, match="cannot read"):
        load_checkpoint(network(), path)
    assert not (tmp_path / "touched").exists()
