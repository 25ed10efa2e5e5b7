"""Ordinary float weights to 2 to 8 bits a weight: the integers of GroupLinear, ShiftAddLinear.

A scheme says how; the result is what the operators take, and the unit of each row's integers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgellm.dtypes import SHIFT_TERMS, pack_bit_planes, unpack_bit_planes
from edgellm.errors import ConfigError
from edgellm.exporters.quantizers import binary_coding, rounding, uniform
from edgellm.exporters.quantizers.binary_coding import Terms
from edgellm.exporters.quantizers.cholesky import Singles
from edgellm.exporters.quantizers.grids import Floats, split_groups
from edgellm.exporters.quantizers.rounding import Rounded

Kind = Literal["group", "shiftadd"]

DEFAULT_BITS = 3
UNIFORM = {f"w{bits}a8": bits for bits in range(2, 9)}
"""Bits of the group-wise schemes, by name."""
FAMILIES: Mapping[str, tuple[Kind, ...]] = {
    "group": ("group",),
    "shiftadd": ("shiftadd",),
    "auto": ("group", "shiftadd"),
}
CHOICE: Mapping[Kind, tuple[int, ...]] = {
    "group": (2, 3, 4, 5, 6, 7, 8),
    "shiftadd": (1, 2, 3, 4),
}
"""Bits that a budget chooses from."""
ROW = 0
"""A group size that means: a whole row."""
GROUP_MULTIPLE = 8
PASSES = 2
"""Over all columns, for codes and scales; a third lowers the error by 0.2 to 0.4 %."""
SCALE_LIMIT = 32_767
SCALE_BITS = 16 + 8
"""Of a scale and a zero."""
CODE_LIMIT = 127
"""Of activations."""
ACCUMULATOR_BITS = 31
TERMS = {1: 2, 2: 2, 3: 3, 4: 3}
"""Powers of two an alpha, by bits. With two, the error of Gaussian weights in groups of 128 would
be 5 % larger at 4 bits and 1.5 % at 3."""


@dataclass(frozen=True)
class Scheme:
    """How linears are quantised.

    Attributes:
        kind: "group" (scale and zero point a group) or "shiftadd" (binary coding).
        bits: 2 to 8; 1 to 4 for "shiftadd".
        group_size: columns with one scale, a multiple of 8; ROW for all of a row.
    """

    kind: Kind
    bits: int
    group_size: int

    def __post_init__(self) -> None:
        """Check the ranges."""
        least, most = (1, 4) if self.kind == "shiftadd" else (2, 8)
        if not least <= self.bits <= most:
            raise ConfigError(f"bits is {self.bits}; {self.kind} allows {least} to {most}")
        if self.group_size < 0 or self.group_size % GROUP_MULTIPLE:
            raise ConfigError(
                f"group size is {self.group_size}; allowed are multiples of {GROUP_MULTIPLE}, or "
                "'row' for one group a row"
            )

    def __str__(self) -> str:
        """Return what ``edgellm inspect`` shows."""
        width = f"groups of {self.group_size}" if self.group_size else "one group a row"
        name = f"W{self.bits}A8" if self.kind == "group" else f"shift-and-add, {self.bits} bits"
        return f"{name}, {width}"

    @classmethod
    def parse(cls, name: str, bits: int | None, group_size: int) -> "Scheme":
        """Return the scheme that options name.

        Args:
            name: "shiftadd", or "w2a8" to "w8a8".
            bits: of "shiftadd", 3 by default; the others name theirs.
            group_size: columns with one scale, ROW for all of a row.

        Raises:
            ConfigError: an option is unknown or out of range.
        """
        if name == "shiftadd":
            return cls("shiftadd", DEFAULT_BITS if bits is None else bits, group_size)
        if name not in UNIFORM:
            known = ", ".join(["shiftadd", *UNIFORM])
            raise ConfigError(f"quant {name!r} is unknown; known are int8, {known}")
        if bits not in (None, UNIFORM[name]):
            raise ConfigError(f"bits is {bits}, but {name} has {UNIFORM[name]}")
        return cls("group", UNIFORM[name], group_size)

    def columns(self, width: int) -> int:
        """Return the columns of a group in a matrix of so many columns."""
        whole = -(-width // GROUP_MULTIPLE) * GROUP_MULTIPLE
        return min(self.group_size, whole) if self.group_size else whole

    def stored_bits(self, shape: tuple[int, int]) -> int:
        """Return the bits that a weight (N, K) takes: codes, and scales and zeros or terms."""
        rows, columns = shape
        groups = -(-columns // self.columns(columns))
        scale = 8 * self.bits * TERMS[self.bits] if self.kind == "shiftadd" else SCALE_BITS
        return rows * (columns * self.bits + groups * scale)


def schemes_of(family: str, group_size: int) -> tuple[Scheme, ...]:
    """Return the schemes that a budget chooses from: one of ``FAMILIES``, of one group size.

    A group that is a whole row is offered, too: it spares the bits of scales.
    """
    sizes = dict.fromkeys((group_size, ROW))
    return tuple(
        Scheme(kind, bits, size)
        for kind in FAMILIES[family]
        for bits in CHOICE[kind]
        for size in sizes
    )


def describe(schemes: Iterable[Scheme]) -> str:
    """Return what ``edgellm inspect`` shows of a model whose linears have such schemes."""
    names = sorted({str(scheme) for scheme in schemes})
    return names[0] if len(names) == 1 else f"mixed: {'; '.join(names)}"


@dataclass(frozen=True)
class LowBitLinear:
    """A weight as an operator takes it; real weight = integer * unit of its row.

    Attributes:
        op_type: the operator.
        tensors: its inputs after x, by port.
        attributes: of the operator.
        unit: (N,) float64; the shift of the operator is in it already.
    """

    op_type: str
    tensors: Mapping[str, npt.NDArray[np.generic]]
    attributes: Mapping[str, int]
    unit: Floats

    def real(self, columns: int) -> Floats:
        """Return the weights that the integers stand for, (N, columns)."""
        planes = self.tensors["planes"].astype(np.uint8)
        rows, size = len(self.unit), self.attributes["group_size"]
        if self.op_type == "GroupLinear":
            scale, zero = (self.tensors[port].T.astype(np.float64) for port in ("scale", "zero"))
            factors = [scale * 2.0**bit for bit in range(planes.shape[2])]
            offset = -scale * zero
        else:
            alphas = SHIFT_TERMS[self.tensors["terms"]].sum(axis=2)  # (G, P, N)
            factors = [2.0 * alpha.T for alpha in np.moveaxis(alphas, 1, 0)]
            offset = -alphas.sum(axis=1).T.astype(np.float64)
        bits = unpack_bit_planes(planes, rows, columns)
        real = np.empty((rows, columns))
        for group in range(offset.shape[1]):
            part = slice(group * size, (group + 1) * size)
            real[:, part] = offset[:, [group]]
            for factor, plane in zip(factors, bits, strict=True):
                real[:, part] += factor[:, [group]] * plane[:, part]
        real *= (self.unit * 2.0 ** -self.attributes["shift"])[:, None]
        return real


def quantize(weight: Floats, hessian: Floats | Singles | None, scheme: Scheme) -> LowBitLinear:
    """Quantise a weight (N, K) so that the outputs change little on the calibration activations.

    Args:
        weight: (N, K) float64.
        hessian: (K, K) sum of x x' over the calibration activations; without it each weight goes
            to the nearest level.
        scheme: how.
    """
    size = scheme.columns(weight.shape[1])
    curvature = (
        np.eye(weight.shape[1], dtype=np.float32) if hessian is None else rounding.damp(hessian)
    )
    groups = split_groups(weight, size)
    importance = split_groups(rounding.importance(curvature), size)
    maker = uniform if scheme.kind == "group" else binary_coding
    grid = maker.fit(scheme.bits)(groups, importance)
    if hessian is None:
        rounded = rounding.plain(weight, grid, size)
    else:
        rounded = rounding.compensate(weight, grid, size, curvature)
        rounded = _improve(weight, rounded, size, curvature)
    if scheme.kind == "group":
        return _group_linear(rounded, size, scheme.bits)
    return _shift_add(weight, rounded, size, None if hessian is None else curvature)


def _improve(weight: Floats, start: Rounded, size: int, curvature: Singles) -> Rounded:
    rounded = start
    for _ in range(PASSES):
        rounded = rounding.improve(weight, rounded, size, curvature, refit=True)
    return rounded


def _group_linear(rounded: Rounded, size: int, bits: int) -> LowBitLinear:
    """Return scales as int16 of a unit a row; a negative scale is one too."""
    scale = rounded.grid.parameters[..., 0]
    zero = np.rint(-rounded.grid.features[..., 0, 0])
    unit = np.abs(scale).max(axis=1) / SCALE_LIMIT
    unit = np.where(unit > 0, unit, 1.0)
    stored = np.rint(scale / unit[:, None]).astype(np.int16)
    span = np.maximum(zero, 2.0**bits - 1 - zero)
    shift = _shift((np.abs(stored) * span).sum(axis=1) * size)
    tensors: dict[str, npt.NDArray[np.generic]] = {
        "planes": pack_bit_planes(_bits(rounded.codes, bits)),
        "scale": np.ascontiguousarray(stored.T),
        "zero": np.ascontiguousarray(zero.T.astype(np.uint8)),
    }
    attributes = {"group_size": size, "shift": shift}
    return LowBitLinear("GroupLinear", tensors, attributes, unit * 2.0**shift)


def _shift_add(
    weight: Floats, rounded: Rounded, size: int, curvature: Singles | None
) -> LowBitLinear:
    """Make the alphas powers of two, and choose the bits anew for them."""
    bits = rounded.grid.parameters.shape[2]
    terms = binary_coding.to_terms(rounded.grid.parameters, TERMS[bits])
    final = Rounded(rounded.codes, binary_coding.from_alphas(terms.values()))
    if curvature is None:
        final = rounding.plain(weight, final.grid, size)
    else:
        for _ in range(PASSES):
            final = rounding.improve(weight, final, size, curvature, refit=False)
    integers = terms.values() / terms.unit[:, None, None]
    shift = _shift(np.abs(integers).sum(axis=(1, 2)) * size)
    tensors = {
        "planes": pack_bit_planes(_bits(final.codes, bits)),
        "terms": np.ascontiguousarray(_term_bytes(terms).transpose(1, 2, 3, 0)),
    }
    attributes = {"group_size": size, "shift": shift}
    return LowBitLinear("ShiftAddLinear", tensors, attributes, terms.unit * 2.0**shift)


def _term_bytes(terms: Terms) -> npt.NDArray[np.uint8]:
    """Return the layout shift-terms/v1, (N, G, P, S)."""
    sign = np.where(terms.signs < 0, 128, 0)
    return np.where(terms.signs == 0, 0, terms.exponents + 1 + sign).astype(np.uint8)


def _bits(codes: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.uint8]:
    return np.stack([codes >> np.uint8(bit) & np.uint8(1) for bit in range(count)])


def _shift(most: Floats) -> int:
    """Return the shift that brings sums of ``most`` times an activation below 2^31."""
    return max(0, int(most.max() * CODE_LIMIT).bit_length() - ACCUMULATOR_BITS)
