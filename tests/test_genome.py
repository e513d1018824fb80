"""Genomes: one canonical form for each network, restriction, and round trips through configurations and JSON."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from emomc.compression import METHODS, Setting
from emomc.errors import EmomcError
from emomc.genome import (
    ACTIVATION_BITS,
    BIT_WIDTH,
    CHANNEL,
    DATAFLOW,
    GRANULARITY,
    PRUNE_RATIO,
    SHARED_VALUES,
    WEIGHT,
    Configuration,
    Gene,
    SearchSpace,
    all_genes,
    default_genes,
    nonzero_levels,
    pattern_of,
)

Genomes = NDArray[np.int64]
PATTERNS = ("*", "a", "b*", "c")


def some_of(draw: st.DrawFn, choices: tuple[float | int | str, ...], label: str) -> list[float | int | str]:
    return draw(st.lists(st.sampled_from(choices), min_size=1, unique=True), label=label)


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """Spaces of four layers with up to three restrictions, with a granularity or without."""
    genes = (
        Gene(PRUNE_RATIO, (0.0, 0.3, 0.5, 0.7, 0.9)),
        *((Gene(GRANULARITY, (WEIGHT, "2:4", "1:8", CHANNEL), ordinal=False),) if draw(st.booleans()) else ()),
        Gene(BIT_WIDTH, (16, 8, 5, 4, 3, 2)),
        Gene(SHARED_VALUES, (0, 64, 32, 16, 8, 6, 4, 2)),
        Gene(DATAFLOW, ("X:Y", "FX:FY", "X:FX"), ordinal=False),
    )
    space = SearchSpace.full(("a", "b.0", "b.1", "c"), genes)
    for number in range(draw(st.integers(0, 3))):
        gene = draw(st.sampled_from(genes))
        space = space.restrict(
            gene.name, some_of(draw, gene.choices, f"kept {number}"), draw(st.sampled_from(PATTERNS))
        )
    return space


def raw_genomes(space: SearchSpace, n: int, seed: int) -> Genomes:
    """Integers in and out of range."""
    return np.random.default_rng(seed).integers(-3, 12, size=(n, space.n_var))


def is_allowed(space: SearchSpace, genome: Genomes) -> bool:
    parts = genome.reshape(space.n_layers, space.n_genes).tolist()
    return all(
        i in ok for row, allowed in zip(parts, space.allowed, strict=True) for i, ok in zip(row, allowed, strict=True)
    )


@given(space=spaces(), seed=st.integers(0, 2**32))
def test_canonical_genomes_are_allowed_and_stay_as_they_are(space: SearchSpace, seed: int) -> None:
    raw = raw_genomes(space, 20, seed)
    before = raw.copy()
    canonical = space.canonical(raw)
    assert canonical.dtype == np.int64 and canonical.shape == raw.shape
    assert np.array_equal(raw, before)
    assert all(is_allowed(space, genome) for genome in canonical)
    assert np.array_equal(space.canonical(canonical), canonical)
    assert np.array_equal(space.canonical(raw[3]), canonical[3])


def referee_canonical(space: SearchSpace, raw: list[int]) -> list[int]:
    """The definition, one layer and one gene after the other."""
    genome = []
    for layer, row in enumerate(space.allowed):
        part = []
        for gene, allowed in enumerate(row):
            index = raw[layer * space.n_genes + gene]
            index = min(max(index, 0), len(space.genes[gene].choices) - 1)
            part.append(min(allowed, key=lambda choice: (abs(choice - index), choice)))
        ratios = space.genes[0].choices
        if space.has(GRANULARITY):
            granularity = space.genes[1].choices[part[1]]
            if ratios[part[0]] == 0:
                part[1] = row[1][0]
            elif granularity in ("2:4", "1:8"):
                own = {"2:4": 0.5, "1:8": 0.875}[str(granularity)]
                part[0] = min((i for i in row[0] if ratios[i] != 0), key=lambda i: (abs(float(ratios[i]) - own), i))
        bit, share = space.column(BIT_WIDTH), space.column(SHARED_VALUES)
        bits, shared = space.genes[bit].choices[part[bit]], space.genes[share].choices
        room = 2 ** int(bits) - 2

        def shares_nothing(index: int, shared: tuple[float | int | str, ...] = shared, room: int = room) -> bool:
            return shared[index] == 0 or int(shared[index]) >= room

        if shares_nothing(part[share]):
            part[share] = next(index for index in row[share] if shares_nothing(index))
        genome += part
    return genome


@given(space=spaces(), seed=st.integers(0, 2**32))
def test_the_canonical_form_is_the_one_defined(space: SearchSpace, seed: int) -> None:
    raw = raw_genomes(space, 10, seed)
    assert space.canonical(raw).tolist() == [referee_canonical(space, genome) for genome in raw.tolist()]


def test_the_grid_of_a_width_holds_so_many_values_besides_zero() -> None:
    for bits in range(2, 9):
        level = 2 ** (bits - 1) - 1
        assert nonzero_levels(bits) == len([value for value in range(-level, level + 1) if value])


def compressed(space: SearchSpace, genome: Genomes, weight: NDArray[np.float32]) -> bytes:
    """Bytes of the compressed weights of one layer, from the compression itself, not through the canonical form."""
    choices = space.decode(genome).layers["layer"]
    return next(METHODS["magnitude"](weight, [Setting.of(choices)])).dequantize().tobytes()


@pytest.mark.parametrize("kept", [(0, 8, 6, 4, 2), (8, 6, 4), (6, 2)])
def test_equal_networks_have_equal_genomes_and_different_ones_have_not(kept: tuple[int, ...]) -> None:
    """Every genome of a small space, compressed: the same weights exactly where the canonical genome is the same."""
    genes = (
        Gene(PRUNE_RATIO, (0.0, 0.7, 0.9)),  # more zeros than rounding makes
        Gene(GRANULARITY, (WEIGHT, "2:4", CHANNEL), ordinal=False),
        Gene(BIT_WIDTH, (8, 4, 3, 2)),
        Gene(SHARED_VALUES, (0, 8, 6, 4, 2)),
    )
    space = SearchSpace.full(("layer",), genes).restrict(SHARED_VALUES, kept)
    weight = np.random.default_rng(1).laplace(size=(8, 64)).astype(np.float32)
    by_network: dict[bytes, set[bytes]] = {}
    by_genome: dict[bytes, set[bytes]] = {}
    for indices in itertools.product(*space.allowed[0]):
        genome = np.array(indices)
        network, key = compressed(space, genome, weight), space.canonical(genome).tobytes()
        by_network.setdefault(network, set()).add(key)
        by_genome.setdefault(key, set()).add(network)
    assert all(len(keys) == 1 for keys in by_network.values())
    assert all(len(networks) == 1 for networks in by_genome.values())
    assert len(by_genome) < len(list(itertools.product(*space.allowed[0])))


def test_a_space_has_a_granularity_only_if_asked() -> None:
    names = [PRUNE_RATIO, GRANULARITY, BIT_WIDTH, SHARED_VALUES, ACTIVATION_BITS, DATAFLOW]
    assert [gene.name for gene in all_genes()] == names
    assert not SearchSpace.full(("a",)).has(GRANULARITY)
    assert [pattern_of(each) for each in (WEIGHT, CHANNEL, "2:4", "1:64")] == [None, None, (2, 4), (1, 64)]
    for text in ("", "2", "4:2", "4:4", "0:4", "1:65", "2:x", "filter", "2:4:8", "-1:4"):
        with pytest.raises(EmomcError, match=r"granularity.*such as 2:4"):
            pattern_of(text)


@given(space=spaces(), seed=st.integers(0, 2**32))
def test_ranks_count_the_allowed_choices(space: SearchSpace, seed: int) -> None:
    genomes = space.random(10, np.random.default_rng(seed))
    columns = [indices for row in space.allowed for indices in row]
    assert space.counts.tolist() == [len(indices) for indices in columns]
    ranks = space.ranks(genomes)
    expected = [[ok.index(i) for i, ok in zip(genome, columns, strict=True)] for genome in genomes.tolist()]
    assert ranks.tolist() == expected
    assert np.array_equal(space.at_ranks(ranks), genomes)
    ends = [[indices[0] for indices in columns], [indices[-1] for indices in columns]]
    assert space.at_ranks(np.array([[-5] * space.n_var, [99] * space.n_var])).tolist() == ends


@given(space=spaces(), seed=st.integers(0, 2**32))
def test_random_genomes_are_allowed_and_canonical(space: SearchSpace, seed: int) -> None:
    genomes = space.random(30, np.random.default_rng(seed))
    assert genomes.shape == (30, space.n_var) and genomes.dtype == np.int64
    assert all(is_allowed(space, genome) for genome in genomes)
    assert np.array_equal(space.canonical(genomes), genomes)
    assert np.array_equal(space.random(30, np.random.default_rng(seed)), genomes)


def test_every_genome_of_a_small_space_is_listed_once() -> None:
    genes = (Gene(PRUNE_RATIO, (0.0, 0.9)), Gene(BIT_WIDTH, (8, 3, 2)), Gene(SHARED_VALUES, (0, 6, 4)))
    space = SearchSpace.full(("a", "b"), genes).restrict(SHARED_VALUES, (0, 4), "b").restrict(BIT_WIDTH, (8, 2), "a")
    columns = [indices for row in space.allowed for indices in row]
    expected = {tuple(space.canonical(np.array(each)).tolist()) for each in itertools.product(*columns)}
    every = space.every()
    assert {tuple(genome) for genome in every.tolist()} == expected
    assert len(every) == len(expected) < space.size


def test_every_genome_of_a_long_space_with_few_choices_is_listed() -> None:
    """More positions than an array may have axes."""
    space = SearchSpace.full([f"l{i}" for i in range(30)]).mildest(PRUNE_RATIO).mildest(BIT_WIDTH)
    space = space.mildest(SHARED_VALUES).mildest(DATAFLOW).restrict(BIT_WIDTH, (8, 4), "l7")
    assert sorted(space.values(space.every(), BIT_WIDTH)[:, 7].tolist()) == [4, 8]


def test_random_genomes_take_every_choice_about_equally_often() -> None:
    space = SearchSpace.full(("a", "b")).restrict(PRUNE_RATIO, (0.0, 0.9), "b").restrict(SHARED_VALUES, (0,))
    ratios = space.values(space.random(6000, np.random.default_rng(0)), PRUNE_RATIO)
    for layer, choices in ((0, 9), (1, 2)):
        counts = np.unique(ratios[:, layer], return_counts=True)[1]
        assert len(counts) == choices
        assert np.all(np.abs(counts - 6000 / choices) < 5 * np.sqrt(6000 / choices))


@given(space=spaces(), seed=st.integers(0, 2**32))
def test_encoding_what_was_decoded_gives_the_genome_back(space: SearchSpace, seed: int) -> None:
    for genome in space.random(5, np.random.default_rng(seed)):
        configuration = space.decode(genome)
        assert np.array_equal(space.encode(configuration), genome)
        through_json = Configuration.from_json(configuration.to_json())
        assert through_json == configuration
        assert np.array_equal(space.encode(through_json), genome)


@given(spaces())
def test_a_space_survives_json(space: SearchSpace) -> None:
    back = SearchSpace.from_dict(json.loads(json.dumps(space.to_dict())))
    assert back == space and back.digest == space.digest


@given(spaces())
def test_the_digest_tells_spaces_apart(space: SearchSpace) -> None:
    changed = space.restrict(PRUNE_RATIO, (0.5,), "a")
    assert (changed.digest == space.digest) == (changed == space)


def test_values_are_the_choices_of_the_configuration() -> None:
    space = SearchSpace.full(("a", "b"))
    genomes = space.random(50, np.random.default_rng(1))
    for gene in default_genes():
        expected = [[space.decode(genome).layers[name][gene.name] for name in space.layers] for genome in genomes]
        assert space.values(genomes, gene.name).tolist() == expected


@given(space=spaces(), seed=st.integers(0, 2**32))
def test_mildest_and_pinned_hold_one_gene_and_leave_the_others(space: SearchSpace, seed: int) -> None:
    genome = space.random(1, np.random.default_rng(seed))[0]
    for gene in space.genes:
        column = space.column(gene.name)
        mildest, pinned = space.mildest(gene.name), space.pinned(gene.name, genome)
        for layer, row in enumerate(space.allowed):
            assert mildest.allowed[layer][column] == (min(row[column]),)
            assert pinned.allowed[layer][column] == (genome[layer * space.n_genes + column],)
            others = [i for i in range(space.n_genes) if i != column]
            for narrowed in (mildest, pinned):
                assert [narrowed.allowed[layer][i] for i in others] == [row[i] for i in others]


def test_a_restriction_reaches_the_layers_of_its_pattern_and_no_others() -> None:
    space = SearchSpace.full(("stem", "block.0.conv", "block.1.conv", "head"))
    narrowed = space.restrict(BIT_WIDTH, (4, 8), "block.*")
    column = space.column(BIT_WIDTH)
    widths = [[space.genes[column].choices[i] for i in row[column]] for row in narrowed.allowed]
    assert widths == [[16, 8, 7, 6, 5, 4, 3, 2], [8, 4], [8, 4], [16, 8, 7, 6, 5, 4, 3, 2]]
    assert narrowed.size == space.size // 16
    assert space.size == (9 * 8 * 5 * 4) ** 4


def test_equal_parts_mean_equal_networks_whatever_the_dataflow() -> None:
    space = SearchSpace.full(("a", "b"))
    genomes = space.random(40, np.random.default_rng(2))
    parts = space.split(space.network_part(genomes))
    assert not parts[:, :, space.column(DATAFLOW)].any()
    assert np.array_equal(parts[:, :, :3], space.split(genomes)[:, :, :3])
    assert space.split(genomes)[:, :, 3].any()


def test_a_table_over_some_genes_is_spread_over_all() -> None:
    space = SearchSpace.full(("a", "b"))
    bits, shared = space.shape[1:3]
    table = np.arange(2 * bits * shared).reshape(2, bits, shared)
    spread = np.broadcast_to(space.spread(table, (SHARED_VALUES, "unknown", BIT_WIDTH)), (2, *space.shape))
    for layer, p, q, s, d in np.ndindex(*spread.shape):
        assert spread[layer, p, q, s, d] == table[layer, q, s]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda space: space.restrict("prune_rato", (0.5,)), "prune_ratio"),
        (lambda space: space.restrict(BIT_WIDTH, (9,)), "16, 8, 7"),
        (lambda space: space.restrict(BIT_WIDTH, ()), "at least one"),
        (lambda space: space.restrict(BIT_WIDTH, (8,), "conv*"), "a, b"),
        (lambda space: space.encode(Configuration({})), "'a' is missing"),
        (lambda space: space.encode(Configuration({"aa": {}})), "'aa'"),
        (lambda space: space.encode(Configuration({"a": {PRUNE_RATIO: 0.5}, "b": {}})), "bit_width"),
        (lambda space: Configuration.from_json("{"), "not JSON"),
        (lambda space: Configuration.from_json("[1]"), "expected"),
        (lambda space: Configuration.from_json('{"a": 3}'), "expected"),
    ],
)
def test_mistakes_are_named(call: object, words: str) -> None:
    with pytest.raises(EmomcError, match=words):
        call(SearchSpace.full(("a", "b")))  # type: ignore[operator]


def test_a_choice_outside_a_restricted_space_is_refused_with_what_is_allowed() -> None:
    full = SearchSpace.full(("a", "b"))
    narrowed = full.restrict(BIT_WIDTH, (8, 4), "b")
    configuration = full.decode(np.zeros(full.n_var, dtype=np.int64))
    with pytest.raises(EmomcError, match=r"layer 'b' is 16; allowed: 8, 4"):
        narrowed.encode(configuration)
