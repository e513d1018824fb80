"""The bank: blobs that are what the method gives, exact sizes and distortions, and a cache that heals itself."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from emomc.coding import decode_tensor, encode_tensor
from emomc.compression import METHODS, Bank, Setting, prune_magnitude
from emomc.compression.cachelimit import bank_limit
from emomc.errors import EmomcError
from emomc.genome import BIT_WIDTH, PRUNE_RATIO, SHARED_VALUES, Gene, SearchSpace
from tests.conftest import ROOT

Floats = NDArray[np.float32]
GENES = (
    Gene(PRUNE_RATIO, (0.0, 0.4, 0.8)),
    Gene(BIT_WIDTH, (16, 4, 2)),
    Gene(SHARED_VALUES, (0, 16, 4)),
    Gene("dataflow", ("X:Y", "CI:CO"), ordinal=False),
)
SPACE = SearchSpace.full(("conv", "head"), GENES)
SHAPES = {"conv": (6, 4, 3, 3), "head": (5, 30)}


def layers(seed: int = 0) -> dict[str, Floats]:
    rng = np.random.default_rng(seed)
    return {name: (0.1 * rng.laplace(size=shape)).astype(np.float32) for name, shape in SHAPES.items()}


def all_blobs(bank: Bank) -> dict[tuple[int, int, int, int], bytes]:
    """Every entry of the tables as bytes."""
    return {
        (layer, *indices): bank.blob(layer, bank.variant(layer, indices))
        for layer in range(bank.space.n_layers)
        for indices in np.ndindex(*bank.space.shape[:3])
        if bank.variant(layer, indices) >= 0
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def choices(indices: tuple[int, ...]) -> tuple[float, int, int]:
    ratio, bits, shared = (gene.choices[i] for gene, i in zip(GENES[:3], indices, strict=True))
    return float(ratio), int(bits), int(shared)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bank")


@pytest.fixture(scope="module")
def bank(folder: Path) -> Bank:
    return Bank.open(folder, layers(), SPACE)


def test_every_entry_decodes_to_what_the_method_gives(bank: Bank) -> None:
    entries = all_blobs(bank)
    assert len(entries) == 2 * 27
    for (layer, *indices), blob in entries.items():
        name = SPACE.layers[layer]
        ratio, bits, shared = choices(tuple(indices))
        expected = next(METHODS["magnitude"](layers()[name], [Setting(ratio, bits, shared)]))
        decoded = decode_tensor(blob, SHAPES[name])
        assert np.array_equal(decoded.dequantize(), expected.dequantize())
        assert blob == encode_tensor(expected)


def test_sizes_are_lengths_of_blobs(bank: Bank) -> None:
    for entry, blob in all_blobs(bank).items():
        assert bank.sizes[entry] == len(blob) > 0


def test_distortion_is_that_of_pruning_plus_that_of_what_was_kept(bank: Bank) -> None:
    for (layer, *indices), blob in all_blobs(bank).items():
        weight = layers()[SPACE.layers[layer]].astype(np.float64)
        pruned = prune_magnitude(weight.astype(np.float32), choices(tuple(indices))[0])
        removed = np.square(weight - pruned).sum() / np.square(weight).sum()
        result = decode_tensor(blob, weight.shape).dequantize()
        rounded = np.square(result.astype(np.float64) - pruned).sum() / np.square(weight).sum()
        assert bank.distortions[(layer, *indices)] == pytest.approx(removed + rounded, rel=1e-5)


def test_equal_networks_are_one_variant(bank: Bank) -> None:
    """At two bits the grid has two values besides zero: no codebook of four or more shares anything."""
    assert bank.variant(0, (1, 2, 0)) == bank.variant(0, (1, 2, 1)) == bank.variant(0, (1, 2, 2))
    assert bank.variant(0, (1, 1, 0)) == bank.variant(0, (1, 1, 1)) != bank.variant(0, (1, 1, 2))
    genomes = SPACE.random(200, np.random.default_rng(0))
    rows = bank.variants_of(genomes)
    assert len(np.unique(rows, axis=0)) == len(np.unique(SPACE.network_part(genomes), axis=0))
    for genome, row in zip(SPACE.split(genomes), rows, strict=True):
        assert row.tolist() == [bank.variant(layer, tuple(part[:3])) for layer, part in enumerate(genome.tolist())]


def test_two_workers_write_the_bytes_that_one_writes(bank: Bank, folder: Path, tmp_path: Path) -> None:
    other = Bank.open(tmp_path, layers(), SPACE, workers=2)
    assert contents(tmp_path) == contents(folder)
    assert other.key == bank.key
    assert np.array_equal(other.sizes, bank.sizes) and np.array_equal(other.distortions, bank.distortions)


def test_a_second_opening_compresses_nothing_and_changed_weights_are_compressed_again(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []

    def open_bank(weight: dict[str, Floats], method: str = "magnitude", space: SearchSpace = SPACE) -> Bank:
        calls.clear()
        return Bank.open(tmp_path, weight, space, method, progress=lambda done, total: calls.append((done, total)))

    first = open_bank(layers())
    assert calls == [(1, 2), (2, 2)]
    assert open_bank(layers()).key == first.key
    assert calls == []
    changed = layers()
    changed["head"][2, 7] += 1e-3
    second = open_bank(changed)
    assert calls == [(2, 2)] and second.key != first.key
    assert not np.array_equal(second.distortions[1], first.distortions[1])
    assert np.array_equal(second.distortions[0], first.distortions[0])
    plain = SPACE.restrict(SHARED_VALUES, (0,))
    assert open_bank(layers(), "published", plain).key not in {first.key, second.key}
    assert len(calls) == 2


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    changed = {
        "empty": b"",
        "cut": data[: len(data) // 2],
        "longer": data + b"\0",
        "other": b"not a file of numbers" * 20,
        "zeros": bytes(len(data)),
    }[how]
    path.write_bytes(changed)


@pytest.mark.parametrize(
    ("kind", "how"),
    [*(("index", how) for how in ("empty", "cut", "longer", "other", "zeros")), ("blobs", "cut"), ("blobs", "longer")],
)
def test_a_damaged_file_is_built_again(bank: Bank, tmp_path: Path, kind: str, how: str) -> None:
    Bank.open(tmp_path, layers(), SPACE)
    for path in tmp_path.glob(f"*.{kind}"):
        damage(path, how)
    again = Bank.open(tmp_path, layers(), SPACE)
    assert np.array_equal(again.sizes, bank.sizes)
    assert all_blobs(again) == all_blobs(bank)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_of_an_index_is_harmless(bank: Bank, folder: Path, tmp_path: Path, data: st.DataObject) -> None:
    for name, content in {path.name: path.read_bytes() for path in folder.iterdir()}.items():
        (tmp_path / name).write_bytes(content)
    target = data.draw(st.sampled_from(sorted(tmp_path.glob("*.index"))))
    content = bytearray(target.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    target.write_bytes(bytes(content))
    again = Bank.open(tmp_path, layers(), SPACE)
    assert np.array_equal(again.sizes, bank.sizes) and np.array_equal(again.distortions, bank.distortions)


def test_a_flipped_bit_of_a_blob_is_noticed_when_it_is_read_and_healed_by_repeating(tmp_path: Path) -> None:
    bank = Bank.open(tmp_path, layers(), SPACE)
    expected = all_blobs(bank)
    for path in tmp_path.glob("*.blobs"):
        content = bytearray(path.read_bytes())
        content[-2] ^= 4
        path.write_bytes(bytes(content))
    with pytest.raises(EmomcError, match=r"damaged.*repeat the command"):
        all_blobs(Bank.open(tmp_path, layers(), SPACE))
    with pytest.raises(EmomcError, match=r"damaged.*repeat the command"):
        all_blobs(Bank.open(tmp_path, layers(), SPACE))  # the other layer
    assert all_blobs(Bank.open(tmp_path, layers(), SPACE)) == expected


def test_a_restricted_space_has_the_same_variants_and_no_others(bank: Bank, tmp_path: Path) -> None:
    space = (
        SPACE.restrict(BIT_WIDTH, (4, 2)).restrict(PRUNE_RATIO, (0.8,), "head").restrict(SHARED_VALUES, (4,), "conv")
    )
    narrowed = Bank.open(tmp_path, layers(), space)
    full = all_blobs(bank)
    entries = all_blobs(narrowed)
    assert len(entries) == 3 * 2 * 1 + 1 * 2 * 3
    for entry, blob in entries.items():
        assert blob == full[entry]
        assert narrowed.sizes[entry] == bank.sizes[entry]
    # What is not allowed costs as much as the mildest choice that is, so that tables have no holes.
    assert narrowed.sizes[0, 0, 0, 0] == len(full[0, 0, 1, 2])
    assert narrowed.sizes[1, 0, 1, 0] == len(full[1, 2, 1, 0])
    assert np.all(narrowed.sizes > 0) and np.all(np.isfinite(narrowed.distortions))


def test_two_layers_of_equal_weights_share_their_files(tmp_path: Path) -> None:
    space = SearchSpace.full(("a", "b"), GENES)
    weight = layers()["head"]
    bank = Bank.open(tmp_path, {"a": weight, "b": weight.copy()}, space, workers=2)
    assert len(list(tmp_path.glob("*.index"))) == 1
    assert np.array_equal(bank.sizes[0], bank.sizes[1])
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("value", "words"),
    [(np.nan, "NaN or infinity"), (np.inf, "NaN or infinity"), (1e6, "largest weight is 1e\\+06"), (0.0, None)],
)
def test_weights_that_cannot_be_stored_are_named(tmp_path: Path, value: float, words: str | None) -> None:
    weight = layers()
    weight["head"][0, 0] = value
    if words is None:
        Bank.open(tmp_path, weight, SPACE)
    else:
        with pytest.raises(EmomcError, match=f"layer 'head'.*{words}"):
            Bank.open(tmp_path, weight, SPACE)
        assert not list(tmp_path.iterdir())


def test_a_layer_of_tiny_weights_is_refused_and_one_of_zeros_is_not(tmp_path: Path) -> None:
    weight = layers()
    with pytest.raises(EmomcError, match=r"layer 'conv'.*Scale its weights"):
        Bank.open(tmp_path, weight | {"conv": weight["conv"] * np.float32(1e-7)}, SPACE)
    zeros = Bank.open(tmp_path, weight | {"conv": np.zeros(SHAPES["conv"], np.float32)}, SPACE)
    assert not zeros.distortions[0].any()
    assert not decode_tensor(zeros.blob(0, 0), SHAPES["conv"]).integers.any()


def test_an_unknown_method_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(EmomcError, match="Did you mean 'magnitude'"):
        Bank.open(tmp_path, layers(), SPACE, "magnitud")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "bank").write_text("a file where the folder should be")
    with pytest.raises(EmomcError, match=r"bank/\w+.blobs cannot be written.*repeat"):
        Bank.open(tmp_path / "bank", layers(), SPACE)


def test_a_build_that_is_killed_goes_on_where_it_stopped(bank: Bank, tmp_path: Path) -> None:
    program = """
import sys, time
from pathlib import Path
from emomc.compression import Bank
from tests.test_compression_bank import SPACE, layers
def told(done, total):
    print(done, total, flush=True)
    time.sleep(60)
Bank.open(Path(sys.argv[1]), layers(), SPACE, progress=told)
"""
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == b"1 2\n"
    process.kill()
    process.communicate()
    told: list[tuple[int, int]] = []
    again = Bank.open(tmp_path, layers(), SPACE, progress=lambda *steps: told.append(steps))
    assert told == [(2, 2)]
    assert all_blobs(again) == all_blobs(bank)


def test_the_folder_stays_within_its_limit_and_what_was_used_last_stays(tmp_path: Path) -> None:
    def stems() -> set[str]:
        return {path.stem for path in tmp_path.iterdir()}

    def size(names: set[str]) -> int:
        return sum(path.stat().st_size for path in tmp_path.iterdir() if path.stem in names)

    def aged(names: set[str], seconds: int) -> None:
        for name, suffix in itertools.product(names, (".index", ".blobs")):
            then = (tmp_path / f"{name}{suffix}").stat().st_mtime - seconds
            os.utime(tmp_path / f"{name}{suffix}", (then, then))

    Bank.open(tmp_path, layers(0), SPACE)
    first = stems()
    Bank.open(tmp_path, layers(1), SPACE)
    second = stems() - first
    aged(first, 2000)
    aged(second, 1000)
    Bank.open(tmp_path, layers(0), SPACE)  # the older one is used again
    held = Bank.open(tmp_path, layers(1), SPACE)
    assert held.blob(0, held.variant(0, (0, 0, 0)))
    aged(second, 500)
    limit = size(first) + size(first) // 2 + size(second)
    Bank.open(tmp_path, layers(2), SPACE, limit=limit)
    third = stems() - first - second
    assert len(third) == 2 and first <= stems() and size(stems()) <= limit
    assert len(second - stems()) >= 1, "what was not used for the longest time has gone"
    assert held.blob(0, held.variant(0, (0, 1, 0))), "what is open stays readable"
    Bank.open(tmp_path, layers(3), SPACE, limit=0)
    assert len(stems()) == 2, "the bank that is opened stays, whatever the limit"
    assert all_blobs(Bank.open(tmp_path, layers(1), SPACE)) == all_blobs(held)


def test_a_layer_that_is_gone_is_named(tmp_path: Path) -> None:
    bank = Bank.open(tmp_path, layers(), SPACE)
    for path in tmp_path.glob("*.blobs"):
        path.unlink()
    with pytest.raises(EmomcError, match=r"\.blobs: a compressed layer is gone. Repeat"):
        bank.blob(0, 0)


@pytest.mark.parametrize(("text", "expected"), [("", 20 * 10**9), ("5GB", 5 * 10**9), ("1.5 MB", 1_500_000), ("0", 0)])
def test_the_limit_comes_from_the_environment(text: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOMC_BANK_LIMIT", text)
    assert bank_limit() == expected


@pytest.mark.parametrize("text", ["much", "-1GB", "5XB", "GB", "nan"])
def test_a_limit_that_is_no_size_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOMC_BANK_LIMIT", text)
    with pytest.raises(EmomcError, match="EMOMC_BANK_LIMIT"):
        bank_limit()


@pytest.mark.parametrize("method", ["magnitude", "obs"])
def test_a_codebook_larger_than_the_number_of_distinct_weights_holds_them_all(method: str) -> None:
    rng = np.random.default_rng(0)
    weight = rng.choice([-0.5, 0.0, 0.125, 0.25], (6, 30)).astype(np.float32)
    inputs = rng.normal(size=(1, 30, 200))
    gram = (inputs @ inputs.transpose(0, 2, 1) / 200).astype(np.float32)
    settings = [Setting(0.0, 8, 64), Setting(0.0, 12, 16), Setting(0.0, 8, 4)]
    for tensor in METHODS[method](weight, settings, gram):
        assert np.abs(tensor.dequantize() - weight).max() < 2e-3
        assert len(np.unique(tensor.integers)) <= 4
        assert not tensor.integers[weight == 0].any()
