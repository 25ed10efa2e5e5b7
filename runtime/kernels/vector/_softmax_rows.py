"""The softmax of EncoderAttention on vectors of 16 int32, as LLVM: see ``_lanes``.

From a log2 distance on, a weight has 16 bits, and then two bytes. So that no lane has to be moved
on the way from four vectors to one, dots come in an order of their own: in each 64 of them,
dot ``16 * v + j`` is of the key ``4 * j + SLOTS[v]``.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from dataclasses import dataclass

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from edgellm.ops.encoder_attention import CUBIC, MEAN_BITS
from edgellm.runtime.kernels._scalar import INT32_MAX
from edgellm.runtime.kernels.simd._unit import (
    BLOCK,
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
    shuffle,
    splat,
)
from edgellm.runtime.kernels.vector._lanes import (
    INTS,
    LANES,
    WIDES,
    each_vector,
    fill,
    halves,
    join,
    largest,
    load,
    multiply,
    multiply_unsigned,
    pairwise,
)
from edgellm.runtime.kernels.vector._tiles import open_arrays

SLOTS = (0, 2, 1, 3)
WORDS, BYTES = ir.VectorType(INT16, 2 * LANES), ir.VectorType(INT8, BLOCK)
SIGN_BITS = 128


@dataclass(frozen=True)
class Weights:
    """Emits weights of 64 dots from their distances to the best.

    Attributes:
        unit: whose instructions.
        best: the largest dot, in each lane.
        far: distances from here on have no weight.
        mantissa: of a step in halvings.
        half: what rounds the product.
        shift: of the product, one less: then the upper half of an int32 is whole halvings.
    """

    unit: VectorUnit
    best: Value
    far: Value
    mantissa: Value
    half: Value
    shift: Value

    def emit(self, builder: Builder, dots: Values) -> tuple[Value, Value]:
        """Return the high and the low bytes, unsigned, in the order of the keys."""
        halvings = [self._halvings(builder, vector) for vector in dots]
        first, second = (self._weigh(builder, pair) for pair in (halvings[:2], halvings[2:]))
        eight, low = splat(WORDS, 8), splat(WORDS, 255)
        lows = builder.or_(builder.and_(first, low), builder.shl(second, eight))
        upper = builder.and_(second, splat(WORDS, 255 << 8))
        highs = builder.or_(builder.lshr(first, eight), upper)
        return builder.bitcast(highs, BYTES), builder.bitcast(lows, BYTES)

    def _halvings(self, builder: Builder, dots: Value) -> Value:
        """Return whole halvings in the upper half of each int32, their fraction in the lower."""
        distance = pairwise(builder, "umin", builder.sub(self.best, dots), self.far)
        parts = []
        for part in halves(builder, distance):
            wide = builder.add(multiply_unsigned(builder, part, self.mantissa), self.half)
            parts.append(builder.lshr(wide, self.shift))
        return join(builder, *parts)

    def _weigh(self, builder: Builder, halvings: Values) -> Value:
        """Return the weights of two vectors: of the first the even words, of the second the odd."""
        half, lower = splat(INTS, 16), splat(INTS, (1 << 16) - 1)
        upper = splat(INTS, (1 << 32) - (1 << 16))
        a, b = halvings
        fractions = builder.or_(builder.and_(a, lower), builder.shl(b, half))
        whole = builder.or_(builder.lshr(a, half), builder.and_(b, upper))
        # Twice the 15 bits of a fraction, so that a product's upper word is the product >> 15.
        f = builder.and_(builder.bitcast(fractions, WORDS), splat(WORDS, (1 << 16) - 2))
        result = splat(WORDS, CUBIC[3])
        for coefficient in reversed(CUBIC[:3]):
            result = builder.sub(splat(WORDS, coefficient), upper_word(builder, result, f))
        doubled = builder.add(result, result)
        whole = builder.bitcast(whole, WORDS)
        shifted = self.unit.shift_words_right(builder, doubled, whole)
        return builder.lshr(builder.add(shifted, splat(WORDS, 1)), splat(WORDS, 1))


def upper_word(builder: Builder, a: Value, b: Value) -> Value:
    """Return the upper halves of the products of unsigned words: one instruction."""
    wide = ir.VectorType(INT32, a.type.count)
    product = builder.mul(builder.zext(a, wide), builder.zext(b, wide))
    return builder.trunc(builder.lshr(product, splat(wide, 16)), a.type)


def weigh_row_with(unit: VectorUnit) -> Intrinsic:
    """Return ``weigh_row(dots, count, high, low, mantissa, shift, far)``: weights from dots.

    Writes those of ``count`` keys, ``256 * high + low + 128``; returns their sum. What is behind
    them in the last 64 bytes is 0 in all; dots there are not larger than all others.
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        dots = open_arrays(context, builder, signature, args[:1])[0]
        high, low = (
            context.make_array(kind)(context, builder, value).data
            for kind, value in zip(signature.args[2:4], args[2:4], strict=True)
        )
        count, (mantissa, shift, far) = args[1], args[4:]
        less = builder.sub(shift, INT64(1))
        whole = builder.and_(count, INT64(-BLOCK))
        best = _best(builder, dots.data, count)
        weights = Weights(
            unit,
            fill(builder, best, INTS),
            fill(builder, builder.trunc(far, INT32), INTS),
            *(fill(builder, v, WIDES) for v in (mantissa, builder.shl(INT64(1), less), less)),
        )
        sums = [cgutils.alloca_once_value(builder, ir.Constant(INTS, None)) for _ in range(2)]

        def emit(index: Value, left: Value | None) -> None:
            vectors = [
                load(builder, dots.data, builder.add(index, INT64(v * LANES)), None)
                for v in range(len(SLOTS))
            ]
            ones = splat(BYTES, 1)
            for part, place, data in zip(
                weights.emit(builder, vectors), sums, (high, low), strict=True
            ):
                kept = part if left is None else _first_bytes(builder, part, left)
                total = unit.dot_codes(builder, builder.load(place), [kept], [ones])
                builder.store(total, place)
                if data is low:
                    kept = builder.xor(kept, splat(BYTES, SIGN_BITS))
                at = builder.gep(data, [index], source_etype=INT8)
                builder.store(kept, builder.bitcast(at, BYTES.as_pointer()), align=1)

        with cgutils.for_range_slice(builder, INT64(0), whole, INT64(BLOCK), INT64) as (index, _):
            emit(index, None)
        rest = builder.sub(count, whole)
        with builder.if_then(builder.icmp_signed(">", rest, INT64(0))):
            emit(whole, rest)
        upper, lower = (_sum(builder, place) for place in sums)
        return builder.add(builder.shl(upper, INT64(8)), lower)

    @intrinsic
    def weigh_row(
        _: Context, dots: Type, count: Type, high: Type, low: Type, m: Type, s: Type, far: Type
    ) -> Intrinsic:
        wide = types.int64
        return wide(dots, wide, high, low, wide, wide, wide), generate

    return weigh_row


def _best(builder: Builder, dots: Value, count: Value) -> Value:
    """Return the largest of the dots of ``count`` keys, or of the last 64 all."""
    place = cgutils.alloca_once_value(builder, splat(INTS, -(2**31)))
    padded = builder.and_(builder.add(count, INT64(BLOCK - 1)), INT64(-BLOCK))
    with cgutils.for_range_slice(builder, INT64(0), padded, INT64(LANES), INT64) as (index, _):
        vector = load(builder, dots, index, None)
        builder.store(pairwise(builder, "smax", builder.load(place), vector), place)
    return largest(builder, "smax", builder.load(place))


def _first_bytes(builder: Builder, vector: Value, count: Value) -> Value:
    """Return a vector of bytes with zeros from ``count`` on."""
    numbers = ir.Constant(BYTES, list(range(BLOCK)))
    mask = builder.icmp_unsigned("<", numbers, fill(builder, builder.trunc(count, INT8), BYTES))
    return builder.select(mask, vector, ir.Constant(BYTES, None))


def _sum(builder: Builder, place: Value) -> Value:
    name = f"llvm.vector.reduce.add.v{LANES}i32"
    kind = ir.FunctionType(INT32, [INTS])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.zext(builder.call(function, [builder.load(place)]), INT64)


@dataclass(frozen=True)
class Means:
    """Emits ``total / divisor * scale + mean`` of sixteen columns.

    Attributes:
        drop: bits that totals have more than 24 bits of weights, in int32.
        negative: the reciprocal of the divisor, negative: -2^31 is an int32, 2^31 is not.
        shift: of the product with it.
    """

    drop: Value
    negative: Value
    shift: Value

    def emit(self, builder: Builder, totals: Value, scales: Value) -> list[Value]:
        """Return the products with the scales, of even and of odd columns, as int64."""
        half = builder.lshr(builder.shl(splat(INTS, 1), self.drop), splat(INTS, 1))
        short = builder.ashr(builder.add(totals, half), self.drop)
        one = splat(WIDES, 1)
        half = builder.shl(one, builder.sub(self.shift, one))
        results = []
        for part, scale in zip(halves(builder, short), halves(builder, scales), strict=True):
            wide = builder.sub(half, multiply(builder, part, self.negative))
            codes = builder.ashr(wide, self.shift)
            scaled = builder.add(
                multiply(builder, codes, scale), splat(WIDES, 1 << (MEAN_BITS + 5))
            )
            results.append(builder.ashr(scaled, splat(WIDES, MEAN_BITS + 6)))
        return results


@intrinsic
def mean_row(
    _: Context,
    high: Type,
    low: Type,
    value_sums: Type,
    facts: Type,
    scales: Type,
    mean: Type,
    y: Type,
) -> Intrinsic:
    """``mean_row(high, low, value_sums, (drop, reciprocal, shift), scales, mean, y)``.

    Writes a row of y, as ``write_mean`` does, of the totals ``256 * high + low + value_sums``.
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        kinds = [kind for i, kind in enumerate(signature.args) if i != 3]
        values = [value for i, value in enumerate(args) if i != 3]
        arrays = [
            context.make_array(kind)(context, builder, value)
            for kind, value in zip(kinds, values, strict=True)
        ]
        high, low, value_sums, scales, mean, y = (array.data for array in arrays)
        drop, reciprocal, shift = cgutils.unpack_tuple(builder, args[3], 3)
        means = Means(
            fill(builder, builder.trunc(drop, INT32), INTS),
            fill(builder, builder.neg(reciprocal), WIDES),
            fill(builder, shift, WIDES),
        )

        def emit(index: Value, mask: Value | None) -> None:
            upper, lower, sums, factors, added = (
                load(builder, data, index, mask) for data in (high, low, value_sums, scales, mean)
            )
            shifted = builder.shl(upper, splat(INTS, 8))
            totals = builder.add(builder.add(shifted, lower), sums)
            even, odd = means.emit(builder, totals, factors)
            for part, lanes in enumerate(_in_order(builder, even, odd)):
                half = [*range(part * LANES // 2, (part + 1) * LANES // 2)]
                terms = builder.sext(shuffle(builder, added, added, half), WIDES)
                wide = builder.add(lanes, terms)
                wide = pairwise(builder, "smax", wide, splat(WIDES, -INT32_MAX))
                wide = pairwise(builder, "smin", wide, splat(WIDES, INT32_MAX))
                own = None if mask is None else shuffle(builder, mask, mask, half)
                _store_wide(builder, wide, (y, builder.add(index, INT64(half[0]))), own)

        each_vector(builder, cgutils.unpack_tuple(builder, arrays[-1].shape)[0], emit)
        return context.get_dummy_value()

    kinds = (high, low, value_sums, facts, scales, mean, y)
    return types.void(*kinds), generate


def _in_order(builder: Builder, even: Value, odd: Value) -> list[Value]:
    """Return two vectors of int64 of the columns in their order."""
    order = [lane for pair in range(LANES // 2) for lane in (pair, LANES // 2 + pair)]
    return [
        shuffle(builder, even, odd, order[: LANES // 2]),
        shuffle(builder, even, odd, order[LANES // 2 :]),
    ]


def _store_wide(
    builder: Builder, vector: Value, place: tuple[Value, Value], mask: Value | None
) -> None:
    data, index = place
    at = builder.bitcast(builder.gep(data, [index], source_etype=INT64), WIDES.as_pointer())
    if mask is None:
        builder.store(vector, at, align=8)
        return
    kind = ir.FunctionType(ir.VoidType(), [WIDES, at.type, INT32, mask.type])
    name = f"llvm.masked.store.v{LANES // 2}i64.p0"
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    builder.call(function, [vector, at, INT32(8), mask])
