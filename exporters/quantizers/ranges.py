"""Where a tensor is clipped before it becomes int8: its maximum, a percentile, the least error."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgellm.errors import ConfigError

CHOICES = ("minmax", "percentile", "mse")
CODE_LIMIT = 127
PERCENTILE = 99.99
CANDIDATES = 48
SMALLEST = 0.1
"""The least candidate, as a share of the maximum."""

Floats = npt.NDArray[np.float64]
Error = Callable[[float], float]


def check_choice(name: str) -> None:
    """Refuse a name that is none of ``CHOICES``.

    Raises:
        ConfigError: with those that there are.
    """
    if name not in CHOICES:
        raise ConfigError(f"the range choice is {name!r}; allowed are {', '.join(CHOICES)}")


def choose_limit(values: Floats, peak: float, choice: str, error: Error | None = None) -> float:
    """Return the magnitude that becomes the code 127.

    Args:
        values: a sample.
        peak: the largest magnitude there was, also outside of the sample.
        choice: one of ``CHOICES``.
        error: of a limit, to be least with ``mse``; default: the mean square of what rounding and
            clipping change.
    """
    if peak <= 0:
        return 1.0
    if choice == "percentile":
        found = float(np.percentile(np.abs(values), PERCENTILE))
        return found if found > 0 else peak
    if choice == "mse":
        measured = error or (lambda limit: rounding_error(values, limit))
        candidates = peak * np.linspace(1.0, SMALLEST, CANDIDATES)
        return float(min(candidates, key=measured))
    return peak


def rounding_error(values: Floats, limit: float) -> float:
    """Return the mean square of ``values`` less what their codes stand for."""
    return float(np.square(values - rounded(values, limit / CODE_LIMIT)).mean())


def rounded(values: Floats, scale: float | Floats) -> Floats:
    """Return what the codes of ``values`` stand for."""
    return np.clip(np.rint(values / scale), -CODE_LIMIT, CODE_LIMIT) * scale
