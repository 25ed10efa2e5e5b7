import math

import numpy as np
import pytest

from edgellm.ops import _gelu
from edgellm.ops.activation_quantize import reference

UNIT = np.array([[2**30, 30]], np.int32)


def activate(x, activation):
    """Return the real values that the codes of real x stand for, and the real size of a code."""
    acc = np.rint(np.atleast_2d(x) * 2**_gelu.FRAME).astype(np.int32)
    columns = acc.shape[1]
    one, none = np.full(columns, 2**30, np.int32), np.zeros(columns, np.int32)
    codes, scale = reference(acc, UNIT, one, none, shift=30, activation=activation)
    step = scale[0, 0] * 2.0 ** -float(scale[0, 1])
    return codes[0] * step, step


def gelu(x):
    return x * 0.5 * (1 + math.erf(x / math.sqrt(2)))


def gelu_tanh(x):
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize(
    ("activation", "exact"), [(_gelu.GELU, gelu), (_gelu.GELU_TANH, gelu_tanh)]
)
def test_gelu_is_off_by_half_a_code_and_half_a_step_of_the_table(activation, exact):
    """The table's step is 2^-9 and the slope of the bump at most 0.5; Q17 and Q18 are rounded."""
    x = np.linspace(-12, 4, 3001)
    y, step = activate(x, activation)
    wanted = np.array([exact(float(value)) for value in x])
    assert np.abs(y - wanted).max() <= 0.5 * step + 0.5 * 2.0**-10 + 2.0**-17


def test_relu_is_exact_but_for_its_code():
    x = np.array([-3.0, -0.5, 0.0, 1.0, 2.54])
    y, step = activate(x, _gelu.RELU)
    assert np.abs(y - np.maximum(x, 0)).max() <= 0.5 * step + 2.0**-18


@pytest.mark.parametrize("bump", [_gelu.bump_erf, _gelu.bump_tanh])
def test_no_entry_of_the_table_is_near_a_half(bump):
    """So another machine's libm, off by some 1e-16 of it, rounds to the same integers."""
    distances = [abs(value % 1 - 0.5) for value in _gelu.exact_bumps(bump)]
    assert min(distances) > 1e-6


def test_each_row_stands_alone():
    """ShiftGELU takes the maximum of the row into its exponentials; here x = 1 stays gelu(1)."""
    for largest in (1.0, 20.0):
        y, step = activate(np.array([1.0, largest]), _gelu.GELU)
        assert abs(y[0] - gelu(1.0)) <= 0.5 * step + 2.0**-10
