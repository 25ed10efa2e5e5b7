"""Matrix products from tiles and panels: acc = x . weight, for a slice of the weights."""

# mypy: disable-error-code="untyped-decorator"

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime.kernels._dot import dot
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import stack_int8, stack_int32
from edgellm.runtime.kernels.simd._unit import BLOCK, VectorUnit
from edgellm.runtime.kernels.vector import _panels
from edgellm.runtime.kernels.vector._panels import TOKENS, Panels, int8_panels, ternary_panels
from edgellm.runtime.kernels.vector._tiles import ROWS, Operation, as_matrix, int8, ternary

Codes = npt.NDArray[np.int8]
Weights = npt.NDArray[np.generic]
Accumulators = npt.NDArray[np.int32]
Starts = npt.NDArray[np.int32]
Add = Callable[[Codes, Weights, Accumulators], None]
Multiply = Callable[[Codes, Weights, Accumulators, Starts], None]

SPAN = 1 << 20
"""Columns of a tile: a lane's sum of scaled ternary codes stays below 2^31. (Of the 64 columns of a
block a lane has four, of codes up to 3 * 4^3 and activations down to -128.)"""
LEAST_TILES = 4
"""From so many tiles of tokens on, panels are faster: to lay them out costs three or four tiles.
(AVX-512, 2560 x 6912: 8 tokens take 2.1 instead of 3.8 times one, 16 tokens 3.5 instead of 5.7.)"""
MAX_TOKENS = 512
"""Tokens that there is scratch memory for."""


def total(codes: Codes) -> np.int32:
    """Return the sum of int8 codes."""
    result = np.int32(0)
    for k in range(codes.shape[0]):
        result = np.int32(result + codes[k])
    return result


def begin(acc: Accumulators, starts: Starts) -> None:
    """Set the accumulators of each token."""
    for t in range(acc.shape[0]):
        for n in range(acc.shape[1]):
            acc[t, n] = starts[t]


def tiled(operation: Operation, tokens: int) -> Add:
    """Return ``add(x, weight, acc)``: add the product over the whole blocks of x."""
    many, one, rest = operation.tile(ROWS, tokens), operation.tile(ROWS, 1), operation.tile(1, 1)
    half = max(tokens // 2, 1)
    few = operation.tile(ROWS, half)
    span_bytes = SPAN // BLOCK * operation.block_bytes

    @register_jitable(**PART_POLICY)
    def add_span(x: Codes, weight: Weights, acc: Accumulators) -> None:
        grouped = x.shape[0] // tokens * tokens
        halved = grouped + (x.shape[0] - grouped) // half * half
        paneled = weight.shape[0] // ROWS * ROWS
        for n in range(0, paneled, ROWS):  # the rows stay in the cache for all tokens
            for t in range(0, grouped, tokens):
                many(x, weight, acc, t, n)
            for t in range(grouped, halved, half):
                few(x, weight, acc, t, n)
            for t in range(halved, x.shape[0]):
                one(x, weight, acc, t, n)
        for n in range(paneled, weight.shape[0]):
            for t in range(x.shape[0]):
                rest(x, weight, acc, t, n)

    @register_jitable(**PART_POLICY)
    def add(x: Codes, weight: Weights, acc: Accumulators) -> None:
        for i in range((x.shape[1] + SPAN - 1) // SPAN):
            part = x[:, i * SPAN : min((i + 1) * SPAN, x.shape[1])]
            add_span(part, weight[:, i * span_bytes :], acc)

    return add


def multiply_tiled(add: Add) -> Multiply:
    """Return ``multiply(x, weight, acc, starts)``: acc = starts + product, by tiles alone."""

    @register_jitable(**PART_POLICY)
    def multiply(x: Codes, weight: Weights, acc: Accumulators, starts: Starts) -> None:
        begin(acc, starts)
        add(x, weight, acc)

    return multiply


def multiply_panels(layout: Panels, add: Add) -> Multiply:
    """Return the same, which uses panels where there are rows and tokens enough."""
    least = LEAST_TILES * layout.unit.tokens
    fill, tile, rows, span = layout.fill(), layout.tile(), layout.rows, _panels.SPAN
    panel_bytes = rows * span

    @register_jitable(**PART_POLICY)
    def multiply(x: Codes, weight: Weights, acc: Accumulators, starts: Starts) -> None:
        grouped = x.shape[0] // TOKENS * TOKENS if x.shape[0] >= least else 0
        paneled = weight.shape[0] // rows * rows if grouped > 0 else 0
        whole = x.shape[1] // BLOCK * BLOCK
        panel = stack_int8(panel_bytes)
        for n in range(0, paneled, rows):
            begin(acc[:, n : n + rows], starts)  # here, where they are used next
            for k in range(0, whole, span):
                count = min(span, whole - k)
                fill(weight, panel, n, k, count)
                for t in range(0, grouped, TOKENS):
                    tile(x, panel, acc, t, n, k, count)
            add(x[grouped:], weight[n : n + rows], acc[grouped:, n : n + rows])
        begin(acc[:, paneled:], starts)
        add(x, weight[paneled:], acc[:, paneled:])

    return multiply


def ternary_product(unit: VectorUnit) -> Add:
    """Return ``product(x, packed, acc)`` for weights in the layout ternary-2bit/v1."""
    add = tiled(ternary(unit), unit.tokens)
    multiply = multiply_panels(ternary_panels(unit), add) if unit.panels else multiply_tiled(add)
    bias = np.int32(unit.ternary_bias)

    @register_jitable(**PART_POLICY)
    def product(x: Codes, packed: npt.NDArray[np.uint8], acc: Accumulators) -> None:
        columns = x.shape[1]
        whole = columns // BLOCK * BLOCK
        starts = stack_int32(MAX_TOKENS)
        last: Codes = as_matrix(stack_int8(BLOCK), BLOCK)
        for first in range(0, x.shape[0], MAX_TOKENS):
            end = min(first + MAX_TOKENS, x.shape[0])
            for t in range(first, end):
                starts[t - first] = -total(x[t]) * bias
            multiply(x[first:end], packed, acc[first:end], starts)
        if whole == columns:
            return
        for t in range(x.shape[0]):  # a row of weights ends in zeros, one of activations does not
            for k in range(BLOCK):
                last[0, k] = x[t, whole + k] if whole + k < columns else np.int8(0)
            add(last, packed[:, whole // 4 :], acc[t : t + 1])

    return product


def int8_product(unit: VectorUnit) -> Add:
    """Return ``product(x, weight, acc)`` for int8 weights."""
    add = tiled(int8(unit), unit.tokens)
    multiply = multiply_panels(int8_panels(unit), add) if unit.panels else multiply_tiled(add)
    bias = np.int32(unit.byte_bias)

    @register_jitable(**PART_POLICY)
    def product(x: Codes, weight: Codes, acc: Accumulators) -> None:
        columns = x.shape[1]
        whole = columns // BLOCK * BLOCK
        starts = stack_int32(MAX_TOKENS)
        for first in range(0, x.shape[0], MAX_TOKENS):
            end = min(first + MAX_TOKENS, x.shape[0])
            for t in range(first, end):
                starts[t - first] = -total(x[t, :whole]) * bias
            multiply(x[first:end], weight, acc[first:end], starts)
        if whole == columns:
            return
        for n in range(weight.shape[0]):
            for t in range(x.shape[0]):
                acc[t, n] += dot(x[t, whole:], weight[n, whole:])

    return product
