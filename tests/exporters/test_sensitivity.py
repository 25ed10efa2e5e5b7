"""What a forecast of losses is made of."""

import numpy as np
import pytest

from edgellm.exporters import sensitivity
from edgellm.exporters.quantizers import low_bit, rounding
from edgellm.exporters.quantizers.low_bit import ROW, Scheme


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


def test_rows_of_a_trellis_are_expected_to_share_their_bits() -> None:
    costs = np.array([4.0, 1.0, 0.25])

    assert sensitivity._cost_together(Scheme("trellis", 2, ROW), costs) == pytest.approx(3.0)
    assert sensitivity._cost_together(Scheme("group", 2, ROW), costs) == 5.25
