"""One token times blocks of 64 rows of sums of binary matrices, as LLVM.

What the planes choose has 16 bits, as the scales of the rows have; the products of a span are added
up in 32 bits, the spans in 64.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, register_jitable

from edgellm.runtime.kernels._bit_planes import BLOCK_TOTALS, ROWS, sum_of_magnitudes
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int, stack_int64
from edgellm.runtime.kernels.simd._unit import (
    INT16,
    INT32,
    INT64,
    Builder,
    Context,
    Intrinsic,
    Type,
    Value,
    Values,
    VectorUnit,
    load_vector,
    move,
    splat,
    splat_value,
)
from edgellm.runtime.kernels.vector._look_up_tables import OCTET, SPAN_OCTETS
from edgellm.runtime.kernels.vector._plane_blocks import PAIR, PlaneBlocks, Turn, in_order
from edgellm.runtime.kernels.vector._tiles import bytes_of, open_arrays

MOST_PLANES = 4
"""4 * LARGEST_ALPHA * 128 * 128 < 2^31: so much is added up in 32 bits."""

Codes = npt.NDArray[np.int8]
Planes = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int32]
Totals = npt.NDArray[np.int64]


def shift_blocks(unit: VectorUnit) -> Callable[..., None]:
    """Return ``add_blocks(planes, tables, magnitudes, scales, (octets, next, ahead), totals)``.

    It writes the totals of up to PAIR blocks of rows and MOST_PLANES planes. planes are (blocks,
    octets, P, 64), tables those of ``fill_tables``, magnitudes those of ``fill_magnitudes``, scales
    those of ``fill_scales``. octets are those of a group; the next blocks are so many on; so many
    octets ahead are prefetched (``octets_ahead``).
    """
    add_block, put = _block_sums(unit), in_order(unit)

    @register_jitable(**PART_POLICY)
    def add_blocks(
        planes: Planes,
        tables: Codes,
        magnitudes: Sums,
        scales: Codes,
        numbers: tuple[Int, Int, Int],
        totals: Totals,
    ) -> None:
        mixed = stack_int64(BLOCK_TOTALS)
        mixed[:] = 0
        add_block(planes, tables, magnitudes, scales, numbers, mixed)
        put(mixed, planes.shape[0] * ROWS, totals)

    return add_blocks


@register_jitable(**PART_POLICY)
def fill_magnitudes(x: Codes, group_size: Int, magnitudes: Sums) -> None:
    """Write the sum of the magnitudes of each span of a group: at most SPAN_OCTETS octets."""
    i = 0
    for group in range(0, x.shape[0], group_size):
        own = x[group : group + group_size]
        for span in range(0, own.shape[0], SPAN_OCTETS * OCTET):
            magnitudes[i] = sum_of_magnitudes(own[span : span + SPAN_OCTETS * OCTET])
            i += 1


@register_jitable(**PART_POLICY)
def span_count(columns: Int, size: Int) -> Int:
    """Return how many sums ``fill_magnitudes`` writes for a row of groups of a size, or more."""
    span = SPAN_OCTETS * OCTET
    return ((columns + size - 1) // size) * ((min(size, columns) + span - 1) // span)


def _block_sums(unit: VectorUnit) -> Intrinsic:
    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        chosen = [0, 1, 2, 3, 5]
        kinds = types.void(*(signature.args[i] for i in chosen))
        arrays = open_arrays(context, builder, kinds, [args[i] for i in chosen])
        _ShiftBlocks(unit, builder, arrays).generate(
            builder, *cgutils.unpack_tuple(builder, args[4])
        )
        return context.get_dummy_value()

    @intrinsic
    def add_block(
        _: Context,
        planes: Type,
        tables: Type,
        magnitudes: Type,
        scales: Type,
        numbers: Type,
        totals: Type,
    ) -> Intrinsic:
        return types.void(planes, tables, magnitudes, scales, numbers, totals), generate

    return add_block


class _ShiftBlocks(PlaneBlocks):
    """What rows choose, times the scales of a plane."""

    def __init__(self, unit: VectorUnit, builder: Builder, arrays: Values) -> None:
        planes, tables, magnitudes, scales, totals = arrays
        super().__init__(unit, builder, (planes, tables, totals))
        self._words, self._scales = ir.VectorType(INT16, 2 * unit.lanes), bytes_of(builder, scales)
        self._place = cgutils.alloca_once_value(builder, bytes_of(builder, magnitudes))

    def begin(self, builder: Builder, turn: Turn) -> None:
        """Take the next sum of magnitudes."""
        at = builder.load(self._place)
        magnitude = builder.load(builder.bitcast(at, INT32.as_pointer()))
        self._magnitude = splat_value(builder, builder.trunc(magnitude, INT16), self._words.count)
        builder.store(move(builder, at, INT64(4)), self._place)
        self._group = turn.group

    def add_plane(
        self, builder: Builder, halves: Values, plane: Value, row: Value, sums: Values
    ) -> None:
        """Add products of pairs of int16; bits of 1 and 0 stand for +1 and -1."""
        kind = self.unit.totals_type
        sixteen = splat(kind, 16)
        signed = [builder.sub(builder.add(half, half), self._magnitude) for half in halves]
        scales = self._load_scales(builder, plane, row)
        for i, pair in enumerate(zip(signed, scales, strict=True)):
            pairs = [builder.bitcast(vector, kind) for vector in pair]
            lower = [builder.ashr(builder.shl(vector, sixteen), sixteen) for vector in pairs]
            upper = [builder.ashr(vector, sixteen) for vector in pairs]
            for place, factors in ((sums[i], lower), (sums[2 + i], upper)):
                product = builder.mul(*factors)
                builder.store(builder.add(builder.load(place), product), place)

    def finish(self, builder: Builder, row: Value, sums: Values) -> list[list[Value]]:
        """Widen the sums."""
        return [self.unit.widen(builder, builder.load(place)) for place in sums]

    def _load_scales(self, builder: Builder, plane: Value, row: Value) -> list[Value]:
        """Return the scales of a vector of rows, as ``fill_scales`` wrote them."""
        vectors = INT64(PAIR * ROWS // self.width)
        number = builder.add(
            builder.mul(self._group, vectors), builder.udiv(row, INT64(self.width))
        )
        number = builder.add(builder.mul(number, self.planes), plane)
        at = move(builder, self._scales, builder.mul(number, INT64(2 * self.width)))
        places = (move(builder, at, INT64(self.width * i)) for i in range(2))
        return [load_vector(builder, one, self._words) for one in places]
