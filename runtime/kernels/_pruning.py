"""Which logits can still be among the best: bounds of sums whose weights are read in part.

The last m bits of a weight, unread, count as half of the most that they can be. How far the
weights of a row are from that is in ``norms``, see ``ops/planar_logits_head.py``; a sum is off by
no more than that norm times the norm of x, and no more than 2^m - 1 halves times the sum of |x|.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._scalar import (
    INT32_MAX,
    Int,
    clamp,
    isqrt,
    round_shift,
    token_multiplier,
    token_shift,
)

MAX_TOP = 256
"""For more than that, all logits are computed."""
NO_LIMIT = -(2**62)
SOME = 64
"""Rows that are looked at one by one only if one of them matters."""
INT32_MIN = -(2**31)

Sums = npt.NDArray[np.int32]
Ids = npt.NDArray[np.int32]
Multipliers = npt.NDArray[np.int32]
Norms = npt.NDArray[np.int16]


class Token(NamedTuple):
    """What bounds and logits need of a token.

    Attributes:
        total: sum of x.
        size: sum of |x|.
        norm: of x, rounded up.
        mantissa: of its scale.
        shift: that goes with ``token_multiplier``.
    """

    total: Int
    size: Int
    norm: Int
    mantissa: Int
    shift: Int


def measure(x: npt.NDArray[np.int8], scale: npt.NDArray[np.int32], shift: Int) -> Token:
    """Return the facts of a token: its (K,) codes, its (2,) scale, the operator's shift."""
    total = np.int64(0)
    size = np.int64(0)
    squares = np.int64(0)
    for k in range(x.shape[0]):
        value = np.int64(x[k])
        total += value
        size += abs(value)
        squares += value * value
    root = isqrt(squares) if squares > 0 else np.int64(0)
    norm = root + 1 if root * root < squares else root
    return Token(total, size, norm, np.int64(scale[0]), token_shift(np.int64(scale[1]), shift))


def twice_middle(acc: Int, unread: Int, token: Token) -> Int:
    """Return twice the likely product; acc is the sum of x times what was read of the weights."""
    return (np.int64(acc) << (unread + 1)) + ((1 << unread) - 257) * token.total


def highest(acc: Int, norm: Int, unread: Int, token: Token) -> Int:
    """Return the most that a product can be."""
    error = min(np.int64(norm) * token.norm, ((1 << unread) - 1) * token.size)
    return clamp((twice_middle(acc, unread, token) + error) >> 1, -INT32_MAX, INT32_MAX)


def logit(product: Int, multiplier: Int, token: Token) -> Int:
    """Return the logit of a product before it saturates; a larger product has no smaller one."""
    combined = token_multiplier(token.mantissa, np.int64(multiplier))
    return round_shift(product * combined, token.shift)


def likely(acc: Int, multiplier: Int, token: Token) -> Int:
    """Return a number that orders rows by the likely logit, after their first 4 bits."""
    middle = clamp(twice_middle(acc, 4, token) >> 1, -INT32_MAX, INT32_MAX)
    return middle * token_multiplier(token.mantissa, np.int64(multiplier))


def find_likely(
    acc: Sums, multiplier: Multipliers, token: Token, values: npt.NDArray[np.int64], ids: Ids
) -> None:
    """Fill ``ids`` with the rows whose logits are likely the best, after their first 4 bits.

    Args:
        acc: (V,).
        multiplier: (V,).
        token: see ``Token``.
        values: scratch, as long as ids.
        ids: at most V.
    """
    last = ids.shape[0] - 1
    for i in range(last + 1):
        values[i] = NO_LIMIT
    for first in range(0, acc.shape[0], SOME):
        end = min(first + SOME, acc.shape[0])
        most = np.int64(NO_LIMIT)
        for v in range(first, end):  # a loop without choices: vector code
            most = max(most, likely(acc[v], multiplier[v], token))
        if most > values[last]:
            for v in range(first, end):
                insert(likely(acc[v], multiplier[v], token), v, values, ids)


def insert(value: Int, v: Int, values: npt.NDArray[np.int64], ids: Ids) -> None:
    """Put a row among the best so far, in descending order, if it is better than the last."""
    place = ids.shape[0] - 1
    if value <= values[place]:
        return
    while place > 0 and values[place - 1] < value:
        values[place] = values[place - 1]
        ids[place] = ids[place - 1]
        place -= 1
    values[place] = value
    ids[place] = v


def find_limit(acc: Sums, multiplier: Multipliers, token: Token, ids: Ids) -> Int:
    """Return the smallest logit of some rows; acc[i] is x times all bits of row ids[i]."""
    smallest = np.int64(INT32_MAX)
    for i in range(ids.shape[0]):
        smallest = min(smallest, logit(acc[i] - 128 * token.total, multiplier[ids[i]], token))
    # What saturates at the bottom is as good as anything.
    return smallest if smallest > -INT32_MAX else np.int64(NO_LIMIT)


def list_open(
    acc: Sums,
    norms: Norms,
    multiplier: Multipliers,
    token: Token,
    limit: Int,
    bounds: npt.NDArray[np.int64],
    ids: Ids,
) -> int:
    """List the rows that can reach a limit after their first 4 bits, and return how many.

    Args:
        acc: (n,) what was read of the rows, times x; INT32_MIN in the end where a row is out.
        norms: (n,) of the unread bits.
        multiplier: (n,).
        token: see ``Token``.
        limit: a logit, or NO_LIMIT for all rows.
        bounds: scratch, SOME or more.
        ids: to fill, n or more.
    """
    count = 0
    for first in range(0, acc.shape[0], SOME):
        end = min(first + SOME, acc.shape[0])
        most = np.int64(NO_LIMIT)
        for i in range(first, end):  # a loop without choices: vector code
            bound = logit(highest(acc[i], norms[i], 4, token), multiplier[i], token)
            bounds[i - first] = bound
            most = max(most, bound)
        if most < limit:
            acc[first:end] = INT32_MIN
            continue
        for i in range(first, end):
            is_open = bounds[i - first] >= limit
            ids[count] = i
            count += is_open
            acc[i] = acc[i] if is_open else INT32_MIN
    return count


def fill_up(ids: Ids, count: int, unit: int) -> int:
    """Repeat the last row until there are a multiple of ``unit``, and return how many that is."""
    filled = (count + unit - 1) // unit * unit
    for i in range(count, filled):
        ids[i] = ids[count - 1]
    return filled


def narrow(
    acc: Sums,
    norms: Norms,
    multiplier: Multipliers,
    token: Token,
    ids: Ids,
    unread: Int,
    limit: Int,
) -> Int:
    """Drop the listed rows that cannot reach a limit, and return how many stay.

    Args:
        acc: (n,) what was read of the rows, times x; INT32_MIN in the end where a row is dropped.
        norms: (n,) of the unread bits.
        multiplier: (n,).
        token: see ``Token``.
        ids: the rows; those that stay move to the front.
        unread: how many bits were not read.
        limit: a logit, or NO_LIMIT to drop none.
    """
    if limit == NO_LIMIT:
        return ids.shape[0]
    count: Int = 0
    for i in range(ids.shape[0]):
        v = ids[i]
        bound = logit(highest(acc[v], norms[v], unread, token), multiplier[v], token)
        ids[count] = v
        count += bound >= limit
        acc[v] = acc[v] if bound >= limit else INT32_MIN
    return count


def add_bit(acc: Sums, ids: Ids, sums: Sums) -> None:
    """Add one more bit of the weights to some rows; sums[i] is x times that bit of row ids[i]."""
    for i in range(ids.shape[0]):
        acc[ids[i]] = 2 * acc[ids[i]] + sums[i]


def finish(acc: Sums, multiplier: Multipliers, token: Token, ids: Ids) -> None:
    """Turn the sums of rows of which all bits were read into logits."""
    for i in range(ids.shape[0]):
        v = ids[i]
        value = logit(acc[v] - 128 * token.total, multiplier[v], token)
        acc[v] = clamp(value, -INT32_MAX, INT32_MAX)
