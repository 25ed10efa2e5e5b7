"""What a forecast of losses is made of."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgellm.exporters import build, sensitivity
from edgellm.exporters.architectures import llama
from edgellm.exporters.float_parts import FloatParts
from edgellm.exporters.quantizers import low_bit, rounding
from edgellm.exporters.quantizers.low_bit import ROW, Scheme
from edgellm.exporters.sensitivity import Sensitivity
from edgellm.runtime.float_parts import run_each


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_some_rows_tell_what_compensation_leaves_of_all(bits: int) -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(400, 96)) + 5 * rng.normal(size=96)) * np.exp(rng.normal(size=96))
    hessian = rounding.damp(x.T @ x)
    weight, weights = rng.normal(size=(64, 96)).astype(np.float32), rng.uniform(1, 2, 64)
    scheme = Scheme("shiftadd", bits, ROW)
    rest = low_bit.quantize(weight.astype(np.float64), None, scheme).real(96) - weight
    costs = weights * (rest**2 @ rounding.left_by_compensation(hessian))

    excess = sensitivity._excess(weight, hessian, costs, weights, scheme)

    whole = low_bit.quantize(weight.astype(np.float64), hessian, scheme).real(96) - weight
    found = weights @ np.einsum("nk,nk->n", whole @ hessian, whole)
    assert excess == pytest.approx(found / costs.sum(), rel=0.1)


def test_what_evolution_found_is_kept_only_if_it_is_better(
    tmp_path: Path, write_checkpoint: Callable[..., Path]
) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", llama.TINY)
    parts = FloatParts(build.float_model(checkpoint, tmp_path / "float"), run_each)
    path = "model.layers.0.mlp.down_proj"
    (linear,) = parts.find([path]).values()
    weight = parts.weight(linear)
    inputs = list(np.random.default_rng(0).integers(0, 256, (4, 40)))
    found = Sensitivity(parts, {path: weight.shape}, inputs)
    options = found.options([Scheme("group", 8, ROW), Scheme("shiftadd", 1, ROW)])
    exact, coarse = ({name: own[i] for name, own in options.items()} for i in range(2))

    assert found.better(coarse, exact) is exact
    assert found.better(exact, coarse) is exact
    assert found.loss(exact) < found.loss(coarse)
    found.restore()
    np.testing.assert_array_equal(parts.weight(linear), weight)


def test_rows_of_a_trellis_are_expected_to_share_their_bits() -> None:
    costs = np.array([4.0, 1.0, 0.25])

    assert sensitivity._cost_together(Scheme("trellis", 2, ROW), costs) == pytest.approx(3.0)
    assert sensitivity._cost_together(Scheme("group", 2, ROW), costs) == 5.25


def test_bits_between_have_the_excess_of_the_nearest() -> None:
    excess = {(True, 2.0): 3.0, (True, 2.5): 2.0, (False, 2): 7.0}

    assert sensitivity._nearest(excess, Scheme("trellis", 2.3, ROW)) == 2.0
    assert sensitivity._nearest(excess, Scheme("trellis", 4, ROW)) == 2.0
    assert sensitivity._nearest(excess, Scheme("group", 3, ROW)) == 7.0
    assert sensitivity._nearest({}, Scheme("trellis", 2, ROW)) == 1.0
