"""The innermost loop of products with AMX of activations that are laid out as tiles, as LLVM.

Tiles are those of ``_amx``; here all of them are whole.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from dataclasses import dataclass

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

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
    load_vector,
    move,
)
from edgellm.runtime.kernels.vector._amx import (
    PANEL_STRIDE,
    ROW_BYTES,
    ROWS,
    call_tile,
    move_sums,
)
from edgellm.runtime.kernels.vector._panels import ROW_GROUPS
from edgellm.runtime.kernels.vector._tiles import (
    bytes_of,
    matrix_rows,
    open_arrays,
    row_stride,
)

TILE_BYTES = ROWS * ROW_BYTES
LOAD, LOAD_ONCE = "tileloadd64", "tileloaddt164"


@intrinsic
def copy_block(_: Context, x: Type, t: Type, k: Type, tiles: Type, place: Type) -> Intrinsic:
    """``copy_block(x, t, k, tiles, place)``: ``tiles[place : place + 64] = x[t, k : k + 64]``."""

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        x, t, k, tiles, place = args
        x, tiles = (
            context.make_array(kind)(context, builder, array)
            for kind, array in ((signature.args[0], x), (signature.args[3], tiles))
        )
        source = move(builder, matrix_rows(builder, x, t, 1)[0], k)
        target = move(builder, bytes_of(builder, tiles), place)
        line = load_vector(builder, source, ir.VectorType(INT8, BLOCK))
        builder.store(line, builder.bitcast(target, line.type.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(x, t, k, tiles, place), generate


@dataclass(frozen=True)
class Tile:
    """So many registers of tokens times a panel.

    Activations lie in tiles as they are loaded: those of 16 tokens and 64 columns in a row, then
    the next 64 columns. What comes from the level-2 cache (sums and as a rule activations) is read
    with a hint not to keep it in the level-1 cache, where the panel is.

    Attributes:
        groups: so many registers of tokens.
        near: whether the activations are few and stay in the level-1 cache as well.
    """

    groups: int
    near: bool = False

    def build(self) -> Intrinsic:
        """Return the intrinsic ``tile(tiles, panel, sums, place, fresh)``.

        For the rows of the panel: add their products to ``sums[t : t + 16 * groups]``, or write
        them there if ``fresh`` is not 0. ``place`` is a tuple of int64: t, where in ``tiles`` the
        first ones begin, where those of the next 16 tokens do after that, and how many they are.
        """

        def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
            tiles, panel, sums = open_arrays(context, builder, signature, args[:3])
            t, begin, distance, count = cgutils.unpack_tuple(builder, args[3])
            data, stride = bytes_of(builder, sums), row_stride(builder, sums)
            rows = [builder.add(t, INT64(group * ROWS)) for group in range(self.groups)]
            places = [move(builder, data, builder.mul(row, stride)) for row in rows]
            first = move(builder, bytes_of(builder, tiles), begin)
            tokens = [
                move(builder, first, builder.mul(distance, INT64(group)))
                for group in range(self.groups)
            ]
            is_fresh = builder.icmp_signed("!=", args[4], INT64(0))
            with builder.if_else(is_fresh) as (fresh, begun):
                with fresh:
                    for register in range(self.groups * ROW_GROUPS):
                        call_tile(builder, "tilezero", [INT8(register)])
                with begun:
                    move_sums(builder, LOAD_ONCE, places, stride)
            with cgutils.for_range(builder, count) as loop:
                offset = builder.mul(loop.index, INT64(BLOCK // 4 * PANEL_STRIDE))
                weights = move(builder, bytes_of(builder, panel), offset)
                column = builder.mul(loop.index, INT64(TILE_BYTES))
                self._multiply(builder, [move(builder, at, column) for at in tokens], weights)
            move_sums(builder, "tilestored64", places, stride)
            return context.get_dummy_value()

        @intrinsic
        def tile(
            _: Context, tiles: Type, panel: Type, sums: Type, place: Type, fresh: Type
        ) -> Intrinsic:
            return types.void(tiles, panel, sums, place, types.int64), generate

        return tile

    def _multiply(self, builder: Builder, tokens: Values, weights: Value) -> None:
        for column in range(ROW_GROUPS):
            at = move(builder, weights, INT64(column * ROW_BYTES))
            call_tile(builder, LOAD, [INT8(6 + column), at, INT64(PANEL_STRIDE)])
        for group, place in enumerate(tokens):
            name = LOAD if self.near else LOAD_ONCE
            call_tile(builder, name, [INT8(4 + group), place, INT64(ROW_BYTES)])
            for column in range(ROW_GROUPS):
                total = group * ROW_GROUPS + column
                call_tile(builder, "tdpbssd", [INT8(total), INT8(4 + group), INT8(6 + column)])
