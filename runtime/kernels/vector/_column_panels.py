"""Panels of weights that lie by input (ternary-2bit-columns/v1), for products with AMX.

64 outputs of an input are 16 bytes of its weights; of four inputs, with their bytes interleaved,
bits 2p and 2p + 1 are four columns of the outputs 16p to 16p + 15: a vector of a panel.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, register_jitable

from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int, stack_int8
from edgellm.runtime.kernels.simd._unit import (
    BLOCK,
    INT8,
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
    shuffle,
)
from edgellm.runtime.kernels.vector._blocked_products import PANEL_ROWS, Source
from edgellm.runtime.kernels.vector._panels import CHUNK, ROW_GROUPS
from edgellm.runtime.kernels.vector._tiles import as_matrix, bytes_of, open_arrays, row_stride

INPUTS = 4
PANELS = BLOCK // PANEL_ROWS
"""Panels that the bytes of an input for 64 outputs have."""

Codes = npt.NDArray[np.int8]
Packed = npt.NDArray[np.uint8]
Bytes = Codes | Packed


def unpack_inputs(unit: VectorUnit, part: int) -> Intrinsic:
    """Return the intrinsic ``unpack(weight, panel, k, byte, count)``.

    It lays out the inputs k to k + count, a multiple of four, of what 16 bytes from ``byte`` on
    have: the first 32 outputs, or, with ``part`` 1, the others. ``weight`` has a row an input.
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        weight, panel = open_arrays(context, builder, signature, args[:2])
        k, byte, count = args[2:]
        stride = row_stride(builder, weight)
        begin = move(builder, bytes_of(builder, weight), builder.mul(k, stride))
        begin, out = move(builder, begin, byte), bytes_of(builder, panel)
        size = ROW_GROUPS * BLOCK
        with cgutils.for_range(builder, builder.udiv(count, INT64(INPUTS))) as loop:
            distance = builder.mul(builder.mul(loop.index, INT64(INPUTS)), stride)
            places = [move(builder, begin, distance)]
            for _ in range(INPUTS - 1):
                places.append(move(builder, places[-1], stride))
            mixed = _interleave(builder, places)
            target = move(builder, out, builder.mul(loop.index, INT64(size)))
            for group in range(ROW_GROUPS):
                vector = unit.signed_field(builder, mixed, part * ROW_GROUPS + group)
                at = move(builder, target, INT64(group * BLOCK))
                builder.store(vector, builder.bitcast(at, vector.type.as_pointer()), align=64)
        return context.get_dummy_value()

    @intrinsic
    def unpack(
        _: Context, weight: Type, panel: Type, k: Type, byte: Type, count: Type
    ) -> Intrinsic:
        return types.void(weight, panel, types.int64, types.int64, types.int64), generate

    return unpack


def _interleave(builder: Builder, places: Values) -> Value:
    """Return one vector: bytes 4b to 4b + 3 are byte b at each of four places."""
    a, b, c, d = (load_vector(builder, place, ir.VectorType(INT8, CHUNK)) for place in places)
    low, high = (shuffle(builder, *pair, range(2 * CHUNK)) for pair in ((a, b), (c, d)))
    order = [CHUNK * i + byte for byte in range(CHUNK) for i in range(INPUTS)]
    return shuffle(builder, low, high, order)


def by_input(unit: VectorUnit) -> Source:
    """Return weights in the layout ternary-2bit-columns/v1, (S, K, W)."""
    first, second = unpack_inputs(unit, 0), unpack_inputs(unit, 1)
    copy_bytes = BLOCK * CHUNK

    @register_jitable(**PART_POLICY)
    def unpack(weight: Bytes, panel: Codes, k: Int, n: Int, count: Int) -> None:
        byte = n // BLOCK * CHUNK
        if n // PANEL_ROWS % PANELS == 0:
            first(weight, panel, k, byte, count)
        else:
            second(weight, panel, k, byte, count)

    @register_jitable(**PART_POLICY)
    def fill(packed: Packed, panel: Codes, n: Int, block: Int, count: Int) -> None:
        outputs = packed.shape[2] * 4
        unpack(packed[n // outputs], panel, block * BLOCK, n % outputs, count * BLOCK)

    @register_jitable(**PART_POLICY)
    def fill_last(packed: Packed, panel: Codes, n: Int) -> None:
        outputs = packed.shape[2] * 4
        strip, byte = packed[n // outputs], n % outputs // BLOCK * CHUNK
        whole = strip.shape[0] // BLOCK * BLOCK
        copy: Codes = as_matrix(stack_int8(copy_bytes), CHUNK)
        for k in range(BLOCK):
            for i in range(CHUNK):
                inside = whole + k < strip.shape[0]
                copy[k, i] = np.int8(strip[whole + k, byte + i]) if inside else np.int8(0)
        unpack(copy, panel, 0, n % BLOCK, BLOCK)

    @register_jitable(**PART_POLICY)
    def last_size(_packed: Packed, _whole: Int) -> Int:
        return BLOCK

    return Source(BLOCK, fill, fill_last, last_size)
