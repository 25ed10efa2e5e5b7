"""The shared integer arithmetic as ONNX nodes: each function is its namesake in ``_integers``.

What holds there about ranges holds here; the comments say only what differs.
"""

from edgellm.ops._body import Operand, Value
from edgellm.ops._integers import MANTISSA_BITS, UNIT_SCALE

Dyadic = tuple[Value, Value]


def power_of_two(exponent: Value) -> Value:
    """Return 2^exponent, 0 <= exponent <= 62: a table, which is one node."""
    return exponent.body.constant([2**bit for bit in range(63)]).take(exponent)


def bit_length(x: Value) -> Value:
    """Return the bits of each non-negative int64 (..., 1): how many powers of two it reaches."""
    powers = x.body.constant([2**bit for bit in range(63)])
    return (x >= powers).to("int64").row_sum()


def round_shift(x: Value, shift: Operand) -> Value:
    """Return ``(x + half) >> shift`` of any sign."""
    return (x + _half(shift)) >> shift


def round_shift_positive(x: Value, shift: Operand) -> Value:
    """Return ``(x + half) >> shift`` of x >= 0, in fewer nodes."""
    return (x + _half(shift)).shift_right(shift)


def _half(shift: Operand) -> Operand:
    return (1 << shift) >> 1 if isinstance(shift, int) else power_of_two(shift) // 2


def normalize(value: Value, exponent: Operand) -> Dyadic:
    """Return the dyadic scale nearest to ``value * 2^-exponent``; value (..., 1)."""
    body, bits = value.body, bit_length(value)
    # What to divide by and what to multiply with, by the number of bits; one of them is 1.
    right = body.constant([2 ** max(bits - MANTISSA_BITS, 0) for bits in range(64)]).take(bits)
    left = body.constant([2 ** max(MANTISSA_BITS - bits, 0) for bits in range(64)]).take(bits)
    mantissa = (value + right // 2) // right * left
    carried = mantissa >= 2**31  # it is 2^31 then
    return (
        body.where(carried, 2**30, mantissa),
        MANTISSA_BITS - bits - carried.to("int64") + exponent,
    )


def product(a: Dyadic, b: Dyadic) -> Dyadic:
    """Multiply two dyadic scales, the first (..., 1)."""
    return normalize((a[0] * b[0] + 2**30) // 2**31, a[1] + b[1] - 31)


def isqrt(v: Value) -> Value:
    """Return the exact floor square root of each 1 <= v < 2^62, (..., 1).

    Once an iterate is the root, no two iterates in a row are above it: the last two are enough.
    """
    last = root = power_of_two((bit_length(v) + 1) // 2)
    for _ in range(7):
        last, root = root, (root + v // root) // 2
    return root.at_most(last)


def absmax_codes(t: Value, peak: Value, limit: int = 127) -> Value:
    """Return ``round(limit * t / peak)``; a zero row comes out as zeros without a test for it."""
    shift = bit_length(peak) + 17
    safe = peak.at_least(1)
    reciprocal = (power_of_two(shift) * limit + safe // 2) // safe
    return round_shift(t * reciprocal, shift)


def quantize_heads(heads: Value, limit: int = 127) -> tuple[Value, Value]:
    """Return int64 codes (..., D), at most ``limit``, and max|x| (..., 1) of each head."""
    absmax = heads.abs().row_max()
    return absmax_codes(heads, absmax, limit), absmax


def requantize(acc: Value, scale: Value, multiplier: Value, shift: Value) -> Value:
    """Return ``acc * scale * multiplier * 2^-shift``; acc and multiplier int64."""
    mantissa, exponent = split_scale(scale)
    combined = round_shift_positive(mantissa * multiplier, 31)
    total = (exponent + (shift - 31)).clip(1, 62)
    return round_shift(acc * combined, total)


def split_scale(scale: Value) -> Dyadic:
    """Split (R, 2) int32 into mantissa and exponent, each (R, 1) int64."""
    wide = scale.to("int64")
    return wide.take(wide.body.constant([0]), axis=1), wide.take(wide.body.constant([1]), axis=1)


def join_scale(mantissa: Value, exponent: Value) -> Value:
    """Join (T, 1) mantissa and exponent to (T, 2) int32; a zero mantissa becomes the scale 1."""
    body, zero = mantissa.body, mantissa.equals(0)
    pair = [body.where(zero, UNIT_SCALE[0], mantissa), body.where(zero, UNIT_SCALE[1], exponent)]
    return body.concat(pair, axis=1).to("int32")


def saturate(x: Value, limit: int) -> Value:
    """Clamp to [-limit, limit]."""
    return x.clip(-limit, limit)


def exact_matmul(a: Value, b: Value) -> Value:
    """Return the int32 product of stacks of int8 matrices.

    Both go in as uint8 with the zero point 128: with an int8 operand, onnxruntime on a CPU with
    AVX2 but without VNNI uses vpmaddubsw, which saturates pairs of products at 16 bits.
    """
    zero_point = a.body.constant(128, "uint8")
    operands = [_offset_128(a), _offset_128(b), zero_point, zero_point]
    return a.body.node("MatMulInteger", operands, "int32")


def _offset_128(codes: Value) -> Value:
    """Return int8 + 128 as uint8: the same bits with the first flipped."""
    return codes.to("uint8") ^ 128
