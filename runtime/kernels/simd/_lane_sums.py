"""Sums of the lanes of vectors of int32, as LLVM."""

from collections.abc import Sequence

from edgellm.runtime.kernels.simd._unit import (
    INT32,
    Builder,
    Value,
    Values,
    call,
    per_quarter,
    shuffle,
)


def sum_four(builder: Builder, vectors: Values) -> Value:
    """Return the sums of four vectors of int32, of any length from 4, as four int32."""
    total = sum_fours(builder, vectors)
    lanes = total.type.count
    while lanes > 4:
        lanes //= 2
        lower = shuffle(builder, total, total, range(lanes))
        upper = shuffle(builder, total, total, range(lanes, 2 * lanes))
        total = builder.add(lower, upper)
    return total


def sum_fours(builder: Builder, vectors: Values) -> Value:
    """Return the sums of four vectors of int32 in each 128 bits, one after the other."""
    a, b, c, d = vectors
    lanes = a.type.count
    starts = range(0, lanes, 4)
    low = [s + i for s in starts for i in (0, lanes, 1, lanes + 1)]
    high = [s + i for s in starts for i in (2, lanes + 2, 3, lanes + 3)]
    # For every 128 bits: a0+a2, b0+b2, a1+a3, b1+b3.
    ab = builder.add(shuffle(builder, a, b, low), shuffle(builder, a, b, high))
    cd = builder.add(shuffle(builder, c, d, low), shuffle(builder, c, d, high))
    low = [s + i for s in starts for i in (0, 1, lanes, lanes + 1)]
    high = [s + i for s in starts for i in (2, 3, lanes + 2, lanes + 3)]
    return builder.add(shuffle(builder, ab, cd, low), shuffle(builder, ab, cd, high))


def sum_one(builder: Builder, vector: Value) -> Value:
    """Return the sum of a vector of int32."""
    name = f"llvm.vector.reduce.add.v{vector.type.count}i32"
    return call(builder, name, INT32, [vector])


def shift_back(builder: Builder, vector: Value, shifts: Sequence[int]) -> Value:
    """Shift int32 right, each of as many equal parts of a vector as there are shifts."""
    return builder.ashr(vector, per_quarter(vector.type, shifts)) if any(shifts) else vector
