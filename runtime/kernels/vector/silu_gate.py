"""SiluGate on a vector unit: see ``_lanes``."""

# mypy: disable-error-code="no-untyped-call,untyped-decorator,call-arg"
# Numba's internals have no types; an intrinsic is declared with the typing context as its first
# argument, and called without.

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba.core import cgutils, types
from numba.extending import intrinsic

from edgellm.ops._sigmoid import LOG2_E, LOGIT_BITS, SIGMOID_BITS
from edgellm.runtime.kernels._scalar import share
from edgellm.runtime.kernels._sigmoid import ENTRY_BITS, LAST, ONE, UPPERS
from edgellm.runtime.kernels.simd._unit import (
    INT64,
    Builder,
    Context,
    Intrinsic,
    Type,
    Value,
    Values,
    VectorUnit,
    splat,
)
from edgellm.runtime.kernels.vector._lanes import (
    INTS,
    WIDES,
    each_vector,
    fill,
    halves,
    join,
    load,
    magnitude,
    multiply,
    multiply_unsigned,
    pairwise,
    store_wide,
)
from edgellm.runtime.kernels.vector._tiles import open_arrays


def gate_row_with(unit: VectorUnit) -> Intrinsic:
    """Return ``gate_row(gate, up, table, y, shift)``: a row, as the portable kernel has it.

    The table is that of ``_sigmoid``, shift as ``_sigmoid.sigmoid`` takes it.
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        gates, ups, table, out = open_arrays(context, builder, signature, args[:4])
        half = builder.shl(INT64(1), builder.sub(args[4], INT64(1)))
        dropped = builder.add(args[4], INT64(LOGIT_BITS - ENTRY_BITS))
        facts = [fill(builder, value, WIDES) for value in (half, dropped)]

        def emit(index: Value, mask: Value | None) -> None:
            gate, up = (load(builder, row.data, index, mask) for row in (gates, ups))
            upper = unit.look_up_ints(builder, table.data, _place(builder, gate, facts))
            lower = builder.sub(splat(INTS, ONE), upper)
            positive = builder.icmp_signed(">=", gate, splat(INTS, 0))
            sigmoid = builder.select(positive, upper, lower)
            products = []
            for own in zip(*(halves(builder, part) for part in (gate, sigmoid, up)), strict=True):
                gated = builder.add(multiply(builder, *own[:2]), splat(WIDES, ONE // 2))
                # Of what is left 32 bits are used, so it does not matter what comes in above.
                activated = builder.lshr(gated, splat(WIDES, SIGMOID_BITS))
                products.append(multiply(builder, activated, own[2]))
            store_wide(builder, products, out.data, index, mask)

        each_vector(builder, cgutils.unpack_tuple(builder, gates.shape)[0], emit)
        return context.get_dummy_value()

    @intrinsic
    def gate_row(_: Context, gate: Type, up: Type, table: Type, y: Type, shift: Type) -> Intrinsic:
        return types.void(gate, up, table, y, types.int64), generate

    return gate_row


def _place(builder: Builder, gate: Value, facts: Values) -> Value:
    """Return which entry of the table each gate has; facts are what is added and dropped."""
    half, dropped = facts
    places = []
    for part in halves(builder, magnitude(builder, gate)):
        scaled = multiply_unsigned(builder, part, splat(WIDES, LOG2_E))
        place = builder.lshr(builder.add(scaled, half), dropped)
        places.append(pairwise(builder, "smin", place, splat(WIDES, LAST)))
    return join(builder, *places)


def build(unit: VectorUnit) -> Callable[..., None]:
    """Return the kernel."""
    gate_row = gate_row_with(unit)

    def silu_gate(
        thread: int,
        threads: int,
        gate: npt.NDArray[np.int32],  # (T, N)
        up: npt.NDArray[np.int32],  # (T, N)
        y: npt.NDArray[np.int64],  # (T, N)
        frame: int,
    ) -> None:
        begin, end = share(gate.shape[1], thread, threads)
        shift = 30 + frame - LOGIT_BITS
        for t in range(gate.shape[0]):
            gate_row(gate[t][begin:end], up[t][begin:end], UPPERS, y[t][begin:end], shift)

    return silu_gate
