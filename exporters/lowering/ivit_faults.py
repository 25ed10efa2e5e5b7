"""Where I-ViT's operators leave their range on calibration inputs, and by how much they are off."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgellm.exporters.activation_statistics import Floats, Rows
from edgellm.exporters.quantizers.ranges import CODE_LIMIT, Error
from edgellm.ops import shift_gelu, shiftmax
from edgellm.ops._shift_exp import unit_of
from edgellm.ops.i_layer_norm import CONVERGED

COARSE = 1 / 16
"""Scales of scores above this leave the exponential too few steps."""
LEAST_MASS = 0.98
LARGE_MAXIMUM = 9.4
"""Of a row: both exponentials of ShiftGELU are clamped."""
SOME_ROWS = 1e-3
"""A share of rows that is worth a word."""
ERROR_SAMPLE = 1 << 15
"""Numbers that an error is measured on, some fifty times."""


@dataclass
class Faults:
    """What was seen: (path, figure) of each operator that is outside of its range."""

    coarse: list[tuple[str, float]] = field(default_factory=list)
    lossy: list[tuple[str, float]] = field(default_factory=list)
    large: list[tuple[str, float]] = field(default_factory=list)
    negative: list[tuple[str, float]] = field(default_factory=list)
    small: list[tuple[str, float]] = field(default_factory=list)

    def see_softmax(self, path: str, rows: Sequence[Rows], scale: float) -> None:
        """Look at the scores of a layer, in the scale that they get."""
        if scale > COARSE:
            self.coarse.append((path, scale))
        mass = np.concatenate([shiftmax_of(part, scale).sum(axis=1) for part in rows]).mean()
        if mass < LEAST_MASS:
            self.lossy.append((path, -float(mass)))

    def see_gelu(self, path: str, maximum: Floats) -> None:
        """Look at the largest element of rows."""
        self._note(self.large, path, maximum >= LARGE_MAXIMUM)
        self._note(self.negative, path, maximum < 0)

    def see_norm(self, path: str, rows: Floats) -> None:
        """Look at rows in units of the integers that they become."""
        integers = np.rint(rows)
        centred = integers - np.rint(integers.mean(axis=1, keepdims=True))
        self._note(self.small, path, np.square(centred).sum(axis=1) < CONVERGED)

    def _note(self, where: list[tuple[str, float]], path: str, rows: npt.NDArray[np.bool_]) -> None:
        share = float(rows.mean())
        if share >= SOME_ROWS:
            where.append((path, share))

    def report(self) -> list[str]:
        """Return a sentence for each kind of fault, with the worst place."""
        told = (
            (self.coarse, "Shiftmax: scores need a scale of {0:.3f} in {path} ({count}), above "
             "1/16: its exponential is off by up to 0.14"),
            (self.lossy, "Shiftmax loses probability mass: it keeps {1:.1%} in {path} ({count})"),
            (self.large, "ShiftGELU: {0:.1%} of the rows of {path} ({count}) have a maximum of 9.4 "
             "or more: the sigmoid of their negative elements is a half"),
            (self.negative, "ShiftGELU: {0:.1%} of the rows of {path} ({count}) have no positive "
             "element: their exponentials do not fit"),
            (self.small, "ILayerNorm: {0:.1%} of the rows of {path} ({count}) have squares that "
             "sum to less than 2^17: ten Newton steps do not reach their root"),
        )  # fmt: skip
        lines = []
        for found, line in told:
            if found:
                path, figure = max(found, key=lambda item: item[1])
                count = f"the worst of {len(found)}" if len(found) > 1 else "there alone"
                lines.append(line.format(figure, -figure, path=path, count=count))
        return lines


def shiftmax_of(rows: npt.NDArray[np.floating], scale: float) -> Floats:
    """Return Shiftmax of real scores (rows, columns) that become codes of a scale."""
    codes = np.rint(rows / scale).clip(-CODE_LIMIT, CODE_LIMIT).astype(np.int8)
    y = shiftmax.reference(codes, unit=unit_of(scale), **shiftmax.PYTORCH)
    return np.ldexp(y.astype(np.float64), 1 - shiftmax.PYTORCH["bits"])


def softmax_error(rows: Sequence[Rows]) -> Error:
    """Return what Shiftmax is off by, a function of where scores are clipped."""
    size = sum(part.size for part in rows)
    some = [part[:: max(1, size // ERROR_SAMPLE)].astype(np.float64) for part in rows]
    exact = [_softmax(part) for part in some]

    def error(limit: float) -> float:
        off = [shiftmax_of(part, limit / CODE_LIMIT) for part in some]
        pairs = zip(off, exact, strict=True)
        return float(sum(np.square(one - other).sum() for one, other in pairs))

    return error


def gelu_error(rows: Floats) -> Error:
    """Return what ShiftGELU is off by, a function of where its input is clipped."""
    some = rows[:: max(1, rows.size // ERROR_SAMPLE)]
    exact = some * 0.5 * (1 + _erf(some / math.sqrt(2)))

    def error(limit: float) -> float:
        scale = limit / CODE_LIMIT
        codes = np.rint(some / scale).clip(-CODE_LIMIT, CODE_LIMIT).astype(np.int8)
        unit = unit_of(shift_gelu.SLOPE * scale)
        y = shift_gelu.reference(codes, unit=unit, **shift_gelu.PUBLISHED)
        return float(np.square(y * (scale * 2.0**-7) - exact).mean())

    return error


def _softmax(rows: Floats) -> Floats:
    odds = np.exp(rows - rows.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


_erf = np.vectorize(math.erf, otypes=[np.float64])
