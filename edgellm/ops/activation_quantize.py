"""ActivationQuantize: accumulators to ReLU or GELU of them, as int8 codes of each row.

In one operator: row scale and channel multiplier, bias, activation by table, absmax quantiser. The
table is that of a fixed point, not of int8 codes, so no scale has to be known before.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.ops import _body_integers as graph
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body
from edgellm.ops._gelu import (
    BUMP_BITS,
    ENTRIES,
    FRAME,
    GELU,
    GELU_TANH,
    RELU,
    STEP_BITS,
    bump_table,
)
from edgellm.ops._integers import (
    INT32_MAX,
    RECIPROCAL_127,
    absmax_codes,
    join_scale,
    normalize,
    product,
    requantize,
    round_shift,
    saturate,
)
from edgellm.ops._ranges import SHIFT
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._use import norm_columns
from edgellm.ops._work import elements

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="ActivationQuantize",
    inputs=(
        Port("acc", "int32", ("T", "N")),
        Port("scale", "int32", ("T", "2")),
        Port("multiplier", "int32", ("N",)),
        Port("bias", "int32", ("N",)),
    ),
    outputs=(Port("codes", "int8", ("T", "N")), Port("out_scale", "int32", ("T", "2"))),
    attributes={"shift": SHIFT, "activation": (0, 2)},
)
work = elements("activation")
demands = norm_columns


def reference(
    acc: npt.NDArray[np.int32],
    scale: npt.NDArray[np.int32],
    multiplier: npt.NDArray[np.int32],
    bias: npt.NDArray[np.int32],
    *,
    shift: int,
    activation: int,
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int32]]:
    """Return the codes and scales of ``act(acc * scale * multiplier * 2^-shift + bias)``.

    Args:
        acc: (T, N) sums of a linear.
        scale: (T, 2) of each row.
        multiplier: (N,).
        bias: (N,) in the fixed point 18, as is what the activation sees.
        shift: exponent that goes with the multiplier.
        activation: 0 ReLU, 1 GELU (erf), 2 GELU (tanh).

    Returns:
        codes (T, N) in [-127, 127] and their scale (T, 2).
    """
    wide = requantize(acc.astype(np.int64), scale, multiplier.astype(np.int64), shift)
    x = saturate(wide + bias.astype(np.int64), INT32_MAX)
    index = np.minimum(round_shift(np.abs(x), FRAME - STEP_BITS), ENTRIES - 1)
    bump = bump_table(activation)[index].astype(np.int64) << (FRAME - BUMP_BITS)
    y = np.maximum(x, 0) - bump
    peak = np.abs(y).max(axis=1, keepdims=True)
    codes = absmax_codes(y, peak).astype(np.int8)
    return codes, join_scale(*product(normalize(peak, FRAME), RECIPROCAL_127))


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    acc, scale, multiplier, bias = b.inputs
    wide = graph.requantize(acc.to("int64"), scale, multiplier.to("int64"), b.attribute("shift"))
    x = graph.saturate(wide + bias.to("int64"), INT32_MAX)
    index = graph.round_shift_positive(x.abs(), FRAME - STEP_BITS).at_most(ENTRIES - 1)
    tables = np.stack([bump_table(kind) for kind in (RELU, GELU, GELU_TANH)])
    table = b.constant(tables, "int16").take(b.attribute("activation"))
    y = x.at_least(0) - table.take(index).to("int64") * 2 ** (FRAME - BUMP_BITS)
    peak = y.abs().row_max()
    codes = graph.absmax_codes(y, peak).to("int8")
    constant = (b.constant(RECIPROCAL_127[0]), b.constant(RECIPROCAL_127[1]))
    out = graph.product(graph.normalize(peak, FRAME), constant)
    return b.function(codes, graph.join_scale(*out))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(24)
    for activation in (RELU, GELU, GELU_TANH):
        for tokens, columns in ((3, 64), (1, 1), (2, 7), (1, 65), (4, 172)):
            inputs = (
                draw.narrow(rng, 20, tokens, columns),
                draw.scales(rng, tokens, 40),
                draw.multipliers(rng, columns),
                draw.narrow(rng, 18, columns),
            )
            attributes = {"shift": 22, "activation": activation}
            yield Example(f"random_{tokens}x{columns}_{activation}", inputs, attributes)
        zero = (np.zeros((2, 5), np.int32), draw.scales(rng, 2, 40), draw.multipliers(rng, 5))
        none = {"shift": 22, "activation": activation}
        yield Example(f"zero_rows_{activation}", (*zero, np.zeros(5, np.int32)), none)
        yield _every_entry(activation)
    acc = np.array([[-INT32_MAX - 1, -INT32_MAX, -1, 0, 1, INT32_MAX]] * 2, np.int32)
    scale = np.array([[INT32_MAX, 2], [INT32_MAX, 95]], np.int32)
    top = np.full(6, INT32_MAX, np.int32)
    for shift in (1, 40):
        inputs_wide = (acc, scale, top, top)
        name = f"saturation_and_clamped_shift_{shift}"
        yield Example(name, inputs_wide, {"shift": shift, "activation": GELU})


def _every_entry(activation: int) -> Example:
    """Return rows in which x runs over all entries of the table and past its end."""
    limit, step = 9 * 2**FRAME, 2 ** (FRAME - STEP_BITS) - 1
    x = np.arange(-limit, limit, step, dtype=np.int32)
    x = x[: x.size // 16 * 16].reshape(16, -1)
    scale = np.full((16, 2), 2**30, np.int32)
    scale[:, 1] = 30
    one = np.full(x.shape[1], 2**30, np.int32)
    inputs = (x, scale, one, np.zeros_like(one))
    return Example(f"every_entry_{activation}", inputs, {"shift": 30, "activation": activation})
