"""K-means against all divisions of sorted weights; outliers, hard rows, compensation."""

from itertools import combinations

import numpy as np
import pytest

from edgellm.exporters.quantizers import codebook, kmeans
from edgellm.exporters.quantizers.codebook import Shape
from edgellm.exporters.quantizers.grids import dequantize, quantize

# The error of the best levels for Gaussian weights, relative to their variance (Max, "Quantizing
# for minimum distortion", 1960, table I); ours are fitted to 4,096 weights each.
LLOYD_MAX = {2: 0.1175, 3: 0.03454, 4: 0.009497}


def least_error(weights: np.ndarray, importance: np.ndarray, count: int) -> float:
    """Return the weighted error of the best levels, by trying all divisions."""
    order = np.argsort(weights)
    w, m = weights[order], importance[order]

    def error(part: slice) -> float:
        mean = (w[part] * m[part]).sum() / m[part].sum()
        return float((m[part] * (w[part] - mean) ** 2).sum())

    return min(
        sum(error(slice(*ends)) for ends in zip((0, *cuts), (*cuts, len(w)), strict=True))
        for cuts in combinations(range(1, len(w)), count - 1)
    )


def test_levels_are_near_the_best_of_all_divisions() -> None:
    rng = np.random.default_rng(1)
    weights, importance = rng.normal(size=(20, 1, 12)), rng.uniform(0.1, 3, (1, 12))

    levels = kmeans.find_levels(weights, importance, 2)

    nearest = np.abs(weights[..., None] - levels[:, :, None]).min(axis=-1)
    errors = (nearest**2 * importance).sum(axis=(1, 2))
    least = np.array([least_error(row[0], importance[0], 4) for row in weights])
    assert (errors >= least * (1 - 1e-9)).all()
    # Lloyd's iteration ends in a local optimum; of three starts most find the best one.
    assert errors.sum() < 1.1 * least.sum()


@pytest.mark.parametrize("bits", LLOYD_MAX)
def test_gaussian_weights_lose_what_theory_says(bits: int) -> None:
    weight = np.random.default_rng(0).normal(size=(16, 4096))
    grid = codebook.from_levels(kmeans.find_levels(weight[:, None], np.ones((1, 4096)), bits))

    error = ((dequantize(quantize(weight, grid, 4096), grid, 4096) - weight) ** 2).mean()

    assert error < 1.01 * LLOYD_MAX[bits]


@pytest.mark.parametrize("values", [[0.0], [0.25], [-1.0, 2.0], [-1.0, 0.0, 5.0]])
def test_few_distinct_weights_are_met_exactly(values: list[float]) -> None:
    weight = np.resize(values, (3, 70))

    books = codebook.quantize(weight, np.eye(70), Shape(2, 128), calibrated=True)

    # A level is a multiple of the unit: 1 / 127 of the largest weight.
    assert np.abs(books.real(128) - weight).max() <= 0.5 * books.unit.max() * (1 + 1e-9)
    assert np.isfinite(books.unit).all()


def test_outliers_are_the_weights_that_lose_most() -> None:
    rng = np.random.default_rng(3)
    weight = rng.normal(size=(4, 256))
    weight[1, 7], weight[2, 100] = 40.0, -60.0
    curvature = np.diag(rng.uniform(0.5, 2, 256))

    books = codebook.quantize(weight, curvature, Shape(3, 256, 2 / 1024), calibrated=True)

    assert np.argwhere(books.outliers.mask).tolist() == [[1, 7], [2, 100]]
    rest = books.real(256) - weight
    assert abs(rest[1, 7]) < 0.01
    assert (rest[1:3] ** 2).mean() < 2 * (rest[[0, 3]] ** 2).mean()


@pytest.mark.parametrize("share", [0.0, 0.02])
def test_compensation_never_loses_more_than_plain_rounding(share: float) -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(300, 96)) @ rng.normal(size=(96, 96))
    weight, hessian = rng.standard_t(3, (12, 96)), x.T @ x
    errors = []
    for calibrated in (True, False):
        books = codebook.quantize(weight, hessian, Shape(2, 64, share), calibrated=calibrated)
        rest = books.real(64) - weight
        errors.append(((rest @ hessian) * rest).sum(axis=1))

    assert (errors[0] <= errors[1] * (1 + 1e-9)).all()
    assert errors[0].sum() < 0.5 * errors[1].sum()


def test_tensors_are_read_back() -> None:
    rng = np.random.default_rng(5)
    weight = rng.normal(size=(5, 100))
    books = codebook.quantize(weight, np.eye(100), Shape(3, 64, 0.02), calibrated=False)

    again = codebook.from_tensors(books.tensors(), 100, books.unit)

    np.testing.assert_array_equal(again.real(64), books.real(64))
    assert again.outliers.mask.sum() == 10
