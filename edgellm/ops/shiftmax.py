"""Shiftmax: the softmax of I-ViT, by shifts and one integer division a row, as published.

Two variants are published. The PyTorch code has n 15, 16-bit results and the half bit; the TVM
code has n 16, 8-bit results and drops it. They give different integers. Known faults of both:

- The resolution is that of the input: it takes a scale of at most 1/16. At 1/8 the exponential is
  off by up to 0.096, at 1/2 by up to 0.13.
- Results are rounded down, so long rows lose mass. Where attention is spread (logits of standard
  deviation 1), 8 bits keep 40 % of it at 197 columns and none at 1024; 16 bits keep 89 % at 4096
  and 44 % at 32,768.
- The sum is clamped to 2^31 - 1. With n 15 that happens from 1310 equal columns on at a scale of
  0.02, from 4095 at 1/16; with n 16 from half as many.

EncoderAttention, which normalises after the weighted sum, has none of these. In a graph this
operator is part of ShiftmaxAttention.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.ops import _examples as draw
from edgellm.ops._body import Body
from edgellm.ops._ranges import SHIFT_EXP
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._shift_exp import (
    exponential_fits,
    normalized,
    normalized_nodes,
    shift_exp,
    shift_exp_nodes,
)
from edgellm.ops._use import Demands, Use
from edgellm.ops._work import elements

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="Shiftmax",
    inputs=(Port("x", "int8", ("T", "L")),),
    outputs=(Port("y", "int16", ("T", "L")),),
    attributes=SHIFT_EXP,
)
work = elements("softmax", "T", "L")


def demands(use: Use) -> Demands:
    """Demand that a single exponential fits its sum."""
    return exponential_fits(use)


PYTORCH = {"n": 15, "bits": 16, "half_bit": 1}
TVM = {"n": 16, "bits": 8, "half_bit": 0}
"""The attributes of the published variants, but for ``unit``, which follows from the scale."""


def reference(
    x: npt.NDArray[np.int8], *, unit: int, n: int, bits: int, half_bit: int
) -> npt.NDArray[np.int16]:
    """Return ``e^x / sum(e^x)`` of each row.

    Args:
        x: (T, L) codes; real = code * S.
        unit: -I_0: ``ceil(1 / S)`` in the PyTorch code, ``floor(1 / S + 1)`` in the TVM code;
            ``unit * 2^n`` is at most 2^31 - 1.
        n: fraction bits of the exponential, 1 to 30.
        bits: of a result, 2 to 16; one is the sign.
        half_bit: 1 or 0, see ``_shift_exp``.

    Returns:
        (T, L) probabilities; real = integer * 2^-(bits - 1).
    """
    wide = x.astype(np.int64)
    e = shift_exp(wide - wide.max(axis=1, keepdims=True), unit, n, half_bit)
    return normalized(e, e.sum(axis=1, keepdims=True), bits).astype(np.int16)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    wide = b.inputs[0].to("int64")
    unit, n, bits, half_bit = (b.attribute(name) for name in SCHEMA.attributes)
    e = shift_exp_nodes(wide - wide.row_max(), unit, n, half_bit)
    return b.function(normalized_nodes(e, e.row_sum(), bits).to("int16"))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(41)
    for name, variant in (("pytorch", PYTORCH), ("tvm", TVM)):
        for rows, columns, unit in ((3, 64, 16), (1, 1, 16), (2, 7, 50), (4, 197, 13), (2, 33, 1)):
            attributes = {"unit": unit, **variant}
            inputs = (draw.codes(rng, rows, columns),)
            yield Example(f"{name}_{rows}x{columns}_unit_{unit}", inputs, attributes)
        golden = np.array([[0, -8, -16, -40], [-17, -1, 127, -127]], np.int8)
        yield Example(f"{name}_golden", (golden,), {"unit": 16, **variant})
    equal = np.zeros((1, 5000), np.int8)
    yield Example("the_sum_is_clamped", (equal,), {"unit": 16, **PYTORCH})
    widest = {"unit": 65_535, "n": 15, "bits": 16, "half_bit": 1}
    yield Example("finest_unit", (draw.codes(rng, 3, 9),), widest)
    yield Example("most_bits", (draw.codes(rng, 3, 9),), {**widest, "unit": 1, "n": 30, "bits": 2})
