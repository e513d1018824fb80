"""Bits of activations as a gene, or as one width for all: costs, sensitivities, measurements, files."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch

import emomc
from emomc.coding import read_network
from emomc.compression import InputQuantizer
from emomc.compression.networkfile import QUANTIZERS
from emomc.errors import EmomcError
from emomc.export import measure_file
from emomc.genome import ACTIVATION_BITS, BIT_WIDTH, DATAFLOW, PRUNE_RATIO, SHARED_VALUES, UNQUANTIZED
from emomc.problems.tasks import load_task
from emomc.run.workers import Job

FEW = MappingProxyType({PRUNE_RATIO: (0.0, 0.5), BIT_WIDTH: (8, 4), SHARED_VALUES: (0,)})


def options(**given: object) -> emomc.Options:
    genes = {**FEW, ACTIVATION_BITS: given.pop("bits", (16, 8, 3))}
    return emomc.Options("digits", genes=genes, dataflows=("X:Y", "CI:CO"), seed=1, points=8, **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, emomc.Outcome]:
    folder = tmp_path_factory.mktemp("gene")
    with emomc.Session(folder, options(budget=12), workers=1) as session:
        return folder, emomc.run_search(session)


@pytest.mark.parametrize("accelerator", ["published", "generic-45nm"])
def test_the_column_is_charged_by_the_accelerator_and_adds_nothing_else(accelerator: str, tmp_path: Path) -> None:
    with emomc.Session(tmp_path, options(accelerator=accelerator, budget=1), workers=1) as session:
        space, layers = session.space, session.network.layers
        assert [gene.name for gene in space.genes] == [PRUNE_RATIO, BIT_WIDTH, SHARED_VALUES, ACTIVATION_BITS, DATAFLOW]
        genomes = space.random(6, np.random.default_rng(0))
        found = session.costs.evaluate(genomes, ["energy", "size"])
        sparsity = session._input_sparsity()
        for number, genome in enumerate(genomes):
            chosen, row = space.decode(genome).layers, session.bank.variants_of(genome[None])[0]
            blobs = [session.bank.blob(index, int(variant)) for index, variant in enumerate(row)]
            energy = sum(
                sum(
                    session.accelerator.breakdown(
                        layer,
                        1
                        - np.count_nonzero(emomc.coding.decode_tensor(blob, layer.weight_shape).integers)
                        / layer.weight_count,
                        int(chosen[layer.name][BIT_WIDTH]),
                        0,
                        str(chosen[layer.name][DATAFLOW]),
                        coded_bits=8.0 * len(blob),
                        activation_bits=int(chosen[layer.name][ACTIVATION_BITS]),
                        input_sparsity=float(zeros),
                    ).values()
                )
                for layer, blob, zeros in zip(layers, blobs, sparsity, strict=True)
            )
            assert found["energy"][number] == pytest.approx(energy, rel=1e-9)
        column = space.column(ACTIVATION_BITS)
        narrow = genomes.copy()
        space.split(narrow)[:, :, column] = 2
        wide = genomes.copy()
        space.split(wide)[:, :, column] = 0
        both = [session.costs.evaluate(each, ["energy", "size"]) for each in (narrow, wide)]
        assert (both[0]["energy"] < both[1]["energy"]).all() and (both[0]["size"] == both[1]["size"]).all()

        table = np.moveaxis(session.sensitivities, 1 + column, -1).reshape(len(layers), -1, 3)
        assert (table[..., 2] > table[..., 1]).all() and (table[..., 1] >= table[..., 0]).all()
        added = table[..., 2] - table[..., 0]
        assert added == pytest.approx(np.broadcast_to(added[:, :1], added.shape))  # the same for every weight


def quantizer_widths(path: Path) -> dict[str, int]:
    """Bits of every quantizer of the network in a file, by layer."""
    return {
        name.removesuffix(".input_quantizer"): child.grid.bit_width
        for name, child in emomc.load(path).named_modules()
        if isinstance(child, InputQuantizer)
    }


def test_a_file_quantizes_as_its_genes_say_with_every_width_in_one_network(tmp_path: Path) -> None:
    with emomc.Session(tmp_path, options(budget=1), workers=1) as session:
        space, path = session.space, tmp_path / "mixed.emomc"
        genome = np.zeros((1, space.n_var), np.int64)
        space.split(genome)[0, :, space.column(ACTIVATION_BITS)] = np.arange(space.n_layers) % 3
        ((variants, widths),) = session.networks(space.canonical(genome))
        arguments = (variants, path, session.task.header, "calibration", widths)
        session.run_jobs([Job("finish", arguments, stored_as=(variants, "calibration", widths), makes=path)], "")
        bits = dict(zip(space.layers, widths or (), strict=True))
    assert set(bits.values()) == {16, 8, 3}
    assert quantizer_widths(path) == {name: width for name, width in bits.items() if width != UNQUANTIZED}


def test_points_decode_to_networks_that_quantize_as_their_genes_say(finished: tuple[Path, emomc.Outcome]) -> None:
    folder, outcome = finished
    widths = set()
    for point in outcome.points:
        path = folder / point.file
        assert path.stat().st_size == point.objectives["size_bytes"]
        bits = {name: int(choices[ACTIVATION_BITS]) for name, choices in point.configuration.layers.items()}
        assert quantizer_widths(path) == {name: width for name, width in bits.items() if width != UNQUANTIZED}
        widths |= set(bits.values())
    assert len(widths) > 1
    task = load_task("digits")
    point = max(
        outcome.points,
        key=lambda each: sum(layer[ACTIVATION_BITS] == 3 for layer in each.configuration.layers.values()),
    )
    again = measure_file(folder / point.file, task)
    assert (again.error, again.loss, again.difference) == (
        point.measurement.error,
        point.measurement.loss,
        point.measurement.difference,
    )


def test_one_width_for_all_is_a_gene_with_one_choice(tmp_path: Path) -> None:
    with emomc.Session(tmp_path, options(bits=(4,), budget=3), workers=1) as session:
        outcome = emomc.run_search(session)
    for point in outcome.points:
        assert {layer[ACTIVATION_BITS] for layer in point.configuration.layers.values()} == {4}
        network = emomc.load(tmp_path / point.file)
        quantizers = [child for child in network.modules() if isinstance(child, InputQuantizer)]
        assert len(quantizers) == len(point.configuration.layers)
        values = quantizers[-1](torch.linspace(-9, 9, 1000)).unique()
        assert 2 < len(values) <= 16
        assert read_network(tmp_path / point.file).arrays[QUANTIZERS].shape == (len(quantizers), 2)


def test_widths_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EmomcError, match="activation_bits 12: expected 2 to 8, or 16"):
        emomc.Session(tmp_path, options(bits=(12,)), workers=1)
