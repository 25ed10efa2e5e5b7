"""The codes of a weight as it is stored, what they stand for, and the weight with other codes."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgellm.dtypes import pack_bit_planes, unpack_bit_planes
from edgellm.exporters.quantizers import binary_coding, codebook, uniform
from edgellm.exporters.quantizers.grids import Codes, Floats, Grid
from edgellm.exporters.quantizers.low_bit import LowBitLinear, alphas_of
from edgellm.row_codes import pack_row_codes


@dataclass(frozen=True)
class StoredCodes:
    """Real weight = level of its code + what is stored apart.

    Attributes:
        codes: (N, K).
        grid: the real levels of each row and group.
        size: columns of a group.
        apart: (N, K) outliers; None where there are none.
    """

    codes: Codes
    grid: Grid
    size: int
    apart: Floats | None = None


def read(linear: LowBitLinear, columns: int) -> StoredCodes:
    """Return the codes of a weight with so many columns."""
    size = linear.attributes["group_size"]
    if linear.op_type == "CodebookLinear":
        books = codebook.from_tensors(linear.tensors, columns, linear.unit)
        levels = books.levels * linear.unit[:, None, None]
        apart = books.outliers.values * linear.unit[:, None]
        grid = codebook.from_levels(levels)
        return StoredCodes(books.codes, grid, size, apart if apart.any() else None)
    planes = linear.tensors["planes"].astype(np.uint8)
    bits = unpack_bit_planes(planes, len(linear.unit), columns)
    codes = sum((plane << number for number, plane in enumerate(bits)), np.zeros_like(bits[0]))
    unit = linear.unit * 2.0 ** -linear.attributes["shift"]
    if linear.op_type == "GroupLinear":
        scale, zero = (linear.tensors[port].T.astype(np.float64) for port in ("scale", "zero"))
        grid = uniform.from_parameters(scale * unit[:, None], zero, len(bits))
    else:
        alphas = alphas_of(linear)  # (G, P, N)
        grid = binary_coding.from_alphas(alphas.transpose(2, 0, 1) * unit[:, None, None])
    return StoredCodes(codes, grid, size)


def with_codes(linear: LowBitLinear, codes: Codes) -> LowBitLinear:
    """Return the weight with other codes (N, K) for the same levels."""
    tensors: dict[str, npt.NDArray[np.generic]] = dict(linear.tensors)
    if linear.op_type == "CodebookLinear":
        tensors["codes"] = pack_row_codes(codes, tensors["levels"].shape[2].bit_length() - 1)
    else:
        count = tensors["planes"].shape[2]
        planes = [codes >> np.uint8(bit) & np.uint8(1) for bit in range(count)]
        tensors["planes"] = pack_bit_planes(np.stack(planes))
    return replace(linear, tensors=tensors)
