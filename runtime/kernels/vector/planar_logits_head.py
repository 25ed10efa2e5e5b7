"""PlanarLogitsHead on a vector unit: reads of the weights what the wanted logits need.

In the first stage one product with the high nibbles of all rows, and what the likely best of them
reach, which every thread notes of its own; in the second, with bounds that follow from the nibbles
and the best of those notes, bit by bit the rest of the rows that can still be among the best. Where
all are wanted, whole rows, in the first stage.
"""

# mypy: disable-error-code="untyped-decorator"

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._pruning import (
    MAX_TOP,
    NO_LIMIT,
    SOME,
    Ids,
    Multipliers,
    Norms,
    Sums,
    Token,
    add_bit,
    fill_up,
    find_likely,
    find_limit,
    finish,
    list_open,
    measure,
    narrow,
)
from edgellm.runtime.kernels._scalar import Int, share, stack_int8, stack_int32, stack_int64
from edgellm.runtime.kernels.planar_logits_head import MAX_COLUMNS, MAX_PRUNED_ROWS
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector._logits import MultiplyRows, of_rows, scale_sums
from edgellm.runtime.kernels.vector._planes import LISTED, PLANES, WHOLE_ROWS, bits, nibbles, unpack
from edgellm.runtime.kernels.vector._products import Codes, int8_product, of_whole_blocks, total
from edgellm.runtime.kernels.vector._tiles import as_matrix
from edgellm.runtime.kernels.vector._whole_rows import CODES, way_of, whole_tile

CHUNK = 1024
"""Rows that are narrowed down together: their sums stay in the level-1 cache."""
AHEAD = 16
"""How far ahead the rows of a list are prefetched."""
SLAB_BYTES = 1 << 17
"""Weights that are unpacked at once for many tokens; they stay in the level-2 cache."""
SLAB_ROWS = 32
"""A multiple of the rows of any panel."""
DONE = 2 * NO_LIMIT
"""The note of a thread that has nothing to prune."""

High = npt.NDArray[np.uint8]
Low = npt.NDArray[np.uint8]
Multiply = Callable[[Codes, npt.NDArray[np.uint8], Ids, Sums], None]
Prune = Callable[[Codes, Low, Norms, Int, Sums, Multipliers, Token, Int], None]


def multiply_bit(unit: VectorUnit) -> Multiply:
    """Return ``multiply(x, plane, ids, sums)``: products of x with rows of a plane.

    The rows are as many as a multiple of LISTED.
    """
    tile = bits(unit)

    @register_jitable(**PART_POLICY)
    def multiply(x: Codes, plane: npt.NDArray[np.uint8], ids: Ids, sums: Sums) -> None:
        last = ids.shape[0] - LISTED
        for i in range(0, last + 1, LISTED):
            tile(x, plane, ids, i, min(i + AHEAD, last), sums)

    return multiply


@register_jitable(**PART_POLICY)
def wants_all(top: Int, count: int) -> bool:
    """Tell whether all of so many logits are computed for the ``top`` best."""
    return top == 0 or top > MAX_TOP or top >= count


def find_limit_of(multiply: Multiply) -> Callable[..., Int]:
    """Return ``limit(x, low, acc, multiplier, token, top)``: what the ``top`` best reach."""

    @register_jitable(**PART_POLICY)
    def limit(
        x: Codes, low: Low, acc: Sums, multiplier: Multipliers, token: Token, top: Int
    ) -> Int:
        if wants_all(top, acc.shape[0]):
            return np.int64(NO_LIMIT)
        ids = stack_int32(MAX_TOP)
        sums = stack_int32(MAX_TOP)
        whole = stack_int32(MAX_TOP)
        find_likely(acc, multiplier, token, stack_int64(MAX_TOP), ids[:top])
        for i in range(top):
            whole[i] = acc[ids[i]]
        filled = fill_up(ids, top, LISTED)
        for q in range(PLANES):
            multiply(x, low[q], ids[:filled], sums)
            for i in range(top):
                whole[i] = 2 * whole[i] + sums[i]
        return find_limit(whole, multiplier, token, ids[:top])

    return limit


def prune_by(multiply: Multiply) -> Prune:
    """Return ``prune(x, low, norms, begin, acc, multiplier, token, limit)``: make logits of sums.

    ``acc`` holds the products of x with the high nibbles of the rows from ``begin`` on, of which
    ``low`` and the multipliers are; norms are those of all, so that numbers are neighbours.
    """

    @register_jitable(**PART_POLICY)
    def prune(
        x: Codes,
        low: Low,
        norms: Norms,
        begin: Int,
        acc: Sums,
        multiplier: Multipliers,
        token: Token,
        limit: Int,
    ) -> None:
        ids = stack_int32(CHUNK)
        sums = stack_int32(CHUNK)
        bounds = stack_int64(SOME)
        for first in range(0, acc.shape[0], CHUNK):
            end = min(first + CHUNK, acc.shape[0])
            part, factors = acc[first:end], multiplier[first:end]
            its = norms[0][begin + first : begin + end]
            count: Int = list_open(part, its, factors, token, limit, bounds, ids)
            for q in range(PLANES):
                if q > 0:
                    known = norms[q][begin + first : begin + end]
                    count = narrow(part, known, factors, token, ids[:count], PLANES - q, limit)
                filled = fill_up(ids, count, LISTED)
                multiply(x, low[q, first:end], ids[:filled], sums)
                add_bit(part, ids[:count], sums)
            finish(part, factors, token, ids[:count])

    return prune


def multiply_whole(multiply: MultiplyRows) -> Callable[..., None]:
    """Return ``product(x, high, low, acc, rows)``: with whole weights, unpacked slab by slab."""

    @register_jitable(**PART_POLICY)
    def product(x: Codes, high: High, low: Low, acc: Sums, rows: npt.NDArray[np.int64]) -> None:
        slab: Codes = as_matrix(stack_int8(SLAB_BYTES), x.shape[1])
        step = slab.shape[0]
        if step > SLAB_ROWS:
            step = step // SLAB_ROWS * SLAB_ROWS
        for n in range(0, high.shape[0], step):
            end = min(n + step, high.shape[0])
            for v in range(n, end):
                unpack(high, low, v, slab, v - n)
            multiply(x, slab[: end - n], acc[:, n:end], rows)

    return product


def product_of_one(unit: VectorUnit) -> Callable[..., bool]:
    """Return ``product(x, high, low, acc)``: all products of a token, if there are enough rows."""
    tile, arrange = whole_tile(unit), way_of(unit).arrange_for(unit)
    least: int = way_of(unit).columns_at_once(unit)
    room = CODES * (MAX_COLUMNS + least)  # the last columns overlap those before

    @register_jitable(**PART_POLICY)
    def product(x: Codes, high: High, low: Low, acc: Sums) -> bool:
        count = high.shape[0]
        if count < WHOLE_ROWS or x.shape[0] < least:
            return False
        arranged = stack_int8(room)
        arrange(x, arranged)
        start = np.int32(-128 * total(x))
        for v in range(0, count, WHOLE_ROWS):
            tile(arranged, high, low, min(v, count - WHOLE_ROWS), start, acc)
        return True

    return product


def search_of(unit: VectorUnit) -> Callable[..., None]:
    """Return ``search(x, scale, high, low, factors, rows, logits, begin, shift, top, notes)``.

    That is stage 0. Weights and factors are those of a thread, and its logits the columns from
    ``begin`` on. It makes these the products with high nibbles, and notes what the best of each row
    reach; or, with whole weights, it makes them what they will be, and notes DONE.
    """
    add_nibbles = of_rows(of_whole_blocks(nibbles(unit), unit.tokens))
    find = find_limit_of(multiply_bit(unit))
    whole = multiply_whole(of_rows(int8_product(unit)))
    product = product_of_one(unit)

    @register_jitable(**PART_POLICY)
    def search(
        x: Codes,
        scale: npt.NDArray[np.int32],
        high: High,
        low: Low,
        factors: Multipliers,
        rows: npt.NDArray[np.int64],
        logits: npt.NDArray[np.int32],
        begin: Int,
        shift: Int,
        top: Int,
        notes: npt.NDArray[np.int64],
    ) -> None:
        end = begin + high.shape[0]
        out = logits[:, begin:end]
        is_whole = rows.shape[0] > (MAX_PRUNED_ROWS if top > 0 else 1)
        if is_whole:
            whole(x, high, low, out, rows)
        elif rows.shape[0] == 1 and wants_all(top, out.shape[1]):
            is_whole = product(x[rows[0]], high, low, out[0])
        if is_whole:
            scale_sums(out, scale, factors, rows, shift)
            notes[0] = DONE
            return
        for r in range(rows.shape[0]):
            out[r, :] = 0
        add_nibbles(x, high, out, rows)
        for r in range(rows.shape[0]):
            token = measure(x[rows[r]], scale[rows[r]], shift)
            # Of a row, not of out: so the compiler knows that they are neighbours.
            notes[r] = find(x[rows[r]], low, logits[r][begin:end], factors, token, top)

    return search


def build(unit: VectorUnit) -> Callable[..., None]:
    """Return the kernel."""
    search, prune = search_of(unit), prune_by(multiply_bit(unit))

    def planar_logits_head(
        thread: int,
        threads: int,
        x: npt.NDArray[np.int8],  # (T, K)
        scale: npt.NDArray[np.int32],  # (T, 2)
        high: npt.NDArray[np.uint8],  # (V, K / 2)
        low: npt.NDArray[np.uint8],  # (4, V, K / 8)
        norms: npt.NDArray[np.int16],  # (4, V)
        multiplier: npt.NDArray[np.int32],  # (V,)
        rows: npt.NDArray[np.int64],  # (R,)
        logits: npt.NDArray[np.int32],  # (R, V)
        shift: int,
        top: int,
        stage: int,
        notes: npt.NDArray[np.int64],  # (threads, MAX_PRUNED_ROWS)
    ) -> None:
        begin, end = share(high.shape[0], thread, threads)
        factors, rest = multiplier[begin:end], low[:, begin:end]
        if stage == 0:
            own_high, own_notes = high[begin:end], notes[thread]
            search(x, scale, own_high, rest, factors, rows, logits, begin, shift, top, own_notes)
        elif notes[thread, 0] != DONE:
            for r in range(rows.shape[0]):
                t = rows[r]
                token = measure(x[t], scale[t], shift)
                limit = np.int64(NO_LIMIT)
                for other in range(threads):
                    limit = max(limit, notes[other, r])
                prune(x[t], rest, norms, begin, logits[r][begin:end], factors, token, limit)

    return planar_logits_head
