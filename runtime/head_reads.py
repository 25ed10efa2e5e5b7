"""How much of a logits head in planes is read for the best logits: its pruning once more, in NumPy.

Written apart from the kernels (``kernels/_pruning.py``), whose results are tested against it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm.dtypes import PLANES, PLANES_BLOCK
from edgellm.ops._integers import INT32_MAX, exact_matmul, isqrt, requantize, saturate
from edgellm.runtime.model import Model
from edgellm.runtime.sparsity import TEXT, TOKENS

Wide = npt.NDArray[np.int64]
Open = list[npt.NDArray[np.intp]]
"""The rows that are open after the first 4 bits, 5 bits and so on to all 8."""

BLOCK_ROWS = 8192
OPERATOR = "PlanarLogitsHead"
SCORED = 8
"""Tokens at the end of the text whose logits are looked at."""


@dataclass(frozen=True)
class PlanarHead:
    """The constants of a PlanarLogitsHead."""

    high: npt.NDArray[np.uint8]
    low: npt.NDArray[np.uint8]
    norms: npt.NDArray[np.int16]
    multiplier: npt.NDArray[np.int32]
    shift: int

    def bytes_read(self, is_open: Open) -> int:
        """Return the bytes of weights, norms and multipliers that one token reads."""
        rows, columns = self.high.shape
        listed = [rows, *(len(ids) for ids in is_open[:-1])]
        first: int = self.high.nbytes + self.norms.nbytes // PLANES + self.multiplier.nbytes
        return first + sum(listed[1:]) * (columns // 4) + self.norms.itemsize * sum(listed[2:])


@dataclass(frozen=True)
class HeadReads:
    """Means over some tokens of a text.

    Attributes:
        refined: share of the rows of which more than the first 4 bits are read.
        bytes_read: of the head's constants, for one token.
    """

    refined: float
    bytes_read: float


def measure(model: Model, top: int = 1) -> HeadReads | None:
    """Run a text through a model; return None if its graph has no head in planes.

    Args:
        model: it takes about a second for 128,256 x 2560.
        top: how many of the best logits are wanted.

    Raises:
        BundleError: the bundle has no tokenizer.
    """
    engine = model.engine
    step = next((step for step in engine.plan.steps if step.op_type == OPERATOR), None)
    if step is None:
        return None
    longest = min(TOKENS, engine.chunk, engine.context_length)
    ids = np.array(model.tokenizer.encode(TEXT)[:longest], np.int64)
    values = engine.trace(ids, engine.new_cache(len(ids)))
    high, low, norms, multiplier = (engine.plan.constants[name] for name in step.inputs[2:6])
    head = PlanarHead(
        high.view(np.uint8),
        low.view(np.uint8),
        norms.view(np.int16),
        multiplier.view(np.int32),
        step.attributes["shift"],
    )
    x, scale = (values[name][-SCORED:] for name in step.inputs[:2])
    opened = list(open_rows(head, x.astype(np.int8), scale.astype(np.int32), top))
    refined = np.mean([len(levels[0]) for levels in opened]) / len(head.high)
    return HeadReads(float(refined), float(np.mean([head.bytes_read(each) for each in opened])))


def open_rows(
    head: PlanarHead, x: npt.NDArray[np.int8], scale: npt.NDArray[np.int32], top: int
) -> Iterator[Open]:
    """Yield for each token which rows are open, level by level, for one thread.

    Args:
        head: the operator.
        x: (T, K) codes.
        scale: (T, 2).
        top: how many of the best logits are wanted, at least 1.
    """
    sums = _first_sums(head, x)
    for t in range(len(x)):
        yield _narrow(head, sums[t], x[t : t + 1], scale[t : t + 1], top)


def _first_sums(head: PlanarHead, x: npt.NDArray[np.int8]) -> Wide:
    """Return the products of x with the first 4 bits of weights + 128, (T, V)."""
    parts = []
    for begin in range(0, len(head.high), BLOCK_ROWS):
        packed = head.high[begin : begin + BLOCK_ROWS]
        halves = packed.reshape(len(packed), -1, 1, PLANES_BLOCK // 2)
        codes = np.concatenate([halves & np.uint8(15), halves >> np.uint8(4)], axis=2)
        parts.append(exact_matmul(x, codes.reshape(len(packed), -1).T))
    return np.concatenate(parts, axis=1)


def _narrow(
    head: PlanarHead, acc: Wide, x: npt.NDArray[np.int8], scale: npt.NDArray[np.int32], top: int
) -> Open:
    total = int(x.sum(dtype=np.int64))

    def logits(products: Wide, ids: npt.NDArray[np.intp]) -> Wide:
        near = saturate(products, INT32_MAX)[None]
        factors = head.multiplier[ids].astype(np.int64)
        return requantize(near, scale, factors, head.shift)[0]

    def middle(sums: Wide, unread: int) -> Wide:
        return (sums << (unread + 1)) + ((1 << unread) - 257) * total

    everything = np.arange(len(acc))
    likely = _likely(middle(acc, PLANES) >> 1, head.multiplier, scale, top)
    whole = acc[likely]
    for plane in range(PLANES):
        whole = 2 * whole + _bit_sums(head, plane, likely, x)
    limit = min(INT32_MAX, int(logits(whole - 128 * total, likely).min()))
    ids, result = everything, []
    for unread in range(PLANES, 0, -1):
        if limit > -INT32_MAX and top < len(acc):
            error = _largest_error(head.norms[PLANES - unread, ids], unread, x)
            bounds = logits((middle(acc[ids], unread) + error) >> 1, ids)
            ids = ids[bounds >= limit]
        result.append(ids)
        acc = acc.copy()
        acc[ids] = 2 * acc[ids] + _bit_sums(head, PLANES - unread, ids, x)
    return [*result, ids]


def _likely(
    middles: Wide, multiplier: npt.NDArray[np.int32], scale: npt.NDArray[np.int32], top: int
) -> npt.NDArray[np.intp]:
    factors = (np.int64(scale[0, 0]) * multiplier.astype(np.int64) + 2**30) >> 31
    values = saturate(middles, INT32_MAX) * factors
    return np.argsort(-values, kind="stable")[:top]


def _largest_error(norms: npt.NDArray[np.int16], unread: int, x: npt.NDArray[np.int8]) -> Wide:
    """Return twice how far the products of rows can be from the middle."""
    wide = x.astype(np.int64)
    squares = np.array((wide * wide).sum())
    root = isqrt(np.maximum(squares, 1)) * (squares > 0)
    norm = root + (root * root < squares)
    by_size = ((1 << unread) - 1) * int(np.abs(wide).sum())
    return np.minimum(norms.astype(np.int64) * norm, by_size)


def _bit_sums(
    head: PlanarHead, plane: int, ids: npt.NDArray[np.intp], x: npt.NDArray[np.int8]
) -> Wide:
    """Return the products of x with one bit of some rows."""
    places = np.arange(8, dtype=np.uint8).reshape(1, 1, 8, 1)
    parts = []
    for begin in range(0, len(ids), BLOCK_ROWS):
        packed = head.low[plane, ids[begin : begin + BLOCK_ROWS]]
        bits = packed.reshape(len(packed), -1, 1, 8) >> places & np.uint8(1)
        parts.append(exact_matmul(x, bits.reshape(len(packed), -1).T)[0])
    return np.concatenate([*parts, np.zeros(0, np.int64)])
