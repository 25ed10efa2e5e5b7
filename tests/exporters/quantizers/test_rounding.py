"""Rounding to a grid by the outputs: each step gains, and hard cases stay finite."""

import numpy as np
import pytest

from edgellm.exporters.quantizers import binary_coding, cholesky, rounding, uniform
from edgellm.exporters.quantizers.grids import Fit, dequantize
from edgellm.ops._bit_planes import split_groups

SIZE = 32


def problem(columns: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """Return a weight and the H of correlated activations, some of them outliers."""
    rng = np.random.default_rng(3)
    mixed = rng.normal(size=(400, 12)) @ rng.normal(size=(12, columns))
    x = (mixed + 0.3 * rng.normal(size=mixed.shape)) * np.exp(rng.normal(size=columns))
    return rng.normal(size=(24, columns)), x.T @ x


def output_error(weight: np.ndarray, rounded: rounding.Rounded, hessian: np.ndarray) -> float:
    """The sum over rows of ``r H r``."""
    rest = weight - dequantize(rounded.codes, rounded.grid, SIZE)
    return float(np.einsum("nk,nk->", rest @ hessian, rest))


@pytest.mark.parametrize("fit", [uniform.fit(3), binary_coding.fit(2)], ids=["uniform", "binary"])
def test_each_step_lowers_the_output_error(fit: Fit) -> None:
    weight, hessian = problem()
    curvature = rounding.damp(hessian)
    importance = split_groups(rounding.importance(curvature), SIZE)
    grid = fit(split_groups(weight, SIZE), importance)

    steps = [rounding.plain(weight, grid, SIZE)]
    steps.append(rounding.compensate(weight, grid, SIZE, curvature))
    for refit in (False, True, False):
        steps.append(rounding.improve(weight, steps[-1], SIZE, curvature, refit=refit))

    errors = [output_error(weight, step, curvature) for step in steps]
    assert errors[1] < errors[0] / 2
    assert errors[1:] == sorted(errors[1:], reverse=True)


def test_compensation_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, hessian = problem()
    curvature = rounding.damp(hessian)
    grid = uniform.fit(3)(split_groups(weight, SIZE), np.ones((3, SIZE)))
    whole = rounding.compensate(weight, grid, SIZE, curvature)
    improved = rounding.improve(weight, whole, SIZE, curvature, refit=True)

    monkeypatch.setattr(rounding, "SPAN", 40)
    monkeypatch.setattr(rounding, "LEAF", 7)
    monkeypatch.setattr(cholesky, "BLOCK", 9)

    blocked = rounding.compensate(weight, grid, SIZE, curvature)
    np.testing.assert_array_equal(blocked.codes, whole.codes)
    again = rounding.improve(weight, blocked, SIZE, curvature, refit=True)
    np.testing.assert_array_equal(again.codes, improved.codes)


@pytest.mark.parametrize("case", ["nothing", "dead channel", "one token", "not finite"])
def test_damped_hessian_is_positive_definite(case: str) -> None:
    _, hessian = problem()
    if case == "nothing":
        hessian = np.zeros_like(hessian)
    elif case == "dead channel":
        hessian[5] = hessian[:, 5] = 0
    elif case == "one token":
        x = np.random.default_rng(4).normal(size=(1, 96))
        hessian = x.T @ x
    else:
        hessian[0, 0] = np.nan

    assert np.linalg.eigvalsh(rounding.damp(hessian)).min() > 0
