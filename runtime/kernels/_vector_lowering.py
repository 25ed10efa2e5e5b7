"""How the functions of ``_vectors`` are compiled: imported only to compile.

The one instruction that LLVM does not find by itself is x86's pmaddwd: int16 products whose
neighbours are added. Elsewhere products of int16 are added one by one, which is one instruction.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator,misc"
# Numba's internals have no types.

from collections.abc import Sequence
from functools import cache
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import lower_builtin, models, register_model, type_callable

from edgellm.runtime import cpu
from edgellm.runtime.kernels import _vectors

INT16, INT32, INT64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)


PMADDWD = {
    4: ("sse2", "sse2.pmadd.wd"),
    8: ("avx2", "avx2.pmadd.wd"),
    16: ("avx512bw", "avx512.pmaddw.d.512"),
}
"""What an instruction of so many sums takes, and LLVM's name of it."""


class Vector(types.Type):
    """Numba's type of a vector of int32."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"Vector({lanes})")


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    """A vector register."""

    def __init__(self, manager: Any, kind: Vector) -> None:  # noqa: ANN401
        super().__init__(manager, kind, ir.VectorType(INT32, kind.lanes))


@cache
def install() -> None:
    """Make the functions of ``_vectors`` callable from compiled code."""
    type_callable(_vectors.vector_zeros)(_type_zeros)
    type_callable(_vectors.vector_add_pair)(_type_add_pair)
    type_callable(_vectors.vector_add_products)(lambda _context: lambda sums, a, at, b, place: sums)
    type_callable(_vectors.vector_store_totals)(
        lambda _context: lambda out, at, a, b, c, d: types.none
    )
    type_callable(_vectors.vector_add_to)(lambda _context: lambda totals, at, low, high: types.none)
    array, vector, index = types.Array, Vector, types.Integer
    lower_builtin(_vectors.vector_zeros, types.IntegerLiteral)(_zeros)
    lower_builtin(_vectors.vector_add_products, vector, array, index, array, index)(_add_products)
    lower_builtin(
        _vectors.vector_add_pair, vector, types.IntegerLiteral, array, index, array, types.UniTuple
    )(_add_pair)
    lower_builtin(_vectors.vector_store_totals, array, index, vector, vector, vector, vector)(
        _store_totals
    )
    lower_builtin(_vectors.vector_add_to, array, index, vector, vector)(_add_to)


def _type_zeros(_context: Any) -> Any:  # noqa: ANN401
    return lambda lanes: (
        Vector(lanes.literal_value) if isinstance(lanes, types.IntegerLiteral) else None
    )


def _type_add_pair(_context: Any) -> Any:  # noqa: ANN401
    return lambda sums, half, weights, at, rows, place: (
        sums if isinstance(half, types.IntegerLiteral) else None
    )


def _zeros(_context: Any, _builder: Any, signature: Any, _arguments: Any) -> Any:  # noqa: ANN401
    return ir.Constant(ir.VectorType(INT32, signature.return_type.lanes), None)


def _add_products(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
    sums, a, at, b, place = arguments
    size = 2 * sums.type.count
    left = _load(context, builder, (signature.args[1], a), at, size)
    right = _load(context, builder, (signature.args[3], b), place, size)
    right = builder.sext(right, ir.VectorType(INT16, size))
    width = _pairs_at_once(sums.type.count)
    if width:
        return builder.add(sums, _multiply_pairs(builder, left, right, width))
    for half in (range(size // 2), range(size // 2, size)):  # in any lanes: all will be added up
        factors = [_shuffle(builder, vector, vector, half) for vector in (left, right)]
        sums = _add_words(builder, sums, *factors)
    return sums


def _add_pair(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
    sums, _, weights, at, rows, places = arguments
    size = 2 * sums.type.count
    pair = _load(context, builder, (signature.args[2], weights), at, 2)
    both = (
        builder.sext(
            _load(context, builder, (signature.args[4], rows), place, size),
            ir.VectorType(INT16, size),
        )
        for place in cgutils.unpack_tuple(builder, places, 2)
    )
    begin = 4 * signature.args[1].literal_value
    columns = [eight + column for eight in range(begin, size, 8) for column in range(4)]
    width = _pairs_at_once(sums.type.count)
    if width:
        left = _shuffle(builder, pair, pair, [lane % 2 for lane in range(size)])
        mask = [column + row * size for column in columns for row in range(2)]
        right = _shuffle(builder, *both, mask)
        return builder.add(sums, _multiply_pairs(builder, left, right, width))
    for row, values in enumerate(both):
        weight = _shuffle(builder, pair, pair, [row] * sums.type.count)
        sums = _add_words(builder, sums, weight, _shuffle(builder, values, values, columns))
    return sums


def _store_totals(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
    out, at, *vectors = arguments
    # In each 128 bits: a0 b0 a1 b1 + a2 b2 a3 b3, then a02 b02 c02 d02 + a13 b13 c13 d13.
    for low, high in (((0, 4, 1, 5), (2, 6, 3, 7)), ((0, 1, 4, 5), (2, 3, 6, 7))):
        vectors = [
            builder.add(_shuffle_lanes(builder, a, b, low), _shuffle_lanes(builder, a, b, high))
            for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
    (totals,) = vectors
    while totals.type.count > 4:
        half = totals.type.count // 2
        totals = builder.add(
            _shuffle(builder, totals, totals, range(half)),
            _shuffle(builder, totals, totals, range(half, 2 * half)),
        )
    pointer = _pointer(context, builder, (signature.args[0], out), at, totals.type)
    builder.store(totals, pointer, align=4)
    return context.get_dummy_value()


def _shuffle_lanes(builder: Any, a: Any, b: Any, lanes: Sequence[int]) -> Any:  # noqa: ANN401
    """Shuffle in the same way in each 128 bits of two vectors of int32; 4 to 7 are of ``b``."""
    count = a.type.count
    mask = [
        lane % 4 + begin + (count if lane >= 4 else 0)
        for begin in range(0, count, 4)
        for lane in lanes
    ]
    return _shuffle(builder, a, b, mask)


def _add_to(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
    totals, at, low, high = arguments
    count = low.type.count
    mask = [
        begin + half * count + lane
        for begin in range(0, count, 4)
        for half in range(2)
        for lane in range(4)
    ]
    kind = ir.VectorType(INT64, 2 * count)
    pointer = _pointer(context, builder, (signature.args[0], totals), at, kind)
    sums = builder.sext(_shuffle(builder, low, high, mask), kind)
    builder.store(builder.add(builder.load(pointer, align=8), sums), pointer, align=8)
    return context.get_dummy_value()


def _pointer(context: Any, builder: Any, array: Any, at: Any, kind: Any) -> Any:  # noqa: ANN401
    """Return the address of element ``at`` of ``array`` (type and value), as that of ``kind``."""
    data = context.make_array(array[0])(context, builder, value=array[1]).data
    return builder.bitcast(builder.gep(data, [at]), kind.as_pointer())


def _load(context: Any, builder: Any, array: Any, at: Any, size: int) -> Any:  # noqa: ANN401
    element = context.get_data_type(array[0].dtype)
    pointer = _pointer(context, builder, array, at, ir.VectorType(element, size))
    return builder.load(pointer, align=element.width // 8)


def _shuffle(builder: Any, a: Any, b: Any, lanes: Any) -> Any:  # noqa: ANN401
    mask = ir.Constant(ir.VectorType(INT32, len(lanes)), [INT32(lane) for lane in lanes])
    return builder.shuffle_vector(a, b, mask)


def _add_words(builder: Any, sums: Any, a: Any, b: Any) -> Any:  # noqa: ANN401
    """Add the products of two vectors of int16 to as many int32."""
    products = builder.mul(builder.sext(a, sums.type), builder.sext(b, sums.type))
    return builder.add(sums, products)


def _multiply_pairs(builder: Any, a: Any, b: Any, width: int) -> Any:  # noqa: ANN401
    """Return the sums of neighbouring products of two vectors of int16, so many an instruction."""
    kind = ir.FunctionType(ir.VectorType(INT32, width), [ir.VectorType(INT16, 2 * width)] * 2)
    name = f"llvm.x86.{PMADDWD[width][1]}"
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    parts = []
    for begin in range(0, a.type.count, 2 * width):
        lanes = range(begin, begin + 2 * width)
        factors = [_shuffle(builder, vector, vector, lanes) for vector in (a, b)]
        parts.append(builder.call(function, factors))
    while len(parts) > 1:
        both = range(2 * parts[0].type.count)
        parts = [
            _shuffle(builder, *pair, both) for pair in zip(parts[::2], parts[1::2], strict=True)
        ]
    return parts[0]


def _pairs_at_once(lanes: int) -> int:
    """Return how many of so many sums an instruction of this processor makes, or 0."""
    host = cpu.host()
    if host.machine not in ("x86_64", "AMD64"):
        return 0
    return max(
        (width for width, (need, _) in PMADDWD.items() if width <= lanes and host.has(need)),
        default=0,
    )
