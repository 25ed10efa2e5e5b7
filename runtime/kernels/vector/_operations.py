"""What tiles do with the layouts of weights that have one row an output."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from edgellm.runtime import cpu
from edgellm.runtime.kernels.simd._unit import BLOCK, TRITS, Builder, Value, VectorUnit
from edgellm.runtime.kernels.vector._tiles import NEAR, ROWS, Operation

ONE_TOKEN_ROWS = {"znver4": ROWS}.get(cpu.host().name, 1)
"""Rows of packed weights in a tile of one token. (Zen 4 loads one vector a cycle. Side by side rows
share the activations: four of ternary weights from memory take 0.83 to 0.88 of the time.)"""


def in_one_group(
    load: Callable[[Builder, Value], list[Value]],
) -> Callable[[Builder, Value], list[list[Value]]]:
    """Return ``load`` as an operation has it, for a block of one group."""
    return lambda builder, pointer: [load(builder, pointer)]


def ternary(unit: VectorUnit) -> Operation:
    """Return the operation on weights in the layout ternary-2bit/v1."""
    return Operation(
        unit,
        block_bytes=16,
        shifts=(unit.ternary_shifts,),
        load=in_one_group(unit.ternary_codes),
        load_x=unit.byte_vectors,
        dot=unit.dot_codes,
        unroll=4,
        together=unit.dot_blocks,
        rows=ONE_TOKEN_ROWS,
        beside=True,
    )


def trits(unit: VectorUnit) -> Operation:
    """Return the operation on weights in the layout ternary-5trit/v1, for one token."""
    return Operation(
        unit,
        block_bytes=64,
        shifts=tuple((shift,) for shift in unit.trit_shifts),
        load=unit.trit_codes,
        load_x=unit.byte_vectors,
        dot=unit.dot_codes,
        unroll=1,
        rows=ONE_TOKEN_ROWS,
        beside=True,
    )


def trits_for_many(unit: VectorUnit) -> Operation:
    """Return the same for several tokens, whose sums are not shifted: a row has but one."""
    return replace(trits(unit), shifts=((0,),) * TRITS, load=partial(VectorUnit.trit_codes, unit))


def int8(unit: VectorUnit) -> Operation:
    """Return the operation on int8 weights."""
    return Operation(
        unit,
        block_bytes=BLOCK,
        shifts=((0,),),
        load=in_one_group(unit.int8_vectors),
        load_x=unit.int8_vectors,
        dot=unit.dot_bytes,
        unroll=4,
        rows=ROWS,
        near=NEAR,
    )
