"""Products of some tokens with blocks of ternary weights that are laid out for look-ups."""

# mypy: disable-error-code="untyped-decorator"

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector._ternary_look_ups import (
    STEPS,
    TABLE_BYTES,
    TOGETHER,
    fill_tables,
    look_up,
    look_up_listed,
)
from edgellm.runtime.kernels.vector._tiles import start_row
from edgellm.ternary_planes import COLUMNS

SPAN = 8192
"""Columns whose tables are made at once, at most."""
LEAST_SPAN = STEPS * COLUMNS
"""Of as many tokens as there may be: what is added up in 16 bits."""
MAX_TOKENS = 64
"""That have tables at once."""
STEPS_OF_ALL = 4 * SPAN // COLUMNS
"""Tables of all tokens: 128 KiB, of second caches that may be shared by four."""
MORE_STEPS = STEPS_OF_ALL + 2
"""Of what is above a byte: at most two an octet of a token, and two that are written over."""
TABLES, MORE, ENDS = STEPS_OF_ALL * TABLE_BYTES, MORE_STEPS * TABLE_BYTES, MAX_TOKENS + 1

Codes = npt.NDArray[np.int8]
Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int32]


class Tables(NamedTuple):
    """Tables of some tokens: scratch memory.

    Attributes:
        entries: of each octet, TABLES: see ``place_of``.
        more: of octets whose entries are no bytes, token after token, MORE.
        octets: whose these are, MORE_STEPS.
        ends: where those of the next token begin, from 1 on, ENDS; the first is 0.
        starts: minus the sums of magnitudes of all columns, MAX_TOKENS.
        beside: how many tokens' tables of an octet follow each other.
    """

    entries: Bytes
    more: Bytes
    octets: Ints
    ends: Ints
    starts: Ints
    beside: Int


@register_jitable(**PART_POLICY)
def columns_at_once(tokens: Int, least: Int) -> Int:
    """Return of how many columns tables are made at once, a multiple of ``least``.

    Of as many as there is room for with all tokens: those of few are all, and weights are read in
    the order of memory.
    """
    some = STEPS_OF_ALL // max(tokens, 1) * COLUMNS // least * least
    return min(max(some, least), np.int64(SPAN))


@register_jitable(**PART_POLICY)
def has_room(tables: Tables, count: Int, octets: Int) -> bool:
    """Tell whether there is room for one more than ``count`` tokens of so many octets."""
    if count == 0:
        return True
    most = min(STEPS_OF_ALL // octets, MAX_TOKENS)  # no less than TOGETHER
    enough = count < most // TOGETHER * TOGETHER
    return enough and tables.ends[count] + 2 * octets + 2 <= MORE_STEPS


@register_jitable(**PART_POLICY)
def tokens_beside(tokens: Int) -> Int:
    """Return how many tokens' tables of an octet follow each other, for so many in all."""
    return np.int64(TOGETHER if tokens >= TOGETHER else 1)


@register_jitable(**PART_POLICY)
def place_of(t: Int, octets: Int, beside: Int) -> Int:
    """Return where in the entries a token's first tables are."""
    return (t // beside * beside * octets + t % beside) * TABLE_BYTES


@register_jitable(**PART_POLICY)
def add_token(tables: Tables, x: Codes, count: Int) -> None:
    """Make the tables of a token, at most SPAN columns, behind those of ``count`` others."""
    octets = (x.shape[0] + COLUMNS - 1) // COLUMNS
    if count == 0:
        tables.ends[0] = 0
    begin = tables.ends[count]
    own = tables.entries[place_of(count, octets, tables.beside) :]
    stride = tables.beside * TABLE_BYTES
    more, owners = tables.more[begin * TABLE_BYTES :], tables.octets[begin:]
    tables.ends[count + 1] = begin + fill_tables(x, own, stride, more, owners)


def block_product(unit: VectorUnit) -> Callable[..., None]:
    """Return ``multiply(keys, tables, is_first, acc)``.

    It writes the products of all tokens with 64 rows of ternary weights, (octets, 64, 2), to acc,
    (tokens, 64), or adds them if they are not of the first columns.
    """
    one, together, listed = look_up(unit, 1), look_up(unit, TOGETHER), look_up_listed(unit)

    @register_jitable(**PART_POLICY)
    def multiply(keys: Bytes, tables: Tables, is_first: bool, acc: Ints) -> None:
        tokens, octets, beside = acc.shape[0], keys.shape[0], tables.beside
        for t in range(tokens if is_first else 0):
            start_row(acc, t, tables.starts[t])
        stride, grouped = beside * TABLE_BYTES, tokens // TOGETHER * TOGETHER if beside > 1 else 0
        for first in range(0, octets, STEPS):  # the weights stay in the first cache for all tokens
            part, numbers = keys[first:], (stride, min(STEPS, octets - first))
            for t in range(0, grouped, TOGETHER):
                at = place_of(t, octets, beside) + first * stride
                together(part, tables.entries[at:], numbers, acc[t:])
            for t in range(grouped, tokens):
                at = place_of(t, octets, beside) + first * stride
                one(part, tables.entries[at:], numbers, acc[t:])
        for t in range(tokens):
            for step in range(tables.ends[t], tables.ends[t + 1], STEPS):
                steps = min(STEPS, tables.ends[t + 1] - step)
                own = tables.more[step * TABLE_BYTES :]
                listed(keys, own, tables.octets[step:], steps, acc[t:])

    return multiply
