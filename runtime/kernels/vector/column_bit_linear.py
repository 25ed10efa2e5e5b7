"""ColumnBitLinear on a vector unit: of the weights of a token, only those of its live inputs."""

# mypy: disable-error-code="untyped-decorator"

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime import cpu
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int, share, stack_int8, stack_int16, stack_int32
from edgellm.runtime.kernels.simd._bytes import FIELDS
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector._blocked_products import LEAST_TOKENS, blocked_multiply
from edgellm.runtime.kernels.vector._column_panels import by_input
from edgellm.runtime.kernels.vector._columns import (
    BLOCK_BYTES,
    INPUTS,
    LINE_BYTES,
    LINE_OUTPUTS,
    ColumnTile,
    live_mask,
    place_of,
    trailing_zeros,
)
from edgellm.runtime.kernels.vector._sums import SumsWriter
from edgellm.runtime.kernels.vector._tiles import AHEAD_BYTES
from edgellm.runtime.kernels.vector._word_columns import word_sums

Codes = npt.NDArray[np.int8]
Indices = npt.NDArray[np.int16]
Packed = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int32]
Place = tuple[Int, Int, Int]
Multiply = Callable[[Codes, Packed, Sums, Int, Int], None]

SPAN = 8192
"""Inputs whose live ones are listed at once. A sum of scaled codes stays below 2^31."""
STRIDE = SPAN + 512
"""Activations from one token to the next: there is room behind the live ones."""
TOKENS = 4
"""Tokens of a tile that is for many; it reads the inputs that are live for any of them."""
WORD_TOKENS = 2
"""The same where sums have 16 bits: fewer inputs are live for any of them."""
FEW = 6
"""With AVX2 two tokens together take 1.28 times as long as apart where they share one input in 12,
1.08 times where they share one in three, but then apart reads a third more."""
SUM_LINES = 20
"""Lines, times tokens, whose sums are kept at once: 20 KiB of a level-1 cache."""
LIVE_AHEAD_BYTES = {"znver4": 6144}.get(cpu.host().name, AHEAD_BYTES * 3 // 4)
"""How far ahead the weights of live inputs are prefetched. (Zen 5: 6 KiB take 0.84 of the time of
1.5 KiB, 12 KiB 0.89. Zen 4: 4 to 8 KiB take 0.86 to 0.9 of the time of 2.25 KiB.)"""
MAX_AHEAD = LIVE_AHEAD_BYTES // LINE_BYTES


def build(unit: VectorUnit) -> Callable[..., None]:
    """Return the kernel."""
    product = tiled_product(unit)
    if unit.matrix_tiles:
        product = matrix_product(unit, product)

    def column_bit_linear(
        thread: int,
        threads: int,
        x: npt.NDArray[np.int8],  # (T, K)
        packed: npt.NDArray[np.uint8],  # (S, K, W)
        acc: npt.NDArray[np.int32],  # (T, 4 * S * W)
    ) -> None:
        lines = packed.shape[0] * ((packed.shape[2] + LINE_BYTES - 1) // LINE_BYTES)
        begin, end = share(lines, thread, threads)
        product(x, packed, acc, begin, end)

    return column_bit_linear


def tiled_product(unit: VectorUnit) -> Multiply:
    """Return ``product(x, packed, acc, begin, end)``: see ``multiply_tokens``, for all tokens."""
    tokens, may_part = (TOKENS, False) if unit.adds_fours else (WORD_TOKENS, True)
    one, many = multiply_tokens(unit, 1), multiply_tokens(unit, tokens)

    @register_jitable(**PART_POLICY)
    def product(x: Codes, packed: Packed, acc: Sums, begin: Int, end: Int) -> None:
        t = 0
        while t < x.shape[0]:
            if t + 1 == x.shape[0] or (may_part and share_few(x[t], x[t + 1])):
                one(x[t : t + 1], packed, acc[t : t + 1], begin, end)
                t += 1
            else:
                many(x[t : t + tokens], packed, acc[t : t + tokens], begin, end)
                t += tokens

    return product


@register_jitable(**PART_POLICY)
def share_few(first: Codes, second: Codes) -> bool:
    """Tell whether tokens have less than one in FEW of their live inputs in common.

    One after the other is faster then, and reads hardly more weights.
    """
    both = either = np.int32(0)
    for k in range(first.shape[0]):
        both = np.int32(both + ((first[k] != 0) & (second[k] != 0)))
        either = np.int32(either + ((first[k] | second[k]) != 0))
    return FEW * both < either


def matrix_product(unit: VectorUnit, few: Multiply) -> Multiply:
    """Return the same, which multiplies all inputs with matrix tiles where tokens are many."""
    multiply = blocked_multiply(by_input(unit), SumsWriter())

    @register_jitable(**PART_POLICY)
    def product(x: Codes, packed: Packed, acc: Sums, begin: Int, end: Int) -> None:
        if x.shape[0] < LEAST_TOKENS:
            few(x, packed, acc, begin, end)
        else:
            outputs = (first_output(packed, begin), first_output(packed, end))
            multiply(x, packed, acc, acc, outputs)

    return product


def first_output(packed: Packed, line: Int) -> Int:
    """Return the first output of a line, counted strip by strip."""
    width = packed.shape[2]
    lines = (width + LINE_BYTES - 1) // LINE_BYTES
    return (line // lines * width + line % lines * LINE_BYTES) * FIELDS


def multiply_tokens(unit: VectorUnit, tokens: int) -> Multiply:
    """Return ``multiply(x, packed, acc, begin, end)`` for at most so many tokens.

    It makes the outputs of the lines from ``begin`` to ``end``, counted strip by strip.
    """
    list_live, value_count, slice_lines = lister(tokens), tokens * STRIDE, SUM_LINES // tokens
    sums_of = lane_sums if unit.adds_fours else word_sums
    add = sums_of(unit, tokens, STRIDE, slice_lines)

    @register_jitable(**PART_POLICY)
    def multiply(x: Codes, packed: Packed, acc: Sums, begin: Int, end: Int) -> None:
        strips, inputs, width = packed.shape
        lines = (width + LINE_BYTES - 1) // LINE_BYTES
        live, values = stack_int16(STRIDE), stack_int8(value_count)
        for first in range(0, inputs, SPAN):
            count = list_live(x, first, live, values)
            for strip in range(strips):
                last = min(end - strip * lines, lines)
                for line in range(max(begin - strip * lines, 0), last, slice_lines):
                    offset = line * LINE_BYTES
                    size = min(min(line + slice_lines, last) * LINE_BYTES, width) - offset
                    weight = packed[strip, first:, offset:]
                    ahead = LIVE_AHEAD_BYTES // size // INPUTS * INPUTS + INPUTS
                    out = acc[:, (strip * width + offset) * FIELDS :]
                    add(weight, live, values, count, (size, ahead, first), out)

    return multiply


def lane_sums(unit: VectorUnit, tokens: int, span: int, most_lines: int) -> Callable[..., None]:
    """Return ``add(weight, live, values, count, (size, ahead, first), acc)``.

    It writes the sums of the first ``size`` bytes of the listed inputs to the outputs; if these are
    not the first inputs, it adds them. Of a line and token the dot products have LINE_OUTPUTS sums.
    """
    tile = ColumnTile(unit, tokens, span)
    add_lines, add_part, write_outputs = (
        tile.whole_lines(),
        tile.part_of_line(),
        writer(unit, tokens),
    )
    sum_count = (most_lines + 1) * tokens * LINE_OUTPUTS

    @register_jitable(**PART_POLICY)
    def add(
        weight: Packed, live: Indices, values: Codes, count: Int, place: Place, acc: Sums
    ) -> None:
        size, ahead, first = place
        lines, rest = size // LINE_BYTES, size % LINE_BYTES
        sums = stack_int32(sum_count)
        for i in range((lines + 1) * tokens * LINE_OUTPUTS):
            sums[i] = 0
        behind = sums[lines * tokens * LINE_OUTPUTS :]
        tail = weight[:, lines * LINE_BYTES :]
        for at in range(0, count, INPUTS):
            add_lines(weight, live, values, sums, at, ahead, lines)
            if rest > 0:
                add_part(tail, live, values, behind, at, rest)
        write_outputs(sums, values, count, size, first, acc)

    return add


def lister(tokens: int) -> Callable[..., Int]:
    """Return ``list_live(x, first, live, values)``.

    It lists the inputs from ``first`` that are not zero for some token, and their activations. If
    there are fewer tokens, the last one counts for those that are missing.

    Returns:
        Their number, rounded up to whole steps. What fills the last one is an input times 0, and
        what would follow is an input that is in the cache by then.
    """
    live_of = live_mask(tokens)

    @register_jitable(**PART_POLICY)
    def add_input(x: Codes, first: Int, k: Int, live: Indices, values: Codes, count: Int) -> None:
        live[count] = k
        for t in range(tokens):
            values[t * STRIDE + count] = x[min(t, x.shape[0] - 1), first + k]

    @register_jitable(**PART_POLICY)
    def list_live(x: Codes, first: Int, live: Indices, values: Codes) -> Int:
        inputs = min(SPAN, x.shape[1] - first)
        whole = inputs // 64 * 64
        count = 0
        for block in range(0, whole, 64):
            mask = live_of(x, first + block)
            while mask != 0:
                add_input(x, first, block + trailing_zeros(mask), live, values, count)
                mask &= mask - 1
                count += 1
        for k in range(whole, inputs):
            add_input(x, first, k, live, values, count)  # a zero does no harm
            count += 1
        last = live[count - 1] if count > 0 else np.int16(0)
        rounded = (count + INPUTS - 1) // INPUTS * INPUTS
        for i in range(count, count + INPUTS + MAX_AHEAD):
            live[i] = last
        for i in range(count, rounded):
            for t in range(tokens):
                values[t * STRIDE + i] = 0
        return rounded

    return list_live


def writer(unit: VectorUnit, tokens: int) -> Callable[..., None]:
    """Return ``write(sums, values, count, size, first, acc)``.

    It writes the sums of ``size`` bytes of inputs in the order of the outputs; from the second span
    of inputs on it adds them.
    """
    lanes, shifts = unit.lanes, unit.column_shifts
    find_place = register_jitable(**PART_POLICY)(place_of)

    @register_jitable(**PART_POLICY)
    def write(sums: Sums, values: Codes, count: Int, size: Int, first: Int, acc: Sums) -> None:
        for t in range(acc.shape[0]):
            total = np.int32(0)  # codes are weights + 1
            for i in range(count):
                total += values[t * STRIDE + i]
            for block in range(size // BLOCK_BYTES):
                line = sums[(block // 4 * tokens + t) * LINE_OUTPUTS :]
                out = acc[t, 64 * block :]
                for field in range(FIELDS):
                    for byte in range(16):
                        place = find_place(lanes, block % 4, field, byte)
                        value = np.int32((line[place] >> shifts[field]) - total)
                        before = out[16 * field + byte] if first > 0 else np.int32(0)
                        out[16 * field + byte] = np.int32(before + value)

    return write
