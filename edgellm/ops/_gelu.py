"""GELU as a table: what relu(x) has more than gelu(x), by |x|, for the erf and the tanh form.

``gelu(x) = relu(x) - bump(|x|)`` holds for both forms, since they are x times something odd around
one half. The bump is at most 0.17 and nothing beyond 8, so a table of steps of 2^-9 is off by half
a step times the slope, at most 2^-11: less than the rounding of int8 codes by a factor of 20.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt

FRAME = 18
"""Fixed point of what the activations take and return."""
STEP_BITS = 9
ENTRIES = 4096
BUMP_BITS = 17
"""The largest entry, 0.17, fits in an int16 then."""
RELU, GELU, GELU_TANH = 0, 1, 2
"""What the attribute ``activation`` says."""


def bump_erf(x: float) -> float:
    """Return ``x * P(normal > x)``."""
    return 0.5 * x * math.erfc(x / math.sqrt(2.0))


def bump_tanh(x: float) -> float:
    """Return ``x - gelu(x)`` of the form with tanh."""
    return x / (1.0 + math.exp(2.0 * math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


@cache
def bump_table(activation: int) -> npt.NDArray[np.int16]:
    """Return (4096,) int16: ``round(2^17 * bump(i * 2^-9))``; zeros for ReLU.

    No entry is so near to a half that another machine's libm could round it differently, which a
    test shows.
    """
    if activation == RELU:
        return np.zeros(ENTRIES, np.int16)
    values = exact_bumps(bump_erf if activation == GELU else bump_tanh)
    return np.array([math.floor(value + 0.5) for value in values], np.int16)


def exact_bumps(bump: Callable[[float], float]) -> list[float]:
    """Return the table before rounding."""
    return [bump(i * 2.0**-STEP_BITS) * 2.0**BUMP_BITS for i in range(ENTRIES)]
