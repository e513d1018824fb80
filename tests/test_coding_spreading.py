"""Layers coded in several processes: the same bytes, values and errors, and memory that stays bounded."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emomc.coding import CodedTensor, encode_tensor, encode_tensors, read_network, write_network
from emomc.coding.spreading import WORTHWHILE, worthwhile
from emomc.errors import EmomcError

SHAPES = {
    "stem": (16, 3, 3, 3),
    "wide": (256, 128, 3, 3),
    "narrow": (64, 64),
    "head": (10, 256),
    "deep": (64, 64, 3, 3),
}


@pytest.fixture(scope="module")
def tensors() -> dict[str, CodedTensor]:
    """Layers of different kinds: codecs, scales and widths."""
    rng, made = np.random.default_rng(0), {}
    for number, (name, shape) in enumerate(SHAPES.items()):
        values = np.rint(rng.laplace(0, 3 + 4 * number, shape)).clip(-100, 100) * (rng.random(shape) < 0.6)
        scale = rng.uniform(0.01, 0.1, shape[0] if number % 2 else 1).astype(np.float16)
        made[name] = CodedTensor(values.astype(np.int16), scale, 8)
    return made


@pytest.fixture(scope="module")
def file(tensors: dict[str, CodedTensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spread") / "network"
    write_network(path, {}, {name: encode_tensor(tensor) for name, tensor in tensors.items()}, {})
    return path


@pytest.mark.parametrize("workers", [None, 1, 2, 3])
def test_bytes_and_values_do_not_depend_on_the_workers(
    tensors: dict[str, CodedTensor], file: Path, workers: int | None
) -> None:
    assert encode_tensors(list(tensors.values()), workers) == [encode_tensor(each) for each in tensors.values()]
    backwards = dict(reversed(SHAPES.items()))
    decoded = list(read_network(file).tensors(backwards, workers))
    assert len(decoded) == len(backwards)
    for name, tensor in zip(backwards, decoded, strict=True):
        np.testing.assert_array_equal(tensor.integers, tensors[name].integers)
        np.testing.assert_array_equal(tensor.scale, tensors[name].scale)
        assert tensor.bit_width == tensors[name].bit_width


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_name_file_and_layer_from_wherever_they_come(
    tensors: dict[str, CodedTensor], file: Path, workers: int
) -> None:
    opened = read_network(file)
    with pytest.raises(EmomcError, match=r"network: layer 'narrow': damaged data: shape"):
        list(opened.tensors({**SHAPES, "narrow": (64, 63)}, workers))
    with pytest.raises(EmomcError, match=r"unknown layer of .* 'hed'\. Did you mean 'head'"):
        opened.tensors({**SHAPES, "hed": (10, 256)}, workers)
    wide = CodedTensor(tensors["head"].integers, tensors["head"].scale, 2)
    with pytest.raises(EmomcError, match="2 bits hold -1 to 1"):
        encode_tensors([tensors["stem"], wide], workers)


def peak(run: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_stays_within_that_of_what_is_decoded(tmp_path: Path) -> None:
    """Sixteen layers of a megabyte: no more than all of them, decoded, and two in flight, whoever decodes them."""
    layer = CodedTensor(
        np.random.default_rng(0).integers(-2, 3, (1024, 1024)).astype(np.int8), np.ones(1, np.float16), 4
    )
    shapes = {f"layer{number}": (1024, 1024) for number in range(16)}
    write_network(tmp_path / "network", {}, dict.fromkeys(shapes, encode_tensor(layer)), {})
    opened = read_network(tmp_path / "network")

    def consume() -> None:
        for tensor in opened.tensors(shapes, 2):
            assert tensor.integers.nbytes == 2**20

    assert peak(consume) < 2 * len(shapes) * 2**20
    assert peak(lambda: encode_tensors([layer] * 16, 2)) < 2 * len(shapes) * 2**20


def test_processes_are_started_only_where_much_can_be_shared() -> None:
    assert worthwhile([]) == worthwhile([2**28]) == 1
    assert worthwhile([WORTHWHILE * 9, WORTHWHILE - 1]) == 1
    assert 1 <= worthwhile([WORTHWHILE] * 9) <= 4
