"""What a graph must fulfil to use an operator, so that no kernel leaves its arrays.

A file from a stranger may hold any graph. The schema ties shapes together and bounds attributes; an
operator that demands more has a function ``demands``: sizes that must divide, tables that must be
long enough, values that are used as indices, ranges beyond which its sums would not be exact.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgellm.graph_names import ENDS, IDS, IMAGES, ROWS, TOKENS
from edgellm.ops._schema import Dim

Demands = list[tuple[bool, str]]
"""Whether each is fulfilled, and what to say if not."""

MAX_HEAD_DIM = 512
MAX_COLUMNS = 65_536
"""Of a norm or a quantiser."""
MAX_INT8_COLUMNS = 133_144
"""Sums of so many products of int8 fit an int32."""


@dataclass(frozen=True, kw_only=True)
class Use:
    """One use of an operator in a graph.

    Attributes:
        inputs: names of what goes in.
        outputs: names of what comes out.
        attributes: by name.
        sizes: what the letters of the schema are; names where they change by call.
        context_length: positions that a text may have, or rows of an image.
        stored: the inputs that are weights, by name.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, int]
    sizes: Mapping[str, Dim]
    context_length: int
    stored: Mapping[str, npt.NDArray[np.generic]] = field(default_factory=dict)


def at_most(size: Dim, limit: int) -> bool:
    """Tell whether a size is fixed and no more than ``limit``."""
    return isinstance(size, int) and size <= limit


def divides(divisor: Dim, size: Dim, factor: int = 1) -> bool:
    """Tell whether both sizes are fixed, and ``size`` a multiple of ``divisor * factor``."""
    return isinstance(divisor, int) and isinstance(size, int) and size % (divisor * factor) == 0


def columns_at_most(use: Use, letter: str, limit: int) -> Demands:
    """Demand a row that is no longer than ``limit``."""
    return [(at_most(use.sizes[letter], limit), f"at most {limit} columns")]


def norm_columns(use: Use) -> Demands:
    """Demand a row that is no longer than those of norms may be."""
    return columns_at_most(use, "N", MAX_COLUMNS)


def row_scale(use: Use) -> Demands:
    """Demand a scale for all rows, or one for each."""
    fits = use.sizes["R"] in (1, use.sizes["T"])
    return [(fits, "its scale has one row, or one for each token"), *norm_columns(use)]


def whole_sequences(use: Use) -> Demands:
    """Demand rows that are those of all sequences.

    They are those of the tokens of a text, or of the images of a call, each of which has as many as
    the manifest's context: an engine makes ``sequence_ends`` for these and no others.
    """
    context = use.context_length
    own = (TOKENS, IMAGES if context == 1 else f"{IMAGES}*{context}")
    return [
        (use.inputs[-1] == ENDS, f"its sequences end where {ENDS} says"),
        (use.sizes["T"] in own, f"its rows are all those that {ENDS} counts"),
    ]


def whole_heads(use: Use, heads: Dim) -> Demands:
    """Demand rows of whole heads that are not too wide."""
    width = use.sizes["M"]
    whole = divides(heads, width)
    narrow = whole and isinstance(heads, int) and at_most(width, MAX_HEAD_DIM * heads)
    return [(whole, "a row is whole heads"), (narrow, f"heads of at most {MAX_HEAD_DIM}")]


def vocabulary(use: Use) -> Demands:
    """Demand a fixed table, and ids that the engine has checked."""
    return [
        (use.inputs[0] == IDS, f"its ids are the input {IDS}"),
        (isinstance(use.sizes["V"], int), "its table has a fixed size"),
    ]


def scored_rows(use: Use, rows: str) -> Demands:
    """Demand the rows that are asked for, of the tokens of the call."""
    return [(rows == ROWS and use.sizes["T"] == TOKENS, f"its rows are the input {ROWS}")]
