"""Products of int8 with matrix tiles: see ``_amx``."""

# mypy: disable-error-code="untyped-decorator,call-arg"
# An intrinsic is declared with the typing context as its first argument, and called without.

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import stack_int8
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector._amx import (
    CONFIGURATION,
    ROWS,
    SIGNED,
    configure,
    describe,
    describe_for,
    release,
    sweep,
    sweep_again,
)
from edgellm.runtime.kernels.vector._panels import Panels, signed_panels

SHAPES = 2 * CONFIGURATION

Codes = npt.NDArray[np.int8]
Sums = npt.NDArray[np.int32]
Multiply = Callable[[Codes, Codes, Sums], None]


@cache
def matrix_multiply(unit: VectorUnit) -> Multiply:
    """Return ``multiply(x, weight, acc)``, of whole blocks and panels and 16 tokens or more.

    It needs no bias.
    """
    layout = signed_panels(unit)
    in_one, in_several, span = _one_span(layout), _several_spans(layout), layout.span

    @register_jitable(**PART_POLICY)
    def multiply(x: Codes, weight: Codes, acc: Sums) -> None:
        if x.shape[1] <= span:
            in_one(x, weight, acc)
        else:
            in_several(x, weight, acc)

    return multiply


def _one_span(layout: Panels) -> Multiply:
    """Return the product for columns that a panel has room for."""
    fill, rows, panel_bytes = layout.fill(), layout.rows, layout.rows * layout.span
    chunk, write = layout.columns, sweep_again(SIGNED)

    @register_jitable(**PART_POLICY)
    def multiply(x: Codes, weight: Codes, acc: Sums) -> None:
        panel, shape = stack_int8(panel_bytes), stack_int8(CONFIGURATION)
        describe(shape, ROWS, ROWS)
        configure(shape)
        for n in range(0, weight.shape[0], rows):
            fill(weight, panel, n, 0, x.shape[1] // chunk)
            write(x, panel, acc, n, x.shape[1])
        release()

    return multiply


def _several_spans(layout: Panels) -> Multiply:
    """Return the product for more columns: sums are written, and then added to."""
    fill, rows, span = layout.fill(), layout.rows, layout.span
    write, add = sweep(SIGNED, fresh=True), sweep(SIGNED)
    panel_bytes, chunk = rows * span, layout.columns

    @register_jitable(**PART_POLICY)
    def multiply(x: Codes, weight: Codes, acc: Sums) -> None:
        panel, shapes = stack_int8(panel_bytes), stack_int8(SHAPES)
        describe_for(shapes, x.shape[0])
        for n in range(0, weight.shape[0], rows):
            for k in range(0, x.shape[1], span):
                count = min(span, x.shape[1] - k)
                fill(weight, panel, n, k, count // chunk)
                if k == 0:
                    write(x, panel, acc, shapes, (n, k, count))
                else:
                    add(x, panel, acc, shapes, (n, k, count))
        release()

    return multiply
