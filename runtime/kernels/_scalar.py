"""Integer arithmetic on single values, as kernels use it: rounding, dyadic scales, square root.

Plain Python on int64 scalars; ``_jit`` makes the same functions callable from compiled kernels.
What they mean is written down in ``ops/_integers.py`` and ``ops/_norms.py``; these are written
apart from them, so that the conformance tests compare two programs.
"""

import numpy as np
import numpy.typing as npt

Int = int | np.int64
Pair = tuple[Int, Int]

INT32_MAX = 2**31 - 1
UNIT_MANTISSA = 2**30
UNIT_EXPONENT = 30


def stack_int8(size: int) -> npt.NDArray[np.int8]:
    """Return scratch memory for ``size`` int8 (compiled: on the stack, so size is a constant)."""
    return np.empty(size, np.int8)


def stack_uint8(size: int) -> npt.NDArray[np.uint8]:
    """Return scratch memory for ``size`` uint8."""
    return np.empty(size, np.uint8)


def stack_int16(size: int) -> npt.NDArray[np.int16]:
    """Return scratch memory for ``size`` int16."""
    return np.empty(size, np.int16)


def stack_int32(size: int) -> npt.NDArray[np.int32]:
    """Return scratch memory for ``size`` int32."""
    return np.empty(size, np.int32)


def stack_int64(size: int) -> npt.NDArray[np.int64]:
    """Return scratch memory for ``size`` int64."""
    return np.empty(size, np.int64)


def flat(matrix: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the bytes of a matrix, row after row (compiled: of one that is whole)."""
    return matrix.reshape(-1)


def as_heads(codes: npt.NDArray[np.int8], dim: Int) -> npt.NDArray[np.int8]:
    """Return codes that follow one another as rows of one head, (rows, 1, dim)."""
    return codes.reshape(-1, 1, dim)


def share(total: Int, thread: Int, threads: Int) -> Pair:
    """Return (begin, end): the contiguous slice of ``total`` items that ``thread`` works on."""
    return total * thread // threads, total * (thread + 1) // threads


def clamp(value: Int, low: Int, high: Int) -> Int:
    """Return ``value``, at least ``low`` and at most ``high``."""
    return min(max(value, low), high)


def saturate(value: Int) -> np.int32:
    """Return ``value``, at most 2^31 - 1 in magnitude.

    In two steps: vector units have an instruction that saturates to all of int32.
    """
    return max(np.int32(clamp(value, -INT32_MAX - 1, INT32_MAX)), np.int32(-INT32_MAX))


def bit_length(value: Int) -> Int:
    """Return the number of bits of a non-negative value (compiled: one instruction)."""
    bits = 0
    while value > 0:
        value = value >> 1
        bits += 1
    return bits


def round_shift(value: Int, shift: Int) -> Int:
    """Return ``(value + 2^(shift-1)) >> shift``, and the value itself where shift is 0."""
    return (value + ((1 << shift) >> 1)) >> shift


def normalize(value: Int, exponent: Int) -> Pair:
    """Return the dyadic scale nearest to ``value * 2^-exponent``; its mantissa has 31 bits."""
    excess = bit_length(value) - 31
    if excess <= 0:
        return value << -excess, exponent - excess
    mantissa = round_shift(value, excess)
    carried = mantissa >> 31  # rounding up 2^31 - 1/2 gives one bit too many
    return mantissa >> carried, exponent - excess - carried


def product(mantissa_a: Int, exponent_a: Int, mantissa_b: Int, exponent_b: Int) -> Pair:
    """Return the product of two dyadic scales."""
    value = round_shift(mantissa_a * mantissa_b, 31)
    return normalize(value, exponent_a + exponent_b - 31)


def isqrt(value: Int) -> Int:
    """Return the floor square root of 0 <= value < 2^62, by Newton's iteration from above.

    It begins with the better of the steps from 2^m and 2^(m+1), between which the root is: they
    need no division, and are at most 6 % too large.
    """
    m = max(bit_length(value) - 1, 0) >> 1
    root = min(((1 << m) + (value >> m)) >> 1, ((2 << m) + (value >> (m + 1))) >> 1)
    root = max(root, 1)
    smaller = (root + value // root) >> 1
    while smaller < root:
        root = smaller
        smaller = (root + value // root) >> 1
    return root


def absmax_shift(peak: Int) -> Int:
    """Return the shift that goes with ``absmax_reciprocal``."""
    return bit_length(peak) + 17


def absmax_reciprocal(peak: Int, limit: int = 127) -> Int:
    """Return ``round(limit * 2^shift / peak)``, 0 for a zero peak: then every code is 0."""
    if peak == 0:
        return 0
    return ((limit << absmax_shift(peak)) + (peak >> 1)) // peak


def write_scale(scale: npt.NDArray[np.int32], row: Int, mantissa: Int, exponent: Int) -> None:
    """Store a dyadic scale in ``scale[row]``; zero becomes the scale 1."""
    zero = mantissa == 0
    scale[row, 0] = UNIT_MANTISSA if zero else mantissa
    scale[row, 1] = UNIT_EXPONENT if zero else exponent


def token_multiplier(mantissa: Int, multiplier: Int) -> Int:
    """Return the product of a token's and a channel's mantissa, 31 bits.

    As int32 on the way: the compiler makes products of 32 bits one instruction, of 64 several.
    """
    return np.int64(np.int32(round_shift(mantissa * multiplier, 31)))


def token_shift(exponent: Int, shift: Int) -> Int:
    """Return the shift that goes with ``token_multiplier``."""
    return clamp(exponent + shift - 31, 1, 62)


def add_epsilon(squares: Int, scale: Pair, shift: Int, epsilon: Pair) -> Pair:
    """Return (v, h) with ``v * 2^(2h)`` = squares + epsilon / unit^2 and 1 <= v < 2^62.

    Args:
        squares: sum of the squares of a row, in its unit ``scale * 2^shift``.
        scale: dyadic scale of the row before it was shifted.
        shift: how far the row was shifted right.
        epsilon: dyadic.
    """
    mantissa, exponent = scale
    square = (mantissa * mantissa) >> 31
    if square == 0:  # no scale that edgellm makes; a hostile file may hold one
        square = 1
    quotient = (epsilon[0] << 31) // square
    if quotient == 0:  # no eps: nothing to make room for
        return max(squares, 1), 0
    right = 62 + epsilon[1] - 2 * exponent + 2 * shift
    excess = max(bit_length(quotient) - right - 60, 0)
    excess += excess & 1
    right += excess
    term = (quotient >> clamp(right, 0, 62)) << max(-right, 0)
    radicand = (squares >> min(excess, 62)) + term
    return max(radicand, 1), excess >> 1


def norm_scale(peak: Int, squares: Int, scale: Pair, shift: Int, epsilon: Pair, gain: Pair) -> Pair:
    """Return ``peak * gain / sqrt(squares + epsilon / unit^2)`` as a dyadic scale.

    Args:
        peak: below 2^38.
        squares: see ``add_epsilon``, as are scale, shift and epsilon.
        scale: dyadic.
        shift: int64.
        epsilon: dyadic.
        gain: dyadic.
    """
    radicand, half_exponent = add_epsilon(squares, scale, shift, epsilon)
    even = (62 - bit_length(radicand)) & -2
    root = isqrt(radicand << even)
    mantissa, exponent = normalize(peak, 0)
    mantissa, exponent = product(mantissa, exponent, gain[0], gain[1])
    quotient = (mantissa << 31) // root
    return normalize(quotient, exponent + 31 + half_exponent - (even >> 1))
