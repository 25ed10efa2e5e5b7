"""ShiftmaxAttention: the attention of I-ViT within each of several sequences."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._dot import dot
from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import (
    INT32_MAX,
    Int,
    clamp,
    round_shift,
    share,
    stack_int32,
    stack_int64,
)
from edgellm.runtime.kernels._shift_exp import normalizer
from edgellm.runtime.kernels.encoder_attention import (
    MAX_HEAD_DIM,
    MAX_LENGTH,
    add_values,
    find_sequence,
)
from edgellm.runtime.kernels.shiftmax import write_exponentials

SCORE_LIMIT = 127
DISTANCES = 256
"""Scores are at most 254 apart."""

Codes = npt.NDArray[np.int8]
Ints = npt.NDArray[np.int32]
Totals = npt.NDArray[np.int64]


def weigh(scores: Ints, exponentials: Totals, bits: Int) -> None:
    """Replace scores by probabilities."""
    best = scores[0]
    for j in range(scores.shape[0]):
        best = max(best, scores[j])
    total = np.int64(0)
    for j in range(scores.shape[0]):
        total += exponentials[best - scores[j]]
    factor = normalizer(total)
    for j in range(scores.shape[0]):
        scores[j] = (exponentials[best - scores[j]] * factor) >> (32 - bits)


@kernel("ShiftmaxAttention", split="queries")
def shiftmax_attention(
    thread: int,
    threads: int,
    query: Codes,  # (T, M)
    key: Codes,  # (T, M)
    value: Codes,  # (T, M)
    multiplier: Ints,  # (H,)
    ends: Totals,  # (B,)
    y: Ints,  # (T, M)
    shift: int,
    unit: int,
    n: int,
    bits: int,
    half_bit: int,
) -> None:
    """Split by queries."""
    heads = multiplier.shape[0]
    dim = query.shape[1] // heads
    exponentials, totals = stack_int64(DISTANCES), stack_int64(MAX_HEAD_DIM)
    write_exponentials(exponentials, unit, n, half_bit)
    first, last = share(query.shape[0], thread, threads)
    scratch = stack_int32(MAX_LENGTH)
    number: Int = np.int64(0)
    for t in range(first, last):
        number = find_sequence(ends, t, number)
        begin, end = (ends[number - 1] if number > 0 else 0), ends[number]
        scores = scratch[: end - begin]
        for head in range(heads):
            columns = slice(head * dim, (head + 1) * dim)
            factor = np.int64(multiplier[head])
            for j in range(end - begin):
                wide = np.int64(dot(query[t, columns], key[begin + j, columns])) * factor
                scores[j] = clamp(round_shift(wide, shift), -SCORE_LIMIT, SCORE_LIMIT)
            weigh(scores, exponentials, bits)
            add_values(scores, value[begin:end, columns], totals)
            out = y[t, columns]
            for d in range(dim):
                out[d] = clamp(totals[d], -INT32_MAX, INT32_MAX)
