"""Rows of the key/value cache that are wanted soon, as LLVM: their cache lines are prefetched.

Lines go to the second cache, in the order of memory, which processors see and then read ahead
themselves. Both matter: on a server of 2024 a long array takes 5.6 ns a line so, as to read it
does, and 15 where prefetches pass by the second cache.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
# Numba's internals have no types.

from numba.core import cgutils, types
from numba.extending import intrinsic

from edgellm.runtime import cpu
from edgellm.runtime.kernels.simd._unit import (
    INT64,
    Builder,
    Context,
    Intrinsic,
    Type,
    Value,
    Values,
    move,
)
from edgellm.runtime.kernels.vector._tiles import LINE_BYTES, bytes_of, open_arrays, prefetch

NEAR = {"znver5": 3}.get(cpu.host().name, 2)
"""How near ``prefetch`` brings a line: into the second cache, or the first. (Zen 5, 4,040 rows from
memory: 0.93 of the time with the first, and keys 12 rows ahead.)"""


class Lines:
    """Cache lines that are prefetched one after the other: of a run of bytes, then the next row."""

    def __init__(self, builder: Builder, cache: Value, lines: Value, run: Value) -> None:
        """Go on where the last call ended: ``lines`` are as ``expect`` says."""
        row_bytes = cgutils.unpack_tuple(builder, cache.strides)[0]
        self._run, self._gap = run, builder.sub(row_bytes, run)
        self._data = bytes_of(builder, cache)
        self._places = [builder.gep(lines.data, [INT64(i)]) for i in range(2)]
        self._at, self._left = (
            cgutils.alloca_once_value(builder, builder.load(place)) for place in self._places
        )

    def prefetch(self, builder: Builder) -> None:
        """Begin to read the next line."""
        at, left = builder.load(self._at), builder.load(self._left)
        prefetch(builder, move(builder, self._data, at), NEAR)
        left = builder.sub(left, INT64(LINE_BYTES))
        is_last = builder.icmp_signed("<=", left, INT64(0))
        after = builder.select(is_last, self._gap, INT64(0))
        builder.store(builder.add(builder.add(at, INT64(LINE_BYTES)), after), self._at)
        builder.store(builder.select(is_last, self._run, left), self._left)

    def save(self, builder: Builder) -> None:
        """Note where the next call goes on."""
        for place, own in zip(self._places, (self._at, self._left), strict=True):
            builder.store(builder.load(own), place)


@intrinsic
def expect(_: Context, cache: Type, lines: Type, run: Type, count: Type) -> Intrinsic:
    """``expect(cache, lines, run, count)``: begin to read so many cache lines.

    They are those of ``run`` bytes of a row, then of the next row. ``lines`` are where the next one
    is, in bytes of the cache, and how many bytes of its run are left; both move on.
    """

    def generate(context: Context, builder: Builder, signature: Type, args: Values) -> Value:
        memory, places = open_arrays(context, builder, signature, args[:2])
        ahead = Lines(builder, memory, places, args[2])
        with cgutils.for_range(builder, args[3]):
            ahead.prefetch(builder)
        ahead.save(builder)
        return context.get_dummy_value()

    return types.void(cache, lines, types.int64, types.int64), generate
