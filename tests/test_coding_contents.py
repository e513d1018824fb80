"""What a file holds: every byte is accounted for, and what is said of a layer is true of its weights."""

from __future__ import annotations

import re
from math import log2
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import emomc
from emomc.cli import main
from emomc.coding import CODECS, SHAPED, CodedTensor, encode_tensor, file_contents, read_network, write_network


def tensor(seed: int, shape: tuple[int, ...], bits: int, keep: float) -> CodedTensor:
    rng = np.random.default_rng(seed)
    limit = 2 ** (bits - 1) - 1
    integers = np.clip(np.rint(rng.normal(size=shape) * limit / 3), -limit, limit) * (rng.random(shape) < keep)
    return CodedTensor(integers.astype(np.int16), rng.random(shape[0]).astype(np.float16), bits)


LAYERS = st.lists(
    st.tuples(
        st.integers(0, 99), st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple), st.integers(2, 10),
        st.floats(0, 1),
    ),
    max_size=20,
)  # fmt: skip


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LAYERS, st.integers(0, 20))
def test_parts_sum_to_the_length_of_the_file(tmp_path: Path, layers: list[tuple], count: int) -> None:
    tensors = {f"layer{i}": tensor(*layer) for i, layer in enumerate(layers)}
    stored = {f"bn{i}.weight": np.ones(10 * i, np.float16) for i in range(count)}
    path = tmp_path / "network"
    write_network(path, {"task": "x"}, {name: encode_tensor(each) for name, each in tensors.items()}, stored)
    contents = file_contents(read_network(path))
    parts = [*(layer.bytes for layer in contents.layers), *contents.arrays.values()]
    assert sum(parts) + contents.index_bytes + contents.framing_bytes == contents.total == path.stat().st_size
    # magic, version and checksum; then three lists, whose heads are 1 byte, or 3 from 16 entries on
    assert contents.framing_bytes == 12 + 1 + (1 if len(layers) < 16 else 3) + (1 if count < 16 else 3)
    for layer in contents.layers:
        integers = tensors[layer.name].integers.ravel().tolist()
        counts = {value: integers.count(value) for value in set(integers)}
        assert layer.info.shape == tensors[layer.name].integers.shape
        assert layer.zeros == counts.get(0, 0) and layer.distinct == len(set(counts) - {0})
        entropy = -sum(n * log2(n / len(integers)) for n in counts.values())
        assert layer.entropy_bits == pytest.approx(entropy, abs=1e-6)
        assert layer.info.payload_bytes == min(layer.codec_bytes.values()) == layer.codec_bytes[layer.info.codec]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    tensors = {"conv": tensor(1, (16, 8, 3, 3), 4, 0.25), "linear": tensor(2, (10, 16), 8, 1)}
    blobs = {name: encode_tensor(each) for name, each in tensors.items()}
    write_network(tmp_path / "net.emomc", {"task": "mine", "epochs": 3}, blobs, {"bn": np.ones(16, np.float16)})
    return tmp_path / "net.emomc"


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["inspect", *map(str, arguments)])
    return done.exit_code, done.output


def test_inspect_says_where_every_byte_is(file: Path) -> None:
    code, text = run(file)
    assert code == 0 and "task: mine" in text and "epochs: 3" in text
    rows = [re.split(r"\s*│\s*", line.strip("│ ")) for line in text.splitlines() if "│" in line]
    *parts, total = [int(row[-1]) for row in rows]
    assert sum(parts) == total == file.stat().st_size
    conv = next(row for row in rows if row[0] == "conv")
    weights = emomc.read_network(file).tensor("conv").integers
    assert conv[1] == "16x8x3x3" and conv[3] == "4"
    assert conv[4] == f"{100 * np.mean(weights == 0):.2f} %" and int(conv[5]) == len(
        set(weights.ravel().tolist()) - {0}
    )
    assert int(conv[8]) + int(conv[9]) + int(conv[10]) == int(conv[11])
    assert "bitmap" not in text and "emomc-csr" not in text


def test_inspect_compares_codecs_and_conventions(file: Path) -> None:
    code, text = run(file, "--codecs", "--conventions")
    assert code == 0
    integers = emomc.read_network(file).tensor("conv").integers
    for codec in CODECS.values():
        values = integers if codec.name in SHAPED else integers.ravel()
        assert re.search(rf"{codec.name}.*", text) and f"{codec.bits(values) // 8} " in text
    assert re.search(r"emomc-normal │ +736 │", text)  # (1152 * 4 + 160 * 8) / 8
    assert "fewer than any decoder needs" in re.search(r"haq .*", text)[0]
    assert "fewer" not in re.search(r"emomc-coo .*", text)[0]


def test_inspect_names_what_is_wrong(file: Path, tmp_path: Path) -> None:
    (tmp_path / "cut").write_bytes(file.read_bytes()[:-1])
    code, text = run(tmp_path / "cut")
    assert code == 2 and "checksum" in text and "cut" in text
    write_network(tmp_path / "odd", {}, {"conv": b"\x2f\x04"}, {})
    code, text = run(tmp_path / "odd")
    assert code == 2 and "odd: layer 'conv': damaged data: codec" in text
