"""Files that nobody wrote: one clear error or a tensor of the right shape, in bounded time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emomc.coding import CODECS, SHAPED, CodedTensor, decode_tensor, encode_tensor, read_network, write_network
from emomc.coding.blob import MAX_WEIGHTS
from emomc.errors import EmomcError

SIZE = 2**18
SHAPE = (64, SIZE // 64)
SLACK = 2**21  # blocks that are worked on, whatever the size of the layer


def outcome(call: Callable[[], object]) -> str:
    """What the error says, or nothing."""
    try:
        call()
    except EmomcError as error:
        return str(error)
    return ""


def limit(data: bytes) -> int:
    """Twice: a byte a weight, four as the floats that a network computes with, and the data itself."""
    return 2 * (SIZE + 4 * SIZE + len(data)) + SLACK


def peak_of(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        outcome(call)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def front(tag: int, shape: tuple[int, ...], bits: int = 8) -> bytes:
    sizes = encode_tensor(CodedTensor(np.zeros(shape, np.int8), np.ones(1, np.float16), bits))
    return bytes([sizes[0] & 0xF0 | tag]) + sizes[1:-3]


VALUES = np.where(np.random.default_rng(0).random(SIZE) < 0.3, np.random.default_rng(1).integers(-90, 91, SIZE), 0)
TENSORS = {
    "sparse": VALUES.astype(np.int16),
    "full": np.where(VALUES == 0, 3, VALUES).astype(np.int16),
    "constant": np.full(SIZE, -7, np.int16),
    "empty": np.zeros(SIZE, np.int16),
    "uneven": (VALUES * (np.arange(SIZE) % 97 < np.arange(SIZE) % SHAPE[1] // 48)).astype(np.int16),
}


@cache
def honest(name: str, kind: str) -> bytes:
    values = TENSORS[kind].reshape(SHAPE) if name in SHAPED else TENSORS[kind]
    return front(CODECS[name].tag, SHAPE) + CODECS[name].encode(values)


@pytest.mark.parametrize("kind", list(TENSORS))
@pytest.mark.parametrize("name", list(CODECS))
def test_decoding_takes_at_most_twice_what_the_layer_takes(name: str, kind: str) -> None:
    data = honest(name, kind)
    assert peak_of(lambda: decode_tensor(data, SHAPE)) <= limit(data)
    np.testing.assert_array_equal(decode_tensor(data, SHAPE).integers.ravel(), TENSORS[kind])


@pytest.mark.parametrize("name", list(CODECS))
@settings(max_examples=12, deadline=None)
@given(kind=st.sampled_from(sorted(TENSORS)), data=st.data())
def test_damage_takes_no_more_memory_than_an_honest_layer(name: str, kind: str, data: st.DataObject) -> None:
    """Wherever lengths and tables stand, near the front, and anywhere else."""
    raw = bytearray(honest(name, kind))
    for _ in range(data.draw(st.integers(1, 3))):
        end = data.draw(st.sampled_from([min(len(raw), 24), len(raw)]))
        raw[data.draw(st.integers(0, end - 1))] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
    cut = data.draw(st.sampled_from([len(raw), len(raw) // 2, 12]))
    damaged = bytes(raw[:cut])
    assert peak_of(lambda: decode_tensor(damaged, SHAPE)) <= limit(damaged)


HUGE = b"\xff\xff\xff\xff\x0f"  # the largest varint
LIES = {
    "weights that are not there": bytes([0x20, 8]) + b"\x80\x80\x80\x40\x80\x80\x80\x40" + bytes(8),
    "more axes than there is room for": bytes([0xF0, 8]) + b"\x80\x80\x80\x40" * 2,
    "entries": front(3, SHAPE) + HUGE + b"\x10",
    "entries as many as weights": front(3, SHAPE) + b"\x80\x80\x10\x10",
    "rows": front(4, SHAPE) + b"\x00\x11",
    "rows fuller than they are long": front(4, SHAPE) + b"\x10\x11" + b"\xff" * 9,
    "coordinates": front(5, SHAPE) + HUGE,
    "an alphabet": front(0, SHAPE) + b"\x00" + HUGE + b"\x10",
    "the largest alphabet": front(0, SHAPE) + b"\xff\xff\x03\xfe\xff\x03\x00",
    "a wide bell": front(2, SHAPE) + b"\x00\x00\x01\xff\xff\x01\x00\x00",
    "a long table": front(2, SHAPE) + b"\x01\xff\xff\x01\x01\x01\x01",
    "one long row": front(8, SHAPE) + b"\x80\x80\x10\x01",
    "levels": front(8, SHAPE) + b"\x80\x20\x01\x10\x00\x00\xff\xff\x03" + b"\x02\x00\x00\x00\x01\x00",
    "steep levels": front(8, SHAPE) + b"\x80\x20\x01\x10\x00\x00\x07\x02\xff\xff\x03\x00\x00\x01\x00",
    "a wide tilted table": front(8, SHAPE)
    + b"\x80\x20\x01\x00\x00\x10\x06\x02\x00\x00\x00\x01\x00"
    + b"\x02\xff\xff\x03\xfe\xff\x03\x00\x01\x00",
    "code words": front(6, SHAPE) + b"\x00\xfe\xff\x03\x00\x05" + b"\xff" * 40_960,
}


@pytest.mark.parametrize("lie", list(LIES))
def test_claims_are_checked_before_memory_is_taken(lie: str) -> None:
    with pytest.raises(EmomcError, match="damaged data"):
        decode_tensor(LIES[lie], SHAPE)
    assert peak_of(lambda: decode_tensor(LIES[lie], SHAPE)) <= limit(LIES[lie])


def test_a_tensor_beyond_the_largest_is_refused_unread() -> None:
    shape = bytes([0x20, 8]) + b"\x80\x80\x80\x40" + b"\x03"
    with pytest.raises(EmomcError, match=f"shape: .*1 to {MAX_WEIGHTS}"):
        decode_tensor(shape + b"\x00\x00\x3c\x00\x00\x00")


READER = """
import json, resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
resource.setrlimit(resource.RLIMIT_CPU, (120, 120))
from emomc.coding import file_contents, read_network
from emomc.errors import EmomcError
ends = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        file_contents(read_network(path))
        ends[path.name] = "read"
    except EmomcError as error:
        ends[path.name] = str(error)
print(json.dumps(ends))
"""


def test_damaged_files_end_in_one_error_within_limits(tmp_path: Path) -> None:
    """A process of its own that may take 2 GB and two minutes reads 200 files: cut, flipped, forged, and lying."""
    folder, honest = tmp_path / "files", tmp_path / "honest"
    folder.mkdir()
    rng = np.random.default_rng(0)
    blobs = {
        f"layer{i}": front(codec.tag, (8, 64)) + codec.encode(TENSORS["sparse"][512 * i :][:512])
        for i, codec in enumerate(CODECS.values())
    }
    write_network(honest, {"task": "x"}, blobs, {"bn": np.ones(8, np.float16)})
    data = honest.read_bytes()

    def sealed(body: bytes) -> bytes:
        return data[:8] + zlib.crc32(body).to_bytes(4, "little") + body

    for number in range(60):
        flipped = bytearray(data)
        flipped[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        (folder / f"flip{number:02}").write_bytes(flipped)
        (folder / f"seal{number:02}").write_bytes(sealed(bytes(flipped[12:])))
        (folder / f"cut{number:02}").write_bytes(data[: rng.integers(len(data))])
    for version in (0, 1, 3, 0xFFFF):
        (folder / f"version{version}").write_bytes(data[:6] + version.to_bytes(2, "little") + data[8:])
    index = msgpack.unpackb(data[12:])[0]
    for number, lie in enumerate(LIES.values()):
        (folder / f"lie{number:02}").write_bytes(sealed(msgpack.packb([index, [lie] * len(blobs), [bytes(16)]])))
    command = [sys.executable, "-c", READER, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    ends = json.loads(done.stdout)
    assert len(ends) == len(list(folder.iterdir()))
    for name, end in ends.items():
        assert end == "read" if name in {"honest"} else name.startswith("seal") or str(folder / name) in end, name


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_resealed_files_read_or_raise(tmp_path: Path, data: st.DataObject) -> None:
    """Damage that the checksum does not show, as a hostile writer would do it: layers decode, or one error names it."""
    blobs = {name: front(codec.tag, (4, 16)) + codec.encode(TENSORS["sparse"][:64]) for name, codec in CODECS.items()}
    path = tmp_path / "network"
    write_network(path, {"task": "x"}, blobs, {"bn": np.ones(8, np.float16)})
    body = bytearray(path.read_bytes()[12:])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    raw = bytes(body)
    path.write_bytes(path.read_bytes()[:8] + zlib.crc32(raw).to_bytes(4, "little") + raw)
    message = outcome(lambda: read_network(path))
    if message:
        assert str(path) in message
        return
    file = read_network(path)
    for layer in file.blobs:
        message = outcome(partial(file.tensor, layer, (4, 16)))
        assert not message or (str(path) in message and layer in message)
