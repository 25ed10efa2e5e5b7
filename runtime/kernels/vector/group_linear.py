"""GroupLinear on a vector unit."""

# mypy: disable-error-code="untyped-decorator"

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime.kernels._bit_planes import (
    BLOCK_TOTALS,
    ROWS,
    add_group,
    first_row,
    last_row,
    sum_of,
    write_rounded,
)
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int, share, stack_int8, stack_int32, stack_int64
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector._code_products import group_products
from edgellm.runtime.kernels.vector._code_sums import MAX_GROUPS, CodeSums, code_sums
from edgellm.runtime.kernels.vector._look_up_tables import OCTET, TOGETHER_BYTES
from edgellm.runtime.kernels.vector._look_ups import least_sum
from edgellm.runtime.kernels.vector._small_code_panels import small_code_panels
from edgellm.runtime.kernels.vector._small_code_products import small_code_products
from edgellm.runtime.kernels.vector._views import expect_at

Planes = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.int8]
Sums = npt.NDArray[np.int32]
Grid = tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]
Range = tuple[Int, Int]


def build(unit: VectorUnit) -> Callable[..., None]:
    """Return the kernel."""
    sums = code_sums(unit)
    products, few_products = group_products(unit), token_products(sums)
    if not unit.adds_fours:
        small = small_code_panels if unit.multiplies_words else small_code_products
        products = small(unit, products)

    def group_linear(
        thread: int,
        threads: int,
        x: npt.NDArray[np.int8],  # (T, K)
        planes: npt.NDArray[np.uint8],  # (B, C, P, 64)
        scale: npt.NDArray[np.int16],  # (G, N)
        zero: npt.NDArray[np.uint8],  # (G, N)
        acc: npt.NDArray[np.int32],  # (T, N)
        group_size: int,
        shift: int,
    ) -> None:
        rows, numbers = share(scale.shape[1], thread, threads), (group_size, shift)
        if not products(x, planes, (scale, zero), acc, rows, numbers):
            few_products(x, planes, (scale, zero), acc, rows, numbers)

    return group_linear


def token_products(sums: CodeSums) -> Callable[..., None]:
    """Return ``products(x, planes, grid, acc, (begin, end), (group_size, shift))``.

    For the rows from begin to end: what GroupLinear means; grid are scales and zeros. Blocks of
    weights are read once for as many tokens as TOGETHER_BYTES are enough for.
    """
    prepare, whole_blocks, add_groups = sums.prepare, sums.whole_blocks, group_sums(sums)
    room, column_bytes, by_turns = sums.room, sums.column_bytes, sums.blocks
    together = min(room, TOGETHER_BYTES)

    @register_jitable(**PART_POLICY)
    def products(
        x: Codes, planes: Planes, grid: Grid, acc: Sums, rows: Range, numbers: Range
    ) -> None:
        (begin, end), (size, shift), groups = rows, numbers, grid[0].shape[0]
        totals, prepared = stack_int64(BLOCK_TOTALS), stack_int8(room)
        whole, least = stack_int32(MAX_GROUPS), stack_int32(MAX_GROUPS)
        last_block = (end + ROWS - 1) // ROWS
        token_bytes = (x.shape[1] + OCTET - 1) // OCTET * OCTET * column_bytes
        tokens = max(min(together // token_bytes, MAX_GROUPS // groups), 1)
        for t in range(0, x.shape[0], tokens):
            some = x[t : t + tokens]
            for i in range(some.shape[0]):
                prepare(some[i], size, prepared[i * token_bytes :])
                for group in range(groups):
                    own = some[i][group * size : (group + 1) * size]
                    whole[i * groups + group] = sum_of(own)
                    least[i * groups + group] = least_sum(own)
            for block in range(begin // ROWS, last_block, by_turns):
                stop = min(block + by_turns, last_block)
                full = min(stop, grid[0].shape[1] // ROWS)  # the last block may have fewer rows
                first, last = first_row(block, begin), last_row(stop - 1, end)
                for i in range(some.shape[0]):
                    of_token = prepared[i * token_bytes :]
                    by_group = (whole[i * groups :], least[i * groups :])
                    place = (size // OCTET, block * ROWS)
                    done = whole_blocks(planes[block:full], of_token, by_group, grid, place, totals)
                    for one in range(block + done, stop):
                        span = (first_row(one, begin), last_row(one, end), size)
                        out = totals[(one - block) * ROWS :]
                        add_groups(planes[one], of_token, by_group, grid, span, out)
                    write_rounded(totals[first % ROWS :], shift, acc[t + i][first:last])

    return products


def group_sums(sums: CodeSums) -> Callable[..., None]:
    """Return ``add_groups(planes, prepared, (whole, least), (scale, zero), place, totals)``.

    It writes the totals of some rows of a block, from the place of the first on: place is the
    first, where they end, and the columns of a group. planes are (octets, P, 64); whole are the
    sums of the activations by group, least those of the negative ones.
    """
    multiply, column_bytes = sums.multiply, sums.column_bytes

    @register_jitable(**PART_POLICY)
    def add_groups(
        planes: Planes,
        prepared: npt.NDArray[np.int8],
        by_group: tuple[Sums, Sums],
        grid: tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]],
        place: tuple[Int, Int, Int],
        totals: npt.NDArray[np.int64],
    ) -> None:
        (whole, least), (scale, zero), (first, last, group_size) = by_group, grid, place
        codes = stack_int32(ROWS)
        totals[:ROWS] = 0
        for group in range(scale.shape[0]):
            start, stop = group * group_size, (group + 1) * group_size
            octets = planes[start // OCTET : stop // OCTET]
            # Of the next block; in a group scales of 32 rows fill a cache line, zeros of 64.
            expect_at(scale, group, first + ROWS)
            expect_at(scale, group, first + ROWS + ROWS // 2)
            expect_at(zero, group, first + ROWS)
            multiply(octets, prepared[start * column_bytes :], least[group], codes)
            add_group(
                codes[first % ROWS :],
                (scale[group][first:last], zero[group][first:last], whole[group]),
                totals[first % ROWS :],
            )

    return add_groups
