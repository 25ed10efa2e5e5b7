"""Ordinary float weights to 2 to 8 bits a weight: the integers of the operators for them.

A scheme says how; the result is what the operators take, and the unit of each row's integers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgellm.dtypes import pack_bit_planes, unpack_bit_planes
from edgellm.errors import ConfigError
from edgellm.exporters.quantizers import binary_coding, codebook, rounding, trellis, uniform
from edgellm.exporters.quantizers.cholesky import Singles
from edgellm.exporters.quantizers.grids import Floats
from edgellm.exporters.quantizers.rounding import Rounded
from edgellm.exporters.quantizers.sparse import sparse_bits
from edgellm.ops._bit_planes import split_groups
from edgellm.ops._shift_alphas import alpha_bytes, pack_alphas, unpack_alphas

Kind = Literal["group", "shiftadd", "codebook", "trellis"]

DEFAULT_BITS = 3
UNIFORM = {f"w{bits}a8": bits for bits in range(2, 9)}
"""Bits of the group-wise schemes, by name."""
FAMILIES: Mapping[str, tuple[Kind, ...]] = {
    "group": ("group",),
    "shiftadd": ("shiftadd",),
    "codebook": ("codebook",),
    "trellis": ("trellis",),
    "auto": ("group", "shiftadd", "codebook", "trellis"),
}


@dataclass(frozen=True)
class Facts:
    """What is said of a kind, and what it allows.

    Attributes:
        label: with a place for the bits.
        choice: bits that there can be; a budget chooses from them. A trellis may have any between.
        multiple: of columns, that a group is.
    """

    label: str
    choice: tuple[float, ...]
    multiple: int


KINDS: Mapping[Kind, Facts] = {
    "group": Facts("W{}A8", (2, 3, 4, 5, 6, 7, 8), 8),
    "shiftadd": Facts("shift-and-add, {} bits", (1, 2, 3, 4), 8),
    "codebook": Facts("codebook, {} bits", (2, 3, 4), 64),
    "trellis": Facts("trellis, {} bits", (1.5, 2, 2.5, 3, 3.5, 4), 8),
}
NAMED: Mapping[str, Kind] = {
    "shiftadd": "shiftadd",
    "codebook": "codebook",
    "trellis": "trellis",
}
"""Kinds that an export names; bits are said apart."""
DEFAULT_GROUP = 128
ROW = 0
"""A group size that means: a whole row."""
MOST_OUTLIERS = 0.1
PASSES = 2
"""Over all columns, for codes and scales; a third lowers the error by 0.2 to 0.4 %."""
SCALE_LIMIT = 32_767
SCALE_BITS = 16 + 8
"""Of a scale and a zero."""
CODE_LIMIT = 127
"""Of activations."""
ACCUMULATOR_BITS = 31
TERMS = 2
"""Powers of two an alpha. A third would take an eighth of a bit a weight in groups of 128; it would
lower the error of Gaussian weights by 5 % at 4 bits and 1.5 % at 3, and that of MiniLM's embeddings
by 15 and 4 % (groups of 64). What stories260k loses at 3 bits would be 2 % less."""


@dataclass(frozen=True)
class Scheme:
    """How linears are quantised.

    Attributes:
        kind: "group" (scale and zero point a group), "shiftadd" (binary coding), "codebook" (any
            levels) or "trellis" (codes that overlap).
        bits: 2 to 8; 1 to 4 for "shiftadd", 2 to 4 for "codebook", 1.5 to 4 for "trellis", whole
            or not.
        group_size: columns with one scale, or the same levels, a multiple of 8, of 64 for
            "codebook"; ROW for all of a row, which "trellis" always has.
        outliers: of "codebook": the share of the weights that are stored apart.
    """

    kind: Kind
    bits: float
    group_size: int
    outliers: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        choice, multiple = KINDS[self.kind].choice, KINDS[self.kind].multiple
        between = self.kind == "trellis" and choice[0] <= self.bits <= choice[-1]
        if self.bits not in choice and not between:
            raise ConfigError(
                f"bits is {self.bits:g}; {self.kind} allows {choice[0]:g} to {choice[-1]:g}"
            )
        if self.kind == "trellis" and self.group_size != ROW:
            raise ConfigError(
                f"group size is {self.group_size}; trellis has one scale a row: leave it out"
            )
        if self.group_size < 0 or self.group_size % multiple:
            raise ConfigError(
                f"group size is {self.group_size}; {self.kind} allows multiples of {multiple}, or "
                "'row' for one group a row"
            )
        if not 0 <= self.outliers <= MOST_OUTLIERS:  # also refuses what is no number
            raise ConfigError(
                f"the share of outliers is {self.outliers}; allowed are 0 to {MOST_OUTLIERS:.0%}"
            )
        if self.outliers and self.kind != "codebook":
            raise ConfigError(f"{self.kind} keeps no outliers apart; codebook does")

    def __str__(self) -> str:
        """Return what ``edgellm inspect`` shows."""
        width = f"groups of {self.group_size}" if self.group_size else "one group a row"
        if self.kind == "trellis":
            width = "one scale a row"
        apart = f", {100 * self.outliers:g} % outliers" if self.outliers else ""
        return f"{KINDS[self.kind].label.format(f'{self.bits:.3g}')}, {width}{apart}"

    @classmethod
    def parse(
        cls, name: str, bits: float | None, group_size: int | None, outliers: float = 0.0
    ) -> "Scheme":
        """Return the scheme that options name.

        Args:
            name: "shiftadd", "codebook", "trellis", or "w2a8" to "w8a8".
            bits: of the first three, 3 by default; the others name theirs.
            group_size: columns with one scale, ROW for all of a row; None for the default.
            outliers: of "codebook".

        Raises:
            ConfigError: an option is unknown or out of range.
        """
        if name in NAMED:
            kind = NAMED[name]
            bits = DEFAULT_BITS if bits is None else bits
            bits = next((one for one in KINDS[kind].choice if one == bits), bits)  # 3, not 3.0
            return cls(kind, bits, group_of(kind, bits, group_size), outliers)
        if name not in UNIFORM:
            known = ", ".join([*NAMED, *UNIFORM])
            raise ConfigError(f"quant {name!r} is unknown; known are int8, {known}")
        if bits not in (None, UNIFORM[name]):
            raise ConfigError(f"bits is {bits:g}, but {name} has {UNIFORM[name]}")
        return cls("group", UNIFORM[name], group_of("group", bits, group_size), outliers)

    def columns(self, width: int) -> int:
        """Return the columns of a group in a matrix of so many columns."""
        multiple = KINDS[self.kind].multiple
        whole = -(-width // multiple) * multiple
        return min(self.group_size, whole) if self.group_size else whole

    def stored_bits(self, shape: tuple[int, int]) -> int:
        """Return the bits that a weight (N, K) takes: codes, and what stands for their meaning."""
        if self.kind == "trellis":
            return trellis.stored_bits(shape, self.bits)
        rows, columns = shape
        bits = int(self.bits)
        groups = -(-columns // self.columns(columns))
        of_group = {
            "group": SCALE_BITS,
            "shiftadd": 8 * alpha_bytes(bits, TERMS),
            "codebook": codebook.LEVEL_BITS << bits,
        }
        apart = sparse_bits(rows, round(self.outliers * rows * columns))
        return rows * (columns * bits + groups * of_group[self.kind]) + apart


def group_of(kind: Kind, bits: float | None, group_size: int | None) -> int:
    """Return the group size that is asked for, or the one that suits best.

    Tables of 2^bits levels take as much as other schemes' scales if their groups grow with them: a
    quarter of a bit a weight.
    """
    if group_size is not None:
        return group_size
    if kind == "trellis":
        return ROW
    return codebook.LEVEL_BITS * 4 << int(bits) if kind == "codebook" and bits else DEFAULT_GROUP


def schemes_of(family: str, group_size: int | None, outliers: float = 0.0) -> tuple[Scheme, ...]:
    """Return the schemes that a budget chooses from: one of ``FAMILIES``, of one group size.

    A group that is a whole row is offered, too: it spares the bits of scales. What is allowed to
    few schemes alone, small groups and outliers, the others go without.
    """
    schemes = []
    for kind in FAMILIES[family]:
        multiple = KINDS[kind].multiple
        apart = outliers if kind == "codebook" else 0.0
        for bits in KINDS[kind].choice:
            if kind == "trellis":
                schemes.append(Scheme(kind, bits, ROW))
                continue
            size = -(-group_of(kind, bits, group_size) // multiple) * multiple
            schemes += [Scheme(kind, bits, one, apart) for one in dict.fromkeys((size, ROW))]
    return tuple(schemes)


def describe(schemes: Iterable[Scheme]) -> str:
    """Return what ``edgellm inspect`` shows of a model whose linears have such schemes."""
    known = set(schemes)
    trellises = {scheme for scheme in known if scheme.kind == "trellis"}
    names = sorted(str(scheme) for scheme in known - trellises)
    if trellises:
        ends = [f"{end(one.bits for one in trellises):.3g}" for end in (min, max)]
        names.append(f"trellis, {' to '.join(dict.fromkeys(ends))} bits, one scale a row")
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
        if self.op_type == "CodebookLinear":
            size = self.attributes["group_size"]
            return codebook.from_tensors(self.tensors, columns, self.unit).real(size)
        if self.op_type == "TrellisLinear":
            return trellis.from_tensors(self.tensors, columns, self.unit).real()
        planes = self.tensors["planes"].astype(np.uint8)
        rows, size = len(self.unit), self.attributes["group_size"]
        if self.op_type == "GroupLinear":
            scale, zero = (self.tensors[port].T.astype(np.float64) for port in ("scale", "zero"))
            factors = [scale * 2.0**bit for bit in range(planes.shape[2])]
            offset = -scale * zero
        else:
            alphas = alphas_of(self)  # (G, P, N)
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


def quantize(
    weight: Floats,
    hessian: Floats | Singles | None,
    scheme: Scheme,
    costs: Floats | None = None,
) -> LowBitLinear:
    """Quantise a weight (N, K) so that the outputs change little on the calibration activations.

    Args:
        weight: (N, K) float64.
        hessian: (K, K) sum of x x' over the calibration activations; without it each weight goes
            to the nearest level.
        scheme: how.
        costs: (N,) what the square of an error of each output costs: rows of a trellis are rounded
            together, so that those lose less of which more depends. None where it is not known.
    """
    size, bits = scheme.columns(weight.shape[1]), int(scheme.bits)
    curvature = (
        np.eye(weight.shape[1], dtype=np.float32) if hessian is None else rounding.damp(hessian)
    )
    if scheme.kind == "trellis":
        found = trellis.quantize(
            weight, curvature, scheme.bits, costs, calibrated=hessian is not None
        )
        return LowBitLinear("TrellisLinear", found.tensors(), {}, found.unit)
    if scheme.kind == "codebook":
        shape = codebook.Shape(bits, size, scheme.outliers)
        books = codebook.quantize(weight, curvature, shape, calibrated=hessian is not None)
        return LowBitLinear("CodebookLinear", books.tensors(), {"group_size": size}, books.unit)
    groups = split_groups(weight, size)
    importance = split_groups(rounding.importance(curvature), size)
    maker = uniform if scheme.kind == "group" else binary_coding
    grid = maker.fit(bits)(groups, importance)
    if hessian is None:
        rounded = rounding.plain(weight, grid, size)
    else:
        rounded = rounding.compensate(weight, grid, size, curvature)
        rounded = _improve(weight, rounded, size, curvature)
    if scheme.kind == "group":
        return _group_linear(rounded, size, bits)
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
    alphas = rounded.grid.parameters
    bits = alphas.shape[2]
    powers = binary_coding.to_powers(alphas, TERMS)
    codes = binary_coding.without_minus(rounded.codes, alphas, size)
    final = Rounded(codes, binary_coding.from_alphas(powers.values()))
    if curvature is None:
        final = rounding.plain(weight, final.grid, size)
    else:
        for _ in range(PASSES):
            final = rounding.improve(weight, final, size, curvature, refit=False)
    shift = _shift(powers.integers.sum(axis=(1, 2)) * size)
    tensors = {
        "planes": pack_bit_planes(_bits(final.codes, bits)),
        "alphas": pack_alphas(powers.integers.transpose(1, 2, 0), TERMS),
    }
    attributes = {"group_size": size, "shift": shift, "terms": TERMS}
    return LowBitLinear("ShiftAddLinear", tensors, attributes, powers.unit * 2.0**shift)


def alphas_of(linear: LowBitLinear) -> npt.NDArray[np.int64]:
    """Return the alphas of a ShiftAddLinear as integers, (G, P, N)."""
    packed, planes = linear.tensors["alphas"].astype(np.uint8), linear.tensors["planes"].shape[2]
    return unpack_alphas(packed, planes, linear.attributes["terms"])


def _bits(codes: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.uint8]:
    return np.stack([codes >> np.uint8(bit) & np.uint8(1) for bit in range(count)])


def _shift(most: npt.NDArray[np.number]) -> int:
    """Return the shift that brings sums of ``most`` times an activation below 2^31."""
    return max(0, int(most.max() * CODE_LIMIT).bit_length() - ACCUMULATOR_BITS)
