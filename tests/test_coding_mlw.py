"""Sizes beside an independent coder of weights, that of Arm's Ethos-U compiler."""

from __future__ import annotations

import numpy as np
import pytest

from emomc.coding import smallest
from tests.test_coding_codecs import golden_tensor, order0_bits, pruned_gaussian

mlw_codec = pytest.importorskip("ethosu.mlw_codec", reason="needs ethos-u-vela, the extra `mlw`")


def mlw_bits(values: np.ndarray) -> int:
    data = mlw_codec.encode(values.tolist())
    assert list(mlw_codec.decode(data))[: values.size] == values.tolist()
    return 8 * len(data)


@pytest.mark.parametrize(
    ("bits", "sparsity", "entropy", "measured"),
    [(3, 0.0, 2.098, 2.224), (4, 0.0, 3.275, 3.432), (4, 0.7, 1.754, 1.770), (4, 0.9, 0.736, 0.756),
     (8, 0.0, 6.928, 7.032), (8, 0.7, 2.763, 3.010), (8, 0.9, 1.062, 1.174)],
)  # fmt: skip
def test_both_come_as_near_to_the_entropy_as_measured(
    bits: int, sparsity: float, entropy: float, measured: float
) -> None:
    """Bits per weight of mlw as measured elsewhere on 256 x 784 Gaussian weights; ours lie between entropy and mlw."""
    values = golden_tensor(bits, sparsity, entropy)
    ours, mlw = 8 * len(smallest(values)[1]), mlw_bits(values)
    assert mlw / values.size == pytest.approx(measured, rel=0.04)
    assert order0_bits(values) < ours < mlw


@pytest.mark.parametrize(("n", "measured"), [(144, 2.67), (864, 1.48), (9216, 1.36)])
def test_small_tensors(n: int, measured: float) -> None:
    """4 bits at 80 %: mlw pads to 16 bytes and stores a palette, so that ours are much smaller on small tensors."""
    values = pruned_gaussian(n, 4, 0.8)
    ours, mlw = 8 * len(smallest(values)[1]) / n, mlw_bits(values) / n
    assert mlw == pytest.approx(measured, rel=0.1)
    assert ours < mlw
