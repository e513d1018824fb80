"""The network file: exact length known beforehand, bit-exact contents, one clear error for anything damaged."""

from __future__ import annotations

import os
import tracemalloc
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from emomc.coding import CodedTensor, blob_cost, container_overhead, encode_tensor, read_network, write_network
from emomc.errors import EmomcError

NAMES = st.text(min_size=1, max_size=30)
HEADERS = st.dictionaries(
    NAMES,
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
        max_leaves=8,
    ),
    max_size=5,
)
ARRAYS = st.dictionaries(
    NAMES,
    st.sampled_from([np.float16, np.float32, np.int64]).flatmap(
        lambda dtype: arrays(dtype, array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=7))
    ),
    max_size=20,
)
# Lengths around those at which msgpack's own length fields grow.
BLOBS = st.dictionaries(
    NAMES,
    st.one_of(st.binary(max_size=40), st.sampled_from([254, 255, 256, 65_534, 65_535, 65_536]).map(bytes)),
    max_size=20,
)
SHARED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SHARED
@given(HEADERS, BLOBS, ARRAYS)
def test_round_trip_and_predicted_size(
    tmp_path: Path, header: dict[str, Any], blobs: dict[str, bytes], stored: Any
) -> None:
    path = tmp_path / "network"
    length = write_network(path, header, blobs, stored)
    predicted = container_overhead(header, blobs, stored) + sum(blob_cost(len(blob)) for blob in blobs.values())
    assert predicted == length == path.stat().st_size
    back = read_network(path)
    assert back.header == header
    assert list(back.blobs.items()) == list(blobs.items())
    assert list(back.arrays) == list(stored)
    for key, array in stored.items():
        assert back.arrays[key].dtype == array.dtype and back.arrays[key].shape == array.shape
        assert back.arrays[key].tobytes() == array.tobytes()
        assert back.arrays[key].flags.writeable


@pytest.mark.parametrize("count", [15, 16, 17, 300])
def test_predicted_size_with_many_layers(tmp_path: Path, count: int) -> None:
    blobs = {f"layer{i}.weight": bytes(i) for i in range(count)}
    stored = {f"layer{i}.bn.bias": np.full(i % 20, i, np.float32) for i in range(count)}
    write_network(tmp_path / "n", {"task": "x"}, blobs, stored)
    predicted = container_overhead({"task": "x"}, blobs, stored) + sum(map(blob_cost, map(len, blobs.values())))
    assert predicted == (tmp_path / "n").stat().st_size


def test_overhead_does_not_depend_on_the_values_of_arrays() -> None:
    noise = {"bn.bias": np.random.default_rng(0).normal(size=64).astype(np.float16)}
    assert container_overhead({}, [], noise) == container_overhead({}, [], {"bn.bias": np.zeros(64, np.float16)})


def small_network(path: Path) -> tuple[Path, CodedTensor]:
    integers = np.random.default_rng(0).integers(-7, 8, (4, 3, 3, 3)).astype(np.int8)
    tensor = CodedTensor(integers, np.linspace(0.1, 0.2, 4).astype(np.float16), 4)
    stored = {"bn.weight": np.ones(4, np.float16), "bn.num_batches_tracked": np.array(7, np.int64)}
    write_network(path, {"task": "digits", "fingerprint": "ab" * 16}, {"conv1": encode_tensor(tensor)}, stored)
    return path, tensor


def test_a_layer_comes_out_decoded(tmp_path: Path) -> None:
    path, tensor = small_network(tmp_path / "network")
    network = read_network(path)
    np.testing.assert_array_equal(network.tensor("conv1", (4, 3, 3, 3)).dequantize(), tensor.dequantize())
    with pytest.raises(EmomcError, match=r"unknown layer of .*network.* 'conv2'\. Did you mean 'conv1'"):
        network.tensor("conv2", (4, 3, 3, 3))
    with pytest.raises(EmomcError, match=r"network: layer 'conv1': damaged data: shape"):
        network.tensor("conv1", (4, 3, 3, 1))


def test_every_truncation_and_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path, _ = small_network(tmp_path / "network")
    data = path.read_bytes()
    broken = [data[:n] for n in range(len(data))] + [data + b"\0"]
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        broken.append(bytes(flipped))
    for raw in broken:
        path.write_bytes(raw)
        with pytest.raises(EmomcError, match=str(path)):
            read_network(path)


def sealed(body: bytes, version: int = 2) -> bytes:
    return b"EMOMC\0" + version.to_bytes(2, "little") + zlib.crc32(body).to_bytes(4, "little") + body


def packed(index: Any, blobs: Any, stored: Any) -> bytes:
    return msgpack.packb([zlib.compress(msgpack.packb(index)), blobs, stored])


DEEP = b"\xdd\xff\xff\xff\xff" * 400  # arrays in arrays, each claiming 2**32 - 1 entries
FORGED = {
    "newer version": (sealed(packed([{}, [], []], [], []), version=3), "format version 3.*newer emomc"),
    "older version": (sealed(packed([{}, [], []], [], []), version=1), "format version 1.*Repeat the command"),
    "no value": (sealed(b""), "body"),
    "another value": (sealed(msgpack.packb({"a": 1})), "body"),
    "two parts": (sealed(msgpack.packb([b"", []])), "body"),
    "two values": (sealed(packed([{}, [], []], [], []) + b"\xc0"), "body"),
    "huge array": (sealed(b"\xdd\x7f\xff\xff\xff"), "body"),
    "huge bytes": (sealed(b"\x93\xc6\xff\xff\xff\xff"), "body"),
    "nested arrays": (sealed(DEEP), "body"),
    "index not deflated": (sealed(msgpack.packb([b"plain", [], []])), "index"),
    "index cut": (sealed(msgpack.packb([zlib.compress(b"\x93")[:-3], [], []])), "index"),
    "index too large": (sealed(msgpack.packb([zlib.compress(bytes(2**28), 9), [], []])), "index"),
    "index nested": (sealed(msgpack.packb([zlib.compress(DEEP), [], []])), "index"),
    "header no map": (sealed(packed([[], [], []], [], [])), "index"),
    "key no text": (sealed(packed([{1: 2}, [], []], [], [])), "index"),
    "too few blobs": (sealed(packed([{}, ["a", "b"], []], [b""], [])), "layers"),
    "twice the same name": (sealed(packed([{}, ["a", "a"], []], [b"", b""], [])), "layers"),
    "name no text": (sealed(packed([{}, [[]], []], [b""], [])), "layers"),
    "blob no bytes": (sealed(packed([{}, ["a"], []], [3], [])), "layers"),
    "spec no list": (sealed(packed([{}, [], ["a"]], [], [b""])), "arrays"),
    "type unknown": (sealed(packed([{}, [], [["a", "<f8", [1]]]], [], [bytes(8)])), "type of array 'a'"),
    "type no text": (sealed(packed([{}, [], [["a", [], [1]]]], [], [bytes(8)])), "type of array 'a'"),
    "negative size": (sealed(packed([{}, [], [["a", "<f4", [-1, -1]]]], [], [bytes(4)])), "shape of array 'a'"),
    "size no integer": (sealed(packed([{}, [], [["a", "<f4", [1.0]]]], [], [bytes(4)])), "shape of array 'a'"),
    "oversized": (sealed(packed([{}, [], [["a", "<f4", [2**40, 2**40]]]], [], [bytes(4)])), "array 'a'"),
}


@pytest.mark.parametrize("case", list(FORGED))
def test_forged_files_are_refused_in_little_memory(tmp_path: Path, case: str) -> None:
    """Valid checksum, wrong inside: the error names file and field; what is claimed is never allocated."""
    data, field = FORGED[case]
    path = tmp_path / "network"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(EmomcError, match=field) as caught:
            read_network(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert peak < 32 * 2**20


@settings(SHARED, max_examples=40)
@given(st.data())
def test_reading_takes_at_most_twice_the_file_and_what_it_holds(tmp_path: Path, data: st.DataObject) -> None:
    """Honest, and damaged wherever lengths and types stand, behind a valid checksum."""
    path, size = tmp_path / "network", 2**20
    counts = data.draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    blobs = {f"layer{number}": bytes(size) for number in range(counts[0])}
    stored = {f"bn{number}": np.ones(size // 4, np.float32) for number in range(counts[1])}
    write_network(path, {"task": "x"}, blobs, stored)
    body = bytearray(path.read_bytes()[12:])
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, min(len(body), 200) - 1) | st.integers(0, len(body) - 1))
        body[place] = data.draw(st.integers(0, 255))
    path.write_bytes(sealed(bytes(body)))
    tracemalloc.start()
    try:
        with suppress(EmomcError):
            read_network(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= 2 * (len(body) + size * sum(counts)) + 2**20


@settings(SHARED, max_examples=300)
@given(st.data())
def test_changes_behind_a_valid_checksum_read_or_raise(tmp_path: Path, data: st.DataObject) -> None:
    path, _ = small_network(tmp_path / "network")
    body = bytearray(path.read_bytes()[12:])
    inside = data.draw(st.booleans())  # change the inflated index, or the body around it
    if inside:
        index, blobs, stored = msgpack.unpackb(bytes(body))
        body = bytearray(zlib.decompress(index))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    raw = msgpack.packb([zlib.compress(bytes(body)), blobs, stored]) if inside else bytes(body)
    path.write_bytes(sealed(raw))
    try:
        network = read_network(path)
    except EmomcError:
        return
    assert len(network.blobs) == 1 and len(network.arrays) == 2


@SHARED
@given(st.binary(max_size=200))
def test_noise_is_refused(tmp_path: Path, noise: bytes) -> None:
    path = tmp_path / "network"
    for raw in (noise, b"EMOMC\0" + noise, sealed(noise)):
        path.write_bytes(raw)
        with pytest.raises(EmomcError, match=str(path)):
            read_network(path)


def test_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(EmomcError, match="cannot read"):
        read_network(tmp_path / "absent")
    with pytest.raises(EmomcError, match="expected a network file"):
        read_network(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(EmomcError, match="expected a network file"):
        read_network(tmp_path / "pipe")


def test_a_sparse_giant_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "giant").open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(EmomcError, match="at most"):
        read_network(tmp_path / "giant")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path, _ = small_network(tmp_path / "network")
    before = path.read_bytes()
    for header, stored in (
        ({"tuple": (1, 2)}, {}),
        ({1: "key"}, {}),
        ({"object": object()}, {}),
        ({"large": 2**64}, {}),
        ({"long": "x" * 2**20}, {}),
        ({}, {"double": np.zeros(3)}),
    ):
        with pytest.raises(EmomcError, match=r"header|array"):
            write_network(path, header, {}, stored)  # type: ignore[arg-type]
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_to_nowhere_says_so(tmp_path: Path) -> None:
    with pytest.raises(EmomcError, match="cannot write"):
        write_network(tmp_path / "absent" / "network", {}, {}, {})
    (tmp_path / "folder").mkdir()
    with pytest.raises(EmomcError, match="cannot write"):
        write_network(tmp_path / "folder", {}, {}, {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
