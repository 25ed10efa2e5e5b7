"""The softmax of attention as LLVM: from the scores of one query to weights in two signed bytes.

The arithmetic is that of ``weigh`` and ``fold`` of the portable kernel. Only distances below 16
halvings leave a weight, so a distance is cut to 11 bits as soon as it is known: 5 of whole halvings
and the 6 that choose the entry of the table.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from edgellm.ops._attention import EXP2_TABLE, LOGIT_BITS
from edgellm.runtime.kernels._scalar import Int, Pair, clamp
from edgellm.runtime.kernels.simd._lane_sums import sum_one
from edgellm.runtime.kernels.simd._unit import (
    INT8,
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
    call,
    load_vector,
    move,
    splat,
    splat_value,
)
from edgellm.runtime.kernels.vector._tiles import bytes_of, open_arrays

ENTRY_BITS = 6
DROPPED_BITS = LOGIT_BITS - ENTRY_BITS
MOST_HALVINGS = (32 << ENTRY_BITS) - 1
"""In units of an entry: the weight is 0 long before, and a lane shifts by 31 at most."""
DOUBLED = [2 * int(entry) for entry in EXP2_TABLE]
"""``(2 e >> n) + 1 >> 1`` is e shifted right by n and rounded, for every n."""
EIGHTHS = (36737, 33688, 30892, 28328, 25977, 23821, 21844, 20031)
SIXTY_FOURTHS = (116280, 115027, 113789, 112564, 111351, 110152, 108965, 107791)
PRODUCT_BITS, PRODUCT_ROUNDING = 17, 38912
"""Entry 8a + b is ``EIGHTHS[a] * SIXTY_FOURTHS[b] + PRODUCT_ROUNDING >> PRODUCT_BITS``, in 32 bits:
found by trying all first factors below 2^16, where both follow 2^-a/8 and 2^-b/64."""
FOLD_BITS = 15

Ints = npt.NDArray[np.int32]
Totals = npt.NDArray[np.int64]


def write_facts(best: Int, step: Pair, facts: Totals) -> None:
    """Write what ``weigh_tile`` needs: the best score, mantissa, and both shifts of ``weigh``."""
    drop = max(step[1] - 56, 0)
    facts[0], facts[1] = best, step[0]
    facts[2], facts[3] = min(drop, 62), clamp(step[1] - drop - LOGIT_BITS, 1, 62)


def round_scales(absmax: Ints, drop: Int, out: Ints) -> None:
    """Write ``absmax * 2^-drop``, rounded, at most 2^15."""
    half = np.uint32((1 << drop) >> 1)
    for j in range(absmax.shape[0]):
        out[j] = np.uint32(np.uint32(absmax[j]) + half) >> np.uint32(drop)


def weigh_tile(unit: VectorUnit) -> Intrinsic:
    """Return the intrinsic ``weigh(dots, keys, folds, parts, sums, facts, sizes)``: some weights.

    ``dots`` are the dot products of a query with ``count`` rows; ``keys`` the absmax of their keys,
    and ``folds`` those of their values, rounded as ``round_scales`` does. Weights go to ``parts``
    up to the next multiple of the lanes, zeros behind ``count``: as words from ``parts[2 * j]``
    or, for units with ``panels``, one byte to ``parts[j]`` and one to ``parts[width + j]``. To
    ``sums`` it adds the weights, and the weights with the scales of the values. Facts are best,
    mantissa, far and shift: the best score, and a score's distance to it in halvings is
    ``((distance >> far) * mantissa + 2^(shift - 1)) >> shift``, of which LOGIT_BITS are a fraction.
    Sizes are count and width. Of all arrays, whole vectors are read.
    """
    lanes = unit.lanes

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        dots, keys, folds, parts, sums, facts = open_arrays(context, builder, signature, args[:6])
        count, width = cgutils.unpack_tuple(builder, args[6])
        known = [builder.load(builder.gep(facts.data, [INT64(i)])) for i in range(4)]
        distance_of = _halvings(builder, unit, known)
        totals = [cgutils.alloca_once(builder, unit.totals_type) for _ in range(2)]
        for total in totals:
            builder.store(ir.Constant(unit.totals_type, None), total)
        lane = ir.Constant(unit.totals_type, list(range(lanes)))
        short_count = builder.trunc(count, INT32)
        with cgutils.for_range_slice(builder, INT64(0), count, INT64(lanes), INT64) as (j, _):
            at = builder.mul(j, INT64(4))
            dot, key, fold = (
                load_vector(builder, move(builder, bytes_of(builder, array), at), unit.totals_type)
                for array in (dots, keys, folds)
            )
            left = splat_value(builder, builder.sub(short_count, builder.trunc(j, INT32)), lanes)
            weight = _weight(builder, unit, distance_of(dot, key))
            inside = builder.icmp_signed("<", lane, left)
            weight = builder.select(inside, weight, ir.Constant(unit.totals_type, None))
            folded = _round_shift(builder, builder.mul(weight, fold), FOLD_BITS)
            for total, term in zip(totals, (weight, folded), strict=True):
                builder.store(builder.add(builder.load(total), term), total)
            _store(builder, unit, bytes_of(builder, parts), (j, width), folded)
        for i, total in enumerate(totals):
            place = builder.gep(sums.data, [INT64(i)])
            term = builder.sext(sum_one(builder, builder.load(total)), INT64)
            builder.store(builder.add(builder.load(place), term), place)
        return context.get_dummy_value()

    @intrinsic
    def weigh(
        _: Context,
        dots: Type,
        keys: Type,
        folds: Type,
        parts: Type,
        sums: Type,
        facts: Type,
        sizes: Type,
    ) -> Intrinsic:
        return types.void(dots, keys, folds, parts, sums, facts, sizes), generate

    return weigh


def _halvings(builder: Builder, unit: VectorUnit, facts: Values) -> Callable[[Value, Value], Value]:
    """Return ``halvings(dot, key)``: distances of scores to the best one, in units of an entry."""
    wide = ir.VectorType(INT64, unit.lanes // 2)
    best, mantissa, far, shift = facts
    half = builder.shl(INT64(1), builder.sub(shift, INT64(1)))
    dropped = builder.add(shift, INT64(DROPPED_BITS))
    dropped = builder.select(builder.icmp_signed("<", dropped, INT64(63)), dropped, INT64(63))
    best, far, half, dropped = (
        splat_value(builder, fact, wide.count) for fact in (best, far, half, dropped)
    )
    # In both halves of 64 bits: of a splat of 64 LLVM forgets in the loop that the upper one is 0.
    short = splat_value(builder, builder.trunc(mantissa, INT32), unit.lanes)
    mantissa = builder.bitcast(short, wide)

    def halvings(dot: Value, key: Value) -> Value:
        found = []
        for a, b in zip(unit.widen(builder, dot), unit.widen(builder, key), strict=True):
            distance = builder.lshr(builder.sub(best, builder.mul(a, b)), far)
            near = _least(builder, distance, splat(wide, 2**31 - 1))
            steps = builder.add(unit.multiply_words(builder, near, mantissa), half)
            found.append(_least(builder, builder.lshr(steps, dropped), splat(wide, MOST_HALVINGS)))
        return unit.narrow(builder, found)

    return halvings


def _weight(builder: Builder, unit: VectorUnit, halvings: Value) -> Value:
    """Return ``2^15 * 2^-halvings`` of each lane, rounded."""
    kind = halvings.type
    whole = builder.lshr(halvings, splat(kind, ENTRY_BITS))
    if unit.looks_up_eights:
        half = builder.lshr(builder.shl(splat(kind, 1), whole), splat(kind, 1))
        return builder.lshr(builder.add(_product_entry(builder, unit, halvings), half), whole)
    entry = builder.and_(halvings, splat(kind, 2**ENTRY_BITS - 1))
    doubled = unit.look_up_64(builder, DOUBLED, entry)
    return _round_shift(builder, builder.lshr(doubled, whole), 1)


def _product_entry(builder: Builder, unit: VectorUnit, halvings: Value) -> Value:
    """Return the entry that the lower bits choose, as a product of two."""
    kind = halvings.type
    eighth = unit.look_up_8(builder, EIGHTHS, builder.lshr(halvings, splat(kind, 3)))
    product = builder.mul(eighth, unit.look_up_8(builder, SIXTY_FOURTHS, halvings))
    rounded = builder.add(product, splat(kind, PRODUCT_ROUNDING))
    return builder.lshr(rounded, splat(kind, PRODUCT_BITS))


def _round_shift(builder: Builder, vector: Value, bits: int) -> Value:
    half = splat(vector.type, 1 << (bits - 1))
    return builder.lshr(builder.add(vector, half), splat(vector.type, bits))


def _least(builder: Builder, vector: Value, most: Value) -> Value:
    """Return the lesser, of numbers that are not negative: AVX2 compares 64 bits signed."""
    name = f"llvm.smin.v{vector.type.count}i{vector.type.element.width}"
    return call(builder, name, vector.type, [vector, most])


def _store(
    builder: Builder, unit: VectorUnit, parts: Value, place: tuple[Value, Value], folded: Value
) -> None:
    """Store weights as the unit multiplies them; a place is their first, and of how many."""
    j, width = place
    if unit.adds_fours:
        _store_parts(builder, move(builder, parts, j), width, folded)
    else:
        _store_words(builder, move(builder, parts, builder.mul(j, INT64(2))), folded)


def _store_parts(builder: Builder, place: Value, width: Value, folded: Value) -> None:
    """Store weights as ``256 * high + low``, signed bytes: high ones at ``place``, low behind."""
    kind = ir.VectorType(INT8, folded.type.count)
    upper = builder.lshr(builder.add(folded, splat(folded.type, 128)), splat(folded.type, 8))
    for part, at in ((upper, place), (folded, move(builder, place, width))):
        pointer = builder.bitcast(at, kind.as_pointer())
        builder.store(builder.trunc(part, kind), pointer, align=1)


def _store_words(builder: Builder, place: Value, folded: Value) -> None:
    kind = ir.VectorType(INT16, folded.type.count)
    pointer = builder.bitcast(place, kind.as_pointer())
    builder.store(builder.trunc(folded, kind), pointer, align=1)
