"""GatedRecurrence: the state of each channel moves towards what the token says."""

import numpy as np
import numpy.typing as npt

from edgellm.ops._sigmoid import LOGIT_BITS, SIGMOID_BITS
from edgellm.ops.gated_recurrence import STATE_BITS
from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import INT32_MAX, clamp, round_shift, share
from edgellm.runtime.kernels._sigmoid import sigmoid


@kernel("GatedRecurrence", split="columns")
def gated_recurrence(
    thread: int,
    threads: int,
    forget: npt.NDArray[np.int32],  # (T, N)
    x: npt.NDArray[np.int32],  # (T, N)
    complement: npt.NDArray[np.int32],  # (N,)
    past: npt.NDArray[np.int64],  # (N,)
    y: npt.NDArray[np.int32],  # (T, N)
    present: npt.NDArray[np.int64],  # (N,)
    frame: int,
) -> None:
    """Split by columns."""
    begin, end = share(x.shape[1], thread, threads)
    shift = 30 + frame - LOGIT_BITS
    states, bounds = present[begin:end], complement[begin:end]
    for n in range(states.shape[0]):
        states[n] = past[begin + n]
    for t in range(x.shape[0]):
        gates, values, out = forget[t][begin:end], x[t][begin:end], y[t][begin:end]
        for n in range(states.shape[0]):
            opened = np.int64(sigmoid(-np.int64(gates[n]), shift))
            change = round_shift(np.int64(bounds[n]) * opened, SIGMOID_BITS)
            value = np.int64(values[n])
            gated = value * np.int64(sigmoid(value, shift))
            target = round_shift(gated, SIGMOID_BITS - STATE_BITS)
            state = states[n] + round_shift(change * (target - states[n]), SIGMOID_BITS)
            states[n] = state
            out[n] = clamp(round_shift(state, STATE_BITS), -INT32_MAX, INT32_MAX)
