"""GatedRecurrence: the token mixer of MatMul-free models, ``h = f*h + (1-f)*silu(x)`` by channel.

The forget gate is ``f = b + (1-b)*sigmoid(forget)`` with the lower bound b of the channel, so that
``1-f = (1-b)*sigmoid(-forget)``. In integers the state moves by one rounded product towards
``silu(x)``: it never leaves the range of what goes in, whatever the length of the text. Source:
MLGRU of arXiv 2406.02528, as in its repository (``layers/hgrn_bit.py``).
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.graph_names import PAST, TOKENS, present_name
from edgellm.ops import _body_integers as graph
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body, Value
from edgellm.ops._integers import INT32_MAX, Int64, round_shift, saturate
from edgellm.ops._ranges import FRAME
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._sigmoid import SIGMOID_BITS, sigmoid, sigmoid_nodes
from edgellm.ops._use import Demands, Use
from edgellm.ops._work import elements

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="GatedRecurrence",
    inputs=(
        Port("forget", "int32", ("T", "N")),
        Port("x", "int32", ("T", "N")),
        Port("complement", "int32", ("N",)),
        Port("past", "int64", ("N",)),
    ),
    outputs=(Port("y", "int32", ("T", "N")), Port("present", "int64", ("N",))),
    attributes={"frame": FRAME},
)
work = elements("recurrence", binary=True)


def demands(use: Use) -> Demands:
    """Demand that it continues its own input of the graph."""
    state = use.inputs[3]
    return [
        (use.sizes["T"] == TOKENS, "it goes through the tokens of the call"),
        (state.startswith(PAST), "its state is an input of the graph"),
        (use.outputs[1] == present_name(state), "its last output is the state after it"),
        (isinstance(use.sizes["N"], int), "it has a fixed number of channels"),
    ]


STATE_BITS = 10
"""Bits that the state has below those of x: a channel that remembers 2^10 tokens still moves."""


def reference(
    forget: npt.NDArray[np.int32],
    x: npt.NDArray[np.int32],
    complement: npt.NDArray[np.int32],
    past: npt.NDArray[np.int64],
    *,
    frame: int,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Return the state after each token, and the last one to go on from.

    Args:
        forget: (T, N) before its sigmoid, |forget| <= 2^31 - 1; real = forget * 2^-frame.
        x: (T, N) likewise, before its SiLU.
        complement: (N,) 1 - lower bound, 20 fraction bits: 0 to 2^20.
        past: (N,) state before the first token, |past| <= 2^41; real = past * 2^-(frame + 10).
        frame: fixed point of forget, x and y, 1 to 31.

    Returns:
        y (T, N), saturated to +-(2^31 - 1), and present (N,), |present| <= 2^41.
    """
    change = round_shift(
        complement.astype(np.int64) * sigmoid(-forget.astype(np.int64), frame), SIGMOID_BITS
    )  # 1 - f, at most 2^20
    wide = x.astype(np.int64)
    target = round_shift(wide * sigmoid(wide, frame), SIGMOID_BITS - STATE_BITS)  # at most 2^41
    states = np.empty(x.shape, np.int64)
    state = past
    for t in range(len(x)):
        state = state + round_shift(change[t] * (target[t] - state), SIGMOID_BITS)  # below 2^62
        states[t] = state
    y = saturate(round_shift(states, STATE_BITS), INT32_MAX).astype(np.int32)
    return y, state.copy()


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    forget, x, complement, past = b.inputs
    frame = b.attribute("frame")
    opened = sigmoid_nodes(-forget.to("int64"), frame)
    change = graph.round_shift_positive(complement.to("int64") * opened, SIGMOID_BITS)
    wide = x.to("int64")
    target = graph.round_shift(wide * sigmoid_nodes(wide, frame), SIGMOID_BITS - STATE_BITS)
    present, states = b.scan(_step, past, [change, target])
    y = graph.saturate(graph.round_shift(states, STATE_BITS), INT32_MAX).to("int32")
    return b.function(y, present)


def _step(state: Value, change: Value, target: Value) -> Value:
    return state + graph.round_shift(change * (target - state), SIGMOID_BITS)


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(41)
    for tokens, columns in ((3, 64), (1, 1), (2, 7), (1, 65), (40, 12)):
        yield Example(f"random_{tokens}x{columns}", _inputs(rng, tokens, columns), {"frame": 18})
    forget, x, _, past = _inputs(rng, 2, 9)
    for name, bound in (("nothing_changes", 0), ("no_lower_bound", 2**SIGMOID_BITS)):
        complement = np.full(9, bound, np.int32)
        yield Example(name, (forget, x, complement, past), {"frame": 18})
    ends = np.array([[INT32_MAX, -INT32_MAX, 0, 1, -1, INT32_MAX, -INT32_MAX]] * 3, np.int32)
    ends[1] = -ends[1]
    most = np.full(7, 2**SIGMOID_BITS, np.int32)
    states = np.array([2**41, -(2**41), 2**41, -(2**41), 0, -(2**41), 2**41])
    for frame in (1, 12, 18, 31):
        yield Example(f"largest_frame_{frame}", (ends, ends[::-1], most, states), {"frame": frame})


def _inputs(
    rng: np.random.Generator, tokens: int, columns: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int32], Int64]:
    complement = rng.integers(0, 2**SIGMOID_BITS, columns, np.int32, endpoint=True)
    draws = [draw.narrow(rng, 21, tokens, columns) for _ in range(2)]
    return draws[0], draws[1], complement, draw.wide(rng, 31, columns)
