"""Against GPTQ (arXiv 2210.17323), written here as plainly as can be: never a larger error."""

import numpy as np
import pytest

from edgellm.exporters.quantizers import low_bit, rounding
from edgellm.exporters.quantizers.low_bit import Scheme

SIZE = 32


def gptq(weight: np.ndarray, hessian: np.ndarray, bits: int) -> np.ndarray:
    """Round by GPTQ with act-order and static groups from minimum to maximum; return weights."""
    last = 2**bits - 1
    groups = weight.reshape(len(weight), -1, SIZE)
    low, high = np.minimum(groups.min(axis=2), 0), np.maximum(groups.max(axis=2), 0)
    scale = (high - low) / last
    zero = np.rint(-low / scale)
    rest, rounded = weight.copy(), np.empty_like(weight)
    left = list(np.argsort(-np.diagonal(hessian)))
    while left:
        inverse = np.linalg.inv(hessian[np.ix_(left, left)])
        column, group = left[0], left[0] // SIZE
        codes = np.clip(np.rint(rest[:, column] / scale[:, group]) + zero[:, group], 0, last)
        rounded[:, column] = scale[:, group] * (codes - zero[:, group])
        error = (rest[:, column] - rounded[:, column]) / inverse[0, 0]
        rest[:, left] -= error[:, None] * inverse[0]
        left = left[1:]
    return rounded


def activations(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Inputs of a linear, (512, 96)."""
    x = rng.normal(size=(512, 96))
    if kind == "correlated":
        x = x @ rng.normal(size=(96, 96)) * 0.3 + rng.normal(size=(512, 4)) @ rng.normal(
            size=(4, 96)
        )
    elif kind == "outliers":
        x[:, ::17] *= 30
    elif kind == "dead channels":
        x[:, 5:15] = 0
    return x


@pytest.mark.parametrize("kind", ["independent", "correlated", "outliers", "dead channels"])
@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_never_worse_than_gptq(kind: str, bits: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight, x = rng.standard_t(5, size=(24, 96)), activations(kind, rng)
    hessian = rounding.damp(x.T @ x)

    ours = low_bit.quantize(weight, x.T @ x, Scheme("group", bits, SIZE)).real(96)
    theirs = gptq(weight, hessian, bits)

    error, reference = (((weight - one) @ x.T) ** 2 for one in (ours, theirs))
    assert error.sum() <= reference.sum()
