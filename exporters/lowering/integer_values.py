"""What the integers of a lowering mean: fixed points, codes with a scale a token, accumulators."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm.exporters.fixed_point import check_shift, dyadic
from edgellm.ops._attention import OUT_FRACTION_BITS

RESIDUAL_FRAME = 24
HEAD_FRAME = 18
"""Fixed point of queries, keys, values, gate and up."""
ATTENTION_FRAME = HEAD_FRAME + OUT_FRACTION_BITS
LOGITS_FRAME = 16
ROTARY_BITS = 14
INT8_LIMIT = 127
MAX_RELU2_COLUMNS = 16_377
"""The most columns whose ternary accumulators SquaredReluGate takes without clamping."""
USUAL_PEAK = 4096.0
"""No attention output or gated value of a sound model comes near; scales leave room for it."""
ROTARY_TABLES = ("model.rotary_emb.cos", "model.rotary_emb.sin")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Fixed:
    """Integers in a fixed point: real = integer * 2^-frame."""

    name: str
    frame: int


@dataclass(frozen=True)
class Scaled:
    """int64 values with one scale a token, (tokens, 2)."""

    name: str
    scale: str


@dataclass(frozen=True)
class Codes:
    """int8 codes with one scale a token; ``scale_limit`` bounds the scale of sound models."""

    name: str
    scale: str
    scale_limit: float
    mostly_zero: bool = False


@dataclass(frozen=True)
class Accumulator:
    """int32 sums of a linear: real = sum * scale of x * weight_scale[n] + bias[n]."""

    path: str
    name: str
    x: Codes
    weight_scale: Floats
    is_ternary: bool
    bias: str | None


Value = Fixed | Scaled | Codes | Accumulator


def check_shift_for(x: Codes, shift: int, where: str) -> None:
    """Refuse a multiplier whose product with a usual token scale would need a left shift.

    A shift beyond 62 is no error: all sums then round to 0, as they should.
    """
    _, exponent = dyadic(x.scale_limit)
    check_shift(min(exponent + shift - 31, 62), where)


def norm_attributes(epsilon: float, gain: float) -> dict[str, int]:
    """Return the attributes that the operators of norms share."""
    epsilon_mantissa, epsilon_exponent = dyadic(epsilon)
    gain_mantissa, gain_exponent = dyadic(gain)
    return {
        "epsilon_mantissa": epsilon_mantissa,
        "epsilon_exponent": epsilon_exponent,
        "gain_mantissa": gain_mantissa,
        "gain_exponent": gain_exponent,
    }


def node_name(path: str, op_type: str) -> str:
    """Return a node name: ``model.layers.0.mlp`` is ``/model/layers.0/mlp/<op_type>``."""
    parts = path.split(".")
    merged = [
        f"{part}.{parts[i + 1]}" if i + 1 < len(parts) and parts[i + 1].isdigit() else part
        for i, part in enumerate(parts)
        if not part.isdigit()
    ]
    return "/" + "/".join([*merged, op_type])
