"""Published size conventions: the rows and break-even points that they reproduce, and where they cannot be true."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from emomc.coding import CONVENTIONS, entropy_bound, size_convention
from emomc.errors import EmomcError

# VGG-16 for CIFAR: thirteen 3x3 convolutions and one linear layer.
WIDTHS = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
VGG16 = np.array([9 * c * k for c, k in pairwise(WIDTHS)] + [5120])

normal, csr, coo = (CONVENTIONS[name].bits for name in ("emomc-normal", "emomc-csr", "emomc-coo"))


def test_vgg16_is_the_network_of_the_published_table() -> None:
    assert VGG16.sum() == 14_710_464 + 5_120
    assert normal(VGG16, 1, 32).sum() / 8e6 == pytest.approx(58.86, abs=0.005)
    assert np.average(np.log2(VGG16), weights=VGG16) == pytest.approx(20.79, abs=0.01)


def test_published_rows_of_filter_pruned_networks() -> None:
    """Table III, fp32, whole filters removed: normal 34.7 and 15.1 MB, CSR 37.9 and 16.5, COO 57.3 and 24.6."""
    dense = normal(VGG16, 1, 32).sum()
    assert csr(VGG16, 1, 32).sum() / dense == 35 / 32
    for published_normal, published_csr in ((34.7, 37.9), (15.1, 16.5)):
        assert published_csr / published_normal == pytest.approx(35 / 32, abs=0.005)
    ratio = coo(VGG16, 1, 32).sum() / dense
    assert ratio == pytest.approx((32 + 20.79) / 32, abs=0.01)
    assert 24.6 / 15.1 - 0.01 < ratio < 57.3 / 34.7 + 0.01


@pytest.mark.parametrize(("bits", "keep"), [(2, 0.40), (4, 0.571), (8, 0.727)])
def test_csr_break_even(bits: int, keep: float) -> None:
    assert csr(1e6, keep - 0.002, bits) < normal(1e6, keep - 0.002, bits)
    assert csr(1e6, keep + 0.002, bits) > normal(1e6, keep + 0.002, bits)


@pytest.mark.parametrize(("bits", "keep"), [(4, 0.16), (8, 0.28)])
def test_coo_break_even(bits: int, keep: float) -> None:
    n = 2**20.8  # the layer size that the published figure stands for
    assert coo(n, keep - 0.005, bits) < normal(n, keep - 0.005, bits)
    assert coo(n, keep + 0.005, bits) > normal(n, keep + 0.005, bits)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_bitmap_beats_csr_above_a_third(bits: int) -> None:
    keep = np.linspace(0.01, 1, 100)
    np.testing.assert_array_equal(1 + keep * bits < csr(1, keep, bits), keep > 1 / 3)


def test_entropy_bound_closed_forms() -> None:
    assert entropy_bound(1000, 0.5, 3) == pytest.approx(1000 * (1 + 1.5))
    assert entropy_bound(1000, [0, 1], 4).tolist() == [0, 4000]
    for keep, positions in ((0.2, 0.722), (0.1, 0.469), (0.05, 0.286)):
        assert entropy_bound(1, keep, 0) == pytest.approx(positions, abs=5e-4)


def test_dupuis_counts_indices_and_codebook() -> None:
    dupuis = CONVENTIONS["dupuis"].bits
    shared = np.arange(2, 1025)
    indices = [(int(k) - 1).bit_length() for k in shared]
    np.testing.assert_array_equal(dupuis(10_000, 1, 32, shared), 10_000 * np.array(indices) + 32 * shared)
    assert len(set((dupuis(10_000, 1, 32, shared) - 32 * shared).tolist())) == 10  # a size per index width
    np.testing.assert_array_equal(dupuis(10_000, [0.1, 1], 32, 8), 2 * [30_000 + 256])  # zeros are one of the K
    assert dupuis(10_000, 1, 32) == 320_000  # not shared


def test_ratios_are_of_totals() -> None:
    """Two equal layers of 2 and 8 index bits: 6.4, where the mean of the layers' ratios would be 10."""
    layers = CONVENTIONS["dupuis"].bits([1e9, 1e9], 1, 32, [4, 256])
    assert 64e9 / layers.sum() == pytest.approx(6.4, rel=1e-5)
    assert np.mean(32e9 / layers) == pytest.approx(10, rel=1e-5)


def test_haq_counts_kept_weights_alone() -> None:
    haq = CONVENTIONS["haq"].bits
    assert haq([1000, 500], [1, 0.2], [6, 4]).tolist() == [6000, 400]
    assert haq(1000, 1, 32, [16, 9, 2]).tolist() == [4000, 4000, 1000]  # no codebook


def test_formulas_below_the_entropy_bound_are_marked() -> None:
    """CSR: 3 p < H(p) below p = 0.2893. HAQ: no bit tells positions.

    Dense values of b bits hold zero as one of 2**b codes, hence log2(2**b - 1).
    """
    keep, n = np.linspace(0.01, 1, 991), 36_864
    for bits in (2, 4, 8):
        below = csr(n, keep, bits) < entropy_bound(n, keep, bits)
        np.testing.assert_array_equal(below, keep < CONVENTIONS["emomc-csr"].decodable_from)
        assert np.all(normal(n, keep, bits) >= entropy_bound(n, keep, np.log2(2**bits - 1)) - 1e-6)
        assert np.all(coo(n, keep, bits) >= entropy_bound(n, keep, bits))
        np.testing.assert_array_equal(CONVENTIONS["haq"].bits(n, keep, bits) < entropy_bound(n, keep, bits), keep < 1)
    shared = CONVENTIONS["dupuis"].bits(n, keep, 8, 16)  # 15 values and zero
    assert np.all(shared >= entropy_bound(n, keep, np.log2(15)))
    below = [name for name, convention in CONVENTIONS.items() if convention.below_entropy]
    assert below == ["emomc-csr", "haq"]


def test_conventions_broadcast_over_layers_keeps_and_widths() -> None:
    n, keep, bits = VGG16[:, None, None], np.linspace(0.1, 1, 5)[:, None], np.array([2, 4, 8])
    for convention in CONVENTIONS.values():
        table = convention.bits(n, keep, bits)
        assert table.shape == (14, 5, 3)
        assert table[3, 2, 1] == convention.bits(VGG16[3], keep[2, 0], 4)
        assert convention.bits(n, keep, bits, np.array([0, 4, 16])).shape == (14, 5, 3)


def test_an_unknown_convention_suggests_the_nearest() -> None:
    assert size_convention("emomc-coo").name == "emomc-coo"
    with pytest.raises(EmomcError, match=r"unknown size convention 'emomc-cso'.*Did you mean"):
        size_convention("emomc-cso")
