"""The sigmoid that gates share, in NumPy and as ONNX nodes.

The two-branch form 1/(1+e) or e/(1+e) with e = 2^-(|x| log2 e) from a table of 256 entries: it
saturates nowhere and depends on no other element of the row.
"""

import numpy as np

from edgellm.ops import _body_integers as graph
from edgellm.ops._body import Value
from edgellm.ops._integers import Int64, exp2_table, round_shift

SIGMOID_BITS = 20
EXP2_TABLE = exp2_table(256, SIGMOID_BITS)
LOG2_E = 1549082005
"""log2(e) * 2^30, rounded."""
LOGIT_BITS = 12


def sigmoid(x: Int64, frame: int) -> Int64:
    """Return the sigmoid of ``x * 2^-frame``, ``SIGMOID_BITS`` fraction bits.

    Args:
        x: |x| <= 2^31 - 1.
        frame: 1 to 31.
    """
    halvings = round_shift(np.abs(x) * LOG2_E, 30 + frame - LOGIT_BITS)  # below 2^62
    whole = np.minimum(halvings >> LOGIT_BITS, 62)
    entry = EXP2_TABLE[(halvings & (2**LOGIT_BITS - 1)) >> 4]
    e = (entry + ((np.int64(1) << whole) >> 1)) >> whole
    one = 1 << SIGMOID_BITS
    upper = ((one << SIGMOID_BITS) + ((one + e) >> 1)) // (one + e)
    return np.where(x >= 0, upper, one - upper)


def sigmoid_nodes(x: Value, frame: Value) -> Value:
    """Return ``sigmoid`` as nodes; x is int64, the frame an int64 scalar."""
    b = x.body
    halvings = graph.round_shift_positive(x.abs() * LOG2_E, frame + (30 - LOGIT_BITS))
    whole = halvings.shift_right(LOGIT_BITS).at_most(62)
    entry = b.constant(EXP2_TABLE).take((halvings & (2**LOGIT_BITS - 1)).shift_right(4))
    e = graph.round_shift_positive(entry, whole)
    one = 1 << SIGMOID_BITS
    upper = ((e + one).shift_right(1) + (one << SIGMOID_BITS)) // (e + one)
    return b.where(x >= 0, upper, one - upper)
