"""Products of many tokens with AMX, as LLVM: panels as in ``_panels``, tiles of 16 x 16 sums.

A tile register has 16 rows of 64 bytes: 64 columns of 16 tokens; or, of a panel, four columns of
16 rows of weights, 16 times; or the sums of 16 tokens and 16 rows. Registers 0 to 3 are sums, 4 and
5 tokens, 6 and 7 weights: for 64 columns, four loads and four products.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, register_jitable

from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels.simd._unit import (
    BLOCK,
    INT8,
    INT64,
    Builder,
    Context,
    Intrinsic,
    Type,
    Value,
    Values,
    move,
)
from edgellm.runtime.kernels.vector._panels import ROW_GROUPS
from edgellm.runtime.kernels.vector._tiles import bytes_of, open_arrays, row_stride

ROWS = 16
"""Of a tile register."""
ROW_BYTES = 64
TOKENS = 2 * ROWS
PANEL_STRIDE = ROW_GROUPS * ROW_BYTES
"""Bytes of a panel from four columns to the next four."""
CONFIGURATION = 64
"""Bytes: the palette, 1; from 16 on the bytes of a row, 2 each; from 48 on the rows."""
COLUMN_BYTES, ROW_COUNTS = 16, 48
SIGNED, UNSIGNED_WEIGHTS = "tdpbssd", "tdpbsud"

Codes = npt.NDArray[np.int8]
Sums = npt.NDArray[np.int32]


@intrinsic
def configure(_: Context, memory: Type) -> Intrinsic:
    """``configure(memory)``: let the tile registers have the shapes that are described there."""

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        (array,) = open_arrays(context, builder, signature, args)
        call_tile(builder, "ldtilecfg", [bytes_of(builder, array)])
        return context.get_dummy_value()

    return types.void(memory), generate


@intrinsic
def release(_: Context) -> Intrinsic:
    """``release()``: the tile registers are empty again, and need not be saved."""

    def generate(context: Context, builder: Builder, _signature: Type, _args: Values) -> Value:
        call_tile(builder, "tilerelease", [])
        return context.get_dummy_value()

    return types.void(), generate


def describe_for(shapes: Codes, tokens: int) -> None:
    """Write the shapes of whole tiles, and behind them those of the last of so many tokens."""
    last = tokens % TOKENS
    describe(shapes[:CONFIGURATION], ROWS, ROWS)
    describe(shapes[CONFIGURATION:], min(last, ROWS), max(last - ROWS, 1))


def describe(memory: Codes, first: int, second: int) -> None:
    """Write the shapes for so many tokens in the first and the second register of tokens."""
    for i in range(CONFIGURATION):
        memory[i] = 0
    memory[0] = 1
    for register in range(8):
        memory[COLUMN_BYTES + 2 * register] = ROW_BYTES
        memory[ROW_COUNTS + register] = ROWS
    memory[ROW_COUNTS] = memory[ROW_COUNTS + 1] = memory[ROW_COUNTS + 4] = first
    memory[ROW_COUNTS + 2] = memory[ROW_COUNTS + 3] = memory[ROW_COUNTS + 5] = second


@dataclass(frozen=True)
class Tile:
    """So many registers of tokens times a panel.

    Attributes:
        groups: so many registers of tokens.
        product: the instruction: of signed bytes, or of signed tokens and unsigned weights.
        fresh: whether sums begin with zero instead of what is there.
    """

    groups: int
    product: str
    fresh: bool = False

    def build(self) -> Intrinsic:
        """Return the intrinsic ``tile(x, panel, acc, t, n, k, count)``.

        For the tokens from t and the rows of the panel, which are those from n: add to
        ``acc[t, n]``, or write there, the product over columns k to k + count, a multiple of 64.
        """

        def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
            x, panel, acc = open_arrays(context, builder, signature, args[:3])
            t, n, k, count = args[3:]
            sums = self._places(builder, acc, t, builder.mul(n, INT64(4)))
            tokens = self._places(builder, x, t, k)
            stride = row_stride(builder, acc)
            if self.fresh:
                for register in range(self.groups * ROW_GROUPS):
                    call_tile(builder, "tilezero", [INT8(register)])
            else:
                move_sums(builder, "tileloadd64", sums, stride)
            with cgutils.for_range(builder, builder.udiv(count, INT64(BLOCK))) as loop:
                column = builder.mul(loop.index, INT64(BLOCK))
                offset = builder.mul(loop.index, INT64(BLOCK // 4 * PANEL_STRIDE))
                weights = move(builder, bytes_of(builder, panel), offset)
                at = [move(builder, place, column) for place in tokens]
                self._multiply(builder, at, row_stride(builder, x), weights)
            move_sums(builder, "tilestored64", sums, stride)
            return context.get_dummy_value()

        @intrinsic
        def tile(
            _: Context, x: Type, panel: Type, acc: Type, t: Type, n: Type, k: Type, count: Type
        ) -> Intrinsic:
            return types.void(x, panel, acc, t, n, k, count), generate

        return tile

    def _places(self, builder: Builder, matrix: Value, t: Value, offset: Value) -> list[Value]:
        """Return where the rows of each register of tokens begin."""
        stride, data = row_stride(builder, matrix), bytes_of(builder, matrix)
        rows = [builder.add(t, INT64(group * ROWS)) for group in range(self.groups)]
        return [move(builder, data, builder.add(builder.mul(row, stride), offset)) for row in rows]

    def _multiply(self, builder: Builder, tokens: Values, stride: Value, weights: Value) -> None:
        for column in range(ROW_GROUPS):
            at = move(builder, weights, INT64(column * ROW_BYTES))
            call_tile(builder, "tileloadd64", [INT8(6 + column), at, INT64(PANEL_STRIDE)])
        for group, place in enumerate(tokens):
            call_tile(builder, "tileloadd64", [INT8(4 + group), place, stride])
            for column in range(ROW_GROUPS):
                total = group * ROW_GROUPS + column
                call_tile(builder, self.product, [INT8(total), INT8(4 + group), INT8(6 + column)])


@cache
def sweep(product: str, *, fresh: bool = False) -> Callable[..., None]:
    """Return ``run(x, panel, acc, shapes, (n, k, count))``: a panel times all tokens; see ``Tile``.

    ``shapes`` are two, as ``describe`` writes them: of whole tiles, and of the tokens left over.
    """
    two, one = Tile(2, product, fresh).build(), Tile(1, product, fresh).build()

    @register_jitable(**PART_POLICY)
    def run(x: Codes, panel: Codes, acc: Sums, shapes: Codes, place: tuple[int, int, int]) -> None:
        n, k, count = place
        whole = x.shape[0] // TOKENS * TOKENS
        rest = x.shape[0] - whole
        if whole > 0:
            configure(shapes[:CONFIGURATION])
            for t in range(0, whole, TOKENS):
                two(x, panel, acc, t, n, k, count)
        if rest > 0:
            configure(shapes[CONFIGURATION:])
            if rest > ROWS:
                two(x, panel, acc, whole, n, k, count)
            else:
                one(x, panel, acc, whole, n, k, count)

    return run


@cache
def sweep_again(product: str) -> Callable[..., None]:
    """Return ``run(x, panel, acc, n, count)``: write a panel times all tokens, at least 16.

    Tiles are whole, and configured so: the last begins where it ends with the last token, and
    computes again what tokens it shares with another.
    """
    two, one = Tile(2, product, fresh=True).build(), Tile(1, product, fresh=True).build()

    @register_jitable(**PART_POLICY)
    def run(x: Codes, panel: Codes, acc: Sums, n: int, count: int) -> None:
        tokens = x.shape[0]
        whole = tokens // TOKENS * TOKENS
        for t in range(0, whole, TOKENS):
            two(x, panel, acc, t, n, 0, count)
        if tokens - whole > ROWS:
            one(x, panel, acc, whole, n, 0, count)
        if tokens > whole:
            one(x, panel, acc, tokens - ROWS, n, 0, count)

    return run


def call_tile(builder: Builder, name: str, arguments: Values) -> None:
    """Call an intrinsic of x86, such as ``tileloadd64``."""
    kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}")
    builder.call(function, arguments)


def move_sums(builder: Builder, name: str, places: Values, stride: Value) -> None:
    """Load or store the sums of each group of tokens, ROW_GROUPS registers, where its place is."""
    for group, place in enumerate(places):
        for column in range(ROW_GROUPS):
            at = move(builder, place, INT64(column * ROW_BYTES))
            call_tile(builder, name, [INT8(group * ROW_GROUPS + column), at, stride])
