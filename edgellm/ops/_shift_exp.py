"""I-ViT's ShiftExp: e^x of integers by shifts, as Shiftmax and ShiftGELU use it (arXiv 2207.01405).

``x * 1.4375`` stands for ``x * log2(e)`` and ``1 - f/2`` for 2^-f, so e^x is at most 6.2 % too
large, and 12 % near -15. With x = S * X, one step of X is 1.4375 * S of a halving, and ``unit`` is
about 1 / S such steps: the exponential has the resolution of the input.
"""

import numpy as np

from edgellm.ops._body import Operand, Value
from edgellm.ops._body_integers import power_of_two
from edgellm.ops._integers import INT32_MAX, Int64
from edgellm.ops._use import Demands, Use

MOST_SHIFT = 32
"""So far left, the smallest exponential is more than 2^31 - 1, to which sums are clamped."""
OFFSET = 1024
"""Quotients are taken of values that this many units make non-negative: 127 * 1.4375 < 1024."""


def exponential_fits(use: Use) -> Demands:
    """Demand exponentials, of which a row may have one alone, that fit the clamped sum of a row."""
    largest = use.attributes["unit"] << use.attributes["n"]
    return [(largest <= INT32_MAX, f"unit * 2^n is at most {INT32_MAX}")]


def shift_exp(x: Int64, unit: int, n: int, half_bit: int) -> Int64:
    """Return about ``e^(S * x) * unit * 2^n``.

    Args:
        x: of magnitude up to 254; below ``-unit * n / 1.4375`` it counts as that.
        unit: ``-I_0``, about 1 / S.
        n: fraction bits, to 30.
        half_bit: 1: r/2 keeps its half, as in I-ViT's PyTorch code; 0: ``r >> 1``, as in its TVM
            code.
    """
    scaled = np.maximum(x + (x >> 1) - (x >> 4), -n * unit)
    quotient = -scaled // unit
    rest = scaled + quotient * unit  # -unit < rest <= 0
    mantissa = rest + 2 * unit if half_bit else 2 * ((rest >> 1) + unit)
    return (mantissa << np.minimum(n - quotient, MOST_SHIFT)) >> 1


def shift_exp_nodes(x: Value, unit: Value, n: Value, half_bit: Value) -> Value:
    """Return ``shift_exp`` as ONNX nodes; all are int64."""
    body = x.body
    scaled = (x + (x >> 1) - (x >> 4)).at_least(-(n * unit))
    quotient = (unit * OFFSET - scaled) // unit - OFFSET
    rest = scaled + quotient * unit
    mantissa = body.where(half_bit.equals(1), rest + unit * 2, ((rest >> 1) + unit) * 2)
    return (mantissa * power_of_two((n - quotient).at_most(MOST_SHIFT))).shift_right(1)


def normalized(e: Int64, total: Int64, bits: int) -> Int64:
    """Return ``e / total`` with ``bits - 1`` fraction bits, by one division for each total."""
    return (e * (INT32_MAX // np.minimum(total, INT32_MAX))) >> (32 - bits)


def normalized_nodes(e: Value, total: Value, bits: Operand) -> Value:
    """Return ``normalized`` as ONNX nodes."""
    factor = e.body.constant(INT32_MAX) // total.at_most(INT32_MAX)
    return (e * factor).shift_right(-(bits - 32) if isinstance(bits, Value) else 32 - bits)


def unit_of(scale: float) -> int:
    """Return ``-I_0`` of I-ViT's PyTorch code for an input scale: ``-floor(-1 / scale)``."""
    return -int(np.floor(-1.0 / scale))
